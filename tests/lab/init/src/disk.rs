//! What a host and its guest write to a disk that the guest was given, each for the other to find.

#[path = "../../../../drivers/examples/nvme-check/pattern.rs"]
mod pattern;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Blocks that only the host writes.
pub const OF_HOST: Range<u64> = 0..16 * 1024;
/// Blocks that the guest writes over.
pub const OF_GUEST: Range<u64> = 16 * 1024..32 * 1024;
/// The version of what the host has written.
pub const BY_HOST: u32 = 1;
/// The version of what the guest has written.
pub const BY_GUEST: u32 = 2;

const BLOCK: usize = 512;
/// Blocks that are read or written at once: 1 MiB.
const STEP: usize = 2048;

/// Writes blocks, and has them on the disk.
///
/// # Errors
/// When the disk cannot be written.
pub fn write(disk: &File, blocks: Range<u64>, seed: u64, version: u32) -> io::Result<()> {
    let mut bytes = vec![0; STEP * BLOCK];
    for first in blocks.step_by(STEP) {
        for (number, block) in (first..).zip(bytes.chunks_mut(BLOCK)) {
            pattern::fill(block, number, seed, version);
        }
        disk.write_all_at(&bytes, first * BLOCK as u64)?;
    }
    disk.sync_all()
}

/// Reads blocks, which must hold what was written.
///
/// # Errors
/// When the disk cannot be read, or one of them holds something else.
pub fn check(disk: &File, blocks: Range<u64>, seed: u64, version: u32) -> io::Result<()> {
    let (mut bytes, mut scratch) = (vec![0; STEP * BLOCK], vec![0; BLOCK]);
    for first in blocks.step_by(STEP) {
        disk.read_exact_at(&mut bytes, first * BLOCK as u64)?;
        for (number, block) in (first..).zip(bytes.chunks(BLOCK)) {
            if let Some(wrong) = pattern::mismatch(block, &mut scratch, number, seed, version) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_and_nothing_else_is_taken_for_it() {
        let path = std::env::temp_dir().join(format!("lab-init-disk-{}", std::process::id()));
        let mut options = File::options();
        let disk = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        write(&disk, OF_HOST.start..OF_GUEST.end, 7, BY_HOST).unwrap();
        write(&disk, OF_GUEST, 7, BY_GUEST).unwrap();
        check(&disk, OF_HOST, 7, BY_HOST).unwrap();
        check(&disk, OF_GUEST, 7, BY_GUEST).unwrap();
        check(&disk, OF_GUEST, 7, BY_HOST).unwrap_err();
        check(&disk, OF_HOST, 8, BY_HOST).unwrap_err();
        disk.write_all_at(b"x", OF_HOST.end * 512 - 1).unwrap();
        check(&disk, OF_HOST, 7, BY_HOST).unwrap_err();
    }
}
