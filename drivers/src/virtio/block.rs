//! Disks (virtio 1.3 §5.2).

mod limits;
mod queue;
mod request;

pub use limits::Limits;
pub use queue::{BlockQueue, Completed};
pub use request::Request;

use super::data::Data;
use super::layout::Kind;
use super::owner;
use super::queue::{Queue, QueueOptions};
use super::spec::{BlockFeatures, block};
use super::transport::Function;
use crate::{Backing, Result};
use queue::ROOM;
use std::sync::Arc;
use vfio_core::EventFd;

/// A disk. Its queues may be on other threads.
#[derive(Debug)]
pub struct Block<B: Backing> {
    function: Arc<Function<B>>,
    limits: Limits,
}

/// How to open a disk.
#[derive(Debug, Clone, Copy)]
pub struct BlockOptions {
    /// Queues, for a thread each; fewer if the device has fewer.
    pub queues: u16,
    /// Requests of each queue at most; fewer if the device has fewer.
    pub depth: u16,
    /// Pieces that a request's data may be in; fewer if the device takes fewer.
    pub pieces: u16,
    /// Interrupts, for [`BlockQueue::wait`].
    pub interrupts: bool,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            depth: 128,
            pieces: 8,
            interrupts: false,
        }
    }
}

impl<B: Backing> Block<B> {
    /// Takes over a disk, and makes its queues.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another device, or one that bypasses the IOMMU; those of the [`Backing`].
    pub fn open<T: Data>(backing: B, options: BlockOptions) -> Result<(Self, Vec<BlockQueue<B, T>>)> {
        let wanted = options.queues.max(1);
        let vectors = if options.interrupts { wanted } else { 0 };
        let function = Function::open(backing, Kind::Block, BlockFeatures::all().bits(), vectors)?;
        let has_several = function.features() & BlockFeatures::MQ.bits() != 0;
        let there = if has_several {
            function.config(|function| function.config_u16(block::QUEUES))?
        } else {
            1
        };
        let limits = Limits::read(&function, options.pieces)?;
        let function = Arc::new(function);
        let options = QueueOptions {
            depth: options.depth,
            // And a header, and the status; a range is a piece, too.
            pieces: limits.pieces.saturating_add(2),
            room: ROOM,
            interrupt: options.interrupts,
        };
        let queues = (0..wanted.min(there.max(1))).map(|index| {
            let queue = Queue::new(&function, index, options)?;
            Ok(BlockQueue { queue, limits })
        });
        let queues = queues.collect::<Result<Vec<_>>>()?;
        function.run()?;
        Ok((Self { function, limits }, queues))
    }

    /// How many sectors of 512 bytes it has, as it was opened.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.limits.capacity
    }

    /// What it takes.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    owner!();
}
