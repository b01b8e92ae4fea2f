//! What a command's data is: memory that the controller may reach, in one or more pieces.

use iommu::Iova;
use iommu::buffer::{Direction, DmaBuffer};
use std::sync::Arc;
use vfio_core::Access;

/// Data of a command. A queue has it from submission until the command has come back, and gives it back with the completion.
///
/// What a payload says must not change while a queue has it. If it does, the controller is stopped by the IOMMU or writes where this process
/// has allowed it to: wrong data, no more.
pub trait Payload {
    /// Its bytes.
    fn len(&self) -> u64;

    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the controller may do with it. A command that needs more is refused.
    fn access(&self) -> Access;

    /// The first byte and the length of the piece at `index`; `None` after the last. Pieces follow one another as the data does.
    fn segment(&self, index: usize) -> Option<(Iova, u64)>;

    /// Where the blocks' metadata is, and its bytes, of a namespace that keeps it apart from the data: contiguous, at a multiple of 4.
    fn metadata(&self) -> Option<(Iova, u64)> {
        None
    }
}

impl<D: Direction> Payload for DmaBuffer<D> {
    #[inline]
    fn len(&self) -> u64 {
        DmaBuffer::len(self) as u64
    }

    #[inline]
    fn access(&self) -> Access {
        D::ACCESS
    }

    #[inline]
    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        (index == 0).then(|| (self.iova(), DmaBuffer::len(self) as u64))
    }
}

macro_rules! forward {
    ($($type:ty),*) => {
        $(
            impl<P: Payload + ?Sized> Payload for $type {
                #[inline]
                fn len(&self) -> u64 {
                    (**self).len()
                }

                #[inline]
                fn access(&self) -> Access {
                    (**self).access()
                }

                #[inline]
                fn segment(&self, index: usize) -> Option<(Iova, u64)> {
                    (**self).segment(index)
                }

                #[inline]
                fn metadata(&self) -> Option<(Iova, u64)> {
                    (**self).metadata()
                }
            }
        )*
    };
}

// Not for references: what a command was given must live until it has come back.
forward!(Arc<P>, Box<P>);

/// A payload in one contiguous piece, of which several together are one, too.
pub trait Piece: Payload {}

impl<D: Direction> Piece for DmaBuffer<D> {}

/// Pieces that follow one another as the data does.
impl<P: Piece> Payload for Vec<P> {
    fn len(&self) -> u64 {
        self.iter().fold(0, |len, piece| len.saturating_add(piece.len()))
    }

    fn access(&self) -> Access {
        self.iter().fold(Access::all(), |access, piece| access & piece.access())
    }

    #[inline]
    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        self.get(index)?.segment(0)
    }
}

/// Data, and the metadata of its blocks, of a namespace that keeps them apart.
#[derive(Debug)]
pub struct WithMetadata<P, M> {
    /// The data.
    pub data: P,
    /// The metadata of all blocks, in one piece that the controller may reach as it may the data.
    pub metadata: M,
}

impl<P: Payload, M: Piece> Payload for WithMetadata<P, M> {
    fn len(&self) -> u64 {
        self.data.len()
    }

    fn access(&self) -> Access {
        self.data.access() & self.metadata.access()
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        self.data.segment(index)
    }

    fn metadata(&self) -> Option<(Iova, u64)> {
        self.metadata.segment(0)
    }
}
