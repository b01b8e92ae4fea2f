//! The mailbox: what a VF asks of its PF, and what the PF tells it.
//!
//! One side writes a message into memory that both share, and the other acknowledges it. The bits by which a side learns of it are cleared by
//! reading, so there is one reader, which keeps those that it did not ask for. Follows the 82576 datasheet §7.8.2; what Linux's PF does
//! (`igb_rcv_msg_from_vf`) is what is to be expected of the other side: it answers nothing for two seconds to a VF that it does not know.

use super::function::{Function, Health};
use super::regs::{self, Mailbox as Bits};
use super::spec::{Header, MacAddress, Message};
use crate::backing::poll_until;
use crate::{Backing, Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;

/// The VF's side, and its only owner.
#[derive(Debug)]
pub(super) struct Mailbox<B: Backing> {
    function: Arc<Function<B>>,
    /// Bits that were read, and so cleared, before they were wanted.
    seen: Bits,
    /// The PF was reset since the function was.
    is_interrupted: bool,
    /// How long to wait for an answer.
    limit: Duration,
}

/// Bits that are cleared when they are read.
const ONCE: Bits = Bits::PF_MESSAGE.union(Bits::PF_ACKNOWLEDGE).union(Bits::PF_RESET);
/// A message can be overwritten by one of the PF's that crosses it, so a request is made twice.
const ATTEMPTS: u32 = 2;
/// How long the other side may hold the memory.
const HELD: Duration = Duration::from_millis(100);

impl<B: Backing> Mailbox<B> {
    pub(super) fn new(function: Arc<Function<B>>, limit: Duration) -> Self {
        Self {
            function,
            seen: Bits::empty(),
            is_interrupted: false,
            limit,
        }
    }

    fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        self.function.failed(step, kind)
    }

    /// The bits, with those seen before; `None` while the function answers nothing.
    fn look(&mut self) -> Result<Option<Bits>> {
        let bits = self.function.registers.read(regs::V2PMAILBOX);
        if bits == u32::MAX {
            self.is_interrupted = true;
            return match self.function.suspect() {
                Health::Gone => Err(self.failed("read V2PMAILBOX", ErrorKind::Gone)),
                _ => Ok(None),
            };
        }
        let bits = Bits::from_bits_truncate(bits) | self.seen;
        self.seen = bits & ONCE;
        self.is_interrupted |= bits.intersects(Bits::PF_RESETTING | Bits::PF_RESET);
        Ok(Some(bits))
    }

    /// Whether one of these bits is set; those that are cleared by reading are taken.
    fn take(&mut self, wanted: Bits) -> Result<bool> {
        let bits = self.look()?.unwrap_or(Bits::empty());
        self.seen.remove(wanted);
        Ok(bits.intersects(wanted))
    }

    /// Waits for one of these bits; in vain once the PF was reset, as it has forgotten what it was asked.
    fn await_bit(&mut self, wanted: Bits, step: &'static str) -> Result<()> {
        let function = Arc::clone(&self.function);
        let seen = poll_until(&function.backing, self.limit, || {
            if self.take(wanted)? {
                return Ok(Some(()));
            }
            if self.is_interrupted {
                return Err(self.failed(step, ErrorKind::Failed("the physical function was reset".into())));
            }
            Ok(None)
        })?;
        seen.ok_or_else(|| self.failed(step, ErrorKind::Timeout(self.limit)))
    }

    /// Takes the memory from the PF.
    fn own(&mut self) -> Result<()> {
        let function = Arc::clone(&self.function);
        let owned = poll_until(&function.backing, HELD, || {
            function.registers.write(regs::V2PMAILBOX, Bits::VF_OWNS.bits());
            Ok(self
                .look()?
                .is_some_and(|bits| bits.contains(Bits::VF_OWNS))
                .then_some(()))
        })?;
        owned.ok_or_else(|| self.failed("take the mailbox", ErrorKind::Timeout(HELD)))
    }

    fn send(&mut self, message: &Message, step: &'static str) -> Result<()> {
        self.own()?;
        // What came before is answered by nobody, and overwritten.
        self.seen.remove(Bits::PF_MESSAGE | Bits::PF_ACKNOWLEDGE);
        self.function.write_message(message);
        // This also releases the memory.
        self.function.registers.write(regs::V2PMAILBOX, Bits::REQUEST.bits());
        self.await_bit(Bits::PF_ACKNOWLEDGE, step)
    }

    fn receive(&mut self) -> Result<Message> {
        self.own()?;
        let message = self.function.read_message();
        self.function
            .registers
            .write(regs::V2PMAILBOX, Bits::ACKNOWLEDGE.bits());
        Ok(message)
    }

    /// Sends a request and waits for the answer to it.
    fn ask(&mut self, request: &Message, step: &'static str) -> Result<Message> {
        self.send(request, step)?;
        let function = Arc::clone(&self.function);
        let start = function.backing.now();
        loop {
            self.await_bit(Bits::PF_MESSAGE, step)?;
            let answer = self.receive()?;
            if answer.header().kind() == request.header().kind() && is_answer(answer.header()) {
                return Ok(answer);
            }
            tracing::debug!(header = ?answer.header(), "not the answer that is waited for");
            if function.backing.now().saturating_sub(start) > self.limit {
                return Err(self.failed(step, ErrorKind::Timeout(self.limit)));
            }
        }
    }

    /// Makes a request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] by the PF's policy; [`ErrorKind::Failed`] if the PF takes no requests before the next reset, and
    /// [`ErrorKind::Timeout`] if it is silent: the function is down then.
    pub(super) fn request(&mut self, request: &Message, step: &'static str) -> Result<()> {
        if self.function.health() != Health::Running {
            return Err(self.failed(step, ErrorKind::Failed("the port has to recover first".into())));
        }
        let answer = self.attempts(request, step).inspect_err(|error| {
            if !error.is_gone() {
                self.function.worsen(Health::Down);
            }
        })?;
        let header = answer.header();
        if header.is_done() && !header.is_refused() {
            return Ok(());
        }
        if header.is_clear() {
            let why = "the physical function does not allow it to this virtual function";
            return Err(self.failed(step, ErrorKind::Refused(why.into())));
        }
        self.function.worsen(Health::Down);
        let why = "the physical function takes no requests before a reset";
        Err(self.failed(step, ErrorKind::Failed(why.into())))
    }

    fn attempts(&mut self, request: &Message, step: &'static str) -> Result<Message> {
        for _ in 1..ATTEMPTS {
            match self.ask(request, step) {
                Err(error) if matches!(error.kind, ErrorKind::Timeout(_)) => {}
                other => return other,
            }
        }
        self.ask(request, step)
    }

    /// Resets the function and tells the PF; gives the address that the PF has for it, if it has one.
    ///
    /// Waits until a reset of the PF itself is over, and begins anew if there is another.
    pub(super) fn reset(&mut self, limit: Duration) -> Result<Option<MacAddress>> {
        let function = Arc::clone(&self.function);
        let start = function.backing.now();
        loop {
            let left = limit.saturating_sub(function.backing.now().saturating_sub(start));
            let is_back = poll_until(&function.backing, left, || {
                let bits = self.look()?;
                Ok(bits
                    .is_some_and(|bits| !bits.contains(Bits::PF_RESETTING))
                    .then_some(()))
            })?;
            if is_back.is_none() {
                return Err(self.failed("wait for the physical function", ErrorKind::Timeout(limit)));
            }
            function.registers.write(regs::CTRL, regs::RESET);
            // What the PF said before, and that it was reset, is over.
            (self.seen, self.is_interrupted) = (Bits::empty(), false);
            match self.attempts(&Message::new(Message::RESET, 0), "reset the virtual function") {
                Err(error) if self.is_interrupted && !error.is_gone() => tracing::debug!(%error, "once more"),
                Err(error) => return Err(error),
                Ok(answer) => {
                    let has_address = !answer.header().is_refused() && answer.mac().is_station();
                    return Ok(has_address.then(|| answer.mac()));
                }
            }
        }
    }

    /// Hears what the PF has to say: whether it is well, and takes requests of this VF.
    pub(super) fn listen(&mut self) -> Result<bool> {
        let Some(bits) = self.look()? else {
            return Ok(false);
        };
        if bits.intersects(Bits::PF_RESETTING | Bits::PF_RESET) {
            self.function.worsen(Health::Down);
        }
        if self.take_message(bits)?.is_some_and(|header| !header.is_clear()) {
            // It was reset, and does not know this VF any more.
            self.function.worsen(Health::Down);
        }
        Ok(self.function.health() == Health::Running)
    }

    fn take_message(&mut self, bits: Bits) -> Result<Option<Header>> {
        if !bits.contains(Bits::PF_MESSAGE) {
            return Ok(None);
        }
        self.seen.remove(Bits::PF_MESSAGE);
        let header = self.receive()?.header();
        // A late answer to a request that was given up says nothing.
        Ok((!is_answer(header) || header.is_refused()).then_some(header))
    }
}

/// Whether it answers a request, rather than being the PF's own.
fn is_answer(header: Header) -> bool {
    header.is_done() || header.is_refused()
}
