//! COM1: a UART between the guest and the console's files.

mod output;

pub(crate) use output::{Outbox, Writer};

use crate::bus::Device;
use crate::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind as IoErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::EventFd;
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents};

/// Its first port, and how many there are.
pub(crate) const COM1: u16 = 0x3F8;
pub(crate) const PORTS: u16 = 8;
/// The port of what is said.
const DATA: u8 = 0;
/// Its interrupt.
pub(crate) const COM1_IRQ: u32 = 4;

/// The files of the guest's console. A terminal stays in the mode that it is in.
#[derive(Debug)]
pub struct Console {
    /// What the guest reads.
    pub input: Option<OwnedFd>,
    /// What it writes to.
    pub output: OwnedFd,
}

/// The UART on the bus.
pub(crate) struct Com1 {
    uart: Mutex<Serial<Interrupt, Drained, Output>>,
    outbox: Arc<Outbox>,
}

/// What the guest reads, on the event thread.
#[derive(Debug)]
pub(crate) struct Input {
    file: File,
    uart: Arc<Com1>,
    /// Was read, and did not fit yet.
    waiting: VecDeque<u8>,
}

/// What became of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    /// There may be more.
    All,
    /// The guest has to read first.
    Full,
    /// There is no more.
    End,
}

impl Com1 {
    /// On an interrupt. The event is signalled when the guest has read all that there was.
    pub(crate) fn new(interrupt: Interrupt, outbox: Arc<Outbox>, drained: EventFd) -> Self {
        let output = Output(Arc::clone(&outbox));
        let uart = Serial::with_events(interrupt, Drained(drained), output);
        let uart = Mutex::new(uart);
        Self { uart, outbox }
    }

    fn uart(&self) -> MutexGuard<'_, Serial<Interrupt, Drained, Output>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Com1 {
    fn read(&self, offset: u64, to: &mut [u8]) {
        match (to, u8::try_from(offset)) {
            ([byte], Ok(offset)) => *byte = self.uart().read(offset),
            (wide, _) => wide.fill(0xFF),
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        if let ([byte], Ok(offset)) = (from, u8::try_from(offset)) {
            if offset == DATA {
                // Not while others want the UART.
                self.outbox.wait_for_room();
            }
            if let Err(error) = self.uart().write(offset, *byte) {
                tracing::trace!(%error, "COM1");
            }
        }
    }
}

impl Input {
    pub(crate) fn new(file: OwnedFd, uart: Arc<Com1>) -> Self {
        Self {
            file: File::from(file),
            uart,
            waiting: VecDeque::new(),
        }
    }

    /// Reads once, and gives the guest what fits.
    ///
    /// # Errors
    ///
    /// What reading gives.
    pub(crate) fn feed(&mut self) -> Result<Fed> {
        if self.waiting.is_empty() {
            let mut bytes = [0; 64];
            let len = loop {
                match self.file.read(&mut bytes) {
                    Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                    Err(error) if error.kind() == IoErrorKind::WouldBlock => return Ok(Fed::All),
                    read => break read.map_err(|error| Error::new("read the console", ErrorKind::Io(error)))?,
                }
            };
            if len == 0 {
                return Ok(Fed::End);
            }
            self.waiting.extend(bytes.iter().take(len));
        }
        let mut uart = self.uart.uart();
        while !self.waiting.is_empty() && uart.fifo_capacity() > 0 {
            let (bytes, _) = self.waiting.as_slices();
            match uart.enqueue_raw_bytes(bytes) {
                // In loop-back mode the UART takes nothing, and the line is not connected: what comes is lost.
                Ok(0) => self.waiting.clear(),
                Ok(taken) => drop(self.waiting.drain(..taken)),
                Err(error) => {
                    tracing::trace!(%error, "COM1");
                    break;
                }
            }
        }
        Ok(if self.waiting.is_empty() { Fed::All } else { Fed::Full })
    }
}

impl Input {
    /// Whether something was read that the guest has no room for yet.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What interrupts the guest.
pub(crate) struct Interrupt(pub(crate) Box<dyn Fn() -> Result<()> + Send + Sync>);

impl Trigger for Interrupt {
    type E = Error;

    fn trigger(&self) -> Result<()> {
        (self.0)()
    }
}

/// Tells that the guest has read all.
struct Drained(EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if let Err(error) = self.0.signal() {
            tracing::error!(%error, "the console's input stops");
        }
    }
}

/// The line, which takes what was [waited for](Outbox::wait_for_room).
struct Output(Arc<Outbox>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Com1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Com1").finish_non_exhaustive()
    }
}
