//! Accesses: how a driver in the kernel uses an address space for a device that it emulates.

use super::super::{Ioas, Object, PageTable};
use super::{number, op, run, step};
use crate::sys::iommufd::{TestBuffer, TestCommand};
use crate::{Error, Iova, IovaRange, StableMemory};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

const NEEDS_PIN_PAGES: u32 = 1;
const PIN_WRITE: u32 = 1;
const RW_WRITE: u32 = 1;
const RW_SLOW_PATH: u32 = 4;

/// An access to an address space.
#[derive(Debug)]
pub struct MockAccess {
    /// Closed before the address space is let go.
    file: OwnedFd,
    ioas: Mutex<Arc<Object>>,
}

/// Pages that an access has pinned. Unpinned when dropped, or when they are unmapped.
#[derive(Debug)]
#[must_use = "dropping it unpins the pages"]
pub struct PinnedPages<'a> {
    access: &'a MockAccess,
    id: u32,
}

impl MockAccess {
    /// Makes an access, which can pin pages only if `pins`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) on a kernel without the mock.
    #[doc(alias = "IOMMU_TEST_OP_CREATE_ACCESS")]
    pub fn new(ioas: &Ioas, pins: bool) -> Result<Self, Error> {
        let flags = if pins { NEEDS_PIN_PAGES } else { 0 };
        let object = Arc::clone(ioas.object());
        let opened = object.iommufd().calls().test_access(ioas.id().0, flags);
        let file = opened.map_err(|errno| step("IOMMU_TEST_OP_CREATE_ACCESS").error(errno))?;
        Ok(Self {
            file,
            ioas: Mutex::new(object),
        })
    }

    /// Goes over to another address space; what it has pinned is unpinned.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    #[doc(alias = "IOMMU_TEST_OP_ACCESS_REPLACE_IOAS")]
    pub fn replace(&self, ioas: &Ioas) -> Result<(), Error> {
        let mut request = TestCommand::new(op::ACCESS_REPLACE_IOAS, number(self.file.as_fd()));
        request.put_u32(16, ioas.id().0);
        let mut held = self.ioas.lock().unwrap_or_else(PoisonError::into_inner);
        held.iommufd()
            .check_own(ioas.object().iommufd(), step("IOMMU_TEST_OP_ACCESS_REPLACE_IOAS"))?;
        run(
            held.iommufd(),
            &mut request,
            TestBuffer::None,
            "IOMMU_TEST_OP_ACCESS_REPLACE_IOAS",
        )?;
        *held = Arc::clone(ioas.object());
        Ok(())
    }

    /// Pins the pages of a range, at most 16 MiB; checks that the first of them is the one at that offset of `expected`, and so on.
    ///
    /// # Errors
    ///
    /// ENOENT where nothing is mapped, EPERM for writing what is mapped without, EBADE for other pages than expected.
    #[doc(alias = "IOMMU_TEST_OP_ACCESS_PAGES")]
    pub fn pin(
        &self,
        range: IovaRange,
        write: bool,
        expected: Option<(&dyn StableMemory, usize)>,
    ) -> Result<PinnedPages<'_>, Error> {
        let len = u64::try_from(range.len_bytes()).unwrap_or(u64::MAX);
        let mut request = TestCommand::new(op::ACCESS_PAGES, number(self.file.as_fd()));
        request.put_u32(16, if write { PIN_WRITE } else { 0 });
        request.put_u64(24, range.start().0);
        request.put_u64(32, len);
        let buffer = expected.map_or(TestBuffer::None, |(memory, offset)| TestBuffer::Pages {
            memory,
            part: offset..memory.len(),
        });
        self.run(&mut request, buffer, "IOMMU_TEST_OP_ACCESS_PAGES")?;
        let id = request.u32(20);
        Ok(PinnedPages { access: self, id })
    }

    /// Reads through the address space; `slow` takes the way of memory that cannot be mapped into the kernel.
    ///
    /// # Errors
    ///
    /// ENOENT where nothing is mapped, EPERM where reading is not allowed.
    #[doc(alias = "IOMMU_TEST_OP_ACCESS_RW")]
    pub fn read(&self, iova: Iova, to: &mut [u8], slow: bool) -> Result<(), Error> {
        let mut request = self.transfer(iova, to.len(), if slow { RW_SLOW_PATH } else { 0 });
        self.run(&mut request, TestBuffer::Out(to), "IOMMU_TEST_OP_ACCESS_RW")
    }

    /// Writes through the address space.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    #[doc(alias = "IOMMU_TEST_OP_ACCESS_RW")]
    pub fn write(&self, iova: Iova, from: &[u8], slow: bool) -> Result<(), Error> {
        let mut request = self.transfer(iova, from.len(), RW_WRITE | if slow { RW_SLOW_PATH } else { 0 });
        self.run(&mut request, TestBuffer::In(from), "IOMMU_TEST_OP_ACCESS_RW")
    }

    fn transfer(&self, iova: Iova, len: usize, flags: u32) -> TestCommand {
        let mut request = TestCommand::new(op::ACCESS_RW, number(self.file.as_fd()));
        request.put_u64(16, iova.0);
        request.put_u64(24, len as u64);
        request.put_u32(40, flags);
        request
    }

    fn run(&self, request: &mut TestCommand, buffer: TestBuffer<'_>, name: &'static str) -> Result<(), Error> {
        let held = self.ioas.lock().unwrap_or_else(PoisonError::into_inner);
        run(held.iommufd(), request, buffer, name)
    }
}

impl Drop for PinnedPages<'_> {
    fn drop(&mut self) {
        let mut request = TestCommand::new(op::DESTROY_ACCESS_PAGES, number(self.access.file.as_fd()));
        request.put_u32(16, self.id);
        match self
            .access
            .run(&mut request, TestBuffer::None, "IOMMU_TEST_OP_DESTROY_ACCESS_PAGES")
        {
            // Unmapping them has unpinned them.
            Err(error) if error.errno() != Some(Errno::NOENT) => {
                tracing::error!(id = self.id, %error, "pages stay pinned");
            }
            _ => {}
        }
    }
}
