//! Structures of the extended capability list (PCIe 6.0 §7.7 to §7.9, §9.3, §10.5).

mod access;
mod aer;
mod containment;
mod exchange;
mod ide;
mod phy;
mod power;
mod rebar;
mod sriov;
mod timing;
mod translation;
mod vendor;

pub use access::{Acs, AcsCapability, AcsControl, Ari, AriCapability, AriControl, EgressBits};
pub use aer::{
    Aer, AerControl, CorrectableErrors, ErrorSources, RootErrorCommand, RootErrorStatus, UncorrectableErrors,
};
pub use containment::{
    Dpc, DpcCapability, DpcControl, DpcStatus, DpcTrigger, DpcTriggerEnable, RootPortPio, RpPioErrors,
};
pub use exchange::{Doe, DoeCapability, DoeControl, DoeStatus};
pub use ide::{
    Ide, IdeAddressAssociation, IdeCapability, IdeControl, IdeRequesterBase, IdeRequesterLimit, IdeState,
    LinkIdeControl, LinkIdeStream, SelectiveIdeCapability, SelectiveIdeControl, SelectiveIdeStream, StreamStatus,
};
pub use phy::{
    DataLinkFeature, DataLinkFeatureCapability, DataLinkFeatureStatus, Equalization8, Equalization16, LinkControl3,
    PhysicalLayer16, PhysicalLayer16Status, PhysicalLayer32, PhysicalLayer32Capability, PhysicalLayer32Control,
    PhysicalLayer32Status, SecondaryPcie,
};
pub use power::{
    L1Substates, L1SubstatesCapability, L1SubstatesControl1, L1SubstatesControl2, L1SubstatesStatus, Latency, Ltr,
    PowerOnTime, ThresholdTime,
};
pub use rebar::{BarSizes, ResizableBar, ResizableBarControl, ResizableBarEntry, SizeCode, VfResizableBar};
pub use sriov::{PageSizes, Sriov, SriovCapability, SriovControl, SriovStatus};
pub use timing::{
    Ptm, PtmCapability, PtmControl, PtmGranularity, SerialNumber, Tph, TphCapability, TphControl, TphMode,
    TphRequester, TphTableLocation,
};
pub use translation::{
    Ats, AtsCapability, AtsControl, Pasid, PasidCapability, PasidControl, Pri, PriControl, PriStatus, QueueDepth,
    TranslationUnit,
};
pub use vendor::{Dvsec, Vsec};
