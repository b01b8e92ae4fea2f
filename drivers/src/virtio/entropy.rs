//! Sources of entropy (virtio 1.3 §5.4).

use super::layout::Kind;
use super::owner;
use super::queue::{Piece, Queue, QueueOptions};
use super::transport::Function;
use crate::{Backing, ErrorKind, Result};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use std::sync::Arc;
use std::time::Duration;
use vfio_core::EventFd;

/// A source of entropy.
#[derive(Debug)]
pub struct Entropy<B: Backing> {
    queue: Queue<B, DmaBuffer<Both>>,
    /// `None` while the device has it.
    buffer: Option<DmaBuffer<Both>>,
    function: Arc<Function<B>>,
}

/// Bytes that are asked for at a time.
const LEN: usize = 4096;
const STEP: &str = "read entropy";

impl<B: Backing> Entropy<B> {
    /// Takes over a source of entropy; with an interrupt, [`fill`](Self::fill) blocks instead of polling.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for another device, or one that bypasses the IOMMU; those of the [`Backing`].
    pub fn open(backing: B, interrupt: bool) -> Result<Self> {
        let function = Arc::new(Function::open(backing, Kind::Entropy, 0, u16::from(interrupt))?);
        let options = QueueOptions {
            depth: 1,
            pieces: 1,
            room: 0,
            interrupt,
        };
        let queue = Queue::new(&function, 0, options)?;
        let buffer = DmaBuffer::new(function.backing.space(), LEN, &BufferOptions::default());
        let buffer = buffer.map_err(|error| function.failed("allocate memory for DMA", error.into()))?;
        function.run()?;
        Ok(Self {
            queue,
            buffer: Some(buffer),
            function,
        })
    }

    /// Fills all bytes, waiting for the device at most `limit` each time that it is asked: it gives as many as it has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`]: what the device then gives late is of use to the next call. [`ErrorKind::Failed`]; [`ErrorKind::Gone`].
    pub fn fill(&mut self, mut bytes: &mut [u8], limit: Duration) -> Result<()> {
        while !bytes.is_empty() {
            self.ask(bytes.len())?;
            let done = self.queue.pop_within(limit)?;
            let done = done.ok_or_else(|| self.function.failed(STEP, ErrorKind::Timeout(limit)))?;
            // At least one byte (§5.4.6.2), and what it was not asked for is checked by the queue.
            let got = usize::try_from(done.len).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = std::mem::take(&mut bytes).split_at_mut(got);
            let copied = done.payload.read(0, now);
            self.buffer = Some(done.payload);
            if got == 0 || copied.is_none() {
                return Err(self.function.broken(STEP, "it gives no bytes"));
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Asks for bytes, unless it has been before.
    fn ask(&mut self, len: usize) -> Result<()> {
        let Some(buffer) = self.buffer.take() else {
            return Ok(());
        };
        let piece = Piece {
            address: buffer.iova().0,
            len: u32::try_from(len.min(LEN)).unwrap_or(u32::MAX),
            is_written: true,
        };
        if let Err(refused) = self.queue.push(buffer, std::iter::once(piece)) {
            self.buffer = Some(refused.payload);
            return Err(refused.error);
        }
        self.queue.kick();
        Ok(())
    }

    owner!();
}
