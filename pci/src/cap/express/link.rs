//! Link registers of the PCI Express capability (PCIe 6.0 §7.5.3.6 to §7.5.3.8 and §7.5.3.18 to §7.5.3.20).

use crate::register::{bits, code, register};
use crate::{Describe, LinkSpeed, Value};

register! {
    /// Link Capabilities.
    pub struct LinkCapabilities: u32 {
        /// Highest speed.
        max_speed: SpeedCode = 4,
        /// Number of lanes.
        max_width: u8 = 6,
        /// Supported states of active state power management.
        aspm: AspmSupport = 2,
        /// Time to leave L0s.
        l0s_exit_latency: ExitLatencyL0s = 3,
        /// Time to leave L1.
        l1_exit_latency: ExitLatencyL1 = 3,
        /// The reference clock can be removed.
        clock_power_management: bool = 1,
        /// Surprise down errors are reported.
        surprise_down_reporting: bool = 1,
        /// The state of the data link layer is reported.
        dll_active_reporting: bool = 1,
        /// Changes of bandwidth are notified.
        bandwidth_notification: bool = 1,
        /// ASPM may be left unimplemented.
        aspm_optionality: bool = 1,
        __: u8 = 1,
        /// Number of the port.
        port_number: u8 = 8,
    }
}

register! {
    /// Link Control.
    pub struct LinkControl: u16 {
        /// Enabled states of active state power management.
        aspm: AspmSupport = 2,
        /// Interpretation B of the PTM propagation delay.
        ptm_delay_b: bool = 1,
        /// Read completion boundary of 128 bytes, else 64.
        read_completion_boundary_128: bool = 1,
        /// The link is disabled.
        link_disable: bool = 1,
        /// Start training; reads as zero.
        retrain_link: bool = 1,
        /// Both ends use the same reference clock.
        common_clock: bool = 1,
        /// More ordered sets when leaving L0s.
        extended_synch: bool = 1,
        /// The reference clock may be removed.
        clock_power_management: bool = 1,
        /// Hardware may not change the width.
        autonomous_width_disable: bool = 1,
        /// Interrupt on bandwidth management.
        bandwidth_management_interrupt: bool = 1,
        /// Interrupt on autonomous changes of bandwidth.
        autonomous_bandwidth_interrupt: bool = 1,
        /// Spread spectrum with independent clocks.
        sris_clocking: bool = 1,
        /// Flit mode is disabled.
        flit_mode_disable: bool = 1,
        /// What happens on a device readiness message.
        drs_signaling: DrsSignaling = 2,
    }
}

register! {
    /// Link Status.
    pub struct LinkStatus: u16 {
        /// Speed.
        speed: SpeedCode = 4,
        /// Number of lanes in use.
        width: u8 = 6,
        __: u8 = 1,
        /// Training is in progress.
        training: bool = 1,
        /// The slot's reference clock is used.
        slot_clock: bool = 1,
        /// The data link layer is active.
        dll_active: bool = 1,
        /// Bandwidth was changed by management.
        bandwidth_management: bool = 1,
        /// Bandwidth was changed by hardware.
        autonomous_bandwidth: bool = 1,
    }
}

register! {
    /// Link Capabilities 2.
    pub struct LinkCapabilities2: u32 {
        __: u8 = 1,
        /// Supported speeds.
        speeds: LinkSpeeds = 7,
        /// Two ports of one kind can be connected.
        crosslink: bool = 1,
        /// Speeds at which SKP ordered sets can be sent at the lower rate.
        lower_skp_generation: LinkSpeeds = 7,
        /// Speeds at which SKP ordered sets can be received at the lower rate.
        lower_skp_reception: LinkSpeeds = 7,
        /// A retimer's presence is detected.
        retimer_detection: bool = 1,
        /// A second retimer's presence is detected.
        two_retimers_detection: bool = 1,
        __: u8 = 6,
        /// Device readiness status.
        drs: bool = 1,
    }
}

register! {
    /// Link Control 2.
    pub struct LinkControl2: u16 {
        /// Upper limit of the speed.
        target_speed: SpeedCode = 4,
        /// Enter compliance mode.
        enter_compliance: bool = 1,
        /// Hardware may not change the speed.
        autonomous_speed_disable: bool = 1,
        /// De-emphasis of -3.5 dB at 5 GT/s, else -6 dB.
        selectable_deemphasis: bool = 1,
        /// Transmit margin, as a code.
        transmit_margin: u8 = 3,
        /// Modified compliance pattern.
        modified_compliance: bool = 1,
        /// SKP ordered sets between compliance patterns.
        compliance_sos: bool = 1,
        /// Compliance preset or de-emphasis, as a code.
        compliance_preset: u8 = 4,
    }
}

register! {
    /// Link Status 2.
    pub struct LinkStatus2: u16 {
        /// De-emphasis of -3.5 dB, else -6 dB.
        deemphasis_3_5_db: bool = 1,
        /// Equalization at 8 GT/s is complete.
        equalization_complete: bool = 1,
        /// Phase 1 was successful.
        equalization_phase_1: bool = 1,
        /// Phase 2 was successful.
        equalization_phase_2: bool = 1,
        /// Phase 3 was successful.
        equalization_phase_3: bool = 1,
        /// Equalization is asked for.
        equalization_request: bool = 1,
        /// There is a retimer.
        retimer: bool = 1,
        /// There are two.
        two_retimers: bool = 1,
        /// Which way a crosslink was resolved.
        crosslink: Crosslink = 2,
        /// The link is in flit mode.
        flit_mode: bool = 1,
        __: u8 = 1,
        /// What is below a port.
        downstream_component: DownstreamComponent = 3,
        /// A device readiness message was received.
        drs_received: bool = 1,
    }
}

code! {
    /// Speed of a link.
    pub struct SpeedCode: u8 {
        /// 2.5 GT/s.
        GT_2_5 = 1 "2.5GT/s",
        /// 5 GT/s.
        GT_5 = 2 "5GT/s",
        /// 8 GT/s.
        GT_8 = 3 "8GT/s",
        /// 16 GT/s.
        GT_16 = 4 "16GT/s",
        /// 32 GT/s.
        GT_32 = 5 "32GT/s",
        /// 64 GT/s.
        GT_64 = 6 "64GT/s",
    }
}

impl SpeedCode {
    /// The transfer rate; `None` for a reserved code, which includes 0.
    #[must_use]
    pub const fn speed(self) -> Option<LinkSpeed> {
        match self {
            Self::GT_2_5 => Some(LinkSpeed(25)),
            Self::GT_5 => Some(LinkSpeed(50)),
            Self::GT_8 => Some(LinkSpeed(80)),
            Self::GT_16 => Some(LinkSpeed(160)),
            Self::GT_32 => Some(LinkSpeed(320)),
            Self::GT_64 => Some(LinkSpeed(640)),
            _ => None,
        }
    }
}

/// A set of speeds: bit 0 is 2.5 GT/s, bit 5 is 64 GT/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkSpeeds(pub u8);

bits!(LinkSpeeds: u8);

impl Describe for LinkSpeeds {
    fn describe(&self) -> Value {
        let set = (0..7).filter(|bit| self.0 >> bit & 1 != 0);
        Value::List(set.map(|bit| SpeedCode(bit + 1).describe()).collect())
    }
}

code! {
    /// States of active state power management.
    pub struct AspmSupport: u8 {
        /// None.
        NONE = 0 "none",
        /// L0s.
        L0S = 1 "L0s",
        /// L1.
        L1 = 2 "L1",
        /// L0s and L1.
        L0S_L1 = 3 "L0s+L1",
    }
}

code! {
    /// Time to leave L0s.
    pub struct ExitLatencyL0s: u8 {
        /// Less than 64 ns.
        NS_64 = 0 "<64ns",
        /// 64 to 128 ns.
        NS_128 = 1 "<128ns",
        /// 128 to 256 ns.
        NS_256 = 2 "<256ns",
        /// 256 to 512 ns.
        NS_512 = 3 "<512ns",
        /// 512 ns to 1 µs.
        US_1 = 4 "<1us",
        /// 1 to 2 µs.
        US_2 = 5 "<2us",
        /// 2 to 4 µs.
        US_4 = 6 "<=4us",
        /// More than 4 µs.
        LONGER = 7 ">4us",
    }
}

code! {
    /// Time to leave L1.
    pub struct ExitLatencyL1: u8 {
        /// Less than 1 µs.
        US_1 = 0 "<1us",
        /// 1 to 2 µs.
        US_2 = 1 "<2us",
        /// 2 to 4 µs.
        US_4 = 2 "<4us",
        /// 4 to 8 µs.
        US_8 = 3 "<8us",
        /// 8 to 16 µs.
        US_16 = 4 "<16us",
        /// 16 to 32 µs.
        US_32 = 5 "<32us",
        /// 32 to 64 µs.
        US_64 = 6 "<=64us",
        /// More than 64 µs.
        LONGER = 7 ">64us",
    }
}

code! {
    /// What a port does on a device readiness message.
    pub struct DrsSignaling: u8 {
        /// Nothing but a status bit.
        NONE = 0 "none",
        /// An interrupt.
        INTERRUPT = 1 "interrupt",
        /// A function readiness message.
        FRS = 2 "frs",
    }
}

code! {
    /// Resolution of a crosslink.
    pub struct Crosslink: u8 {
        /// Not supported.
        UNSUPPORTED = 0 "unsupported",
        /// This end is an upstream port.
        UPSTREAM = 1 "upstream",
        /// This end is a downstream port.
        DOWNSTREAM = 2 "downstream",
        /// Not finished.
        UNRESOLVED = 3 "unresolved",
    }
}

code! {
    /// What is below a port.
    pub struct DownstreamComponent: u8 {
        /// Link down, presence not known.
        DOWN_UNKNOWN = 0 "link-down",
        /// Link down, nothing there.
        DOWN_ABSENT = 1 "link-down-absent",
        /// Link down, something there.
        DOWN_PRESENT = 2 "link-down-present",
        /// Link up, something there.
        UP_PRESENT = 4 "link-up-present",
        /// Link up, and a readiness message received.
        UP_READY = 5 "link-up-ready",
    }
}
