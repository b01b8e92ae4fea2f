//! The network, block and other class devices below a function.
//!
//! They lie at any depth (`virtio1/block/vda`, `ata1/host0/target0:0:0/0:0:0:0/block/sda`): a directory is one when its
//! `subsystem` link leads to `class/…`. The search follows no link and does not enter other functions.

use crate::sysfs::{Buffer, Dir};
use crate::{Bdf, ClassDevice, Reason};

/// Deeper than any stack of controllers and hubs; USB allows seven tiers.
const MAX_DEPTH: usize = 24;

/// How many directories the search enters below one function.
const MAX_DIRECTORIES: usize = 16 << 10;

pub(super) fn read(function: &Dir<'_>, buffer: &mut Buffer) -> Result<Vec<ClassDevice>, Reason> {
    let mut search = Search {
        found: Vec::new(),
        directories: 0,
    };
    search.enter(function, buffer, 0)?;
    search.found.sort_unstable();
    Ok(search.found)
}

struct Search {
    found: Vec<ClassDevice>,
    directories: usize,
}

impl Search {
    fn enter(&mut self, dir: &Dir<'_>, buffer: &mut Buffer, depth: usize) -> Result<(), Reason> {
        let mut below = Vec::new();
        dir.each(|entry| {
            if entry.is_dir && !is_attribute_group(entry.name) && entry.name.parse::<Bdf>().is_err() {
                below.push(entry.name.to_owned());
            }
        })?;
        for name in below {
            self.directories += 1;
            if depth == MAX_DEPTH || self.directories > MAX_DIRECTORIES {
                return Err(Reason::TooLarge(MAX_DIRECTORIES));
            }
            // A device may go away while we look.
            match self.visit(dir, &name, buffer, depth) {
                Ok(()) | Err(Reason::Missing) => {}
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    }

    fn visit(&mut self, parent: &Dir<'_>, name: &str, buffer: &mut Buffer, depth: usize) -> Result<(), Reason> {
        let dir = parent.subdir(name)?;
        let class = match dir.link("subsystem", buffer) {
            Ok(target) => class_of(target).map(str::to_owned),
            Err(Reason::Missing) => None,
            Err(reason) => return Err(reason),
        };
        match class.as_deref() {
            Some("pci_bus" | "wakeup") => return Ok(()),
            Some(class) => self.found.push(ClassDevice {
                class: class.to_owned(),
                name: name.to_owned(),
            }),
            None => {}
        }
        match class.as_deref() {
            // Queues, statistics and partitions: many directories, no further device.
            Some("net" | "block") => Ok(()),
            _ => self.enter(&dir, buffer, depth + 1),
        }
    }
}

/// `net` of `../../../../class/net`; `None` for devices of a bus.
fn class_of(subsystem: &str) -> Option<&str> {
    let (above, class) = subsystem.rsplit_once('/')?;
    above.ends_with("/class").then_some(class)
}

/// Directories of attributes that have no device below them.
fn is_attribute_group(name: &str) -> bool {
    matches!(name, "power" | "link" | "msi_irqs" | "aer" | "doe_features" | "tsm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_a_class_make_a_class_device() {
        assert_eq!(class_of("../../../../class/net"), Some("net"));
        assert_eq!(class_of("../../../bus/virtio"), None);
        assert_eq!(class_of("net"), None);
        assert_eq!(class_of(""), None);
    }
}
