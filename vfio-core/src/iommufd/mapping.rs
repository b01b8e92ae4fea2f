//! One mapping, held by a guard.

use super::command::IOAS_UNMAP;
use super::ioas::Ioas;
use crate::registry::{Claim, GuardId};
use crate::{Access, Error, ErrorKind, Iova, IovaRange, StableMemory};
use rustix::io::Errno;
use std::sync::Arc;

/// Memory that devices find at an IOVA. Holds the memory and the [`Ioas`]; unmapped when dropped.
///
/// If the kernel does not unmap it, the memory is leaked, because a device may still reach it; a drop says so by a `tracing` error.
#[derive(Debug)]
#[must_use = "dropping it unmaps the memory"]
pub struct Mapping {
    ioas: Ioas,
    range: IovaRange,
    access: Access,
    guard: GuardId,
    /// Nothing for a file, which the kernel holds itself.
    memory: Option<Arc<dyn StableMemory>>,
    released: bool,
}

impl Mapping {
    pub(super) fn new(
        ioas: Ioas,
        range: IovaRange,
        access: Access,
        guard: GuardId,
        memory: Option<Arc<dyn StableMemory>>,
    ) -> Self {
        Self {
            ioas,
            range,
            access,
            guard,
            memory,
            released: false,
        }
    }

    /// Where it begins.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.range.start()
    }

    /// All of it.
    #[must_use]
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// What devices may do there.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The address space it is in.
    #[must_use]
    pub fn ioas(&self) -> &Ioas {
        &self.ioas
    }

    /// The memory, unless a file was mapped.
    #[must_use]
    pub fn memory(&self) -> Option<&Arc<dyn StableMemory>> {
        self.memory.as_ref()
    }

    /// Whether it is mapped, as far as is known: not once [`Ioas::unmap`] took it away, and not where that failed and left it unclear.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.ioas.registry().share().is_live(self.range.start(), self.guard)
    }

    /// Unmaps it, and says whether that went well. A mapping that [`Ioas::unmap`] took away is unmapped already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] while a [`HwQueue`](super::HwQueue) uses it, [`ErrorKind::ShortUnmap`], [`ErrorKind::NotMapped`] if somebody else
    /// unmapped it, or a part of it, through another descriptor. The memory is leaked in all of these cases.
    #[doc(alias = "IOMMU_IOAS_UNMAP")]
    pub fn unmap(mut self) -> Result<(), Error> {
        self.release()
    }

    pub(super) fn guard(&self) -> GuardId {
        self.guard
    }

    fn release(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.released, true) {
            return Ok(());
        }
        self.unmap_own().map_err(|kind| {
            // Also with NotMapped: a container of version 1 on the same iommufd may have cut the mapping, and ENOENT is what is answered where
            // somebody else's then lies across its end, with a part of it still there.
            std::mem::forget(self.memory.take());
            IOAS_UNMAP.fail(kind)
        })
    }

    fn unmap_own(&self) -> Result<(), ErrorKind> {
        let shared = self.ioas.registry().share();
        match shared.claim(self.range.start(), self.guard) {
            Claim::Live => {}
            Claim::Gone => return Ok(()),
            Claim::Unclear => {
                return Err(ErrorKind::Invalid(
                    "whether it is mapped cannot be told: a ranged unmap failed, or somebody else mapped here",
                ));
            }
        }
        let want = self.ioas.length(self.range);
        match self
            .ioas
            .calls()
            .ioas_unmap(self.ioas.id().0, self.range.start().0, want)
        {
            Ok(got) if got == want => Ok(()),
            Ok(got) => Err(ErrorKind::ShortUnmap { want, got }),
            Err(Errno::NOENT) => Err(ErrorKind::NotMapped(self.range)),
            Err(errno) => Err(IOAS_UNMAP.error(errno).kind),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::error!(range = %self.range, %error, "a mapping that was dropped is not unmapped; its memory is leaked");
        }
    }
}
