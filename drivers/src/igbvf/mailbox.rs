//! The mailbox: what a VF asks of its PF, and what the PF tells it.
//!
//! One side writes a message into memory that both share, and the other acknowledges it. The bits by which a side learns of it are cleared by
//! reading, so there is one reader, which keeps those that it did not ask for. Follows the 82576 datasheet §7.8.2; what Linux's PF does
//! (`igb_rcv_msg_from_vf`) is what is to be expected of the other side: it answers nothing for two seconds to a VF that it does not know.

use super::function::{Function, Health};
use super::regs::{self, Mailbox as Bits};
use super::spec::{Header, MacAddress, Message};
use crate::backing::poll_until;
use crate::{Backing, Error, ErrorKind, Presence, Result};
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
    /// The PF has been told of the function's reset, and takes its requests.
    is_known: bool,
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
            is_known: false,
            limit,
        }
    }

    fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        self.function.failed(step, kind)
    }

    /// The bits, with those seen before; `None` while the function answers nothing.
    fn look(&mut self) -> Option<Bits> {
        let bits = self.function.registers.read(regs::V2PMAILBOX);
        if bits == u32::MAX {
            self.is_interrupted = true;
            self.forgotten();
            return None;
        }
        let bits = Bits::from_bits_truncate(bits) | self.seen;
        self.seen = bits & ONCE;
        self.is_interrupted |= bits.intersects(Bits::PF_RESETTING | Bits::PF_RESET);
        Some(bits)
    }

    /// The PF does not know the function any more: it has to recover.
    fn forgotten(&mut self) {
        self.is_known = false;
        self.function.worsen(Health::Down);
    }

    /// Whether one of these bits is set; those that are cleared by reading are taken.
    fn take(&mut self, wanted: Bits) -> bool {
        let bits = self.look().unwrap_or(Bits::empty());
        self.seen.remove(wanted);
        bits.intersects(wanted)
    }

    /// Waits for one of these bits; in vain once the PF was reset, as it has forgotten what it was asked.
    fn await_bit(&mut self, wanted: Bits, step: &'static str) -> Result<()> {
        let function = Arc::clone(&self.function);
        let seen = poll_until(&function.backing, self.limit, || {
            if self.take(wanted) {
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
            let bits = self.look();
            Ok(bits.is_some_and(|bits| bits.contains(Bits::VF_OWNS)).then_some(()))
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
        if !self.is_known {
            return Err(self.failed(step, ErrorKind::Failed("the port has to recover first".into())));
        }
        let answer = self.attempts(request, step).inspect_err(|error| {
            tracing::debug!(%error, "the port has to recover");
            self.forgotten();
        })?;
        let header = answer.header();
        if header.is_done() && !header.is_refused() {
            return Ok(());
        }
        if header.is_clear() {
            let why = "the physical function does not allow it to this virtual function";
            return Err(self.failed(step, ErrorKind::Refused(why.into())));
        }
        self.forgotten();
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
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] when that is not over in time; [`ErrorKind::Gone`] when all the time the function was not there, or it is wanted
    /// back.
    pub(super) fn reset(&mut self, limit: Duration) -> Result<Option<MacAddress>> {
        let function = Arc::clone(&self.function);
        let start = function.backing.now();
        self.is_known = false;
        let mut was_there = false;
        loop {
            self.await_pf(start, limit, &mut was_there)?;
            function.registers.write(regs::CTRL, regs::RESET);
            // What the PF said before, and that it was reset, is over.
            (self.seen, self.is_interrupted) = (Bits::empty(), false);
            match self.attempts(&Message::new(Message::RESET, 0), "reset the virtual function") {
                Err(error) if self.is_interrupted => tracing::debug!(%error, "once more"),
                Err(error) => return Err(error),
                Ok(answer) => {
                    self.is_known = true;
                    let has_address = !answer.header().is_refused() && answer.mac().is_station();
                    return Ok(has_address.then(|| answer.mac()));
                }
            }
        }
    }

    /// Waits until the PF is not being reset. A function may look as if it were not there meanwhile.
    fn await_pf(&mut self, start: Duration, limit: Duration, was_there: &mut bool) -> Result<()> {
        const STEP: &str = "wait for the physical function";
        let function = Arc::clone(&self.function);
        loop {
            let is_late = function.backing.now().saturating_sub(start) > limit;
            let bits = self.look();
            *was_there = *was_there || bits.is_some() || function.backing.presence() != Presence::Gone;
            if function.backing.removal().presence() != Presence::Present {
                return Err(self.failed(STEP, ErrorKind::Gone));
            }
            match bits {
                _ if is_late && !*was_there => return Err(function.lose(STEP)),
                _ if is_late => return Err(self.failed(STEP, ErrorKind::Timeout(limit))),
                Some(bits) if !bits.contains(Bits::PF_RESETTING) => return Ok(()),
                _ => function.backing.idle(),
            }
        }
    }

    /// Hears what the PF has to say: whether it is well, and takes requests of this VF.
    pub(super) fn listen(&mut self) -> bool {
        let Some(bits) = self.look() else {
            return false;
        };
        if bits.intersects(Bits::PF_RESETTING | Bits::PF_RESET) {
            self.forgotten();
        } else if bits.contains(Bits::PF_MESSAGE) {
            self.hear();
        }
        self.function.health() == Health::Running
    }

    fn hear(&mut self) {
        self.seen.remove(Bits::PF_MESSAGE);
        match self.receive() {
            // The PF has the memory just now: the message is read the next time.
            Err(_) => self.seen.insert(Bits::PF_MESSAGE),
            Ok(message) => {
                let header = message.header();
                // A late answer to a request that was given up says nothing.
                let is_said = !is_answer(header) || header.is_refused();
                if is_said && !header.is_clear() {
                    // It was reset, and does not know this VF any more.
                    self.forgotten();
                }
            }
        }
    }
}

/// Whether it answers a request, rather than being the PF's own.
fn is_answer(header: Header) -> bool {
    header.is_done() || header.is_refused()
}
