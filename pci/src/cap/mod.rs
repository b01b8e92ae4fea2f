//! Capabilities: where one lies ([`Capability`]), what it is ([`CapabilityId`]), and how it is decoded ([`Decode`]).
//!
//! The structures of the standard list (PCI 3.0 §6.7, PCIe 6.0 §7.5 and §7.7) are in this module, those of the extended list in
//! [`ecap`].

pub mod express;
mod features;
mod id;
mod msi;
mod pm;
mod vendor;

pub use express::{Express, PortType};
pub use features::{
    AdvancedFeatures, AdvancedFeaturesCapabilities, AdvancedFeaturesControl, AdvancedFeaturesStatus, AllocationEntry,
    AllocationFlags, AllocationKind, BridgeSubsystem, EnhancedAllocation,
};
pub use id::CapabilityId;
pub use msi::{BarOffset, Msi, MsiControl, MsiX, MsiXControl, TableSize, VectorCount};
pub use pm::{PmBridge, PmCapabilities, PmControlStatus, PmeStates, PowerManagement, PowerStateCode};
pub use vendor::VendorSpecific;

use crate::register::Window;
use crate::{ConfigSpace, Describe, Field, Truncated, Value, ecap};
use std::fmt;

/// A structure that a capability can be decoded into.
pub trait Decode: Describe + Sized {
    /// The identifier of the capability.
    const ID: CapabilityId;

    /// Decodes the capability, which has this identifier.
    ///
    /// # Errors
    /// Part of the structure is cut off.
    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated>;
}

/// A capability where it lies in configuration space.
#[derive(Debug, Clone, Copy)]
pub struct Capability<'a> {
    space: &'a ConfigSpace,
    bytes: &'a [u8],
    offset: u16,
    id: CapabilityId,
    version: Option<u8>,
}

impl<'a> Capability<'a> {
    pub(crate) fn new(space: &'a ConfigSpace, offset: u16, end: u16, id: CapabilityId, version: Option<u8>) -> Self {
        Self {
            space,
            bytes: space.window().bytes(offset, end),
            offset,
            id,
            version,
        }
    }

    /// Which capability.
    #[must_use]
    pub const fn id(&self) -> CapabilityId {
        self.id
    }

    /// Its offset in configuration space.
    #[must_use]
    pub const fn offset(&self) -> u16 {
        self.offset
    }

    /// The version in the header of an extended capability; `None` for a standard one.
    #[must_use]
    pub const fn version(&self) -> Option<u8> {
        self.version
    }

    /// Its bytes, from its header up to the next capability or to the end of the image. What it really uses may be less.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The image it lies in.
    #[must_use]
    pub const fn space(&self) -> &'a ConfigSpace {
        self.space
    }

    /// Decodes it as `C`; `None` when it is another capability.
    #[must_use]
    pub fn decode<C: Decode>(&self) -> Option<Result<C, Truncated>> {
        (self.id == C::ID).then(|| C::decode(self))
    }

    /// Its registers, decoded; the bytes of a capability that this crate does not decode as `raw` (without zeros at the end); or
    /// where it is cut off as `cut_off_at`.
    #[must_use]
    pub fn contents(&self) -> Value {
        let decoder = DECODERS.iter().find(|decoder| decoder.0 == self.id);
        match decoder.map(|decoder| decoder.1(self)) {
            Some(Ok(decoded)) => decoded,
            Some(Err(error)) => Value::Fields(vec![Field {
                name: "cut_off_at",
                value: Value::hex(error.at, 3),
            }]),
            None => {
                let len = self
                    .bytes
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |last| last + 1);
                Value::Fields(vec![Field {
                    name: "raw",
                    value: Value::Bytes(self.bytes.get(..len).unwrap_or_default().to_vec()),
                }])
            }
        }
    }

    pub(crate) fn window(&self) -> Window<'a> {
        Window {
            bytes: self.bytes,
            base: self.offset,
        }
    }
}

impl Describe for Capability<'_> {
    /// `offset`, `id`, `name`, `version`, and [`contents`](Capability::contents).
    fn describe(&self) -> Value {
        let field = |name, value| Field { name, value };
        Value::Fields(vec![
            field("offset", Value::hex(self.offset, 3)),
            field("id", self.id.describe()),
            field("name", self.id.name().map_or(Value::Absent, Value::text)),
            field("version", self.version.describe()),
            field("contents", self.contents()),
        ])
    }
}

impl fmt::Display for Capability<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:03x}] {}", self.offset, self.id)?;
        self.version.map_or(Ok(()), |version| write!(f, " v{version}"))
    }
}

type Decoder = fn(&Capability<'_>) -> Result<Value, Truncated>;

const fn decoder<C: Decode>() -> (CapabilityId, Decoder) {
    (C::ID, |capability| Ok(C::decode(capability)?.describe()))
}

/// Every capability that this crate decodes.
const DECODERS: &[(CapabilityId, Decoder)] = &[
    decoder::<PowerManagement>(),
    decoder::<Msi>(),
    decoder::<MsiX>(),
    decoder::<Express>(),
    decoder::<VendorSpecific>(),
    decoder::<BridgeSubsystem>(),
    decoder::<AdvancedFeatures>(),
    decoder::<EnhancedAllocation>(),
    decoder::<ecap::Aer>(),
    decoder::<ecap::SerialNumber>(),
    decoder::<ecap::Vsec>(),
    decoder::<ecap::Acs>(),
    decoder::<ecap::Ari>(),
    decoder::<ecap::Ats>(),
    decoder::<ecap::Sriov>(),
    decoder::<ecap::Pri>(),
    decoder::<ecap::ResizableBar>(),
    decoder::<ecap::Tph>(),
    decoder::<ecap::Ltr>(),
    decoder::<ecap::SecondaryPcie>(),
    decoder::<ecap::Pasid>(),
    decoder::<ecap::Dpc>(),
    decoder::<ecap::L1Substates>(),
    decoder::<ecap::Ptm>(),
    decoder::<ecap::Dvsec>(),
    decoder::<ecap::VfResizableBar>(),
    decoder::<ecap::DataLinkFeature>(),
    decoder::<ecap::PhysicalLayer16>(),
    decoder::<ecap::PhysicalLayer32>(),
    decoder::<ecap::Doe>(),
    decoder::<ecap::Ide>(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decoder_has_a_name_and_an_identifier_of_its_own() {
        for (index, (id, _)) in DECODERS.iter().enumerate() {
            assert!(id.name().is_some(), "{id:?}");
            assert!(DECODERS.iter().skip(index + 1).all(|other| other.0 != *id), "{id:?}");
        }
    }
}
