//! Visits functions one after the other: finds the directory of each and reads it.

use super::Fields;
use super::attributes::{Attributes, unknown};
use super::read::DEVICES;
use crate::sysfs::{Buffer, Dir, resolve};
use crate::{Bdf, Function, Reason, Segment, Sysfs, Unknown};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What one thread reads with.
pub(super) struct Visitor<'s> {
    sysfs: &'s Sysfs,
    fields: Fields,
    devices: &'s Dir<'s>,
    /// The bus of the last function and the directory in which it lay.
    above: Option<((Segment, u8), Dir<'s>)>,
    buffer: Buffer,
    not_read: Unknown,
    found: Found,
}

/// What a visit brings home.
#[derive(Default)]
pub(super) struct Found {
    pub(super) functions: Vec<Function>,
    pub(super) oddities: Vec<Unknown>,
}

impl<'s> Visitor<'s> {
    pub(super) fn new(sysfs: &'s Sysfs, fields: Fields, devices: &'s Dir<'s>) -> Self {
        Self {
            sysfs,
            fields,
            devices,
            above: None,
            buffer: Buffer::new(),
            not_read: Unknown::not_read(""),
            found: Found::default(),
        }
    }

    /// Visits the functions of these names.
    pub(super) fn visit(mut self, names: &[String]) -> Found {
        self.found.functions.reserve(names.len());
        for name in names {
            match address(name) {
                Some(bdf) => {
                    let function = self.function(name, bdf);
                    self.found.functions.push(function);
                }
                None => self.odd(name, Reason::malformed(name)),
            }
        }
        self.found
    }

    fn odd(&mut self, name: &str, reason: Reason) {
        self.found.oddities.push(reason.at(self.devices.path_of(name)));
    }

    fn function(&mut self, name: &str, bdf: Bdf) -> Function {
        let (path, reason) = match self.open(name, bdf) {
            Ok(dir) => {
                let mut attributes = Attributes {
                    fields: self.fields,
                    dir: &dir,
                    buffer: &mut self.buffer,
                    not_read: &self.not_read,
                };
                let function = attributes.function(bdf);
                // An absent file means "none" only while the function is there, as ids, read last, show.
                if function.vendor.is_ok() || self.devices.has(name) {
                    return function;
                }
                (function.path, Reason::Missing)
            }
            Err(failed) => failed,
        };
        unknown(bdf, path, &reason.at(self.devices.path_of(name)))
    }

    /// Opens the directory of a function; when it cannot be opened, says where it should be as far as that is known.
    fn open(&mut self, name: &str, bdf: Bdf) -> Result<Dir<'s>, (PathBuf, Reason)> {
        let bus = (bdf.segment, bdf.routing_id.bus());
        // The functions of a bus lie in one directory, so the link of the first is enough.
        if let Some((_, above)) = self.above.as_ref().filter(|(last, _)| *last == bus)
            && let Ok(dir) = above.subdir(name)
        {
            return Ok(dir);
        }
        let path = self
            .place(name)
            .map_err(|reason| (Path::new(DEVICES).join(name), reason))?;
        let dir = match (path.parent(), path.file_name().and_then(OsStr::to_str)) {
            (Some(parent), Some(last)) => Dir::open(self.sysfs, parent).and_then(|above| {
                let (_, above) = self.above.insert((bus, above));
                above.subdir(last)
            }),
            _ => Err(Reason::OutsideRoot),
        };
        dir.map_err(|reason| (path, reason))
    }

    /// The directory of a function, from the root: where its link in `devices` leads.
    fn place(&mut self, name: &str) -> Result<PathBuf, Reason> {
        let target = match self.devices.link(name, &mut self.buffer) {
            Ok(target) => target,
            Err(reason @ Reason::Malformed(_)) => {
                // A captured tree without links: usable, but it does not tell what is above the function.
                self.odd(name, reason);
                return Ok(Path::new(DEVICES).join(name));
            }
            Err(reason) => return Err(reason),
        };
        let path = resolve(Path::new(DEVICES), target).ok_or(Reason::OutsideRoot)?;
        if path.file_name().is_none_or(|last| last != name) {
            let reason = Reason::malformed(target);
            self.odd(name, reason);
        }
        Ok(path)
    }
}

/// The address that a name in `devices` is; the kernel spells it in one way only.
fn address(name: &str) -> Option<Bdf> {
    const LEN_WITH_SHORT_SEGMENT: usize = "0000:00:00.0".len();
    let plain = match name.len() {
        LEN_WITH_SHORT_SEGMENT => true,
        len => len > LEN_WITH_SHORT_SEGMENT && !name.starts_with('0'),
    };
    let plain = plain && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    plain.then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_is_an_address_when_it_is_spelled_as_one_prints(
            name in prop_oneof!["[0-9a-fA-F]{3,9}:[0-9a-f]{2}:[01][0-9a-fA-F]\\.[0-8]", "[0-9a-f:.]{0,14}"],
        ) {
            let spelled = name.parse::<Bdf>().ok().filter(|bdf| bdf.to_string() == name);
            prop_assert_eq!(address(&name), spelled);
        }
    }
}
