//! Mapping memory into a container, and the guard of each mapping.

use super::Container;
use crate::info::ContainerInfo;
use crate::registry::{Claim, GuardId};
use crate::{Access, DirtyBitmap, Error, ErrorKind, Iova, IovaRange, StableMemory};
use rustix::io::Errno;
use std::ops::Range;
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

const MAP: &str = "VFIO_IOMMU_MAP_DMA";
const UNMAP: &str = "VFIO_IOMMU_UNMAP_DMA";

impl Container {
    /// Maps a part of `memory`, in bytes from its start. The memory is pinned, and held alive until the mapping is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyMapped`], [`ErrorKind::NotAllowed`], [`ErrorKind::MappingLimit`], [`ErrorKind::MemlockExceeded`];
    /// [`ErrorKind::Invalid`] for a part outside the memory or anything off its alignment; [`ErrorKind::Os`] with EOVERFLOW past the end
    /// of the address space, EFAULT where memory cannot be pinned.
    #[doc(alias = "VFIO_IOMMU_MAP_DMA")]
    pub fn map(
        &self,
        memory: Arc<dyn StableMemory>,
        part: Range<usize>,
        iova: Iova,
        access: Access,
    ) -> Result<LegacyMapping, Error> {
        let invalid = |why| Error::new(MAP, ErrorKind::Invalid(why));
        let len = part.end.checked_sub(part.start).filter(|_| part.end <= memory.len());
        let len = len.ok_or_else(|| invalid("the part lies outside the memory"))? as u64;
        if len == 0 || access.is_empty() {
            return Err(invalid("a mapping of no bytes, or without access"));
        }
        let range = IovaRange::new(iova, len);
        let range = range.ok_or_else(|| Error::new(MAP, ErrorKind::Os(Errno::OVERFLOW)))?;
        let shared = self.registry().share();
        let mapped = self.calls().map_dma(&memory, part, iova.0, access);
        mapped.map_err(|errno| Error::new(MAP, self.explain(errno, range)))?;
        let guard = shared.enter(range);
        Ok(LegacyMapping::new(self.clone(), range, access, guard, memory))
    }

    /// Unmaps all mappings that lie inside a range and returns how many bytes that were, 0 if there are none. Their guards have nothing
    /// left to unmap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotMapped`] if the range cuts a mapping, in which case nothing was unmapped (also in version 1, where the
    /// kernel would have cut it). After [`ErrorKind::ShortUnmap`], and after any errno but EINVAL and EOVERFLOW, some may be unmapped and others
    /// not, and nobody can tell: the guards of all unmap nothing any more and leak their memory.
    #[doc(alias = "VFIO_IOMMU_UNMAP_DMA")]
    #[doc(alias = "VFIO_DMA_UNMAP_FLAG_ALL")]
    pub fn unmap(&self, range: IovaRange) -> Result<u64, Error> {
        let failed = |kind| Error::new(UNMAP, kind);
        self.registry().alone(|entries| {
            let inside = entries.inside(range);
            let inside = inside.ok_or_else(|| failed(ErrorKind::NotMapped(range)))?;
            let unmapped = match u64::try_from(range.len_bytes()) {
                Ok(len) => self.calls().unmap_dma(range.start().0, len, None),
                // The one range that has no length.
                Err(_) => self.calls().unmap_all(),
            };
            let want = inside
                .iter()
                .fold(0, |sum: u64, entry| sum.saturating_add(length(*entry)));
            let kind = match unmapped {
                Ok(got) if got >= want => {
                    inside.into_iter().for_each(|entry| entries.remove(entry));
                    return Ok(got);
                }
                Ok(got) => ErrorKind::ShortUnmap { want, got },
                // Said of the range, before anything is unmapped.
                Err(errno @ (Errno::INVAL | Errno::OVERFLOW)) => return Err(failed(unmap_kind(errno, range))),
                Err(errno) => unmap_kind(errno, range),
            };
            // Which of them are gone is not told, and a guard that looked for itself could meet a later mapping.
            inside.into_iter().for_each(|entry| entries.make_unclear(entry));
            Err(failed(kind))
        })
    }

    /// Unmaps everything and returns how many bytes that were.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn unmap_all(&self) -> Result<u64, Error> {
        self.unmap(IovaRange::ALL)
    }

    /// Says which of its reasons the kernel had not to map.
    fn explain(&self, errno: Errno, range: IovaRange) -> ErrorKind {
        let allowed = |info: &ContainerInfo| match &info.iova_ranges {
            Some(ranges) => ranges.iter().any(|allowed| allowed.contains(&range)),
            None => true,
        };
        match errno {
            Errno::EXIST => ErrorKind::AlreadyMapped(range),
            Errno::NOSPC => ErrorKind::MappingLimit,
            Errno::NOMEM => {
                let files = self.system().files();
                let need = files.memlock_used().saturating_add(length(range));
                match files.memlock_limit() {
                    Some(limit) if need > limit => ErrorKind::MemlockExceeded { need, limit },
                    _ => ErrorKind::from_errno(errno),
                }
            }
            Errno::INVAL | Errno::ADDRINUSE => match self.info() {
                Ok(info) if !Iova(range.start().0 | length(range)).is_aligned_to(info.granule()) => {
                    ErrorKind::Invalid("IOVA or length off the IOMMU's page size")
                }
                Ok(info) if !allowed(&info) => ErrorKind::NotAllowed(range),
                _ => ErrorKind::from_errno(errno),
            },
            other => ErrorKind::from_errno(other),
        }
    }
}

impl LegacyMapping {
    fn new(
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

    /// Whether it is mapped, as far as is known: not once [`Container::unmap`] took it away, and not where that failed and left it unclear.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.container
            .registry()
            .share()
            .is_live(self.range.start(), self.guard)
    }

    /// Unmaps it, and says whether that went well. A mapping that [`Container::unmap`] took away, or the end of the container's last group,
    /// is unmapped already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ShortUnmap`]; [`ErrorKind::NotMapped`] if somebody else unmapped it through another descriptor. The memory is leaked then:
    /// what the kernel says is no proof that no device reaches it.
    #[doc(alias = "VFIO_IOMMU_UNMAP_DMA")]
    pub fn unmap(mut self) -> Result<(), Error> {
        self.release(None)
    }

    /// Unmaps it and marks in `dirty` which of its pages devices have written since they were last asked for. Needs
    /// [`Container::dirty_start`]. `dirty` is of exactly this mapping, in pages of the smallest size that the container logs in.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap); [`ErrorKind::Invalid`] for a bitmap of another range; [`ErrorKind::NotMapped`] also while nothing is logged or
    /// for another page size, in which case it is unmapped without the bits.
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
        let (unmapped, kind) = match self.unmap_own(dirty) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        if !unmapped {
            // Also when the kernel says that nothing was there, which it says of a range inside a mapping too.
            tracing::error!(range = %self.range, error = %kind, "not unmapped; the memory is leaked");
            std::mem::forget(self.memory.take());
        }
        Err(Error::new(UNMAP, kind))
    }

    /// An error says whether it is unmapped all the same.
    fn unmap_own(&self, dirty: Option<&mut DirtyBitmap>) -> Result<(), (bool, ErrorKind)> {
        let shared = self.container.registry().share();
        match shared.claim(self.range.start(), self.guard) {
            Claim::Live => {}
            Claim::Gone => return Ok(()),
            Claim::Unclear => {
                return Err((
                    false,
                    ErrorKind::Invalid("whether it is mapped cannot be told: a ranged unmap failed"),
                ));
            }
        }
        let Some(dirty) = dirty else {
            let unmapped = self.unmap_call(None).map_err(|errno| unmap_kind(errno, self.range));
            return unmapped.and_then(|got| self.check(got)).map_err(|kind| (false, kind));
        };
        // The kernel wants zeros, and may overwrite what is set.
        let mut bits = vec![0; dirty.words_mut().len()];
        let unmapped = self.unmap_call(Some((dirty.page_size(), &mut bits)));
        for (to, from) in dirty.words_mut().iter_mut().zip(bits) {
            *to |= from;
        }
        match unmapped {
            // It refuses the bits, not the unmapping: nothing is logged, or not in pages of this size. The mapping is still there.
            Err(errno) => {
                let again = self.unmap_call(None).is_ok_and(|got| got == length(self.range));
                Err((again, unmap_kind(errno, self.range)))
            }
            // Also what is not all of it: a second call might meet a later mapping of somebody else.
            Ok(got) => self.check(got).map_err(|kind| (false, kind)),
        }
    }

    fn unmap_call(&self, bitmap: Option<(u64, &mut [u64])>) -> Result<u64, Errno> {
        let calls = self.container.calls();
        calls.unmap_dma(self.range.start().0, length(self.range), bitmap)
    }

    fn check(&self, got: u64) -> Result<(), ErrorKind> {
        match (got, length(self.range)) {
            (got, want) if got == want => Ok(()),
            // Type1's way to say that there is nothing.
            (0, _) => Err(ErrorKind::NotMapped(self.range)),
            (got, want) => Err(ErrorKind::ShortUnmap { want, got }),
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

/// Length of a range that was mapped, which is less than everything.
fn length(range: IovaRange) -> u64 {
    u64::try_from(range.len_bytes()).unwrap_or(u64::MAX)
}

fn unmap_kind(errno: Errno, range: IovaRange) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::INVAL => ErrorKind::NotMapped(range),
        other => ErrorKind::from_errno(other),
    }
}
