//! Who may talk to whom: Access Control Services (PCIe 6.0 §7.7.11) and Alternative Routing-ID Interpretation (§7.8.8).

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{bits, register, structure};
use crate::{Describe, Hex, Truncated, Value};

structure! {
    /// Access Control Services: what keeps functions below a port apart.
    #[doc(alias = "PCI_EXT_CAP_ID_ACS")]
    pub struct Acs {
        /// What it can do.
        capability: AcsCapability,
        /// What it does.
        control: AcsControl,
        /// Peers that requests are not let out to, one bit each; where egress control is supported, and as far as the capability can
        /// extend.
        egress_vector: Option<Vec<Hex<u32>>>,
    }
}

register! {
    /// ACS capability register.
    pub struct AcsCapability: u16 {
        /// Requester ids are checked.
        source_validation: bool = 1,
        /// Translated requests are blocked.
        translation_blocking: bool = 1,
        /// Requests between peers go up to the root.
        p2p_request_redirect: bool = 1,
        /// Completions between peers go up to the root.
        p2p_completion_redirect: bool = 1,
        /// What the root sends back is forwarded.
        upstream_forwarding: bool = 1,
        /// Peers can be blocked one by one.
        p2p_egress_control: bool = 1,
        /// Translated requests go straight to peers.
        direct_translated_p2p: bool = 1,
        /// The enhanced controls are there.
        enhanced: bool = 1,
        /// Bits in the egress control vector.
        egress_vector_bits: EgressBits = 8,
    }
}

register! {
    /// ACS control register.
    pub struct AcsControl: u16 {
        /// Requester ids are checked.
        source_validation: bool = 1,
        /// Translated requests are blocked.
        translation_blocking: bool = 1,
        /// Requests between peers go up to the root.
        p2p_request_redirect: bool = 1,
        /// Completions between peers go up to the root.
        p2p_completion_redirect: bool = 1,
        /// What the root sends back is forwarded.
        upstream_forwarding: bool = 1,
        /// Peers are blocked as the egress control vector says.
        p2p_egress_control: bool = 1,
        /// Translated requests go straight to peers.
        direct_translated_p2p: bool = 1,
        /// I/O requests are blocked.
        io_request_blocking: bool = 1,
        /// Access to memory of downstream ports, as a code.
        downstream_memory_access: u8 = 2,
        /// Access to memory of upstream ports, as a code.
        upstream_memory_access: u8 = 2,
        /// Requests that nobody claims go up to the root.
        unclaimed_request_redirect: bool = 1,
        .. u8 = 3,
    }
}

/// Size of the egress control vector, stored in 8 bits: 0 stands for 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressBits(pub u8);

bits!(EgressBits: u8);

impl EgressBits {
    /// 1 to 256.
    #[must_use]
    pub fn bits(self) -> u16 {
        if self.0 == 0 { 256 } else { u16::from(self.0) }
    }
}

impl Describe for EgressBits {
    fn describe(&self) -> Value {
        Value::Int(u64::from(self.bits()))
    }
}

impl Decode for Acs {
    const ID: CapabilityId = CapabilityId::ACS;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let register: AcsCapability = window.read(0x04)?;
        let words = register.egress_vector_bits().bits().div_ceil(32);
        let vector = || (0..words).map_while(|word| window.read(0x08 + 4 * word).ok()).collect();
        Ok(Self {
            capability: register,
            control: window.read(0x06)?,
            egress_vector: register.p2p_egress_control().then(vector),
        })
    }
}

structure! {
    /// Alternative Routing-ID Interpretation: function numbers of 8 bits, and no device number.
    #[doc(alias = "PCI_EXT_CAP_ID_ARI")]
    pub struct Ari = ARI {
        /// What it can do.
        0x04 capability: AriCapability,
        /// What it does.
        0x06 control: AriControl,
    }
}

register! {
    /// ARI capability register.
    pub struct AriCapability: u16 {
        /// Function groups for virtual channels.
        mfvc_function_groups: bool = 1,
        /// Function groups for access control.
        acs_function_groups: bool = 1,
        __: u8 = 6,
        /// Number of the next function of the device; 0 for the last.
        next_function: u8 = 8,
    }
}

register! {
    /// ARI control register.
    pub struct AriControl: u16 {
        /// Function groups for virtual channels.
        mfvc_function_groups: bool = 1,
        /// Function groups for access control.
        acs_function_groups: bool = 1,
        __: u8 = 2,
        /// Which group the function belongs to.
        function_group: u8 = 3,
        .. u16 = 9,
    }
}
