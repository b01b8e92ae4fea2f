//! `drivers/iommu/iommufd/iommufd_test.h`: the requests to the kernel's mock devices.
//!
//! The layout of the command is stated here by offsets: 16 bytes of head, 48 of a union, and a last word that the kernel counts in.

use super::super::mem::errno_of;
use super::super::{Result, ioctl};
use super::command::IOMMUFD_TYPE;
use super::host::Descriptor;
use super::{Calls, Id};
use crate::StableMemory;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

const IOMMU_TEST_CMD: Opcode = opcode::none(IOMMUFD_TYPE, 0x80 + 32);
const SIZE: u32 = 72;

const OP_MD_CHECK_MAP: u32 = 3;
const OP_MD_CHECK_REFS: u32 = 4;
const OP_CREATE_ACCESS: u32 = 5;
const OP_ACCESS_PAGES: u32 = 7;
const OP_ACCESS_RW: u32 = 8;
const OP_DIRTY: u32 = 13;
const OP_DMABUF_GET: u32 = 22;
/// A flag of `access_rw`: into the address space.
const RW_WRITE: u32 = 1;
/// Offsets of `out_access_fd` and `flags` of `create_access`, and of `length` and `open_flags` of `dmabuf_get`.
const FIRST: usize = 16;
const SECOND: usize = 20;

/// `struct iommu_test_cmd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestCommand {
    bytes: [u8; SIZE as usize],
}

/// The memory whose address a command carries. Which commands carry one, and where, is known below; callers give none.
#[derive(Debug)]
pub(crate) enum TestBuffer<'a> {
    None,
    /// Read by the kernel.
    In(&'a [u8]),
    /// Written by the kernel.
    Out(&'a mut [u8]),
    /// Looked up in the page tables, neither read nor written.
    Pages {
        memory: &'a dyn StableMemory,
        part: Range<usize>,
    },
}

impl TestCommand {
    /// Operation `op` on object (or, of an access, descriptor) `id`.
    pub(crate) fn new(op: u32, id: u32) -> Self {
        let mut command = Self {
            bytes: [0; SIZE as usize],
        };
        command.put_u32(0, SIZE);
        command.put_u32(4, op);
        command.put_u32(8, id);
        command
    }

    /// Sets a field; `at` counts from the start of the command.
    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        if let Some(field) = self.bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    }

    pub(crate) fn put_u64(&mut self, at: usize, value: u64) {
        if let Some(field) = self.bytes.get_mut(at..at + 8) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Sets the address that this operation takes, with its length and direction. EINVAL for a buffer of another kind than it takes, or one
    /// that is too short. An address of pages that are not given is 0, where the kernel finds none.
    fn fill_in(&mut self, buffer: TestBuffer<'_>) -> Result<()> {
        let address = match (self.u32(4), buffer) {
            (OP_ACCESS_RW, TestBuffer::In(bytes)) => {
                self.put_u64(24, bytes.len() as u64);
                self.put_u32(40, self.u32(40) | RW_WRITE);
                (32, bytes.as_ptr().expose_provenance())
            }
            (OP_ACCESS_RW, TestBuffer::Out(bytes)) => {
                self.put_u64(24, bytes.len() as u64);
                self.put_u32(40, self.u32(40) & !RW_WRITE);
                (32, bytes.as_mut_ptr().expose_provenance())
            }
            (OP_DIRTY, TestBuffer::In(bytes)) => {
                // Length and page size, of which the kernel makes the length of the bitmap.
                let pages = self.u64(32).checked_div(self.u64(40)).ok_or(Errno::INVAL)?;
                if pages.div_ceil(8) > bytes.len() as u64 {
                    return Err(Errno::INVAL);
                }
                (48, bytes.as_ptr().expose_provenance())
            }
            (op, buffer) => {
                let at = match op {
                    OP_MD_CHECK_REFS => 24,
                    OP_MD_CHECK_MAP => 32,
                    OP_ACCESS_PAGES => 40,
                    OP_ACCESS_RW | OP_DIRTY => return Err(Errno::INVAL),
                    _ if matches!(buffer, TestBuffer::None) => return Ok(()),
                    _ => return Err(Errno::INVAL),
                };
                match buffer {
                    TestBuffer::None => (at, 0),
                    TestBuffer::Pages { memory, part } => {
                        let address = memory.address().addr().checked_add(part.start);
                        (at, address.ok_or(Errno::OVERFLOW)?)
                    }
                    TestBuffer::In(_) | TestBuffer::Out(_) => return Err(Errno::INVAL),
                }
            }
        };
        self.put_u64(address.0, address.1 as u64);
        Ok(())
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        let field = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        field.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        let field = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        field.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }
}

impl Descriptor {
    pub(super) fn run_test(&self, command: &mut TestCommand, buffer: TestBuffer<'_>) -> Result<()> {
        command.fill_in(buffer)?;
        // SAFETY: the command is as long as it says. `fill_in` has set or zeroed the one address that it may carry: memory that is the caller's for as
        // many bytes as the command states and in the direction that it states, or pages that are only looked up.
        unsafe { ioctl::call(self.file.as_fd(), IOMMU_TEST_CMD, &mut command.bytes) }?;
        Ok(())
    }

    pub(super) fn new_access(&self, ioas: Id, flags: u32) -> Result<OwnedFd> {
        let mut command = TestCommand::new(OP_CREATE_ACCESS, ioas);
        command.put_u32(SECOND, flags);
        self.test(&mut command, TestBuffer::None)?;
        let number = i32::try_from(command.u32(FIRST)).or(Err(Errno::BADF))?;
        // SAFETY: the kernel has just opened it for this call and reports its number here.
        Ok(unsafe { ioctl::owned(number) })
    }

    /// Linux 7.3 opens the descriptor and returns 0 instead of its number, so the number is found by looking which dma-buf is new. EBADF, with the
    /// descriptor left open, if other threads open dma-bufs meanwhile.
    pub(super) fn new_dmabuf(&self, len: u32) -> Result<OwnedFd> {
        let before = dmabufs()?;
        let mut command = TestCommand::new(OP_DMABUF_GET, 0);
        command.put_u32(FIRST, len);
        command.put_u32(SECOND, libc::O_CLOEXEC.unsigned_abs());
        self.test(&mut command, TestBuffer::None)?;
        let after = dmabufs()?;
        let number = only_new(&before, &after).ok_or(Errno::BADF)?;
        // SAFETY: it is a descriptor of the only dma-buf that this process has and did not have before the call. The call has made one, and nobody but
        // this function knows its number, so that one is it, and nobody closes it or has another descriptor of it.
        Ok(unsafe { ioctl::owned(number) })
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "a number in /proc/self/fd, which nobody owns yet"
)]
type Number = std::os::fd::RawFd;

/// What tells dma-bufs apart: device and inode, which the kernel never gives to two of them. A number is used again as soon as it is closed.
type Identity = (u64, u64);

/// The descriptor of the only dma-buf that was not there before; `None` also if there are two of it.
fn only_new(before: &BTreeMap<Number, Identity>, after: &BTreeMap<Number, Identity>) -> Option<Number> {
    let known: BTreeSet<_> = before.values().collect();
    let mut new = after.iter().filter(|(_, identity)| !known.contains(identity));
    let (number, _) = new.next()?;
    new.next().is_none().then_some(*number)
}

/// All dma-bufs of this process, by number.
fn dmabufs() -> Result<BTreeMap<Number, Identity>> {
    let mut found = BTreeMap::new();
    let fail = |error: std::io::Error| errno_of(&error);
    for entry in std::fs::read_dir("/proc/self/fd").map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let target = match std::fs::read_link(&path) {
            Ok(target) => target,
            Err(error) => {
                unless_closed(&error)?;
                continue;
            }
        };
        let is_dmabuf = target.as_os_str().as_encoded_bytes().starts_with(b"/dmabuf:");
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        let (true, Some(number)) = (is_dmabuf, number) else {
            continue;
        };
        match std::fs::metadata(&path) {
            Ok(file) => {
                found.insert(number, (file.dev(), file.ino()));
            }
            Err(error) => unless_closed(&error)?,
        }
    }
    Ok(found)
}

/// A descriptor that was closed meanwhile is none. One that cannot be looked at may be the new one.
fn unless_closed(error: &std::io::Error) -> Result<()> {
    match errno_of(error) {
        Errno::NOENT => Ok(()),
        errno => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dma_buf_is_not_taken_for_another_that_had_its_number() {
        let [old, own, foreign] = [(9, 1), (9, 2), (9, 3)];
        let before = BTreeMap::from([(3, old), (5, old)]);
        let new = |after: &[(Number, Identity)]| only_new(&before, &after.iter().copied().collect());
        assert_eq!(new(&[(3, old), (5, old), (6, own)]), Some(6));
        assert_eq!(new(&[(3, own), (5, old)]), Some(3), "in place of one that was closed");
        assert_eq!(
            new(&[(3, own), (5, old), (6, foreign)]),
            None,
            "one of them is somebody else's"
        );
        assert_eq!(new(&[(3, old), (6, own), (7, own)]), None);
        assert_eq!(new(&[(3, old), (7, old)]), None);
    }

    #[test]
    fn only_a_closed_descriptor_may_be_missed() {
        assert_eq!(unless_closed(&std::io::Error::from(Errno::NOENT)), Ok(()));
        for errno in [Errno::ACCESS, Errno::PERM, Errno::NOMEM] {
            assert_eq!(unless_closed(&std::io::Error::from(errno)), Err(errno));
        }
    }

    #[test]
    fn an_address_is_never_the_callers_own() {
        for op in 0..64 {
            let mut command = TestCommand::new(op, 0);
            command.bytes[16..].fill(0x55);
            let before = command.clone();
            match (op, command.fill_in(TestBuffer::None)) {
                (OP_ACCESS_RW | OP_DIRTY, filled) => assert_eq!(filled, Err(Errno::INVAL)),
                (OP_MD_CHECK_MAP, _) => assert_eq!(command.u64(32), 0),
                (OP_MD_CHECK_REFS, _) => assert_eq!(command.u64(24), 0),
                (OP_ACCESS_PAGES, _) => assert_eq!(command.u64(40), 0),
                _ => assert_eq!(command, before),
            }
        }
    }

    #[test]
    fn length_and_direction_are_the_buffers() {
        let mut command = TestCommand::new(OP_ACCESS_RW, 0);
        command.put_u64(24, 1 << 20);
        command.put_u32(40, RW_WRITE | 4);
        command.fill_in(TestBuffer::Out(&mut [0; 3])).unwrap();
        assert_eq!((command.u64(24), command.u32(40)), (3, 4));
        command.fill_in(TestBuffer::In(&[0; 5])).unwrap();
        assert_eq!((command.u64(24), command.u32(40)), (5, 5));
        let mut dirty = TestCommand::new(OP_DIRTY, 0);
        dirty.put_u64(32, 65 * 4096);
        assert_eq!(dirty.fill_in(TestBuffer::In(&[0; 16])), Err(Errno::INVAL));
        dirty.put_u64(40, 4096);
        assert_eq!(dirty.fill_in(TestBuffer::In(&[0; 8])), Err(Errno::INVAL));
        assert_eq!(dirty.fill_in(TestBuffer::In(&[0; 9])), Ok(()));
        assert_eq!(dirty.fill_in(TestBuffer::Out(&mut [0; 9])), Err(Errno::INVAL));
    }
}
