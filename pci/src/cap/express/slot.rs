//! Slot and root registers of the PCI Express capability (PCIe 6.0 §7.5.3.9 to §7.5.3.14 and §7.5.3.21).

use super::PowerLimit;
use crate::Hex;
use crate::register::{code, register};

register! {
    /// Slot Capabilities.
    pub struct SlotCapabilities: u32 {
        /// Attention button.
        attention_button: bool = 1,
        /// Power controller.
        power_controller: bool = 1,
        /// Manually operated retention latch with a sensor.
        mrl_sensor: bool = 1,
        /// Attention indicator.
        attention_indicator: bool = 1,
        /// Power indicator.
        power_indicator: bool = 1,
        /// Devices may be removed without notice.
        hot_plug_surprise: bool = 1,
        /// Hot-plug is supported.
        hot_plug: bool = 1,
        /// Power that the slot provides.
        power_limit "power_limit_mw": PowerLimit = 10,
        /// Electromechanical interlock.
        interlock: bool = 1,
        /// Commands complete at once, without notice.
        no_command_completed: bool = 1,
        /// Number of the slot in the chassis.
        slot_number: u16 = 13,
    }
}

register! {
    /// Slot Control.
    pub struct SlotControl: u16 {
        /// Notice when the attention button is pressed.
        attention_button: bool = 1,
        /// Notice of power faults.
        power_fault: bool = 1,
        /// Notice when the latch is moved.
        mrl_sensor: bool = 1,
        /// Notice of presence changes.
        presence_change: bool = 1,
        /// Notice of completed commands.
        command_completed: bool = 1,
        /// Notices come as interrupts.
        hot_plug_interrupt: bool = 1,
        /// Attention indicator.
        attention_indicator: IndicatorControl = 2,
        /// Power indicator.
        power_indicator: IndicatorControl = 2,
        /// The slot's power is off.
        power_off: bool = 1,
        /// Toggle the interlock; reads as zero.
        interlock: bool = 1,
        /// Notice of data link layer changes.
        dll_state_change: bool = 1,
        /// The power limit is not sent when the link comes up.
        auto_power_limit_disable: bool = 1,
        /// Presence is not detected through the link.
        in_band_presence_disable: bool = 1,
        .. u8 = 1,
    }
}

register! {
    /// Slot Status.
    pub struct SlotStatus: u16 {
        /// The attention button was pressed.
        attention_button: bool = 1,
        /// There was a power fault.
        power_fault: bool = 1,
        /// The latch was moved.
        mrl_changed: bool = 1,
        /// Presence has changed.
        presence_changed: bool = 1,
        /// A command has completed.
        command_completed: bool = 1,
        /// The latch is open.
        mrl_open: bool = 1,
        /// The slot is occupied.
        present: bool = 1,
        /// The interlock is engaged.
        interlock: bool = 1,
        /// The data link layer's state has changed.
        dll_state_changed: bool = 1,
        .. u8 = 7,
    }
}

register! {
    /// Slot Capabilities 2.
    pub struct SlotCapabilities2: u32 {
        /// Presence detection through the link can be disabled.
        in_band_presence_disable: bool = 1,
        .. u32 = 31,
    }
}

register! {
    /// Root Control.
    pub struct RootControl: u16 {
        /// System error on correctable errors.
        serr_on_correctable: bool = 1,
        /// System error on non-fatal errors.
        serr_on_non_fatal: bool = 1,
        /// System error on fatal errors.
        serr_on_fatal: bool = 1,
        /// Interrupt on power management events.
        pme_interrupt: bool = 1,
        /// Configuration request retry is shown to software.
        rrs_software_visibility: bool = 1,
        /// No function below is not in flit mode.
        no_non_flit_subtree: bool = 1,
        .. u16 = 10,
    }
}

register! {
    /// Root Capabilities.
    pub struct RootCapabilities: u16 {
        /// Configuration request retry can be shown to software.
        rrs_software_visibility: bool = 1,
        .. u16 = 15,
    }
}

register! {
    /// Root Status.
    pub struct RootStatus: u32 {
        /// Routing id of the function that sent the last power management event.
        pme_requester: Hex<u16> = 16,
        /// A power management event has arrived.
        pme_status: bool = 1,
        /// Another one is waiting.
        pme_pending: bool = 1,
        .. u16 = 14,
    }
}

code! {
    /// What an indicator shows.
    pub struct IndicatorControl: u8 {
        /// On.
        ON = 1 "on",
        /// Blinking.
        BLINK = 2 "blink",
        /// Off.
        OFF = 3 "off",
    }
}
