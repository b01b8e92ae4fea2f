//! Memory behind mappings: pinned, accounted, and reached by devices.

use crate::StableMemory;
use crate::sys::{Result, fence, mem};
use rustix::io::Errno;
use rustix::io::{pread, pwrite};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The kernel's base page.
pub(crate) const PAGE: u64 = 4096;

/// Memory that was handed to the kernel for mapping. Copies of a mapping share it, and it is accounted once.
#[derive(Debug)]
pub(crate) struct Pages {
    source: Source,
    /// Bytes before the memory on its first page.
    head: u64,
    /// Length with `head`.
    len: u64,
    writable: bool,
    account: Account,
    /// Pages that page tables and accesses hold, first and last; may overlap.
    pins: Mutex<Vec<(u64, u64)>>,
    /// A made-up physical address of the first page.
    physical: u64,
    released: Released,
}

/// Memory whose last mapping went. Its drop may do anything, and so is left to a moment when nothing is locked.
pub(crate) type Released = Arc<Mutex<Vec<Arc<dyn StableMemory>>>>;

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum Source {
    Memory {
        memory: Arc<dyn StableMemory>,
        start: usize,
    },
    File {
        file: OwnedFd,
        start: u64,
    },
    /// A dma-buf of a device's region: the index of the device in the machine, and where in the region the bytes lie.
    Registers {
        function: usize,
        region: u32,
        ranges: Vec<Range<u64>>,
        start: u64,
        /// The device's count when it was mapped.
        revocations: u64,
    },
}

/// Which of the two limits pinned pages count against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// The user's, over all processes.
    User,
    /// The process's locked memory.
    Process,
    /// None: registers are not memory.
    None,
}

/// What is pinned, in pages.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) limit: Option<u64>,
    pub(crate) user: u64,
    pub(crate) process: u64,
    next_physical: u64,
    released: Released,
}

impl Pages {
    pub(crate) fn new(
        accounts: &mut Accounts,
        source: Source,
        len: u64,
        writable: bool,
        account: Account,
    ) -> Arc<Self> {
        let head = match &source {
            Source::Memory { memory, start } => (memory.address() as usize + start) as u64 % PAGE,
            Source::File { start, .. } | Source::Registers { start, .. } => *start % PAGE,
        };
        let len = len.saturating_add(head);
        // A gap after each, so that nothing is contiguous by accident.
        let physical = (1 << 32) + accounts.next_physical;
        accounts.next_physical += len.next_multiple_of(PAGE) + PAGE;
        Arc::new(Self {
            source,
            head,
            len,
            writable,
            account,
            pins: Mutex::default(),
            physical,
            released: Arc::clone(&accounts.released),
        })
    }

    /// Bytes before the memory on its first page.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// What the kernel takes the alignment of a chosen IOVA from: the address, or the offset in the file.
    pub(crate) fn address(&self, byte: u64) -> u64 {
        let base = match &self.source {
            Source::Memory { memory, start } => (memory.address() as usize + start) as u64,
            Source::File { start, .. } | Source::Registers { start, .. } => *start,
        };
        base - self.head + byte
    }

    pub(crate) fn physical(&self, byte: u64) -> u64 {
        self.physical + byte
    }

    /// Which byte a physical address is.
    pub(crate) fn byte_of(&self, physical: u64) -> Option<u64> {
        physical.checked_sub(self.physical).filter(|byte| *byte < self.len)
    }

    /// Reads from byte `at` of the pages; registers are not read here.
    pub(crate) fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        match &self.source {
            Source::Memory { memory, start } => {
                mem::copy_from(&**memory, self.offset(*start, at)?, to).ok_or(Errno::FAULT)
            }
            Source::File { file, start } => {
                let done = pread(file, &mut *to, start - self.head + at)?;
                if done == to.len() { Ok(()) } else { Err(Errno::FAULT) }
            }
            Source::Registers { .. } => Err(Errno::FAULT),
        }
    }

    /// Writes from byte `at` of the pages; registers are not written here.
    pub(crate) fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        match &self.source {
            Source::Memory { memory, start } => {
                let start = self.offset(*start, at)?;
                // What a device signals with comes after its data.
                let (data, signal) = from.split_at(from.len().saturating_sub(size_of::<u64>()));
                mem::copy_to(&**memory, start, data).ok_or(Errno::FAULT)?;
                fence::dma_write();
                mem::copy_to(&**memory, start + data.len(), signal).ok_or(Errno::FAULT)
            }
            Source::File { file, start } => {
                let done = pwrite(file, from, start - self.head + at)?;
                if done == from.len() { Ok(()) } else { Err(Errno::FAULT) }
            }
            Source::Registers { .. } => Err(Errno::FAULT),
        }
    }

    fn offset(&self, start: usize, at: u64) -> Result<usize> {
        let inside = at.checked_sub(self.head).ok_or(Errno::FAULT)?;
        let inside = usize::try_from(inside).map_err(|_error| Errno::FAULT)?;
        start.checked_add(inside).ok_or(Errno::FAULT)
    }

    /// Whether the kernel can pin a part: a file must be shared memory, and long enough.
    fn pinnable(&self, start_byte: u64, len: u64) -> Result<()> {
        let Source::File { file, start } = &self.source else {
            return Ok(());
        };
        rustix::fs::fcntl_get_seals(file).map_err(|_error| Errno::INVAL)?;
        let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default();
        let end = (start - self.head)
            .checked_add(start_byte)
            .and_then(|at| at.checked_add(len));
        if end.is_some_and(|end| end <= size.next_multiple_of(PAGE)) {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Source::Memory { memory, .. } = &self.source {
            let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
            released.push(Arc::clone(memory));
        }
    }
}

impl Accounts {
    /// Memory that nothing maps any more.
    pub(crate) fn take_released(&self) -> Vec<Arc<dyn StableMemory>> {
        std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pins a part of pages; ENOMEM above the limit.
    pub(crate) fn pin(&mut self, pages: &Pages, start_byte: u64, len: u64) -> Result<()> {
        pages.pinnable(start_byte, len)?;
        let part = (start_byte / PAGE, (start_byte + (len - 1)) / PAGE);
        let mut pins = pages.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let before = union(&pins);
        pins.push(part);
        let more = union(&pins) - before;
        self.charge(pages.account, more).inspect_err(|_| {
            pins.pop();
        })
    }

    /// Undoes one [`pin`](Self::pin) of the same part.
    pub(crate) fn unpin(&mut self, pages: &Pages, start_byte: u64, len: u64) {
        let part = (start_byte / PAGE, (start_byte + (len - 1)) / PAGE);
        let mut pins = pages.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let before = union(&pins);
        match pins.iter().position(|pin| *pin == part) {
            Some(at) => drop(pins.swap_remove(at)),
            // One that was split or joined since: what is left of it is taken out.
            None => pins.retain(|pin| pin.1 < part.0 || pin.0 > part.1),
        }
        let less = before - union(&pins);
        match pages.account {
            Account::User => self.user -= less,
            Account::Process => self.process -= less,
            Account::None => {}
        }
    }

    /// Bytes that are pinned and accounted.
    pub(crate) fn pinned(&self) -> u64 {
        (self.user + self.process) * PAGE
    }

    fn charge(&mut self, account: Account, pages: u64) -> Result<()> {
        let counter = match account {
            Account::User => &mut self.user,
            Account::Process => &mut self.process,
            Account::None => return Ok(()),
        };
        let sum = *counter + pages;
        if self.limit.is_some_and(|limit| sum > limit / PAGE) {
            return Err(Errno::NOMEM);
        }
        *counter = sum;
        Ok(())
    }
}

/// How many pages are in at least one of the ranges.
fn union(ranges: &[(u64, u64)]) -> u64 {
    if let [(first, last)] = ranges {
        return last - first + 1;
    }
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut count = 0;
    let mut next = 0;
    for (first, last) in sorted {
        let from = first.max(next);
        if last >= from {
            count += last - from + 1;
            next = last + 1;
        }
    }
    count
}
