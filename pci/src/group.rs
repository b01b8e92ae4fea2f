//! IOMMU groups: the smallest set of functions that the IOMMU can keep apart from the rest.

use crate::{Bdf, Reading};

/// The number of a group: `N` of `/sys/kernel/iommu_groups/N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// One IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// Its functions, in order of address.
    pub functions: Vec<Bdf>,
    /// The kind of default domain (`DMA-FQ`, `identity`, …).
    pub domain_type: Reading<String>,
}

/// Whether VFIO would hand out a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viability {
    /// Every endpoint is unbound or on a VFIO-capable driver.
    Viable,
    /// Some endpoint is on a host driver.
    Spoiled(Vec<Spoiler>),
}

/// A function that keeps its group from being handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoiler {
    /// The function.
    pub bdf: Bdf,
    /// Its driver, or why it is not known.
    pub driver: Reading<Option<String>>,
}
