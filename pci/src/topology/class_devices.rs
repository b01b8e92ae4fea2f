//! The network, block and other class devices of every function.
//!
//! They lie at any depth below a function (`virtio1/block/vda`, `ata1/host0/target0:0:0/0:0:0:0/block/sda`). Searching below
//! every function would take long; `/sys/class` lists all devices, and the path of a device names its function.

use crate::sysfs::{Buffer, Dir, resolve};
use crate::{Bdf, ClassDevice, Function, Reading, Reason, Sysfs};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const CLASSES: &str = "sys/class";

/// Classes of the kernel's own bookkeeping.
const SKIPPED: [&str; 2] = ["pci_bus", "wakeup"];

/// Where the kernel puts the block devices of namespaces that several NVMe controllers share.
const SHARED_NAMESPACES: &str = "sys/devices/virtual/nvme-subsystem";

/// Fills in the class devices of all functions.
pub(super) fn attach(sysfs: &Sysfs, functions: &mut [Function]) {
    let mut found = read(sysfs);
    for function in functions {
        // Of a function that went away while it was read, nothing is known.
        if function
            .class_devices
            .as_ref()
            .is_err_and(|unknown| *unknown.reason() == Reason::NotRead)
        {
            function.class_devices = match &mut found {
                Ok(found) => Ok(found.remove(&function.bdf).unwrap_or_default()),
                Err(unknown) => Err(unknown.clone()),
            };
        }
    }
}

/// The class devices by function, in order.
fn read(sysfs: &Sysfs) -> Reading<BTreeMap<Bdf, Vec<ClassDevice>>> {
    let mut buffer = Buffer::new();
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for class in sysfs
        .names(CLASSES)?
        .into_iter()
        .filter(|class| !SKIPPED.contains(&class.as_str()))
    {
        let dir = Path::new(CLASSES).join(&class);
        let places = match places(sysfs, &dir, &mut buffer) {
            Ok(places) => places,
            // A class goes away with its module.
            Err(Reason::Missing) => continue,
            Err(reason) => return Err(reason.at(sysfs.path(dir))),
        };
        for place in &places {
            // A partition is no device of its own: it lies in the directory of the disk.
            if class == "block" && place.parent().is_some_and(|above| places.contains(above)) {
                continue;
            }
            let functions = match function(place) {
                Some(function) => vec![function],
                None => sharing(sysfs, place, &mut buffer),
            };
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            for function in functions {
                let (class, name) = (class.clone(), name.clone().into_owned());
                found.entry(function).or_default().push(ClassDevice { class, name });
            }
        }
    }
    for devices in found.values_mut() {
        devices.sort_unstable();
    }
    Ok(found)
}

/// Where the links in a directory lead, from the root.
fn places(sysfs: &Sysfs, path: &Path, buffer: &mut Buffer) -> Result<BTreeSet<PathBuf>, Reason> {
    let dir = Dir::open(sysfs, path)?;
    let mut links = Vec::new();
    dir.each(|entry| links.extend(entry.is_link.then(|| entry.name.to_owned())))?;
    let mut places = BTreeSet::new();
    for link in links {
        match dir.link(&link, buffer) {
            Ok(target) => places.extend(resolve(path, target)),
            // The device went away between the two readings.
            Err(Reason::Missing) => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(places)
}

/// The function nearest above a place.
fn function(place: &Path) -> Option<Bdf> {
    let names = place
        .ancestors()
        .skip(1)
        .filter_map(|above| above.file_name().and_then(OsStr::to_str));
    names.filter_map(|name| name.parse().ok()).next()
}

/// The functions whose NVMe controllers share a namespace: the directory of its subsystem links to them.
fn sharing(sysfs: &Sysfs, place: &Path, buffer: &mut Buffer) -> Vec<Bdf> {
    let subsystem = place
        .parent()
        .filter(|above| above.parent() == Some(Path::new(SHARED_NAMESPACES)));
    let controllers = subsystem.and_then(|subsystem| places(sysfs, subsystem, buffer).ok());
    controllers
        .iter()
        .flatten()
        .filter_map(|controller| function(controller))
        .collect()
}
