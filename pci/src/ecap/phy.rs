//! The link's lower layers: Secondary PCI Express (PCIe 6.0 §7.7.3), Data Link Feature (§7.7.4), Physical Layer 16.0 GT/s (§7.7.5)
//! and 32.0 GT/s (§7.7.6).

use crate::cap::express::{Express, LinkSpeeds};
use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{Register, register, structure};
use crate::{Hex, Truncated};

structure! {
    /// Secondary PCI Express: equalization at 8 GT/s.
    #[doc(alias = "PCI_EXT_CAP_ID_SECPCI")]
    pub struct SecondaryPcie {
        /// Link Control 3.
        link_control_3: LinkControl3,
        /// Lanes with errors, one bit each.
        lane_errors: Hex<u32>,
        /// Equalization of each lane of the link.
        lanes: Vec<Equalization8>,
    }
}

register! {
    /// Link Control 3.
    pub struct LinkControl3: u32 {
        /// Equalize at the next training.
        perform_equalization: bool = 1,
        /// Interrupt when equalization is asked for.
        equalization_interrupt: bool = 1,
        __: u8 = 7,
        /// Speeds at which SKP ordered sets are sent at the lower rate.
        lower_skp_generation: LinkSpeeds = 7,
        .. u16 = 16,
    }
}

register! {
    /// Equalization of a lane at 8 GT/s.
    pub struct Equalization8: u16 {
        /// Transmitter preset of the downstream port.
        downstream_preset: u8 = 4,
        /// Receiver preset hint of the downstream port.
        downstream_hint: u8 = 3,
        __: u8 = 1,
        /// Transmitter preset of the upstream port.
        upstream_preset: u8 = 4,
        /// Receiver preset hint of the upstream port.
        upstream_hint: u8 = 3,
        .. u8 = 1,
    }
}

structure! {
    /// Data Link Feature.
    #[doc(alias = "PCI_EXT_CAP_ID_DLF")]
    pub struct DataLinkFeature = DATA_LINK_FEATURE {
        /// What this end can do.
        0x04 capability: DataLinkFeatureCapability,
        /// What the other end can do.
        0x08 status: DataLinkFeatureStatus,
    }
}

register! {
    /// Data Link Feature capabilities register.
    pub struct DataLinkFeatureCapability: u32 {
        /// Scaled flow control.
        local_scaled_flow_control: bool = 1,
        /// The other features of this end, one bit each.
        local_features: Hex<u32> = 22,
        __: u8 = 8,
        /// Features are exchanged.
        exchange_enable: bool = 1,
    }
}

register! {
    /// Data Link Feature status register.
    pub struct DataLinkFeatureStatus: u32 {
        /// Scaled flow control.
        remote_scaled_flow_control: bool = 1,
        /// The other features of the other end, one bit each.
        remote_features: Hex<u32> = 22,
        __: u8 = 8,
        /// The other end has told.
        remote_valid: bool = 1,
    }
}

structure! {
    /// Physical Layer 16.0 GT/s. Its capability and control registers have no bits.
    #[doc(alias = "PCI_EXT_CAP_ID_PL_16GT")]
    pub struct PhysicalLayer16 {
        /// Status.
        status: PhysicalLayer16Status,
        /// Lanes with a parity mismatch, one bit each.
        local_parity_mismatch: Hex<u32>,
        /// Lanes with a parity mismatch at the first retimer.
        first_retimer_parity_mismatch: Hex<u32>,
        /// Lanes with a parity mismatch at the second retimer.
        second_retimer_parity_mismatch: Hex<u32>,
        /// Equalization of each lane of the link.
        lanes: Vec<Equalization16>,
    }
}

register! {
    /// 16.0 GT/s status register.
    pub struct PhysicalLayer16Status: u32 {
        /// Equalization is complete.
        equalization_complete: bool = 1,
        /// Phase 1 was successful.
        equalization_phase_1: bool = 1,
        /// Phase 2 was successful.
        equalization_phase_2: bool = 1,
        /// Phase 3 was successful.
        equalization_phase_3: bool = 1,
        /// Equalization is asked for.
        equalization_request: bool = 1,
        .. u32 = 27,
    }
}

register! {
    /// Equalization of a lane at 16 or 32 GT/s.
    pub struct Equalization16: u8 {
        /// Transmitter preset of the downstream port.
        downstream_preset: u8 = 4,
        /// Transmitter preset of the upstream port.
        upstream_preset: u8 = 4,
    }
}

structure! {
    /// Physical Layer 32.0 GT/s.
    #[doc(alias = "PCI_EXT_CAP_ID_PL_32GT")]
    pub struct PhysicalLayer32 {
        /// What it can do.
        capability: PhysicalLayer32Capability,
        /// Control.
        control: PhysicalLayer32Control,
        /// Status.
        status: PhysicalLayer32Status,
        /// Modified training sets received, two dwords.
        received_modified_ts: [Hex<u32>; 2],
        /// Modified training sets sent, two dwords.
        transmitted_modified_ts: [Hex<u32>; 2],
        /// Equalization of each lane of the link.
        lanes: Vec<Equalization16>,
    }
}

register! {
    /// 32.0 GT/s capabilities register.
    pub struct PhysicalLayer32Capability: u32 {
        /// Equalization can go straight to the highest rate.
        equalization_bypass: bool = 1,
        /// Equalization can be left out.
        no_equalization: bool = 1,
        __: u8 = 6,
        /// Modified training sets can be used for PCI Express.
        modified_ts_pcie: bool = 1,
        /// Modified training sets can be used for vendor messages.
        modified_ts_training_set_message: bool = 1,
        /// Modified training sets can be used to choose another protocol.
        modified_ts_alternate_protocol: bool = 1,
        .. u32 = 21,
    }
}

register! {
    /// 32.0 GT/s control register.
    pub struct PhysicalLayer32Control: u32 {
        /// Equalization does not go straight to the highest rate.
        equalization_bypass_disable: bool = 1,
        /// Equalization is not left out.
        no_equalization_disable: bool = 1,
        __: u8 = 6,
        /// What modified training sets are used for, as a code.
        modified_ts_usage: u8 = 3,
        .. u32 = 21,
    }
}

register! {
    /// 32.0 GT/s status register.
    pub struct PhysicalLayer32Status: u32 {
        /// Equalization is complete.
        equalization_complete: bool = 1,
        /// Phase 1 was successful.
        equalization_phase_1: bool = 1,
        /// Phase 2 was successful.
        equalization_phase_2: bool = 1,
        /// Phase 3 was successful.
        equalization_phase_3: bool = 1,
        /// Equalization is asked for.
        equalization_request: bool = 1,
        /// Modified training sets were received.
        modified_ts_received: bool = 1,
        /// How far the link behaves as the enhanced rules say, as a code.
        enhanced_link_behavior: u8 = 2,
        /// The transmitter precodes.
        transmitter_precoding: bool = 1,
        /// The receiver asks for precoding.
        precoding_request: bool = 1,
        /// The other end needs no equalization.
        no_equalization_received: bool = 1,
        .. u32 = 21,
    }
}

impl Decode for SecondaryPcie {
    const ID: CapabilityId = CapabilityId::SECONDARY_PCIE;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        Ok(Self {
            link_control_3: window.read(0x04)?,
            lane_errors: window.read(0x08)?,
            lanes: lanes(capability, 0x0c),
        })
    }
}

impl Decode for PhysicalLayer16 {
    const ID: CapabilityId = CapabilityId::PHYSICAL_LAYER_16;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        Ok(Self {
            status: window.read(0x0c)?,
            local_parity_mismatch: window.read(0x10)?,
            first_retimer_parity_mismatch: window.read(0x14)?,
            second_retimer_parity_mismatch: window.read(0x18)?,
            lanes: lanes(capability, 0x20),
        })
    }
}

impl Decode for PhysicalLayer32 {
    const ID: CapabilityId = CapabilityId::PHYSICAL_LAYER_32;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        Ok(Self {
            capability: window.read(0x04)?,
            control: window.read(0x08)?,
            status: window.read(0x0c)?,
            received_modified_ts: window.read(0x10)?,
            transmitted_modified_ts: window.read(0x18)?,
            lanes: lanes(capability, 0x20),
        })
    }
}

/// One register for each lane that the link can have, as far as there is room; how many that is, the PCI Express capability says.
fn lanes<R: Register>(capability: &Capability<'_>, offset: u16) -> Vec<R> {
    let express = capability.space().find::<Express>().ok().flatten();
    let width = express
        .and_then(|express| express.link_capabilities)
        .map_or(0, |link| link.max_width());
    let lane = |number| capability.window().read(offset + R::LEN_BYTES * number).ok();
    (0..u16::from(width)).map_while(lane).collect()
}
