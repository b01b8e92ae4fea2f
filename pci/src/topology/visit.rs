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
            found: Found::default(),
        }
    }

    /// Visits the functions of these names.
    pub(super) fn visit(mut self, names: &[String]) -> Found {
        self.found.functions.reserve(names.len());
        for name in names {
            // The kernel spells an address in one way only.
            match name.parse::<Bdf>().ok().filter(|bdf| bdf.to_string() == *name) {
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
        let function = self.open(name, bdf).and_then(|dir| {
            let mut attributes = Attributes {
                fields: self.fields,
                dir: &dir,
                buffer: &mut self.buffer,
            };
            let function = attributes.function(bdf);
            // A file that is absent means "none" only while the function is there. Ids, read last, have shown that it is.
            if function.vendor.is_ok() || self.devices.has(name) {
                Ok(function)
            } else {
                Err(Reason::Missing)
            }
        });
        function.unwrap_or_else(|reason| {
            let reason = reason.at(self.devices.path_of(name));
            unknown(bdf, Path::new(DEVICES).join(name), &reason)
        })
    }

    fn open(&mut self, name: &str, bdf: Bdf) -> Result<Dir<'s>, Reason> {
        let bus = (bdf.segment, bdf.routing_id.bus());
        // The functions of a bus lie in one directory, so the link of the first is enough.
        if let Some((_, above)) = self.above.as_ref().filter(|(last, _)| *last == bus)
            && let Ok(dir) = above.subdir(name)
        {
            return Ok(dir);
        }
        let path = self.place(name)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
            return Err(Reason::OutsideRoot);
        };
        let (_, above) = self.above.insert((bus, Dir::open(self.sysfs, parent)?));
        above.subdir(name)
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
