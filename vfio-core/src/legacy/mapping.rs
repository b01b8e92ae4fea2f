//! Mapping memory into a container, and the guard of each mapping.

use super::Container;
use crate::error::misaligned;
use crate::info::ContainerInfo;
use crate::sys::located::Located;
use crate::sys::space::{Failed, Loan, NotLent, Type1Table, length};
use crate::system::CHECK_MEMLOCK;
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
    /// Until it is unmapped.
    loan: Option<Loan<Type1Table>>,
}

const MAP: &str = "VFIO_IOMMU_MAP_DMA";
const UNMAP: &str = "VFIO_IOMMU_UNMAP_DMA";

impl Container {
    /// Maps a part of `memory`, in bytes from its start. The memory is pinned, and held alive until the mapping is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyMapped`], [`ErrorKind::NotAllowed`], [`ErrorKind::MappingLimit`], [`ErrorKind::MemlockExceeded`];
    /// [`ErrorKind::Invalid`] for a part outside the memory, of no bytes or without access, [`ErrorKind::Misaligned`]; [`ErrorKind::Os`] with EOVERFLOW past the end
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
        let located = Located::new(memory);
        let len = part.end.checked_sub(part.start).filter(|_| part.end <= located.len());
        let len = len.ok_or_else(|| invalid("the part lies outside the memory"))? as u64;
        if len == 0 {
            return Err(invalid("a mapping of no bytes"));
        }
        if access.is_empty() {
            return Err(invalid("a mapping that may be neither read nor written"));
        }
        let range = IovaRange::new(iova, len);
        let range = range.ok_or_else(|| Error::new(MAP, ErrorKind::Os(Errno::OVERFLOW)))?;
        let first = located.address().addr().wrapping_add(part.start) as u64;
        let loan = self.space().map(located, part, Some(iova.0), access);
        let loan = loan.map_err(|failed| {
            let kind = match failed {
                NotLent::Kernel(errno) => self.explain(errno, range, first),
                NotLent::Elsewhere(_) => ErrorKind::Malformed("mapped elsewhere than asked for"),
            };
            Error::new(MAP, kind)
        })?;
        Ok(LegacyMapping {
            container: self.clone(),
            range,
            access,
            loan: Some(loan),
        })
    }

    /// Unmaps all mappings that lie inside a range and returns how many bytes that were, 0 if there are none. Their guards have nothing
    /// left to unmap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotMapped`] if the range cuts a mapping, in which case nothing was unmapped (also in version 1, where the
    /// kernel would have cut it). After [`ErrorKind::ShortUnmap`], which is also said of more bytes than were mapped here, and after any errno but EINVAL and EOVERFLOW, some may be unmapped and others
    /// not, and nobody can tell: the guards of all unmap nothing any more and leak their memory.
    #[doc(alias = "VFIO_IOMMU_UNMAP_DMA")]
    #[doc(alias = "VFIO_DMA_UNMAP_FLAG_ALL")]
    pub fn unmap(&self, range: IovaRange) -> Result<u64, Error> {
        let unmapped = self.space().unmap(range);
        unmapped.map_err(|failed| {
            let kind = match failed {
                Failed::Short { want, got } => ErrorKind::ShortUnmap { want, got },
                other => unmap_kind(other, range),
            };
            Error::new(UNMAP, kind)
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

    /// Refuses what RLIMIT_MEMLOCK does not let devices reach, before any of it is mapped: `bytes` beside what the process has locked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MemlockExceeded`] with the limit that is needed.
    pub fn check_memlock(&self, bytes: u64) -> Result<(), Error> {
        let exceeded = self.memlock_exceeded(bytes);
        exceeded.map_or(Ok(()), |kind| Err(Error::new(CHECK_MEMLOCK, kind)))
    }

    fn memlock_exceeded(&self, bytes: u64) -> Option<ErrorKind> {
        let used = self.system().files().memlock_used();
        self.system().memlock_exceeded(used, bytes)
    }

    /// Says which of its reasons the kernel had not to map. `first` is the address of the bytes.
    fn explain(&self, errno: Errno, range: IovaRange, first: u64) -> ErrorKind {
        let allowed = |info: &ContainerInfo| match &info.iova_ranges {
            Some(ranges) => ranges.iter().any(|allowed| allowed.contains(&range)),
            None => true,
        };
        match errno {
            Errno::EXIST => ErrorKind::AlreadyMapped(range),
            Errno::NOSPC => ErrorKind::MappingLimit,
            Errno::NOMEM => {
                let exceeded = self.memlock_exceeded(length(range));
                exceeded.unwrap_or_else(|| ErrorKind::from_errno(errno))
            }
            Errno::INVAL | Errno::ADDRINUSE => {
                let Ok(info) = self.info() else {
                    return ErrorKind::from_errno(errno);
                };
                let numbers = [
                    ("IOVA", Some(range.start().0)),
                    ("length", Some(length(range))),
                    ("address", Some(first)),
                ];
                match misaligned(numbers, info.granule()) {
                    Some(kind) => kind,
                    None if !allowed(&info) => ErrorKind::NotAllowed(range),
                    None => ErrorKind::from_errno(errno),
                }
            }
            other => ErrorKind::from_errno(other),
        }
    }
}

impl LegacyMapping {
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
        self.loan.as_ref().is_some_and(Loan::is_live)
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
    /// As [`unmap`](Self::unmap); [`ErrorKind::Invalid`] for a bitmap of another range. [`ErrorKind::DirtyUnknown`] if it is unmapped, and nothing is
    /// leaked, but without the bits: while nothing is logged, for another page size, and where [`Container::unmap`] took it away before.
    #[doc(alias = "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP")]
    pub fn unmap_dirty(mut self, dirty: &mut DirtyBitmap) -> Result<(), Error> {
        if dirty.range() != self.range {
            return Err(Error::new(UNMAP, ErrorKind::Invalid("a bitmap of another range")));
        }
        self.release(Some(dirty))
    }

    fn release(&mut self, dirty: Option<&mut DirtyBitmap>) -> Result<(), Error> {
        let Some(loan) = self.loan.take() else {
            return Ok(());
        };
        let unmapped = match dirty {
            None => loan.unmap(),
            Some(dirty) => {
                // The kernel wants zeros, and may overwrite what is set.
                let mut bits = vec![0; dirty.words_mut().len()];
                let unmapped = loan.unmap_dirty(dirty.page_size(), &mut bits);
                for (to, from) in dirty.words_mut().iter_mut().zip(bits) {
                    *to |= from;
                }
                unmapped
            }
        };
        unmapped.map_err(|failed| {
            let kind = unmap_kind(failed, self.range);
            if !matches!(failed, Failed::Bits(_)) {
                // Also when the kernel says that nothing was there, which it says of a range inside a mapping too.
                tracing::error!(range = %self.range, error = %kind, "not unmapped; the memory is leaked");
            }
            Error::new(UNMAP, kind)
        })
    }
}

impl Drop for LegacyMapping {
    fn drop(&mut self) {
        if let Err(error) = self.release(None) {
            tracing::error!(range = %self.range, %error, "a mapping was dropped and could not be unmapped");
        }
    }
}

fn unmap_kind(failed: Failed, range: IovaRange) -> ErrorKind {
    match failed {
        // Type1's way to say that there is nothing is success with 0 bytes.
        Failed::Cut | Failed::Short { got: 0, .. } => ErrorKind::NotMapped(range),
        Failed::Unclear => ErrorKind::Invalid("whether it is mapped cannot be told: a ranged unmap failed"),
        Failed::Short { want, got } => ErrorKind::ShortUnmap { want, got },
        Failed::Bits(errno) => ErrorKind::DirtyUnknown { range, errno },
        Failed::Kernel(Errno::NOENT | Errno::INVAL) => ErrorKind::NotMapped(range),
        Failed::Kernel(other) => ErrorKind::from_errno(other),
    }
}
