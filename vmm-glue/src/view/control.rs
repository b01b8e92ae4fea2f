//! What in the capabilities is asked of the host and not of the function: resets and power states.

use super::chain::Found;
use super::patches::Patches;
use pci::cap::PowerStateCode;

/// PCI Express capability (PCIe 6.0 §7.5.3).
const FLAGS: u16 = 0x02;
const VERSION: u16 = 0x000F;
const TYPE: u16 = 0x00F0;
const TYPE_LEGACY: u16 = 1 << 4;
const DEVICE_CAPABILITIES: u16 = 0x04;
const FLR_CAPABLE: u8 = 1 << 4;
const DEVICE_CONTROL: u16 = 0x08;
const INITIATE_FLR: u8 = 1 << 7;
const LINK_CAPABILITIES: u16 = 0x0C;
/// 2.5 GT/s, one lane.
const LINK: u8 = 0x11;

/// Where a guest writes to reset the function, and with which bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResetBit {
    offset: u16,
    mask: u8,
}

impl ResetBit {
    pub(super) fn is_set(self, offset: u16, from: &[u8]) -> bool {
        let at = self.offset.checked_sub(offset).map(usize::from);
        at.and_then(|at| from.get(at)).is_some_and(|byte| byte & self.mask != 0)
    }
}

/// Whether the capability is long enough for what every function has.
pub(super) fn is_express(found: &Found) -> bool {
    found.len >= LINK_CAPABILITIES
}

/// What of PCI Express is answered here: that it is an endpoint, and function level reset. The link is not the guest's.
pub(super) fn patch_express(found: &Found, is_resettable: bool, patches: &mut Patches) -> Option<ResetBit> {
    let at = found.offset;
    let flags = patches.u16(at + FLAGS);
    // Behind a root port there are only endpoints.
    let is_endpoint = flags & TYPE & !TYPE_LEGACY == 0;
    let shown = flags & VERSION | if is_endpoint { flags & TYPE } else { 0 };
    patches.fix(at + FLAGS, &shown.to_le_bytes());
    patches.keep(at + DEVICE_CAPABILITIES, 4);
    let [.., last] = patches.get::<4>(at + DEVICE_CAPABILITIES);
    let has_reset = last & FLR_CAPABLE != 0 && is_resettable;
    if !has_reset {
        patches.fix_bits(at + DEVICE_CAPABILITIES + 3, FLR_CAPABLE, 0);
    }
    patches.fix_bits(at + DEVICE_CONTROL + 1, INITIATE_FLR, 0);
    // Link, slot and root registers of version 1; then those of version 2, but for Device Control 2.
    let left = |from: u16, len: u16| found.len.saturating_sub(from).min(len);
    patches.protect(at + LINK_CAPABILITIES, left(LINK_CAPABILITIES, 0x18));
    patches.protect(at + 0x24, left(0x24, 4));
    patches.protect(at + 0x2C, left(0x2C, 0x10));
    if !is_endpoint && found.len >= 0x14 {
        patches.fix(at + LINK_CAPABILITIES, &[LINK, 0, 0, 0, 0, 0, LINK, 0]);
    }
    has_reset.then_some(ResetBit {
        offset: at + DEVICE_CONTROL + 1,
        mask: INITIATE_FLR,
    })
}

/// Advanced Features of conventional PCI (PCI ECN of 2006): all of it is answered here.
pub(super) fn patch_features(found: &Found, is_resettable: bool, patches: &mut Patches) -> Option<ResetBit> {
    const TRANSACTIONS_PENDING: u8 = 1;
    const FLR: u8 = 2;
    let at = found.offset;
    let [capable] = patches.get(at + 3);
    let has_reset = capable & FLR != 0 && is_resettable;
    let shown = capable & TRANSACTIONS_PENDING | if has_reset { FLR } else { 0 };
    // Transactions pending are the function's own word.
    patches.fix(at + 2, &[6, shown, 0]);
    patches.protect(at + 5, 1);
    has_reset.then_some(ResetBit {
        offset: at + 4,
        mask: 1,
    })
}

/// Power Management (PCI Power Management 1.2 §3.2): D0 and D3hot, without loss of what is configured, and without power management events.
pub(super) fn patch_power(found: &Found, patches: &mut Patches) -> u16 {
    /// Version, immediate readiness, device specific initialization.
    const KEPT: u16 = 0x0037;
    const NO_SOFT_RESET: u8 = 1 << 3;
    let at = found.offset;
    let capabilities = patches.u16(at + 2) & KEPT;
    patches.fix(at + 2, &capabilities.to_le_bytes());
    patches.fix(at + 4, &[NO_SOFT_RESET, 0, 0, 0]);
    patches.let_write(at + 4, &[PowerStateCode::D3HOT.0]);
    at + 4
}

/// Vital Product Data (PCI Local Bus 3.0 appendix I): they are read. What is written would stay in the card, for its next owner.
pub(super) fn patch_vital_data(found: &Found, patches: &mut Patches) {
    /// In the upper byte of the address: write, or done.
    const FLAG: u8 = 1 << 7;
    patches.protect_bits(found.offset + 3, FLAG);
    patches.protect(found.offset + 4, 4);
}

/// The power state that is written at `at`; one that is not supported is not entered.
pub(super) fn power(patches: &mut Patches, at: u16, before: PowerStateCode) -> PowerStateCode {
    let [status] = patches.get(at);
    let state = PowerStateCode(status & PowerStateCode::D3HOT.0);
    if [PowerStateCode::D0, PowerStateCode::D3HOT].contains(&state) {
        return state;
    }
    patches.set_writable(at, &[before.0]);
    before
}
