//! Kernel, initrd and command line in the guest's memory, with what the boot protocols say of them.
//!
//! No firmware runs: a bzImage is entered by Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`), an ELF file by PVH
//! (`include/xen/interface/hvm/start_info.h`). Addresses below 1 MiB are of this module's choice; kernels read what is there before they use the memory.

mod linux;
mod map;
mod pvh;

use crate::kvm::power_on::Entry;
use crate::kvm::view::{self, View};
use crate::memory::GuestMemory;
use crate::{Error, ErrorKind, Result};
use linux_loader::elf::ELFMAG;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress};

/// What a guest boots.
#[derive(Debug)]
pub(crate) struct Payload {
    /// A bzImage or an ELF file.
    pub kernel: File,
    pub initrd: Option<File>,
    pub command_line: String,
}

/// Where memory below 1 MiB is used for.
const GDT: u64 = 0x500;
const START_INFO: u64 = 0x6000;
const ZERO_PAGE: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Kernels begin here or above.
const HIGH: u64 = 0x10_0000;
/// Linux cuts longer ones off (`COMMAND_LINE_SIZE`).
const COMMAND_LINE_MOST: usize = 2047;

/// Loads all of it. `rsdp` is the address of the ACPI tables.
pub(crate) fn load(memory: &GuestMemory, payload: &Payload, rsdp: u64) -> Result<Entry> {
    let mut magic = [0; 4];
    let kernel = duplicate(&payload.kernel, "read the kernel")?;
    kernel
        .read_exact_at(&mut magic, 0)
        .map_err(|error| Error::new("read the kernel", ErrorKind::Io(error)))?;
    view::with(memory.ram(), |view| {
        let place = Place {
            memory,
            view,
            payload,
            rsdp,
        };
        if magic == *ELFMAG {
            pvh::load(&place, kernel)
        } else {
            linux::load(&place, kernel)
        }
    })
}

/// What is loaded, and where.
struct Place<'a> {
    memory: &'a GuestMemory,
    view: &'a View,
    payload: &'a Payload,
    rsdp: u64,
}

impl Place<'_> {
    /// Writes the command line; `most` bytes are what the kernel takes.
    fn load_command_line(&self, most: usize) -> Result<()> {
        let failed = |why| Error::new("write the command line", ErrorKind::Malformed(why));
        let line = self.payload.command_line.as_bytes();
        let most = most.min(COMMAND_LINE_MOST);
        if line.len() > most {
            return Err(failed(
                format!("it has {} bytes, and the kernel takes {most}", line.len()).into(),
            ));
        }
        if line.contains(&0) {
            return Err(failed("it has a NUL".into()));
        }
        let terminated: Vec<u8> = line.iter().chain(&[0]).copied().collect();
        self.memory.write(COMMAND_LINE, &terminated)
    }

    /// Loads the initrd as high as it may be, but below `end` and not below `start`: its address and length, 0 without one.
    fn load_initrd(&self, start: u64, end: u64) -> Result<(u64, u64)> {
        const STEP: &str = "load the initrd";
        let Some(initrd) = &self.payload.initrd else {
            return Ok((0, 0));
        };
        let failed = |error| Error::new(STEP, ErrorKind::Io(error));
        let mut initrd = duplicate(initrd, STEP)?;
        let len = initrd.seek(SeekFrom::End(0)).map_err(failed)?;
        initrd.rewind().map_err(failed)?;
        let end = end.min(self.memory.low_end());
        let address = end.checked_sub(len).map(|address| address & !0xFFF);
        let address = address
            .filter(|address| *address >= start)
            .ok_or_else(|| too_small(STEP))?;
        let count = usize::try_from(len).map_err(|_too_large| too_small(STEP))?;
        let loaded = self
            .view
            .read_exact_volatile_from(GuestAddress(address), &mut initrd, count);
        loaded.map_err(|error| malformed(STEP, &error))?;
        Ok((address, len))
    }
}

/// A descriptor of its own; the position in the file is shared.
fn duplicate(file: &File, step: &'static str) -> Result<File> {
    file.try_clone().map_err(|error| Error::new(step, ErrorKind::Io(error)))
}

fn malformed(step: &'static str, error: &dyn std::error::Error) -> Error {
    Error::new(step, ErrorKind::Malformed(error.to_string().into()))
}

fn too_small(step: &'static str) -> Error {
    Error::new(step, ErrorKind::Exhausted("memory of the guest below 3 GiB"))
}

#[cfg(test)]
mod tests;
