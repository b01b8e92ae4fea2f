//! A kernel of a few instructions.

use std::fs::File;
use std::io::Write;

/// Where the guest's code is loaded.
pub(crate) const LOAD: u32 = 0x10_0000;

/// An ELF file with a PVH entry, which is 32-bit code without paging.
pub(crate) fn kernel(code: &[u8]) -> File {
    let mut file = vec![0; 64 + 2 * 56];
    let (note_at, code_at) = (file.len(), file.len() + 20);
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7F, b'E', b'L', b'F', 2, 1, 1]);
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &LOAD.to_le_bytes());
    put(32, &[64]);
    put(52, &[64, 0, 56, 0, 2]);
    let mut header = |at: usize, kind: u8, offset: usize, address: u32, len: usize| {
        put(at, &[kind]);
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &address.to_le_bytes());
        put(at + 32, &len.to_le_bytes());
        put(at + 40, &len.to_le_bytes());
    };
    header(64, 1, code_at, LOAD, code.len());
    header(120, 4, note_at, 0, 20);
    for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), LOAD] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(code);
    let mut kernel = tempfile::tempfile().unwrap();
    kernel.write_all(&file).unwrap();
    kernel
}
