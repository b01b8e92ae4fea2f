//! The physical function: what a PF's driver sets up before frames can move.
//!
//! It is a port of its own; its virtual functions are not served, and stay silent. Follows the 82576 datasheet §4.5 (initialization), §4.2.1.6
//! (resets) and §7.1.1 (filters).

use super::control::Request;
use super::function::{Function, Health};
use super::regs::{self, physical as pf};
use super::spec::MacAddress;
use crate::backing::poll_until;
use crate::{Backing, Error, ErrorKind, Presence, Result};
use std::sync::Arc;
use std::time::Duration;

/// The only owner of the registers that are for the whole port.
#[derive(Debug)]
pub(super) struct Physical<B: Backing> {
    function: Arc<Function<B>>,
    /// How many addresses are in use.
    addresses: usize,
    /// It is as it was set up.
    is_set_up: bool,
}

/// How long the device may take to end the DMA that is under way.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// How long an access to the PHY takes at most.
const PHY: Duration = Duration::from_millis(10);

impl<B: Backing> Physical<B> {
    pub(super) fn new(function: Arc<Function<B>>) -> Self {
        Self {
            function,
            addresses: 0,
            is_set_up: false,
        }
    }

    fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        self.function.failed(step, kind)
    }

    /// Resets the function and lets frames move; gives the address that its memory holds for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] when it is not over in time; [`ErrorKind::Gone`] when the function is not there, or is wanted back.
    pub(super) fn reset(&mut self, limit: Duration) -> Result<Option<MacAddress>> {
        let function = Arc::clone(&self.function);
        self.is_set_up = false;
        let control = self.await_answer(limit)?;
        function.registers.write(regs::CTRL, control | pf::NO_DMA);
        let stopped = poll_until(&function.backing, UNDER_WAY, || {
            let status = function.registers.read(regs::STATUS).into_bits();
            Ok((status & pf::MAY_DMA == 0).then_some(()))
        })?;
        if stopped.is_none() {
            tracing::warn!("DMA is under way in front of a reset");
        }
        function.registers.write(regs::CTRL, control | pf::NO_DMA | regs::RESET);
        // It is not to be read for so long.
        function.backing.nap();
        let control = self.await_answer(limit)?;
        function.write(pf::IMC, u32::MAX);
        // The reset leaves the first queues on (§8.10.8, §8.12.10).
        for queue in [regs::RX, regs::TX] {
            function.write(queue + regs::queue::CONTROL, 0);
        }
        function
            .registers
            .write(regs::CTRL, control & !pf::NO_DMA | pf::SET_LINK_UP | pf::VLANS);
        self.negotiate()?;
        function.write(
            pf::RCTL,
            pf::RECEIVE | pf::LONG | pf::BROADCAST | pf::FILTER_VLANS | pf::STRIP_FCS,
        );
        function.change(pf::TCTL, 0, pf::SEND);
        self.addresses = 1;
        self.is_set_up = true;
        let mac = self.address();
        Ok(mac.is_station().then_some(mac))
    }

    /// CTRL, once the function answers and is not being reset.
    fn await_answer(&self, limit: Duration) -> Result<u32> {
        const STEP: &str = "reset the physical function";
        let function = &self.function;
        let answer = poll_until(&function.backing, limit, || {
            if function.backing.removal().presence() != Presence::Present {
                return Err(self.failed(STEP, ErrorKind::Gone));
            }
            let control = function.registers.read(regs::CTRL);
            Ok((control != u32::MAX && control & regs::RESET == 0).then_some(control))
        })?;
        answer.ok_or_else(|| match function.backing.presence() {
            Presence::Gone => function.lose(STEP),
            _ => self.failed(STEP, ErrorKind::Timeout(limit)),
        })
    }

    /// Has a PHY of copper negotiate anew: Linux's driver switches it off when the interface goes down.
    fn negotiate(&self) -> Result<()> {
        let function = &self.function;
        if function.read(pf::CTRL_EXT) & pf::NOT_COPPER != 0 {
            return Ok(());
        }
        function.write(pf::MDIC, pf::PHY_WRITE | pf::NEGOTIATE);
        let done = poll_until(&function.backing, PHY, || {
            Ok((function.read(pf::MDIC) & pf::PHY_READY != 0).then_some(()))
        })?;
        if done.is_none() {
            tracing::warn!("the PHY does not answer");
        }
        Ok(())
    }

    fn address(&self) -> MacAddress {
        let [a, b, c, d] = self.function.read(pf::RAL).to_le_bytes();
        let [e, f, ..] = self.function.read(pf::RAL + 4).to_le_bytes();
        MacAddress([a, b, c, d, e, f])
    }

    /// Takes frames for this address; for none without one.
    fn set_address(&self, at: usize, mac: Option<MacAddress>) {
        let (low, high) = mac.map_or((0, 0), |MacAddress([a, b, c, d, e, f])| {
            let high = u32::from_le_bytes([e, f, 0, 0]) | pf::ADDRESS_VALID;
            (u32::from_le_bytes([a, b, c, d]), high)
        });
        self.function.write(pf::RAL + 8 * at, low);
        self.function.write(pf::RAL + 8 * at + 4, high);
    }

    /// Does what the port wants.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] for more addresses than there are places; [`ErrorKind::Failed`] if the port has to recover first.
    pub(super) fn request(&mut self, request: Request<'_>) -> Result<()> {
        if !self.is_set_up {
            let kind = ErrorKind::Failed("the port has to recover first".into());
            return Err(self.failed(request.step(), kind));
        }
        match request {
            Request::Mac(mac) => self.set_address(0, Some(mac)),
            Request::AddMac(mac) => {
                if self.addresses == pf::ADDRESSES {
                    let kind = ErrorKind::Refused("the device has places for 16 addresses".into());
                    return Err(self.failed(request.step(), kind));
                }
                self.set_address(self.addresses, Some(mac));
                self.addresses += 1;
            }
            Request::ClearMacs(_) => {
                for at in 1..self.addresses {
                    self.set_address(at, None);
                }
                self.addresses = 1;
            }
            Request::Multicast(hashes) => self.set_multicast(hashes),
            Request::AllMulticast(all) => {
                let set = if all { pf::ALL_MULTICAST } else { 0 };
                self.function.change(pf::RCTL, pf::ALL_MULTICAST, set);
            }
            Request::Vlan(vlan, member) => {
                let bit = 1 << (vlan % 32);
                let register = pf::VFTA + 4 * usize::from(vlan / 32);
                self.function.change(register, bit, if member { bit } else { 0 });
            }
            Request::FrameLen(len) => self.function.write(pf::RLPML, len.into()),
        }
        Ok(())
    }

    fn set_multicast(&self, hashes: &[u16]) {
        for word in 0..pf::MTA_WORDS {
            let mine = hashes.iter().filter(|hash| usize::from(**hash / 32) == word);
            let bits = mine.fold(0, |bits, hash| bits | 1 << (hash % 32));
            self.function.write(pf::MTA + 4 * word, bits);
        }
    }

    /// Whether the function is as it was set up.
    pub(super) fn listen(&mut self) -> bool {
        // Read, so that the next change of the link interrupts again.
        let causes = self.function.read(pf::ICR);
        let receiving = self.function.read(pf::RCTL);
        if causes == u32::MAX || receiving == u32::MAX || receiving & pf::RECEIVE == 0 {
            self.is_set_up = false;
            self.function.worsen(Health::Down);
        }
        self.function.health() == Health::Running
    }
}
