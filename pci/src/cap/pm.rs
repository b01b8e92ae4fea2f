//! Power management (PCI Power Management 1.2 §3.2, PCIe 6.0 §7.5.2).

use crate::register::{bits, code, register, structure};
use crate::{Describe, Value};

structure! {
    /// Power management of a function.
    #[doc(alias = "PCI_CAP_ID_PM")]
    pub struct PowerManagement = POWER_MANAGEMENT {
        /// What it can do.
        0x02 capabilities: PmCapabilities,
        /// State and PME.
        0x04 control_status: PmControlStatus,
        /// Bridge support (bridges to conventional PCI only).
        0x06 bridge: PmBridge,
        /// What `data_select` chose.
        0x07 data: u8,
    }
}

register! {
    /// Power management capabilities.
    pub struct PmCapabilities: u16 {
        /// Version of the interface.
        version: u8 = 3,
        /// PME# needs the PCI clock.
        pme_clock: bool = 1,
        /// Ready at once after a change from D3hot to D0.
        immediate_readiness: bool = 1,
        /// Needs device specific initialization.
        device_specific_init: bool = 1,
        /// Current that is drawn from auxiliary power, as a code.
        aux_current: u8 = 3,
        /// D1 is supported.
        d1: bool = 1,
        /// D2 is supported.
        d2: bool = 1,
        /// The states that PME can be sent from.
        pme_from: PmeStates = 5,
    }
}

register! {
    /// Power management control and status.
    pub struct PmControlStatus: u16 {
        /// The current power state.
        power_state: PowerStateCode = 2,
        __: u8 = 1,
        /// Configuration survives the change from D3hot to D0.
        no_soft_reset: bool = 1,
        __: u8 = 4,
        /// PME is enabled.
        pme_enable: bool = 1,
        /// Which datum the data register shows.
        data_select: u8 = 4,
        /// Scale of the data register, as a code.
        data_scale: u8 = 2,
        /// PME would be asserted.
        pme_status: bool = 1,
    }
}

register! {
    /// Power management bridge support extensions.
    pub struct PmBridge: u8 {
        __: u8 = 6,
        /// The secondary bus goes to B2, not B3, when the bridge is in D3hot.
        b2_b3: bool = 1,
        /// Bus power and clock control is enabled.
        bus_power_control: bool = 1,
    }
}

code! {
    /// A power state as the register codes it.
    pub struct PowerStateCode: u8 {
        /// Working.
        D0 = 0 "D0",
        /// Light sleep.
        D1 = 1 "D1",
        /// Deeper sleep.
        D2 = 2 "D2",
        /// Off, main power present.
        D3HOT = 3 "D3hot",
    }
}

/// A set of power states: bits 0 to 4 are D0, D1, D2, D3hot, D3cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PmeStates(pub u8);

bits!(PmeStates: u8);

impl Describe for PmeStates {
    fn describe(&self) -> Value {
        let names = ["D0", "D1", "D2", "D3hot", "D3cold"];
        let set = names.into_iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 != 0);
        Value::List(set.map(|(_, name)| Value::text(name)).collect())
    }
}
