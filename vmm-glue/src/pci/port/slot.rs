//! The state of a slot: what is in it, whether it has power and a link, and what has to be said about changes.

use super::config::{BUTTON_PRESSED, Config, LINK_CHANGED, PRESENCE_CHANGED};
use super::{BusEvent, Function, Numbered, PortOptions, Windows};
use crate::interrupt::MsiMessage;
use pci::RoutingId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// How a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// Something is in it.
    pub is_present: bool,
    /// The guest has switched its power on.
    pub is_powered: bool,
    /// It has a link; with power, what is in it answers.
    pub is_link_up: bool,
    /// Shows whether it may be emptied: off; on: not; blinking: soon.
    pub power: Indicator,
    /// Shows that something is wrong.
    pub attention: Indicator,
}

/// What the guest lets an indicator show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indicator {
    /// On.
    On,
    /// Blinking.
    Blinking,
    /// Off, or not a valid value.
    Off,
}

impl Indicator {
    const fn of(code: u16) -> Self {
        match code {
            1 => Self::On,
            2 => Self::Blinking,
            _ => Self::Off,
        }
    }
}

/// Who is told when a slot has been emptied.
pub(super) type Then = Box<dyn FnOnce(Vec<Numbered>) + Send>;

/// What others have to be told of after a change.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) events: Vec<(Arc<dyn Function>, BusEvent)>,
    pub(super) message: Option<MsiMessage>,
    pub(super) removed: Option<Removed>,
}

/// A slot that was emptied on request.
pub(super) struct Removed {
    pub(super) functions: Vec<Numbered>,
    pub(super) then: Then,
}

/// A slot and the registers of its port.
pub(super) struct Slot {
    config: Config,
    limits: Windows,
    functions: BTreeMap<u8, Arc<dyn Function>>,
    removal: Option<Then>,
    outcome: Outcome,
    /// It was plugged in while there was no power, which has not been on since. Its link is active all the same.
    is_new: bool,
    /// The functions answer, as of the last change.
    answers: bool,
    /// What the functions know.
    told: Windows,
    /// The message that was due after the last change; another one is sent when none has been in between.
    due: Option<MsiMessage>,
    /// The bus was held in reset, as of the last change.
    is_bus_reset: bool,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.state(), f)
    }
}

impl Slot {
    pub(super) fn new(options: &PortOptions) -> Self {
        Self {
            config: Config::new(options.device, options.slot, options.buses, &options.windows),
            limits: options.limits,
            functions: BTreeMap::new(),
            removal: None,
            outcome: Outcome::default(),
            is_new: false,
            answers: false,
            told: Windows::NONE,
            due: None,
            is_bus_reset: false,
        }
    }

    pub(super) fn state(&self) -> SlotState {
        let [attention, power] = self.config.indicators().map(Indicator::of);
        SlotState {
            is_present: !self.functions.is_empty(),
            is_powered: self.config.is_powered(),
            is_link_up: self.config.is_link_active(),
            power,
            attention,
        }
    }

    /// What is forwarded, as far as it may be, to functions that answer.
    pub(super) fn windows(&self) -> Windows {
        if self.answers {
            self.config.windows().within(self.limits)
        } else {
            Windows::NONE
        }
    }

    pub(super) fn buses(&self) -> [u8; 2] {
        self.config.buses()
    }

    /// Behind a root port there is one device: other device numbers exist only as functions above 7 (ARI, PCIe 6.0 §6.13).
    pub(super) fn function(&self, id: RoutingId) -> Option<Arc<dyn Function>> {
        let [secondary, _] = self.config.buses();
        let is_there = id.bus() == secondary && (id.devfn() < 8 || self.config.is_ari());
        let function = self.functions.get(&id.devfn()).filter(|_| is_there && self.answers);
        function.map(Arc::clone)
    }

    pub(super) fn read(&self, offset: u16, to: &mut [u8]) {
        self.config.read(offset, to);
    }

    /// An empty slot is not switched on: whoever is plugged in is to be seen first.
    pub(super) fn write(&mut self, offset: u16, from: &[u8]) {
        let was_powered = self.config.is_powered();
        self.config.write(offset, from);
        if self.functions.is_empty() && !was_powered {
            self.config.keep_off();
        }
    }

    pub(super) fn install(&mut self, functions: Vec<Numbered>) -> Result<(), &'static str> {
        self.fill(functions)?;
        self.start();
        Ok(())
    }

    /// Powered and with a link, without events.
    fn start(&mut self) {
        self.config.set_present(true);
        self.config.set_power(true);
        self.config.set_link_active(true);
        self.answers = true;
    }

    pub(super) fn insert(&mut self, functions: Vec<Numbered>) -> Result<(), &'static str> {
        self.fill(functions)?;
        self.is_new = true;
        self.config.set_present(true);
        self.config.add_events(PRESENCE_CHANGED);
        Ok(())
    }

    fn fill(&mut self, functions: Vec<Numbered>) -> Result<(), &'static str> {
        if !self.functions.is_empty() {
            return Err("the slot is occupied");
        }
        let len = functions.len();
        let functions: BTreeMap<_, _> = functions.into_iter().collect();
        if functions.len() != len {
            return Err("two functions have the same number");
        }
        if !functions.contains_key(&0) {
            return Err("there is no function 0");
        }
        self.functions = functions;
        Ok(())
    }

    pub(super) fn request_removal(&mut self, then: Then) -> Result<(), &'static str> {
        if self.functions.is_empty() {
            return Err("the slot is empty");
        }
        // What the guest has not switched on it need not switch off.
        self.is_new = false;
        let is_seen = self.removal.replace(then).is_some() && self.state().power == Indicator::Blinking;
        if self.config.is_powered() && !is_seen {
            self.config.add_events(BUTTON_PRESSED);
        }
        Ok(())
    }

    /// A press that the guest has not seen is none. One that it acts upon, as it shows, is taken back by another one.
    pub(super) fn cancel_removal(&mut self) -> bool {
        let was_wanted = self.removal.take().is_some();
        if was_wanted && !self.config.take_event(BUTTON_PRESSED) && self.state().power == Indicator::Blinking {
            self.config.add_events(BUTTON_PRESSED);
        }
        was_wanted
    }

    pub(super) fn eject(&mut self) -> Vec<Numbered> {
        if self.functions.is_empty() {
            return Vec::new();
        }
        self.removal = None;
        self.set_answers(false);
        self.empty()
    }

    /// Presence and link change, in this order or another.
    fn empty(&mut self) -> Vec<Numbered> {
        self.config.set_present(false);
        self.config.add_events(PRESENCE_CHANGED);
        self.is_new = false;
        // What they knew went with them.
        self.told = Windows::NONE;
        std::mem::take(&mut self.functions).into_iter().collect()
    }

    pub(super) fn reset(&mut self, options: &PortOptions) {
        let functions = std::mem::take(&mut self.functions);
        let removal = self.removal.take();
        let fresh = Self::new(options);
        *self = fresh;
        if functions.is_empty() {
            return;
        }
        self.functions = functions;
        if let Some(then) = removal {
            self.tell(BusEvent::Down);
            let functions = std::mem::take(&mut self.functions).into_iter().collect();
            self.outcome.removed = Some(Removed { functions, then });
            return;
        }
        self.start();
        self.tell(BusEvent::Reset);
        // They are told that nothing reaches them, and the rest when the guest lets something reach them.
        self.tell(BusEvent::Windows(Windows::NONE));
    }

    /// Lets follow what follows from a change: link, resets, windows, removal, interrupt. The guest sees all of it at once.
    pub(super) fn settle(&mut self) -> Outcome {
        let is_powered = self.config.is_powered();
        self.is_new &= !is_powered;
        if !is_powered
            && !self.is_new
            && !self.functions.is_empty()
            && let Some(then) = self.removal.take()
        {
            self.set_answers(false);
            let functions = self.empty();
            self.outcome.removed = Some(Removed { functions, then });
        }
        let can_link = !self.functions.is_empty() && !self.config.is_link_disabled();
        let has_link = can_link && (is_powered || self.is_new);
        if has_link != self.config.is_link_active() {
            self.config.set_link_active(has_link);
            self.config.add_events(LINK_CHANGED);
        }
        let is_bus_reset = self.config.is_bus_reset();
        self.set_answers(can_link && is_powered && !is_bus_reset);
        self.is_bus_reset = is_bus_reset;
        let windows = self.windows();
        if windows != self.told && !self.functions.is_empty() {
            self.told = windows;
            self.tell(BusEvent::Windows(windows));
        }
        let message = self.config.message();
        let before = std::mem::replace(&mut self.due, message);
        self.outcome.message = message.filter(|_| before.is_none());
        std::mem::take(&mut self.outcome)
    }

    fn set_answers(&mut self, answers: bool) {
        if std::mem::replace(&mut self.answers, answers) != answers {
            self.tell(match (answers, self.is_bus_reset) {
                (true, true) => BusEvent::BusReset,
                (true, false) => BusEvent::Reset,
                (false, _) => BusEvent::Down,
            });
        }
    }

    fn tell(&mut self, event: BusEvent) {
        let functions = self.functions.values();
        self.outcome
            .events
            .extend(functions.map(|function| (Arc::clone(function), event)));
    }
}
