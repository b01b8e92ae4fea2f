//! What a request's bytes are in: memory that the device may reach, in one or more pieces.

use iommu::Iova;
use iommu::buffer::{Direction, DmaBuffer};
use std::fmt::Debug;
use std::sync::Arc;
use vfio_core::Access;

/// Bytes of a request. A queue has them from submission until the request has come back, and gives them back then.
///
/// What it says must not change while a queue has it. If it does, the IOMMU stops the device, or wrong bytes are moved, no more.
pub trait Data: Debug + Send + 'static {
    /// What the device may do with it. A request that needs more is refused.
    fn access(&self) -> Access;

    /// The first byte and the length of the piece at `index`; `None` after the last. Pieces follow one another as the bytes do.
    fn segment(&self, index: usize) -> Option<(Iova, u64)>;
}

impl<D: Direction> Data for DmaBuffer<D> {
    #[inline]
    fn access(&self) -> Access {
        D::ACCESS
    }

    #[inline]
    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        (index == 0).then(|| (self.iova(), self.len() as u64))
    }
}

impl<T: Data> Data for Vec<T> {
    fn access(&self) -> Access {
        self.iter()
            .fold(Access::READ | Access::WRITE, |all, part| all & part.access())
    }

    /// The pieces of each part, one part behind the other.
    #[inline]
    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        let mut before = index;
        for part in self {
            let mut own = 0;
            while let Some(piece) = part.segment(own) {
                if own == before {
                    return Some(piece);
                }
                own += 1;
            }
            before -= own;
        }
        None
    }
}

impl<T: Data + Sync> Data for Arc<T> {
    #[inline]
    fn access(&self) -> Access {
        (**self).access()
    }

    #[inline]
    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        (**self).segment(index)
    }
}

/// All pieces.
pub(super) fn segments(data: &impl Data) -> impl Iterator<Item = (Iova, u64)> {
    (0..).map_while(|index| data.segment(index))
}
