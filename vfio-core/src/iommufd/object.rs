//! Objects of an iommufd: numbers in the kernel, destroyed when nothing here needs them any more.

use super::Iommufd;
use crate::ErrorKind;
use crate::sys::iommufd::Calls;
use rustix::io::Errno;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of an object in its iommufd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

/// An object that this process made: an I/O address space, a hardware page table, a queue, a virtual IOMMU or device.
///
/// It holds its iommufd and its parents alive. Dropping it destroys it in the kernel before they are let go. If the kernel refuses
/// (EBUSY: something that this process does not know still uses it), it is tried again whenever another object of the iommufd is dropped, unless others
/// have the iommufd too, and what is left goes when the iommufd is closed; `tracing` tells.
#[doc(alias = "IOMMU_DESTROY")]
pub struct Object {
    iommufd: Iommufd,
    id: ObjectId,
    /// The kernel's word for it: `IOAS`, `HWPT`.
    kind: &'static str,
    /// Let go after the object was destroyed.
    parents: Vec<Parent>,
}

/// The kind of a page table with a fault queue.
pub(super) const FAULTING_HWPT: &str = "HWPT with a fault queue";

/// What an object depends on: another object, or what holds a device bound.
pub(super) type Parent = Arc<dyn Any + Send + Sync>;

/// Only types of this crate are devices and page tables: what they say of their objects is relied on.
pub(crate) mod sealed {
    pub trait Sealed {}
}

/// A device that is bound to an iommufd. Implemented in this crate only.
pub trait IommuDevice: sealed::Sealed {
    /// Its number in the iommufd.
    fn device_id(&self) -> ObjectId;

    /// The iommufd it is bound to.
    fn iommufd(&self) -> &Iommufd;

    /// What keeps it bound as long as it is held. A [`Vdevice`](super::Vdevice) holds it: the kernel wants the virtual device to go first.
    fn hold(&self) -> Arc<dyn Any + Send + Sync>;
}

/// What a device can be attached to: an [`Ioas`](super::Ioas), for which the kernel finds or makes a page table, or one
/// [`Hwpt`](super::Hwpt). Implemented in this crate only.
pub trait PageTable: sealed::Sealed {
    /// The kernel object.
    fn object(&self) -> &Arc<Object>;
}

impl Object {
    pub(super) fn new(iommufd: &Iommufd, id: u32, kind: &'static str, parents: Vec<Parent>) -> Arc<Self> {
        tracing::debug!(id, kind, "made");
        Arc::new(Self {
            iommufd: iommufd.clone(),
            id: ObjectId(id),
            kind,
            parents,
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The iommufd it is in.
    #[must_use]
    pub fn iommufd(&self) -> &Iommufd {
        &self.iommufd
    }

    /// Why a device could not be attached to it.
    pub(crate) fn attach_error(&self, errno: Errno) -> ErrorKind {
        match errno {
            // The kernel's answer for a device that makes no page requests, not for one that was removed.
            Errno::NODEV if self.kind == FAULTING_HWPT => ErrorKind::Unsupported {
                errno,
                since: "a device with PRI behind an IOMMU with PRI",
            },
            _ => ErrorKind::from_errno(errno),
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let (id, kind) = (self.id, self.kind);
        let iommufd = &self.iommufd;
        let mut orphans = Some(iommufd.orphans());
        if iommufd.sharing().has_begun() {
            orphans.take().into_iter().for_each(Orphans::leaked);
        }
        destroy(&**iommufd.calls(), orphans, Orphan { id, kind });
    }
}

/// Objects that were dropped and that the kernel would not destroy, because something used them at that moment (`IOMMU_IOAS_CHANGE_PROCESS` uses all
/// address spaces while it runs). Tried again whenever another object goes.
///
/// They do not hold their parents, whose handles hold the iommufd open: a parent that is dropped meanwhile is refused too, and comes after
/// its child here.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    waiting: Mutex<Vec<Orphan>>,
}

#[derive(Debug, Clone, Copy)]
struct Orphan {
    id: ObjectId,
    kind: &'static str,
}

impl Orphans {
    /// As many as are kept; so many calls an object that goes may cost.
    const MOST: usize = 64;

    /// Tries all again, with nothing locked: who listens to `tracing` may drop an object too. Says whether one has gone.
    fn retry(&self, calls: &dyn Calls) -> bool {
        let mut tried = std::mem::take(&mut *self.lock());
        let before = tried.len();
        tried.retain(|orphan| orphan.is_busy(calls));
        let after = tried.len();
        let mut waiting = self.lock();
        // Those that came meanwhile are younger.
        tried.append(&mut waiting);
        let leaked = tried.split_off(tried.len().min(Self::MOST));
        *waiting = tried;
        drop(waiting);
        leaked.into_iter().for_each(Orphan::leaked);
        after < before
    }

    /// They are never tried again.
    fn leaked(&self) {
        let waiting = std::mem::take(&mut *self.lock());
        waiting.into_iter().for_each(Orphan::leaked);
    }

    /// Whether it is kept, to be tried again.
    fn keep(&self, orphan: Orphan) -> bool {
        let mut waiting = self.lock();
        let fits = waiting.len() < Self::MOST;
        waiting.extend(fits.then_some(orphan));
        fits
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Orphan>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Destroys an object, and what waits among the orphans. Without them nothing is tried twice: where others have the iommufd, they may have destroyed an
/// object that was in use, and its number may be that of one of theirs.
fn destroy(calls: &dyn Calls, orphans: Option<&Orphans>, object: Orphan) {
    let is_busy = object.is_busy(calls);
    let others_went = orphans.is_some_and(|orphans| orphans.retry(calls));
    // What has gone may have been what was in the way.
    if !is_busy || others_went && !object.is_busy(calls) {
        return;
    }
    if orphans.is_some_and(|orphans| orphans.keep(object)) {
        let Orphan { id, kind } = object;
        tracing::warn!(
            id = id.0,
            kind,
            "IOMMU_DESTROY: in use; tried again when another object goes"
        );
    } else {
        object.leaked();
    }
}

impl Orphan {
    /// Tries to destroy it. After any other failure its number may be another object's by now, and is not used again.
    fn is_busy(self, calls: &dyn Calls) -> bool {
        let Self { id, kind } = self;
        match calls.destroy(id.0) {
            Ok(()) => tracing::debug!(id = id.0, kind, "destroyed"),
            Err(Errno::BUSY) => return true,
            Err(errno) => {
                tracing::error!(id = id.0, kind, %errno, "IOMMU_DESTROY failed; the object is leaked");
            }
        }
        false
    }

    fn leaked(self) {
        let Self { id, kind } = self;
        tracing::error!(id = id.0, kind, "IOMMU_DESTROY: in use; the object is leaked");
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} parents)", self.kind, self.id.0, self.parents.len())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
