//! Frames on their way into a transmit queue.

use iommu::buffer::{Both, DmaBuffer};
use std::fmt;

/// A piece of a frame: the first `len` bytes of a buffer.
#[derive(Debug)]
pub struct Piece {
    /// Where it is.
    pub buffer: DmaBuffer<Both>,
    /// How long it is.
    pub len: u16,
}

/// A frame that was not taken, and why.
#[derive(Debug)]
pub struct Refused<const N: usize> {
    /// Its pieces.
    pub pieces: [Piece; N],
    /// Why.
    pub why: Why,
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// There is no room: [`TxQueue::reap`](super::TxQueue::reap) makes some.
    #[error("the queue is full")]
    Full,
    /// No pieces, an empty one, one longer than its buffer, fewer or more bytes than a frame can have, or headers longer than an [`Offload`](super::Offload) can say.
    #[error("not a frame")]
    Invalid,
    /// The queue does not work, or the function is wanted back: [`TxQueue::reap`](super::TxQueue::reap) says which.
    #[error("the queue has stopped")]
    Stopped,
}

impl<const N: usize> fmt::Display for Refused<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.why, f)
    }
}

impl<const N: usize> std::error::Error for Refused<N> {}
