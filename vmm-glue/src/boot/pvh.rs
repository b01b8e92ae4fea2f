//! An ELF file by PVH.

use super::map::map;
use super::{COMMAND_LINE, COMMAND_LINE_MOST, HIGH, Place, START_INFO, malformed, too_small};
use crate::error::LOAD_KERNEL as STEP;
use crate::kvm::power_on::Entry;
use crate::{Error, ErrorKind, Result};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use std::fs::File;
use vm_memory::{ByteValued, Bytes, GuestAddress};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336E_C578;
/// The version that has a memory map.
const VERSION: u32 = 1;

const MODULE: u64 = START_INFO + 0x40;
const MAP: u64 = START_INFO + 0x80;

pub(super) fn load(place: &Place<'_>, mut kernel: File) -> Result<Entry> {
    let loaded = Elf::load(place.view, None, &mut kernel, Some(GuestAddress(HIGH)));
    let loaded = loaded.map_err(|error| malformed(STEP, &error))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(Error::new(
            STEP,
            ErrorKind::Unsupported("an ELF file without a PVH entry (CONFIG_PVH)"),
        ));
    };
    if loaded.kernel_end > place.memory.low_end() {
        return Err(too_small(STEP));
    }
    place.load_command_line(COMMAND_LINE_MOST)?;
    let (initrd, initrd_len) = place.load_initrd(loaded.kernel_end, u64::MAX)?;
    let mut modules = 0;
    if initrd_len > 0 {
        modules = 1;
        let module = hvm_modlist_entry {
            paddr: initrd,
            size: initrd_len,
            ..hvm_modlist_entry::default()
        };
        write(place, MODULE, module)?;
    }
    let map = map(place.memory);
    for (number, (range, kind)) in (0..).zip(&map) {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.end - range.start,
            type_: *kind as u32,
            ..hvm_memmap_table_entry::default()
        };
        let len = u64::try_from(size_of::<hvm_memmap_table_entry>()).unwrap_or(0);
        write(place, MAP + number * len, entry)?;
    }
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: modules,
        modlist_paddr: MODULE,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: place.rsdp,
        memmap_paddr: MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..hvm_start_info::default()
    };
    write(place, START_INFO, start_info)?;
    Ok(Entry::Pvh {
        rip: entry.0,
        start_info: START_INFO,
    })
}

fn write(place: &Place<'_>, address: u64, value: impl ByteValued) -> Result<()> {
    let written = place.view.write_obj(value, GuestAddress(address));
    written.map_err(|error| malformed("write the start information", &error))
}
