//! Nesting: a guest translates with its own page table, and what comes out is translated by a space.

use crate::space::{AddressSpace, AllWritable};
use crate::{Error, Result};
use std::sync::Arc;
use vfio_core::iommufd::{
    HwInfoData, Hwpt, HwptData, HwptFlags, HwptParent, InvalidateError, Invalidation, IommuDevice, Viommu, ViommuKind,
    VtdS1Flags, VtdS1Invalidation,
};

/// The second stage that guests' tables nest under: a space, as a page table made for that. Cheap to clone.
///
/// ```no_run
/// use iommu::nested::Nesting;
/// use iommu::space::AddressSpace;
/// use vfio_core::iommufd::{IommuDevice, VtdS1Flags};
/// use vfio_core::BoundDevice;
///
/// fn guest_table(space: &AddressSpace, device: &BoundDevice, table: u64) -> Result<(), iommu::Error> {
///     let object = device.iommufd_device().ok_or(iommu::Error::Unsupported("nesting on type1"))?;
///     let nesting = Nesting::new(space, &object)?;
///     let table = nesting.vtd_s1(&object, VtdS1Flags::empty(), table, 48)?;
///     let attachment = device.attach(table.hwpt(), None)?;
///     // ... until the guest changes its context entry
///     Ok(attachment.detach()?)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Nesting {
    parent: Hwpt,
    /// Where what is mapped for reading only would be written by the IOMMU: erratum 772415.
    all_writable: Option<Arc<AllWritable>>,
}

/// A guest's table.
#[derive(Debug, Clone)]
pub struct NestedTable {
    hwpt: Hwpt,
    _all_writable: Option<Arc<AllWritable>>,
}

/// Nested translation, in VT-d's extended capability register.
const ECAP_NEST: u64 = 1 << 26;
/// Five-level tables for the first stage, in VT-d's capability register.
const CAP_FL5LP: u64 = 1 << 60;
/// What reads of a nesting parent's read-only mappings break, in the flags of VT-d's information.
const ERRATUM_772415: u32 = 1;

impl Nesting {
    /// Makes `space` a second stage for `device`. Where the IOMMU [forbids](Self::forbids_read_only) it, the space refuses mappings for
    /// reading only as long as this or a guest's table lives.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on type1, for an IOMMU that does not nest, and if there are mappings for reading only that it forbids.
    pub fn new(space: &AddressSpace, device: &dyn IommuDevice) -> Result<Self> {
        let ioas = space
            .ioas()
            .ok_or(Error::Unsupported("nesting on type1; iommufd nests"))?;
        let info = device.iommufd().hw_info(device)?;
        let mut all_writable = None;
        if let HwInfoData::IntelVtd { flags, extended, .. } = info.data {
            if extended & ECAP_NEST == 0 {
                return Err(Error::Unsupported("nesting: this VT-d translates in one stage"));
            }
            if flags & ERRATUM_772415 != 0 {
                all_writable = Some(Arc::new(space.all_writable()?));
            }
        }
        let parent = Hwpt::alloc(
            device,
            HwptParent::Ioas(ioas),
            HwptFlags::NEST_PARENT,
            HwptData::None,
            None,
        )?;
        Ok(Self { parent, all_writable })
    }

    /// The second stage's page table.
    #[must_use]
    pub fn parent(&self) -> &Hwpt {
        &self.parent
    }

    /// Whether mappings without write access break nesting on this IOMMU (erratum 772415 of VT-d): everything is to be mapped for
    /// reading and writing then, and the space refuses the rest.
    #[must_use]
    pub fn forbids_read_only(&self) -> bool {
        self.all_writable.is_some()
    }

    /// A guest's first-stage table of VT-d at `table`, a guest address, with 48 or 57 address bits.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a table off its page or another width; [`Error::Unsupported`] for an IOMMU that is no VT-d, or has no
    /// tables this wide.
    pub fn vtd_s1(
        &self,
        device: &dyn IommuDevice,
        flags: VtdS1Flags,
        table: u64,
        address_width: u32,
    ) -> Result<NestedTable> {
        if !table.is_multiple_of(4096) {
            return Err(Error::Invalid("the guest's table is not at a page"));
        }
        match device.iommufd().hw_info(device)?.data {
            HwInfoData::IntelVtd { capabilities, .. } => match address_width {
                48 => {}
                57 if capabilities & CAP_FL5LP != 0 => {}
                57 => return Err(Error::Unsupported("tables of five levels: this VT-d has four")),
                _ => return Err(Error::Invalid("a table of VT-d has 48 or 57 address bits")),
            },
            _ => return Err(Error::Unsupported("a table of VT-d on another IOMMU")),
        }
        let data = HwptData::VtdS1 {
            flags,
            table,
            address_width,
        };
        self.table(device, HwptParent::Hwpt(&self.parent), data)
    }

    /// A guest's table of AMD's IOMMU, as the guest's device table entry describes it. `viommu` stands for the guest's IOMMU:
    /// [`viommu`](Self::viommu).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an IOMMU that is no AMD; those of the kernel, which checks the entry.
    pub fn amd(&self, device: &dyn IommuDevice, viommu: &Viommu, dte: [u64; 4]) -> Result<NestedTable> {
        if !matches!(device.iommufd().hw_info(device)?.data, HwInfoData::Amd { .. }) {
            return Err(Error::Unsupported("a table of AMD on another IOMMU"));
        }
        self.table(device, HwptParent::Viommu(viommu), HwptData::AmdGuest { dte })
    }

    /// Any other table, as the kernel lays its description out.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn table(&self, device: &dyn IommuDevice, parent: HwptParent<'_>, data: HwptData<'_>) -> Result<NestedTable> {
        let hwpt = Hwpt::alloc(device, parent, HwptFlags::empty(), data, None)?;
        Ok(NestedTable {
            hwpt,
            _all_writable: self.all_writable.clone(),
        })
    }

    /// The guest's IOMMU, for tables and events that belong to one.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](vfio_core::ErrorKind::Unsupported) where the kernel has none of this kind; VT-d has none at all.
    pub fn viommu(&self, device: &dyn IommuDevice, kind: ViommuKind, data: &mut [u8]) -> Result<Viommu> {
        Ok(Viommu::alloc(device, &self.parent, kind, data)?)
    }
}

impl NestedTable {
    /// The page table to attach the device to, without a PASID or with one.
    #[must_use]
    pub fn hwpt(&self) -> &Hwpt {
        &self.hwpt
    }

    /// Passes a guest's invalidations of first-stage entries on to VT-d.
    ///
    /// # Errors
    ///
    /// With the number of entries that were handled before one failed.
    pub fn invalidate(&self, entries: &[VtdS1Invalidation]) -> std::result::Result<u32, InvalidateError> {
        self.hwpt.invalidate(Invalidation::VtdS1(entries))
    }

    /// Forgets everything that VT-d has cached of the table.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    pub fn invalidate_all(&self) -> std::result::Result<(), InvalidateError> {
        let all = VtdS1Invalidation {
            address: 0,
            pages: u64::MAX,
            leaf: false,
        };
        self.invalidate(&[all]).map(|_one| ())
    }
}
