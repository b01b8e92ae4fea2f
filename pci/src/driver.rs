//! Drivers of the PCI bus: `/sys/bus/pci/drivers`.

/// A driver registered with the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Its name (`vfio-pci`).
    pub name: String,
    /// The module it came from; `None` when built in.
    pub module: Option<String>,
}
