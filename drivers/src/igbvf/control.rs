//! Who decides what the function receives: a virtual function asks its PF, a physical one has the registers itself.

use super::function::{Function, Kind};
use super::mailbox::Mailbox;
use super::physical::Physical;
use super::spec::{MacAddress, Message};
use crate::{Backing, Result};
use std::sync::Arc;
use std::time::Duration;

/// What a port wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    /// This address.
    Mac(MacAddress),
    /// A further address.
    AddMac(MacAddress),
    /// No further addresses. A PF that is asked wants to see a station's here, whichever.
    ClearMacs(MacAddress),
    /// Multicast frames whose address has one of these hashes.
    Multicast(&'a [u16]),
    /// All multicast frames, or those of the hashes only.
    AllMulticast(bool),
    /// Frames of this VLAN, or not.
    Vlan(u16, bool),
    /// Frames up to this length, with VLAN tag and check sequence.
    FrameLen(u16),
}

/// Who grants it.
#[derive(Debug)]
pub(super) enum Control<B: Backing> {
    /// The PF's driver.
    Asked(Mailbox<B>),
    /// The function itself.
    Own(Physical<B>),
}

impl Request<'_> {
    /// For errors.
    pub(super) fn step(self) -> &'static str {
        match self {
            Self::Mac(_) => "set the address",
            Self::AddMac(_) => "add an address",
            Self::ClearMacs(_) => "take back the added addresses",
            Self::Multicast(_) => "set the multicast addresses",
            Self::AllMulticast(_) => "take all multicast frames",
            Self::Vlan(_, true) => "join a VLAN",
            Self::Vlan(_, false) => "leave a VLAN",
            Self::FrameLen(_) => "set the longest frame",
        }
    }

    /// As a VF says it.
    pub(super) fn message(self) -> Message {
        match self {
            Self::Mac(mac) => Message::new(Message::SET_MAC, 0).with_mac(mac),
            Self::AddMac(mac) => Message::new(Message::SET_MAC, Message::ADD).with_mac(mac),
            Self::ClearMacs(mac) => Message::new(Message::SET_MAC, Message::CLEAR).with_mac(mac),
            Self::Multicast(hashes) => Message::multicast(hashes),
            Self::AllMulticast(true) => Message::new(Message::SET_PROMISCUOUS, Message::ALL_MULTICAST),
            Self::AllMulticast(false) => Message::new(Message::SET_PROMISCUOUS, 0),
            Self::Vlan(vlan, member) => Message::new(Message::SET_VLAN, member.into()).with_number(vlan.into()),
            Self::FrameLen(len) => Message::new(Message::SET_FRAME_LEN, 0).with_number(len.into()),
        }
    }
}

impl<B: Backing> Control<B> {
    pub(super) fn new(function: &Arc<Function<B>>, answer_limit: Duration) -> Self {
        let function = Arc::clone(function);
        match function.kind {
            Kind::Virtual => Self::Asked(Mailbox::new(function, answer_limit)),
            Kind::Physical => Self::Own(Physical::new(function)),
        }
    }

    /// Resets the function; gives the address that it has, if it has one.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::reset`] and [`Physical::reset`].
    pub(super) fn reset(&mut self, limit: Duration) -> Result<Option<MacAddress>> {
        match self {
            Self::Asked(mailbox) => mailbox.reset(limit),
            Self::Own(physical) => physical.reset(limit),
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::request`] and [`Physical::request`].
    pub(super) fn request(&mut self, request: Request<'_>) -> Result<()> {
        match self {
            Self::Asked(mailbox) => mailbox.request(&request.message(), request.step()),
            Self::Own(physical) => physical.request(request),
        }
    }

    /// Hears what has changed: whether the function works as it was set up.
    pub(super) fn listen(&mut self) -> bool {
        match self {
            Self::Asked(mailbox) => mailbox.listen(),
            Self::Own(physical) => physical.listen(),
        }
    }
}
