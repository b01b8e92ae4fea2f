//! Everything outside of the function, in the hands of a test.

use super::{Granted, State, locked};
use crate::igbvf::MacAddress;
use crate::igbvf::spec::Message;
use std::sync::{Arc, Mutex, MutexGuard};

/// The network of an [`IgbVf`](super::IgbVf), its PF, and its faults. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wire {
    state: Arc<Mutex<State>>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The PF answers nothing.
    Silent,
    /// The PF refuses all requests but that for a reset.
    Refuse,
    /// Registers read as all ones and do nothing, as while a PF is reset by its function level reset.
    Unreachable,
    /// A queue that is switched off stays on.
    QueueStaysOn,
    /// A queue that is switched on stays off.
    QueueStaysOff,
    /// The PF is reset, and back at once, whenever it is asked.
    AlwaysReset,
    /// The function's own reset, by VTCTRL, changes nothing. Its function level reset does.
    IgnoresReset,
    /// The PF has the mailbox's memory and does not let go.
    HoldsMailbox,
    /// Frames longer than the function asked for are received, too.
    TakesGiants,
    /// Frames are sent, and nothing is said of it.
    NoReport,
    /// Once: the PF is reset instead of answering, and is back after a while.
    ResetWhenAsked,
    /// Once: the device says that it is beyond its tail.
    WrongHead,
    /// Once: the device says that a frame is longer than its buffer.
    WrongLength,
    /// Once: the device says that a checksum is wrong.
    WrongChecksum,
}

impl Wire {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// A frame for the function.
    pub fn send(&self, frame: impl Into<Vec<u8>>) {
        self.state().inbound.push_back((frame.into(), false));
    }

    /// A frame that the function has sent.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.state().outbound.pop_front()
    }

    /// Whether what it sends comes back to it.
    pub fn set_loop(&self, is_loop: bool) {
        self.state().is_loop = is_loop;
    }

    /// How many descriptors each queue uses at most when the device is poked: 32 unless set.
    pub fn set_burst(&self, burst: u32) {
        self.state().burst = burst;
    }

    /// Whether the port has a link.
    pub fn set_link(&self, is_up: bool) {
        self.state().set_link(is_up);
    }

    /// The address that the PF's administrator has for the function.
    pub fn set_address(&self, mac: Option<MacAddress>) {
        self.state().pf.given = mac;
    }

    /// Makes something go wrong, until it is [repaired](Self::repair).
    pub fn fault(&self, fault: Fault) {
        self.state().faults.insert(fault);
    }

    /// Ends a fault.
    pub fn repair(&self, fault: Fault) {
        self.state().faults.remove(&fault);
    }

    /// The PF is reset: the function's queues stop at once. It lasts until [`end_reset`](Self::end_reset).
    pub fn begin_reset(&self) {
        self.state().begin_reset();
    }

    /// The PF is up again, and says so; it does not know the function any more.
    pub fn end_reset(&self) {
        self.state().end_reset();
    }

    /// The PF says that it is well: the message that it sends to all its functions when the link changes.
    pub fn greet(&self) {
        let mut state = self.state();
        let mut message = Message::new(Message::PF_CONTROL, 0);
        let header = message.header().with_is_clear(state.pf.is_clear);
        let [first, ..] = &mut message.words;
        *first = header.into_bits();
        state.say(&message);
    }

    /// The PF forgets the function, and says nothing: its next request is refused.
    pub fn forget(&self) {
        self.state().pf.is_clear = false;
    }

    /// What the function has asked for and got.
    #[must_use]
    pub fn granted(&self) -> Granted {
        self.state().pf.granted.clone()
    }

    /// All messages of the function.
    #[must_use]
    pub fn heard(&self) -> Vec<Message> {
        self.state().pf.heard.clone()
    }

    /// What a register of BAR 0 holds; reading it here changes nothing.
    #[must_use]
    pub fn register(&self, offset: usize) -> u32 {
        self.state().get(offset)
    }

    /// How often a tail was written.
    #[must_use]
    pub fn doorbells(&self) -> u64 {
        self.state().doorbells
    }
}
