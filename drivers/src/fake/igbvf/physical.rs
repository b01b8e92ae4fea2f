//! The physical function: filters, counters and a PHY of its own, and nobody to ask.

use super::{CTRL, IVAR_MISC, STATUS, State};
use crate::igbvf::MacAddress;
use crate::igbvf::regs::{self, physical as pf};

/// What its memory has for an address.
pub(super) const ADDRESS: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x82]);
/// PSP, which is set after a reset (§8.12.1).
const TCTL_RESET: u32 = 1 << 3;
/// The longest frame if not told otherwise.
const USUAL: u32 = 1522;

impl State {
    /// What a reset leaves of its registers, which were cleared.
    pub(super) fn reset_physical(&mut self) {
        let MacAddress([a, b, c, d, e, f]) = ADDRESS;
        self.set(pf::RAL, u32::from_le_bytes([a, b, c, d]));
        self.set(pf::RAL + 4, u32::from_le_bytes([e, f, 0, 0]) | pf::ADDRESS_VALID);
        self.set(pf::TCTL, TCTL_RESET);
        for queue in [regs::RX, regs::TX] {
            self.set(queue + regs::queue::CONTROL, regs::ENABLE);
        }
        self.link.is_negotiated = false;
    }

    /// A register that does more than hold a value; whether it is one.
    pub(super) fn write_physical(&mut self, offset: usize, value: u32) -> bool {
        match offset {
            CTRL if value & regs::RESET != 0 => {
                self.reset();
                // It lasts until the device has its turn.
                self.set(CTRL, regs::RESET);
            }
            CTRL => self.set(CTRL, value),
            pf::MDIC => {
                self.link.is_negotiated |= value & pf::PHY_WRITE != 0 && value & pf::NEGOTIATE == pf::NEGOTIATE;
                self.set(pf::MDIC, value | pf::PHY_READY);
                self.update_link();
            }
            pf::IMS => self.change(pf::IMS, value, 0),
            pf::IMC => self.change(pf::IMS, 0, value),
            _ => return false,
        }
        true
    }

    /// What is read of a register, and what reading does.
    pub(super) fn read_physical(&mut self, offset: usize) -> u32 {
        let value = self.get(offset);
        let [gorc_low, gorc_high] = pf::GORC;
        let [gotc_low, gotc_high] = pf::GOTC;
        match offset {
            STATUS if self.get(CTRL) & pf::NO_DMA == 0 => return value | pf::MAY_DMA,
            pf::ICR | pf::GPRC | pf::GPTC | pf::MPRC => self.set(offset, 0),
            _ if offset == gorc_high => self.set(gorc_low, 0),
            _ if offset == gotc_high => self.set(gotc_low, 0),
            _ => {}
        }
        value
    }

    /// The link has changed.
    pub(super) fn report_link(&mut self) {
        self.change(pf::ICR, pf::LINK_CHANGED, 0);
        if self.get(pf::IMS) & pf::LINK_CHANGED != 0 {
            self.raise(IVAR_MISC, 1);
        }
    }

    /// Whether its registers let a frame in.
    pub(super) fn admits(&self, to: MacAddress, vlan: Option<u16>) -> bool {
        let control = self.get(pf::RCTL);
        let bit = |table: usize, at: u16| self.get(table + 4 * usize::from(at / 32)) >> (at % 32) & 1 != 0;
        let is_in_vlan = control & pf::FILTER_VLANS == 0 || vlan.is_none_or(|vlan| bit(pf::VFTA, vlan & 0xfff));
        let is_for_it = if to == MacAddress([0xff; 6]) {
            control & pf::BROADCAST != 0
        } else if to.is_group() {
            control & pf::ALL_MULTICAST != 0 || bit(pf::MTA, to.hash())
        } else {
            (0..pf::ADDRESSES).any(|at| self.address(at) == Some(to))
        };
        is_in_vlan && is_for_it
    }

    fn address(&self, at: usize) -> Option<MacAddress> {
        let (low, high) = (self.get(pf::RAL + 8 * at), self.get(pf::RAL + 8 * at + 4));
        let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
        (high & pf::ADDRESS_VALID != 0).then_some(MacAddress([a, b, c, d, e, f]))
    }

    /// The longest frame that its registers let in.
    pub(super) fn longest(&self) -> u32 {
        if self.get(pf::RCTL) & pf::LONG == 0 {
            USUAL
        } else {
            self.get(pf::RLPML)
        }
    }
}
