//! An IOAS of an iommufd.

use super::{Failed, Left, Lent, Loan, NotLent, Shared, Space, Table, enter, length};
use crate::sys::Result;
use crate::sys::iommufd::{Calls, Id};
use crate::sys::located::Located;
use crate::{Access, IovaRange};
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// An IOAS by its number.
#[derive(Debug)]
pub(crate) struct IoasTable {
    calls: Arc<dyn Calls>,
    id: Id,
    sharing: Arc<Sharing>,
}

/// Whether others may have a descriptor of an iommufd. Once they may, they may for ever.
#[derive(Debug, Default)]
pub(crate) struct Sharing(RwLock<bool>);

impl Sharing {
    /// Comes before anything by which others get a descriptor, and waits for copies in progress.
    pub(crate) fn begin(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.read()
    }

    /// Whether it could begin at this moment.
    #[cfg(test)]
    pub(crate) fn may_begin(&self) -> bool {
        self.0.try_write().is_ok()
    }

    /// While this is held, it does not begin.
    fn read(&self) -> RwLockReadGuard<'_, bool> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IoasTable {
    pub(crate) fn new(calls: Arc<dyn Calls>, id: Id, sharing: Arc<Sharing>) -> Self {
        Self { calls, id, sharing }
    }
}

impl Table for IoasTable {
    fn map(&self, memory: &Lent<Located>, part: Range<usize>, iova: Option<u64>, access: Access) -> Result<u64> {
        self.calls.ioas_map(self.id, memory, part, iova, access)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        self.calls.ioas_unmap(self.id, range.start().0, length(range))
    }

    /// The kernel goes on until nothing is left. More than is entered here was mapped by others, or leaked.
    fn is_all(&self, want: u64, got: u64) -> bool {
        got >= want
    }

    /// A copy of a mapping to its own place fails with EEXIST where it is and with ENOENT where it is not, and changes nothing. Where others have the
    /// descriptor, ENOENT may also mean that they left a part.
    fn left(&self, _: Failed, entry: IovaRange) -> Left {
        let start = entry.start().0;
        let copied = self.calls.ioas_copy(
            self.id,
            Lent((self.id, start)),
            length(entry),
            Some(start),
            Access::READ,
        );
        match copied {
            Err(Errno::EXIST) => Left::All,
            Err(Errno::NOENT) => Left::Nothing,
            _ => Left::Unclear,
        }
    }

    fn is_alone(&self) -> bool {
        !self.sharing.has_begun()
    }
}

impl Space<IoasTable> {
    /// Maps a part of a file, which the kernel holds.
    pub(crate) fn map_file(
        self: &Arc<Self>,
        file: BorrowedFd<'_>,
        start: u64,
        len: u64,
        iova: Option<u64>,
        access: Access,
    ) -> std::result::Result<Loan<IoasTable>, NotLent> {
        let entered = {
            let shared = self.registry.share();
            let table = &self.table;
            let mapped = table.calls.ioas_map_file(table.id, file, start, len, iova, access);
            enter(&shared, mapped, iova, len)
        };
        self.lend(entered, None)
    }

    /// Maps here what `from` has mapped in this or another IOAS of the same iommufd. ENOENT if that is gone, ESTALE if others may have put theirs in
    /// its place.
    pub(crate) fn copy(
        self: &Arc<Self>,
        from: &Loan<IoasTable>,
        iova: Option<u64>,
        access: Access,
    ) -> std::result::Result<Loan<IoasTable>, NotLent> {
        let other = &from.space.table;
        if !Arc::ptr_eq(&self.table.calls, &other.calls) {
            return Err(NotLent::Kernel(Errno::XDEV));
        }
        let entered = self.share_with(&from.space, |here, there| {
            // Whose memory it is nobody could tell later, so that it would go while devices reach it. Until the copy is made nobody joins.
            let sharing = self.table.sharing.read();
            if *sharing {
                return Err(NotLent::Kernel(Errno::STALE));
            }
            // What was mapped here after it.
            if !there.is_live(from.range.start(), from.guard) {
                return Err(NotLent::Kernel(Errno::NOENT));
            }
            let (source, len) = (Lent((other.id, from.range.start().0)), length(from.range));
            let copied = self.table.calls.ioas_copy(self.table.id, source, len, iova, access);
            enter(here, copied, iova, len)
        });
        self.lend(entered, from.memory().cloned())
    }

    /// Runs `work` with the registries of both held shared. They are taken in a fixed order: two copies in opposite directions, each with a
    /// ranged unmap waiting, would otherwise wait for each other.
    fn share_with<R>(self: &Arc<Self>, other: &Arc<Self>, work: impl FnOnce(&Shared<'_>, &Shared<'_>) -> R) -> R {
        let (here, there) = (Arc::as_ptr(self), Arc::as_ptr(other));
        if here == there {
            let both = self.registry.share();
            work(&both, &both)
        } else if here < there {
            let here = self.registry.share();
            work(&here, &other.registry.share())
        } else {
            let there = other.registry.share();
            work(&self.registry.share(), &there)
        }
    }
}
