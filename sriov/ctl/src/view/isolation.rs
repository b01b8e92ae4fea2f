//! What keeps a function's DMA apart, and what its IOMMU does for it.

use super::Unknowns;
use pci::{Hop, IommuKind, Isolation, Sysfs, TranslationServices};
use serde::Serialize;

/// A hop on the way of a function's requests to the root.
#[derive(Debug, Serialize)]
pub(crate) struct HopView {
    pub(crate) bdf: String,
    /// Whether it keeps requests from turning to its neighbours; `null` when its configuration space cannot be read.
    pub(crate) isolates: Option<bool>,
    pub(crate) reason: String,
}

/// ATS, PRI and PASID. A service that the function does not have is `null`.
#[derive(Debug, Serialize)]
pub(crate) struct TranslationView {
    pub(crate) ats: Option<Service>,
    pub(crate) pri: Option<Service>,
    pub(crate) pasid: Option<Service>,
    /// Whose PRI and PASID these are: the function itself, or the PF of a VF.
    pub(crate) shared_with: String,
    pub(crate) iommu: Option<IommuView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Service {
    pub(crate) enabled: bool,
}

/// The IOMMU unit of a function, and which services it can give.
#[derive(Debug, Serialize)]
pub(crate) struct IommuView {
    pub(crate) name: String,
    /// `intel`, `amd` or `other`.
    pub(crate) kind: Option<&'static str>,
    pub(crate) ats: Option<bool>,
    pub(crate) pri: Option<bool>,
    /// Widest PASID; `null` where it takes none.
    pub(crate) pasid_width_bits: Option<u8>,
}

impl From<Hop> for HopView {
    fn from(hop: Hop) -> Self {
        Self {
            bdf: hop.bdf.to_string(),
            isolates: hop
                .isolation
                .as_ref()
                .ok()
                .map(|isolation| !matches!(isolation, Isolation::Lacking(_))),
            reason: hop
                .isolation
                .map_or_else(|unknown| unknown.to_string(), |isolation| isolation.to_string()),
        }
    }
}

impl TranslationView {
    pub(crate) fn new(services: TranslationServices, sysfs: &Sysfs, unknown: &mut Unknowns) -> Self {
        let service = |enabled| Service { enabled };
        let iommu = unknown.optional("translation.iommu", services.iommu);
        Self {
            ats: unknown
                .optional("translation.ats", services.ats)
                .map(|ats| service(ats.control.enable())),
            pri: unknown
                .optional("translation.pri", services.pri)
                .map(|pri| service(pri.control.enable())),
            pasid: unknown
                .optional("translation.pasid", services.pasid)
                .map(|pasid| service(pasid.control.enable())),
            shared_with: services.shared_with.to_string(),
            iommu: iommu.map(|iommu| {
                let support = unknown.known("translation.iommu.support", iommu.support(sysfs));
                let kind = unknown.known("translation.iommu.kind", iommu.kind.clone());
                IommuView {
                    name: iommu.name,
                    kind: kind.map(|kind| match kind {
                        IommuKind::Intel(_) => "intel",
                        IommuKind::Amd(_) => "amd",
                        _ => "other",
                    }),
                    ats: support.map(|support| support.ats),
                    pri: support.map(|support| support.pri),
                    pasid_width_bits: support.and_then(|support| support.pasid_width_bits),
                }
            }),
        }
    }
}
