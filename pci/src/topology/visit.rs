//! Visits functions one after the other: finds the directory of each and reads it.

use super::Fields;
use super::attributes::{Attributes, unknown};
use super::read::DEVICES;
use crate::sysfs::{Buffer, Dir, resolve};
use crate::{Bdf, Function, Reason, Sysfs, Unknown};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What one thread reads with.
pub(super) struct Visitor<'s> {
    sysfs: &'s Sysfs,
    fields: Fields,
    devices: &'s Dir<'s>,
    /// The directory in which the last function lay; the next one often lies there too.
    above: Option<Dir<'s>>,
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
        let place = self.place(name);
        let function = place.and_then(|path| {
            let dir = self.open(&path)?;
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

    fn open(&mut self, path: &Path) -> Result<Dir<'s>, Reason> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
            return Err(Reason::OutsideRoot);
        };
        let dir = match self.above.take() {
            Some(dir) if dir.path() == above => dir,
            _ => Dir::open(self.sysfs, above)?,
        };
        self.above.insert(dir).subdir(name)
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
