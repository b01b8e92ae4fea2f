//! A virtual function as a network device of `smoltcp`, the TCP/IP stack.
//!
//! The stack works on slices, and memory that a device reaches is never lent as one: a frame is copied once each way, between its buffer and
//! a piece of memory that is kept for it. Nothing else is allocated or copied. The device computes the checksums of TCP and UDP when sending, and
//! checks them when receiving.

use super::{Checksums, Offload, Piece, Port, PortOptions, PortState, RxOptions, RxQueue, TxOptions, TxQueue};
use crate::{Backing, Error, ErrorKind, Result, Woken};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use smoltcp::iface::{Interface, PollResult, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;
use std::time::Duration;

/// A port with one queue each way, for one [`Interface`].
#[derive(Debug)]
pub struct Device<B: Backing> {
    // Queues go before the port.
    rx: Receiver<B>,
    tx: Sender<B>,
    port: Port<B>,
    /// When the port is looked after next.
    next_check: Duration,
    /// How often the PF was reset.
    resets: u64,
    /// It recovered, and the PF gave it another address.
    has_new_address: bool,
    /// There is a link. Without one nothing is sent: it would be lost.
    is_up: bool,
}

#[derive(Debug)]
struct Receiver<B: Backing> {
    queue: RxQueue<B>,
    frame: Box<[u8]>,
    error: Option<Error>,
    /// Within a frame of several buffers, none of which is taken.
    is_part: bool,
}

#[derive(Debug)]
struct Sender<B: Backing> {
    queue: TxQueue<B>,
    frame: Box<[u8]>,
    free: Vec<DmaBuffer<Both>>,
    error: Option<Error>,
}

/// How often the port is looked after while waits find nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often while it is polled, or without a link.
const CHECK_EVERY: Duration = Duration::from_millis(10);
const KIB: u16 = 1024;
/// Room for a check sequence and a VLAN tag.
const BESIDES: u16 = 8;

impl<B: Backing> Device<B> {
    /// Opens a port, and fills a ring of `depth` descriptors each way. With [`PortOptions::interrupts`], [`wait`](Self::wait) blocks.
    ///
    /// # Errors
    ///
    /// Those of [`Port::open`] and of memory.
    pub fn open(backing: &B, options: PortOptions, depth: u16) -> Result<Self> {
        let interrupt = options.interrupts;
        let frame_len = options.frame_len;
        let buffer_len = frame_len.saturating_add(BESIDES).div_ceil(KIB).max(2) * KIB;
        let mut port = Port::open(backing, options)?;
        let rx_options = RxOptions {
            depth,
            buffer_len,
            interrupt,
        };
        let tx_options = TxOptions {
            depth,
            ..TxOptions::default()
        };
        let (mut rx, tx) = (port.rx_queue(0, rx_options)?, port.tx_queue(0, tx_options)?);
        let failed = |error: iommu::Error| Error::new(backing.bdf(), "allocate buffers", error.into());
        let mut pool = DmaPool::<Both>::new(backing.space(), 2 << 20, BufferOptions::default()).map_err(failed)?;
        while rx.room() > 0 {
            let buffer = pool.take(buffer_len.into()).map_err(failed)?;
            if rx.post(buffer).is_err() {
                break;
            }
        }
        rx.ring();
        let free = (0..tx.room()).map(|_| pool.take(buffer_len.into()));
        let free = free.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let frame = || vec![0; usize::from(buffer_len)].into_boxed_slice();
        Ok(Self {
            rx: Receiver {
                queue: rx,
                frame: frame(),
                error: None,
                is_part: false,
            },
            tx: Sender {
                queue: tx,
                frame: frame(),
                free,
                error: None,
            },
            port,
            next_check: Duration::ZERO,
            resets: 0,
            has_new_address: false,
            is_up: false,
        })
    }

    /// The port.
    pub fn port(&mut self) -> &mut Port<B> {
        &mut self.port
    }

    /// Its address, for the interface.
    #[must_use]
    pub fn address(&self) -> EthernetAddress {
        EthernetAddress(self.port.mac().0)
    }

    /// How often it had to recover from a reset of the PF.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Lets the stack receive and send, and the device know of it: one register write each way. When the PF was reset, it recovers: frames are
    /// lost, and no connection. If the PF then has another address for it, the interface gets that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Gone`] once the function is, or is wanted back; when it cannot recover.
    pub fn poll(&mut self, now: Instant, interface: &mut Interface, sockets: &mut SocketSet<'_>) -> Result<PollResult> {
        if self.port.backing().now() >= self.next_check {
            self.check()?;
        }
        let result = interface.poll(now, self, sockets);
        self.rx.queue.ring();
        self.tx.queue.ring();
        // What ails both queues is healed once.
        let errors = [self.rx.error.take(), self.tx.error.take()].into_iter().flatten();
        if let Some(worst) = errors.max_by_key(|error| !is_curable(error)) {
            self.heal(worst)?;
        }
        if std::mem::take(&mut self.has_new_address) {
            interface.set_hardware_addr(self.address().into());
        }
        Ok(result)
    }

    /// Blocks until a frame comes, at most for `timeout`; returns at once without interrupts.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<()> {
        if self.rx.queue.event().is_none() {
            self.port.backing().idle();
            return Ok(());
        }
        let longest = if self.is_up { LONGEST_WAIT } else { CHECK_EVERY };
        let limit = timeout.map_or(longest, |timeout| timeout.min(longest));
        match self.rx.queue.wait(Some(limit)) {
            Ok(Woken::TimedOut) if limit == longest => self.check(),
            Ok(_) => Ok(()),
            Err(error) => self.heal(error),
        }
    }

    fn check(&mut self) -> Result<()> {
        self.next_check = self.port.backing().now() + CHECK_EVERY;
        let state = self.port.check()?;
        self.is_up = matches!(state, PortState::Up(_));
        match state {
            PortState::Reset => self.recover(),
            PortState::Up(_) | PortState::NoLink => Ok(()),
        }
    }

    fn heal(&mut self, error: Error) -> Result<()> {
        if !is_curable(&error) {
            return Err(error);
        }
        tracing::warn!(%error, "the port recovers");
        self.recover()
    }

    fn recover(&mut self) -> Result<()> {
        self.resets += 1;
        self.is_up = false;
        self.next_check = Duration::ZERO;
        let before = self.port.mac();
        self.port.recover()?;
        self.has_new_address |= self.port.mac() != before;
        self.rx.is_part = false;
        self.rx.queue.restart()?;
        self.tx.free.extend(self.tx.queue.restart()?);
        Ok(())
    }
}

/// Whether a recovery helps.
fn is_curable(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Failed(_))
}

impl<B: Backing> Receiver<B> {
    /// Takes the next frame that is whole and intact, and leaves its buffer to the device again.
    fn next(&mut self) -> Option<usize> {
        loop {
            let received = match self.queue.pop() {
                Ok(received) => received?,
                Err(error) => {
                    self.error = Some(error);
                    return None;
                }
            };
            let is_tail = std::mem::replace(&mut self.is_part, !received.status.is_end());
            let len = usize::from(received.status.length());
            let frame = self.frame.get_mut(..len);
            let is_whole = !is_tail && received.status.is_end() && !received.status.is_damaged();
            let is_taken = is_whole
                && frame.is_some_and(|frame| {
                    received.buffer.read(0, frame).is_some() && Checksums::are_right(frame, received.status)
                });
            // There is room: it has just been taken out.
            drop(self.queue.post(received.buffer));
            if is_taken {
                return Some(len);
            }
        }
    }
}

impl<B: Backing> Sender<B> {
    /// Whether a frame can be sent; takes back what was.
    fn is_ready(&mut self) -> bool {
        loop {
            match self.queue.reap() {
                Ok(Some(buffer)) => self.free.push(buffer),
                Ok(None) => break,
                Err(error) => {
                    self.error = Some(error);
                    return false;
                }
            }
        }
        // A frame takes two descriptors at most.
        let is_ready = self.queue.room() >= 2 && !self.free.is_empty();
        if !is_ready {
            // What is waited for must have been sent.
            self.queue.ring();
        }
        is_ready
    }

    fn send(&mut self, len: usize) {
        let (Some(frame), Some(mut buffer)) = (self.frame.get_mut(..len), self.free.pop()) else {
            return;
        };
        let offload = Offload {
            vlan: None,
            checksums: Checksums::prepare(frame),
        };
        let piece = match (buffer.write(0, frame), u16::try_from(len)) {
            (Some(()), Ok(len)) => Piece { buffer, len },
            _ => return self.free.push(buffer),
        };
        if let Err(refused) = self.queue.push(piece, offload) {
            // Nobody waits for a frame: what must arrive is sent again.
            self.free.extend(refused.pieces.map(|piece| piece.buffer));
        }
    }
}

/// A frame that has come.
#[derive(Debug)]
pub struct RxToken<'a> {
    frame: &'a [u8],
}

/// Room for a frame to send.
#[derive(Debug)]
pub struct TxToken<'a, B: Backing> {
    sender: &'a mut Sender<B>,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.frame)
    }
}

impl<B: Backing> phy::TxToken for TxToken<'_, B> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if let Some(frame) = self.sender.frame.get_mut(..len) {
            let result = f(frame);
            self.sender.send(len);
            return result;
        }
        // The stack has been told how long a frame can be.
        f(&mut vec![0; len])
    }
}

impl<B: Backing> phy::Device for Device<B> {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a, B>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_, B>)> {
        if !self.is_up || !self.tx.is_ready() {
            return None;
        }
        let len = self.rx.next()?;
        let frame = self.rx.frame.get(..len)?;
        Some((RxToken { frame }, TxToken { sender: &mut self.tx }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_, B>> {
        let is_ready = self.is_up && self.tx.is_ready();
        is_ready.then_some(TxToken { sender: &mut self.tx })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.port.frame_len().into();
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}
