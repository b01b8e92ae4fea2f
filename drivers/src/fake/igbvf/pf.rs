//! The PF's driver, as Linux's behaves (`drivers/net/ethernet/intel/igb/igb_main.c`).

use super::{IVAR_MISC, MAILBOX, State};
use crate::fake::igbvf::Fault;
use crate::igbvf::MacAddress;
use crate::igbvf::regs::{self, Mailbox};
use crate::igbvf::spec::{Header, Message};
use std::collections::BTreeSet;

/// How many steps a reset takes.
const AWAY: u32 = 50;

/// What the PF knows of the function.
#[derive(Debug, Default)]
pub(super) struct Pf {
    pub(super) granted: Granted,
    /// Its administrator has given the function an address.
    pub(super) given: Option<MacAddress>,
    /// The function has told it of its reset, so its requests are taken.
    pub(super) is_clear: bool,
    /// There is a request.
    is_asked: bool,
    /// In how many steps it is back from a reset; 0 for none.
    back_in: u32,
    /// All messages that the function sent.
    pub(super) heard: Vec<Message>,
}

/// What a function has asked for and got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// Its address.
    pub mac: Option<MacAddress>,
    /// Further addresses.
    pub macs: BTreeSet<MacAddress>,
    /// Hashes of multicast addresses.
    pub multicast: Vec<u16>,
    /// All multicast frames.
    pub all_multicast: bool,
    /// VLANs that it is in.
    pub vlans: BTreeSet<u16>,
    /// The longest frame, with a VLAN tag and the check sequence.
    pub frame_len: u32,
}

impl Pf {
    pub(super) fn function_was_reset(&mut self) {
        self.is_clear = false;
        self.granted = Granted::default();
    }

    /// Does what a message asks for; whether that is allowed.
    fn grant(&mut self, message: &Message) -> bool {
        let (header, granted) = (message.header(), &mut self.granted);
        match header.kind() {
            Message::SET_MAC => {
                let mac = message.mac();
                let is_foreign = self.given.is_some_and(|given| given != mac);
                match header.info() {
                    0 if !is_foreign && mac.is_station() => granted.mac = Some(mac),
                    Message::ADD if self.given.is_none() => drop(granted.macs.insert(mac)),
                    Message::CLEAR => granted.macs.clear(),
                    _ => return false,
                }
            }
            Message::SET_MULTICAST => {
                let hashes = message
                    .words
                    .iter()
                    .skip(1)
                    .flat_map(|word| [*word & 0xfff, *word >> 16]);
                let hashes = hashes.filter_map(|hash| u16::try_from(hash).ok());
                granted.multicast = hashes.take(header.info().into()).collect();
            }
            Message::SET_VLAN => {
                let Ok(vlan) = u16::try_from(message.number()) else {
                    return false;
                };
                if header.info() == 0 {
                    granted.vlans.remove(&vlan);
                } else {
                    granted.vlans.insert(vlan);
                }
            }
            Message::SET_FRAME_LEN => granted.frame_len = message.number(),
            Message::SET_PROMISCUOUS => granted.all_multicast = header.info() == Message::ALL_MULTICAST,
            _ => return false,
        }
        true
    }

    /// Whether a frame of this destination is for the function.
    pub(super) fn takes(&self, to: MacAddress) -> bool {
        let granted = &self.granted;
        let is_group = to == MacAddress([0xff; 6])
            || to.is_group() && (granted.all_multicast || granted.multicast.contains(&to.hash()));
        self.is_clear && (is_group || granted.mac == Some(to) || granted.macs.contains(&to))
    }
}

impl State {
    pub(super) fn write_mailbox(&mut self, bits: Mailbox) {
        if bits.contains(Mailbox::REQUEST) {
            self.pf.is_asked = true;
        }
        let is_free = !self.faults.contains(&Fault::HoldsMailbox);
        let owns = Mailbox::VF_OWNS.bits();
        if bits.contains(Mailbox::VF_OWNS) && is_free {
            self.change(MAILBOX, owns, 0);
        } else {
            self.change(MAILBOX, 0, owns);
        }
    }

    pub(super) fn begin_reset(&mut self) {
        self.reset();
        self.set(MAILBOX, Mailbox::PF_RESETTING.bits());
    }

    pub(super) fn end_reset(&mut self) {
        self.change(MAILBOX, Mailbox::PF_RESET.bits(), Mailbox::PF_RESETTING.bits());
        self.say(&Message::new(Message::PF_CONTROL, 0));
    }

    /// Answers a request, if there is one.
    pub(super) fn serve_mailbox(&mut self) {
        if self.pf.back_in > 0 {
            self.pf.back_in -= 1;
            if self.pf.back_in == 0 {
                self.end_reset();
            }
            return;
        }
        if self.faults.contains(&Fault::Silent) || !std::mem::take(&mut self.pf.is_asked) {
            return;
        }
        if self.faults.contains(&Fault::AlwaysReset) {
            self.begin_reset();
            return self.end_reset();
        }
        if self.faults.remove(&Fault::ResetWhenAsked) {
            self.begin_reset();
            self.pf.back_in = AWAY;
            return;
        }
        let message = Message {
            words: std::array::from_fn(|at| self.get(regs::VMBMEM + 4 * at)),
        };
        self.pf.heard.push(message);
        self.change(MAILBOX, Mailbox::PF_ACKNOWLEDGE.bits(), 0);
        let header = message.header();
        let answer = match header.kind() {
            Message::RESET => {
                self.pf.function_was_reset();
                self.pf.is_clear = true;
                self.pf.granted.mac = self.pf.given;
                let answer = Message::new(Message::RESET, 0);
                let answer = match self.pf.given {
                    Some(mac) => with(answer, |header| header.with_is_done(true)).with_mac(mac),
                    None => with(answer, |header| header.with_is_refused(true)),
                };
                with(answer, |header| header.with_is_clear(true))
            }
            _ if !self.pf.is_clear => with(message, |header| header.with_is_refused(true)),
            _ => {
                let is_granted = !self.faults.contains(&Fault::Refuse) && self.pf.grant(&message);
                with(message, |header| {
                    header
                        .with_is_clear(true)
                        .with_is_done(is_granted)
                        .with_is_refused(!is_granted)
                })
            }
        };
        self.say(&answer);
    }

    /// Writes a message for the function.
    pub(super) fn say(&mut self, message: &Message) {
        for (at, word) in message.words.iter().enumerate() {
            self.set(regs::VMBMEM + 4 * at, *word);
        }
        self.change(MAILBOX, Mailbox::PF_MESSAGE.bits(), 0);
        self.raise(IVAR_MISC, 0);
    }
}

fn with(mut message: Message, change: impl FnOnce(Header) -> Header) -> Message {
    let header = change(message.header());
    let [first, ..] = &mut message.words;
    *first = header.into_bits();
    message
}
