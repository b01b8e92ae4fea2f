//! One mapping, held by a guard.

use super::command::IOAS_UNMAP;
use super::ioas::{Ioas, unmap_kind};
use crate::sys::space::{IoasTable, Loan};
use crate::{Access, Error, Iova, IovaRange, StableMemory};
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
    /// Until it is unmapped.
    loan: Option<Loan<IoasTable>>,
}

impl Mapping {
    pub(super) fn new(ioas: Ioas, access: Access, loan: Loan<IoasTable>) -> Self {
        Self {
            ioas,
            range: loan.range(),
            access,
            loan: Some(loan),
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
        self.loan.as_ref().and_then(Loan::memory)
    }

    /// Whether it is mapped, as far as is known: not once [`Ioas::unmap`] took it away, and not where that failed and left it unclear.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.loan.as_ref().is_some_and(Loan::is_live)
    }

    /// Unmaps it, and says whether that went well. A mapping that [`Ioas::unmap`] took away is unmapped already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while a [`HwQueue`](super::HwQueue) uses it, [`ErrorKind::ShortUnmap`](crate::ErrorKind::ShortUnmap),
    /// [`ErrorKind::NotMapped`](crate::ErrorKind::NotMapped) if somebody else unmapped it, or a part of it, through another descriptor. The memory is
    /// leaked in all of these cases.
    #[doc(alias = "IOMMU_IOAS_UNMAP")]
    pub fn unmap(mut self) -> Result<(), Error> {
        self.release()
    }

    pub(super) fn loan(&self) -> Option<&Loan<IoasTable>> {
        self.loan.as_ref()
    }

    /// The memory is leaked also with NotMapped: a container of version 1 on the same iommufd may have cut the mapping, and ENOENT is what is answered
    /// where somebody else's then lies across its end, with a part of it still there.
    fn release(&mut self) -> Result<(), Error> {
        let unmapped = self.loan.take().map_or(Ok(()), Loan::unmap);
        unmapped.map_err(|failed| IOAS_UNMAP.fail(unmap_kind(failed, self.range)))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::error!(range = %self.range, %error, "a mapping that was dropped is not unmapped; its memory is leaked");
        }
    }
}
