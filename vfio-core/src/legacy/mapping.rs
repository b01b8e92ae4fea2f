//! One mapping of a container, held by a guard.

use super::container::{Container, UNMAP, length, unmap_kind};
use crate::registry::{Claim, GuardId};
use crate::{Access, DirtyBitmap, Error, ErrorKind, Iova, IovaRange, StableMemory};
use std::sync::Arc;

/// Memory that the devices of a container find at an IOVA. Holds the memory and the container; unmapped when dropped.
///
/// If the kernel does not unmap it, the memory is leaked, because a device may still reach it; `tracing` gets an error.
#[derive(Debug)]
#[must_use = "dropping it unmaps the memory"]
pub struct LegacyMapping {
    container: Container,
    range: IovaRange,
    access: Access,
    guard: GuardId,
    /// Taken when it is leaked.
    memory: Option<Arc<dyn StableMemory>>,
    released: bool,
}

impl LegacyMapping {
    pub(super) fn new(
        container: Container,
        range: IovaRange,
        access: Access,
        guard: GuardId,
        memory: Arc<dyn StableMemory>,
    ) -> Self {
        Self {
            container,
            range,
            access,
            guard,
            memory: Some(memory),
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

    /// The container it is in.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Unmaps it, and says whether that went well. A mapping that [`Container::unmap`] took away, or the end of the container's last group,
    /// is unmapped already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ShortUnmap`]; [`ErrorKind::NotMapped`] if somebody else unmapped it through another descriptor. Except in the last case,
    /// the memory is leaked.
    #[doc(alias = "VFIO_IOMMU_UNMAP_DMA")]
    pub fn unmap(mut self) -> Result<(), Error> {
        self.release(None)
    }

    /// Unmaps it and marks in `dirty` which of its pages devices have written since they were last asked for. Needs
    /// [`Container::dirty_start`]. `dirty` is of exactly this mapping, in pages of the smallest size that the container logs in.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap); [`ErrorKind::Invalid`] for a bitmap of another range.
    #[doc(alias = "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP")]
    pub fn unmap_dirty(mut self, dirty: &mut DirtyBitmap) -> Result<(), Error> {
        if dirty.range() != self.range {
            return Err(Error::new(UNMAP, ErrorKind::Invalid("a bitmap of another range")));
        }
        self.release(Some(dirty))
    }

    fn release(&mut self, dirty: Option<&mut DirtyBitmap>) -> Result<(), Error> {
        if std::mem::replace(&mut self.released, true) {
            return Ok(());
        }
        let Err(kind) = self.unmap_own(dirty) else {
            return Ok(());
        };
        // The kernel knows no such mapping, so no device reaches the memory.
        if !matches!(kind, ErrorKind::NotMapped(_)) {
            tracing::error!(range = %self.range, error = %kind, "not unmapped; the memory is leaked");
            std::mem::forget(self.memory.take());
        }
        Err(Error::new(UNMAP, kind))
    }

    fn unmap_own(&self, dirty: Option<&mut DirtyBitmap>) -> Result<(), ErrorKind> {
        let shared = self.container.registry().share();
        match shared.claim(self.range.start(), self.guard) {
            Claim::Live => {}
            Claim::Gone => return Ok(()),
            Claim::Unclear => return Err(ErrorKind::Invalid("a ranged unmap failed half-way here")),
        }
        let (iova, want) = (self.range.start().0, length(self.range));
        let unmapped = match dirty {
            None => self.container.calls().unmap_dma(iova, want, None),
            Some(dirty) => {
                let page_size = dirty.page_size();
                // The kernel wants zeros, and may overwrite what is set.
                let mut bits = vec![0; dirty.words_mut().len()];
                let calls = self.container.calls();
                let unmapped = calls.unmap_dma(iova, want, Some((page_size, &mut bits)));
                for (to, from) in dirty.words_mut().iter_mut().zip(bits) {
                    *to |= from;
                }
                unmapped
            }
        };
        match unmapped {
            Ok(got) if got == want => Ok(()),
            // Type1's way to say that there is nothing.
            Ok(0) => Err(ErrorKind::NotMapped(self.range)),
            Ok(got) => Err(ErrorKind::ShortUnmap { want, got }),
            Err(errno) => Err(unmap_kind(errno, self.range)),
        }
    }
}

impl Drop for LegacyMapping {
    fn drop(&mut self) {
        if let Err(error) = self.release(None) {
            tracing::error!(range = %self.range, %error, "a mapping was dropped and could not be unmapped");
        }
    }
}
