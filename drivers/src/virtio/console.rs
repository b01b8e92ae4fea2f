//! Consoles (virtio 1.3 §5.3): port 0, without `MULTIPORT`.

use super::layout::Kind;
use super::owner;
use super::queue::{Piece, Queue, QueueOptions};
use super::spec::{ConsoleFeatures, console};
use super::transport::Function;
use crate::wait::Signals;
use crate::{Backing, ErrorKind, Presence, Result, Woken};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use std::sync::Arc;
use std::time::Duration;
use vfio_core::EventFd;

/// A console. Bytes are copied: it is not made for many.
#[derive(Debug)]
pub struct Console<B: Backing> {
    input: Queue<B, DmaBuffer<Both>>,
    output: Queue<B, DmaBuffer<Both>>,
    /// What came in and was not read: its place in the buffer, and its end.
    unread: Option<(DmaBuffer<Both>, usize, usize)>,
    /// Buffers that the device does not have.
    idle: Vec<DmaBuffer<Both>>,
    function: Arc<Function<B>>,
}

/// How to open a console.
#[derive(Debug, Clone, Copy)]
pub struct ConsoleOptions {
    /// Buffers each way.
    pub depth: u16,
    /// Bytes of each of them.
    pub buffer_len: usize,
    /// Interrupts, for [`Console::wait`].
    pub interrupts: bool,
}

impl Default for ConsoleOptions {
    fn default() -> Self {
        Self {
            depth: 8,
            buffer_len: 512,
            interrupts: false,
        }
    }
}

const INPUT: u16 = 0;
const OUTPUT: u16 = 1;
const WRITE: &str = "write to the console";

impl<B: Backing> Console<B> {
    /// Takes over a console.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for another device, or one that bypasses the IOMMU; those of the [`Backing`].
    pub fn open(backing: B, options: ConsoleOptions) -> Result<Self> {
        let vectors = u16::from(options.interrupts);
        let wanted = ConsoleFeatures::all().bits();
        let function = Arc::new(Function::open(backing, Kind::Console, wanted, vectors)?);
        let of_queue = QueueOptions {
            depth: options.depth,
            pieces: 1,
            room: 0,
            interrupt: options.interrupts,
        };
        let mut input = Queue::new(&function, INPUT, of_queue)?;
        // A console may have two vectors only: one for its input, and one for changes.
        let of_output = QueueOptions {
            interrupt: false,
            ..of_queue
        };
        let output = Queue::new(&function, OUTPUT, of_output)?;
        let buffer = || {
            let len = options.buffer_len.max(1);
            let buffer = DmaBuffer::new(function.backing.space(), len, &BufferOptions::default());
            buffer.map_err(|error| function.failed("allocate memory for DMA", error.into()))
        };
        let idle = (0..output.room()).map(|_| buffer()).collect::<Result<_>>()?;
        while input.room() > 0 {
            post(&mut input, buffer()?)?;
        }
        function.run()?;
        input.kick();
        Ok(Self {
            input,
            output,
            unread: None,
            idle,
            function,
        })
    }

    /// Columns and rows, if it says them.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn size(&self) -> Result<Option<(u16, u16)>> {
        if self.function.features() & ConsoleFeatures::SIZE.bits() == 0 {
            return Ok(None);
        }
        let read = |function: &Function<B>| {
            Some((
                function.config_u16(console::COLUMNS)?,
                function.config_u16(console::ROWS)?,
            ))
        };
        self.function.config(read).map(Some)
    }

    /// Copies out what has come in, up to the length of `bytes`; 0 if there is nothing.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: [`ErrorKind::Failed`]; [`ErrorKind::Gone`] when the device is, or is wanted back.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.unread.is_none() {
            match self.input.pop()? {
                Some(done) => self.unread = Some((done.payload, 0, usize::try_from(done.len).unwrap_or(usize::MAX))),
                None if self.function.backing.removal().presence() != Presence::Present => {
                    return Err(self.function.why_not("read from the console"));
                }
                None => return Ok(0),
            }
        }
        let Some((buffer, at, end)) = self.unread.take() else {
            return Ok(0);
        };
        let got = (end - at).min(bytes.len());
        // The queue has checked that the end is inside.
        let copied = bytes.get_mut(..got).and_then(|to| buffer.read(at, to));
        copied.ok_or_else(|| self.input.invalid("bytes outside a buffer"))?;
        if at + got < end {
            self.unread = Some((buffer, at + got, end));
        } else if self.function.is_open() {
            post(&mut self.input, buffer)?;
            self.input.kick();
        }
        Ok(got)
    }

    /// Writes all bytes, waiting at most `limit` for each buffer; returns once the device has been given the last one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] with some of them written; [`ErrorKind::Failed`]; [`ErrorKind::Gone`].
    pub fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut buffer = self.idle_buffer(limit)?;
            let (now, later) = rest.split_at(rest.len().min(buffer.len()));
            let copied = buffer.write(0, now);
            let piece = Piece {
                address: buffer.iova().0,
                len: u32::try_from(now.len()).unwrap_or(u32::MAX),
                is_written: false,
            };
            if copied.is_none() {
                return Err(self.output.invalid("more bytes than a buffer has"));
            }
            if let Err(refused) = self.output.push(buffer, std::iter::once(piece)) {
                self.idle.push(refused.payload);
                return Err(refused.error);
            }
            self.output.kick();
            rest = later;
        }
        Ok(())
    }

    fn idle_buffer(&mut self, limit: Duration) -> Result<DmaBuffer<Both>> {
        if let Some(buffer) = self.idle.pop() {
            return Ok(buffer);
        }
        let done = self.output.pop_within(limit)?;
        let done = done.ok_or_else(|| self.function.failed(WRITE, ErrorKind::Timeout(limit)))?;
        Ok(done.payload)
    }

    /// Waits until the device has taken all that was written.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn flush(&mut self, limit: Duration) -> Result<()> {
        while self.output.in_flight() > 0 {
            let done = self.output.pop_within(limit)?;
            let done = done.ok_or_else(|| self.function.failed(WRITE, ErrorKind::Timeout(limit)))?;
            self.idle.push(done.payload);
        }
        Ok(())
    }

    /// Writes a byte through a register, without any queue; for last words.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if it has no such register; as [`check`](Self::check).
    pub fn write_emergency(&self, byte: u8) -> Result<()> {
        if self.function.features() & ConsoleFeatures::EMERG_WRITE.bits() == 0 {
            let kind = ErrorKind::Unsupported("a register for single bytes".into());
            return Err(self.function.failed(WRITE, kind));
        }
        self.function.write_config_u32(console::EMERGENCY, byte.into());
        self.function.check()
    }

    /// Blocks until there may be something to [`read`](Self::read), or the time is over, or the device is wanted back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without interrupts; when the device has failed, or is gone.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Woken> {
        if self.unread.is_some() {
            return Ok(Woken::Signalled);
        }
        self.input.wait(timeout)
    }

    /// Waits until there may be something to [`read`](Self::read). `signals` are those of [`event`](Self::event).
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait). It is not woken when the device fails or is wanted back.
    pub async fn ready(&mut self, signals: &mut Signals) -> Result<()> {
        if self.unread.is_some() {
            return Ok(());
        }
        self.input.ready(signals).await
    }

    /// Signalled when something has come in; `None` without interrupts.
    #[must_use]
    pub fn event(&self) -> Option<&EventFd> {
        self.input.event()
    }

    owner!();
}

fn post<B: Backing>(queue: &mut Queue<B, DmaBuffer<Both>>, buffer: DmaBuffer<Both>) -> Result<()> {
    let piece = Piece {
        address: buffer.iova().0,
        len: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
        is_written: true,
    };
    let pushed = queue.push(buffer, std::iter::once(piece));
    pushed.map(drop).map_err(|refused| refused.error)
}
