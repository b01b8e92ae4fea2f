use super::*;
use crate::memory::Node;
use map::{Kind, map};
use proptest::prelude::*;
use std::io::Write;
use vfio_core::PageSize;

fn memory(len_bytes: u64) -> GuestMemory {
    let node = Node {
        len_bytes,
        vcpus: 1,
        host: None,
    };
    GuestMemory::new(&[node], PageSize::Base).unwrap()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn payload(kernel: &[u8], initrd: Option<&[u8]>, command_line: &str) -> Payload {
    Payload {
        kernel: file(kernel),
        initrd: initrd.map(file),
        command_line: command_line.to_owned(),
    }
}

/// A bzImage whose protected-mode code is `code`; `init_size` is what it needs at 16 MiB.
fn bzimage(code: &[u8], init_size: u32) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[1]);
    put(0x202, b"HdrS");
    put(0x206, &0x20F_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x238, &[0xFF]);
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &init_size.to_le_bytes());
    image.extend_from_slice(code);
    image
}

fn number(memory: &GuestMemory, address: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes[..len]).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn the_map_of_a_guest_with_memory_on_both_sides_of_pci() {
    let expected = [
        (0..0x9_FC00, Kind::Ram),
        (0x9_FC00..0x10_0000, Kind::Reserved),
        (0x10_0000..0xC000_0000, Kind::Ram),
        (0xE000_0000..0xF000_0000, Kind::Reserved),
        (0xFFFB_C000..0xFFFC_0000, Kind::Reserved),
        (0x1_0000_0000..0x1_4000_0000, Kind::Ram),
    ];
    assert_eq!(map(&memory(4 << 30)), expected);
    assert_eq!(map(&memory(64 << 20))[2].0, 0x10_0000..64 << 20);
    assert_eq!(map(&memory(64 << 20)).len(), 5);
}

#[test]
fn a_bzimage_finds_all_that_it_is_told_of() {
    let memory = memory(64 << 20);
    let payload = payload(&bzimage(b"code", 1 << 20), Some(b"initrd"), "console=ttyS0");
    let entry = load(&memory, &payload, 0xE_0000).unwrap();
    let Entry::Linux { rip, zero_page, .. } = entry else {
        panic!("{entry:?}");
    };
    assert_eq!(rip, 0x10_0200);
    let mut bytes = [0; 14];
    memory.read(0x10_0000, &mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"code");
    memory.read(number(&memory, zero_page + 0x228, 4), &mut bytes).unwrap();
    assert_eq!(&bytes, b"console=ttyS0\0");
    let initrd = number(&memory, zero_page + 0x218, 4);
    assert_eq!((initrd, number(&memory, zero_page + 0x21C, 4)), ((64 << 20) - 4096, 6));
    memory.read(initrd, &mut bytes[..6]).unwrap();
    assert_eq!(&bytes[..6], b"initrd");
    assert_eq!(number(&memory, zero_page + 0x70, 8), 0xE_0000);
    assert_eq!(number(&memory, zero_page + 0x1E8, 1), 5);
    assert_eq!(number(&memory, zero_page + 0x2D0 + 2 * 20, 8), 0x10_0000);
    // The last page of the first 4 GiB is where it says.
    assert_eq!(number(&memory, PAGE_TABLES + 0x2000 + 2047 * 8, 8), 2047 << 21 | 0x83);
}

#[test]
fn what_does_not_fit_is_refused() {
    let memory = memory(32 << 20);
    let refused = |kernel: &[u8], initrd: Option<&[u8]>, line: &str| {
        load(&memory, &payload(kernel, initrd, line), 0)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&bzimage(b"", 17 << 20), None, "").contains("memory"));
    assert!(refused(&bzimage(b"", 8 << 20), Some(&vec![0; 9 << 20]), "").contains("initrd"));
    assert!(refused(&bzimage(b"", 1 << 20), None, &"x".repeat(256)).contains("256 bytes"));
    assert!(refused(&bzimage(b"", 1 << 20), None, "a\0b").contains("NUL"));
    let mut old = bzimage(b"", 1 << 20);
    old[0x206] = 0x0B;
    assert!(refused(&old, None, "").contains("64-bit"));
    assert!(refused(b"#!/bin/sh and so on", None, "").contains("kernel"));
    assert!(refused(b"", None, "").contains("kernel"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_file_is_a_kernel_or_an_error(
        is_elf: bool,
        changes in prop::collection::vec((0_usize..240, any::<u8>()), 0..12),
        words in prop::collection::vec((0_usize..28, any::<u64>()), 0..4),
        len in 0_usize..2048,
    ) {
        let mut bytes = bzimage(&[0; 1024], 1 << 20);
        let start = if is_elf { 0 } else { 0x1F1 };
        if is_elf {
            bytes.fill(0);
            bytes[..7].copy_from_slice(&[0x7F, b'E', b'L', b'F', 2, 1, 1]);
            // Entry, program headers, their size and number: one to load, one note.
            bytes[26] = 0x10;
            bytes[32] = 64;
            bytes[52..57].copy_from_slice(&[64, 0, 56, 0, 2]);
            bytes[64] = 1;
            bytes[90] = 0x10;
            bytes[120] = 4;
            bytes[128] = 0xF0;
            bytes[152] = 40;
        }
        for (offset, word) in words {
            bytes[start + 8 * offset..][..8].copy_from_slice(&word.to_le_bytes());
        }
        for (offset, byte) in changes {
            bytes[start + offset] = byte;
        }
        bytes.truncate(len);
        let memory = memory(32 << 20);
        // Whatever it says: no panic, and it ends.
        drop(load(&memory, &payload(&bytes, None, ""), 0));
    }
}
