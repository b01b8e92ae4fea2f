//! A bzImage by the 64-bit boot protocol.

use super::map::map;
use super::{COMMAND_LINE, GDT, HIGH, PAGE_TABLES, Place, ZERO_PAGE, malformed, too_small};
use crate::error::LOAD_KERNEL as STEP;
use crate::kvm::power_on::{Entry, gdt};
use crate::{Error, ErrorKind, Result};
use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bzimage::BzImage;
use std::fs::File;
use vm_memory::{Bytes, GuestAddress};

/// Of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// The version that has `xloadflags`.
const LEAST_VERSION: u16 = 0x20C;
const XLF_KERNEL_64: u16 = 1;
/// A boot loader without a number of its own.
const OTHER_LOADER: u8 = 0xFF;

pub(super) fn load(place: &Place<'_>, mut kernel: File) -> Result<Entry> {
    let loaded = BzImage::load(place.view, None, &mut kernel, Some(GuestAddress(HIGH)));
    let loaded = loaded.map_err(|error| malformed(STEP, &error))?;
    let mut header = loaded.setup_header.unwrap_or_default();
    if header.version < LEAST_VERSION || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::new(
            STEP,
            ErrorKind::Unsupported("a kernel without the 64-bit boot protocol"),
        ));
    }
    // It unpacks itself to the preferred address, or to where it is when that is above.
    let start = header.pref_address.max(loaded.kernel_load.0);
    let unpacked = start
        .checked_add(header.init_size.into())
        .filter(|end| *end <= place.memory.low_end());
    let end = unpacked.ok_or_else(|| too_small(STEP))?.max(loaded.kernel_end);

    let most = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    place.load_command_line(most)?;
    let (initrd, initrd_len) = place.load_initrd(end, u64::from(header.initrd_addr_max).saturating_add(1))?;
    let narrow = |value: u64| u32::try_from(value).map_err(|_too_large| too_small(STEP));
    header.type_of_loader = OTHER_LOADER;
    header.cmd_line_ptr = narrow(COMMAND_LINE)?;
    header.ramdisk_image = narrow(initrd)?;
    header.ramdisk_size = narrow(initrd_len)?;

    let mut zero_page = boot_params {
        hdr: header,
        acpi_rsdp_addr: place.rsdp,
        ..boot_params::default()
    };
    let mut table = zero_page.e820_table;
    let map = map(place.memory);
    for (entry, (range, kind)) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.end - range.start,
            r#type: *kind as u32,
        };
    }
    zero_page.e820_table = table;
    zero_page.e820_entries = u8::try_from(map.len().min(table.len())).unwrap_or(u8::MAX);
    let written = place.view.write_obj(zero_page, GuestAddress(ZERO_PAGE));
    written.map_err(|error| malformed("write the zero page", &error))?;

    write_numbers(place, GDT, &gdt())?;
    write_page_tables(place)?;
    Ok(Entry::Linux {
        rip: loaded.kernel_load.0.saturating_add(ENTRY_64),
        zero_page: ZERO_PAGE,
        page_tables: PAGE_TABLES,
        gdt: GDT,
    })
}

/// The first 4 GiB mapped to themselves by pages of 2 MiB (Intel SDM volume 3 §4.5).
fn write_page_tables(place: &Place<'_>) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 0x1000;
    let pointers = PAGE_TABLES + PAGE;
    let directories = pointers + PAGE;
    write_numbers(place, PAGE_TABLES, &[pointers | PRESENT_WRITABLE])?;
    let of_directory = |number| (directories + number * PAGE) | PRESENT_WRITABLE;
    write_numbers(place, pointers, &[0, 1, 2, 3].map(of_directory))?;
    let large: Vec<u64> = (0..4 * 512)
        .map(|number| number << 21 | LARGE | PRESENT_WRITABLE)
        .collect();
    write_numbers(place, directories, &large)
}

fn write_numbers(place: &Place<'_>, address: u64, numbers: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    place.memory.write(address, &bytes)
}
