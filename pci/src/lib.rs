//! PCI vocabulary and a reader of `/sys`: topology, configuration space, capabilities, IOMMU groups.
//!
//! Key types: [`Topology`] is one snapshot of every [`Function`]; [`Bdf`] names a function; [`Sysfs`] is the only way to a
//! file, so that every reader works on a captured tree as well as on the running machine. A value that could not be read is
//! an [`Unknown`] with its reason, never a missing device.
//!
//! Follows the PCI Express Base Specification 6.0 and the kernel's `Documentation/ABI/testing/sysfs-bus-pci`.
#![forbid(unsafe_code)]

mod bar;
mod bdf;
pub mod cap;
mod config;
mod describe;
mod driver;
pub mod dump;
pub mod ecap;
mod error;
mod function;
mod group;
mod header;
mod id;
mod iommu;
mod isolation;
mod names;
mod reading;
mod register;
mod sysfs;
mod topology;
mod translation;
mod walk;

pub use bar::{Bar, BarFlags, BarIndex};
pub use bdf::{Bdf, ParseBdfError, RoutingId, Segment};
pub use cap::{Capability, CapabilityId};
pub use config::{ConfigSpace, FindError};
pub use describe::{Bytes, Describe, Field, Hex, Value};
pub use driver::Driver;
pub use error::{Error, ErrorKind};
pub use function::{
    ClassDevice, Function, Link, LinkSpeed, LinkState, PowerState, ResetMethod, Sriov, VfIndex, VfOf,
    VirtualFunctionRef,
};
pub use group::{Group, GroupId, ReservedKind, ReservedRegion, Spoiler, Viability};
pub use header::{
    BarRegister, BridgeControl, BridgeHeader, CardBusHeader, Command, EndpointHeader, Header, HeaderKind, RomRegister,
    Status,
};
pub use id::{ClassCode, DeviceId, SubsystemId, VendorId};
pub use iommu::{AmdCap, AmdFeatures, AmdIommu, IntelEcap, IntelIommu, Iommu, IommuKind, IommuSupport};
pub use isolation::{AcsControls, Gap, Hop, HopFacts, Isolation};
pub use names::Names;
pub use reading::{Reading, Reason, Unknown};
pub use register::Truncated;
pub use sysfs::Sysfs;
pub use topology::{Fields, Topology};
pub use translation::TranslationServices;
pub use walk::{Walk, WalkEnd};
