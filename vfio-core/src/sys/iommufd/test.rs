//! `drivers/iommu/iommufd/iommufd_test.h`: the requests to the kernel's mock devices.
//!
//! The layout of the command is stated here by offsets: 16 bytes of head, 48 of a union, and a last word that the kernel counts in.

use super::super::{Result, ioctl};
use super::command::IOMMUFD_TYPE;
use super::host::Descriptor;
use super::{Calls, Id};
use crate::StableMemory;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

const IOMMU_TEST_CMD: Opcode = opcode::none(IOMMUFD_TYPE, 0x80 + 32);
const SIZE: u32 = 72;

const OP_CREATE_ACCESS: u32 = 5;
const OP_DMABUF_GET: u32 = 22;
/// Offsets of `out_access_fd` and `flags` of `create_access`, and of `length` and `open_flags` of `dmabuf_get`.
const FIRST: usize = 16;
const SECOND: usize = 20;

/// `struct iommu_test_cmd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestCommand {
    bytes: [u8; SIZE as usize],
}

/// The memory whose address a command carries. The address is filled in below, at `at`, by whoever makes the call.
#[derive(Debug)]
pub(crate) enum TestBuffer<'a> {
    None,
    /// Read by the kernel.
    In {
        at: usize,
        bytes: &'a [u8],
    },
    /// Written by the kernel.
    Out {
        at: usize,
        bytes: &'a mut [u8],
    },
    /// Looked up in the page tables, neither read nor written.
    Pages {
        at: usize,
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
        match buffer {
            TestBuffer::None => {}
            TestBuffer::In { at, bytes } => command.put_u64(at, bytes.as_ptr().expose_provenance() as u64),
            TestBuffer::Out { at, bytes } => command.put_u64(at, bytes.as_mut_ptr().expose_provenance() as u64),
            TestBuffer::Pages { at, memory, part } => {
                let address = memory.address().addr().checked_add(part.start).ok_or(Errno::OVERFLOW)?;
                command.put_u64(at, address as u64);
            }
        }
        // SAFETY: the command is as long as it says. The memory it points to is the caller's slice, of the length that the
        // command states (`selftest` sets both from one slice), or pages that are only looked up.
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

    /// Linux 7.3 opens the descriptor and returns 0 instead of its number, so the number is found by looking which one is new.
    pub(super) fn new_dmabuf(&self, len: u32) -> Result<OwnedFd> {
        let before = dmabufs()?;
        let mut command = TestCommand::new(OP_DMABUF_GET, 0);
        command.put_u32(FIRST, len);
        command.put_u32(SECOND, libc::O_CLOEXEC.unsigned_abs());
        self.test(&mut command, TestBuffer::None)?;
        let after = dmabufs()?;
        let mut new = after.difference(&before);
        match (new.next(), new.next()) {
            // SAFETY: a dma-buf that was not open before this call is the one that the call opened; of two, none is taken.
            (Some(number), None) => Ok(unsafe { ioctl::owned(*number) }),
            _ => Err(Errno::BADF),
        }
    }
}

/// Numbers of all dma-bufs of this process.
#[expect(clippy::disallowed_types, reason = "numbers in /proc/self/fd, which nobody owns yet")]
fn dmabufs() -> Result<BTreeSet<std::os::fd::RawFd>> {
    let mut found = BTreeSet::new();
    let fail = |error: std::io::Error| super::super::mem::errno_of(&error);
    for entry in std::fs::read_dir("/proc/self/fd").map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let is_dmabuf = std::fs::read_link(&path)
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"/dmabuf:"));
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_dmabuf, number) {
            found.insert(number);
        }
    }
    Ok(found)
}
