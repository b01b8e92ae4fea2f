//! Page tables in hardware, made on purpose.

use super::command;
use super::fault::FaultQueue;
use super::invalidate::{self, InvalidateError, Invalidation};
use super::ioas::Ioas;
use super::object::{FAULTING_HWPT, sealed};
use super::viommu::Viommu;
use super::{IommuDevice, Object, ObjectId, PageTable, Parent};
use crate::sys::iommufd::HwptAlloc;
use crate::{DirtyBitmap, Error};
use std::sync::Arc;

bitflags::bitflags! {
    /// What a page table must be good for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct HwptFlags: u32 {
        /// Guests' own tables can be nested under it.
        const NEST_PARENT = 1;
        /// Only devices whose IOMMU tracks dirty pages can be attached.
        const DIRTY_TRACKING = 2;
        /// It can be attached to a PASID, or to a device that has others attached to PASIDs.
        const PASID = 8;
    }
}

bitflags::bitflags! {
    /// `enum iommu_hwpt_vtd_s1_flags`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct VtdS1Flags: u64 {
        /// Supervisor requests.
        const SRE = 1;
        /// Extended access flags.
        const EAFE = 2;
        /// Write protection for supervisors.
        const WPE = 4;
    }
}

/// What a page table is made over.
#[derive(Debug, Clone, Copy)]
pub enum HwptParent<'a> {
    /// An address space, whose mappings it holds.
    Ioas(&'a Ioas),
    /// A table with [`HwptFlags::NEST_PARENT`], under which it nests.
    Hwpt(&'a Hwpt),
    /// A virtual IOMMU, which stands for such a table.
    Viommu(&'a Viommu),
}

/// A guest's own table, in its IOMMU's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HwptData<'a> {
    /// None: the table is the kernel's.
    #[default]
    None,
    /// Intel VT-d, first stage.
    VtdS1 {
        /// How it is walked.
        flags: VtdS1Flags,
        /// Where it is, in the parent's addresses.
        table: u64,
        /// Width of its addresses in bits.
        address_width: u32,
    },
    /// Arm SMMUv3: the first two words of the guest's stream table entry.
    SmmuV3 {
        /// The words; converted to little-endian here.
        ste: [u64; 2],
    },
    /// AMD: the guest's device table entry.
    AmdGuest {
        /// Its words.
        dte: [u64; 4],
    },
    /// Another kind of table, as the kernel lays its description out.
    Raw {
        /// `enum iommu_hwpt_data_type`, not 0 with any bytes.
        kind: u32,
        /// The structure.
        bytes: &'a [u8],
    },
}

/// A page table in hardware. Cheap to clone; destroyed with the last clone and attachment.
///
/// ```no_run
/// use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, IommuDevice, Ioas};
/// use vfio_core::{DirtyBitmap, Error, IovaRange};
///
/// /// Prints what devices write.
/// fn watch(device: &dyn IommuDevice, ioas: &Ioas, range: IovaRange) -> Result<(), Error> {
///     let hwpt = Hwpt::alloc(device, HwptParent::Ioas(ioas), HwptFlags::DIRTY_TRACKING, HwptData::None, None)?;
///     hwpt.set_dirty_tracking(true)?;
///     // Attach the device to it, and let it work.
///     let mut dirty = DirtyBitmap::new(range, 4096)?;
///     hwpt.dirty_bitmap(&mut dirty, true)?;
///     dirty.ranges().for_each(|range| println!("{range}"));
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Hwpt {
    object: Arc<Object>,
    /// Whose mappings it holds; `None` for a guest's own.
    ioas: Option<Ioas>,
}

impl Hwpt {
    /// Makes a table that fits the IOMMU in front of `device`, which need not be attached to it. With `fault`, page requests of attached devices
    /// come there.
    ///
    /// A table with `fault` can be attached only to a device with PRI that is no VF: attaching is refused without PRI (ENODEV) and for a VF
    /// whose PF has it (EINVAL).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the IOMMU lacks what the flags or the data ask for, and for a fault
    /// queue with [`HwptFlags::NEST_PARENT`]; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for objects of different iommufds;
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) with EINVAL for a parent that is none.
    #[doc(alias = "IOMMU_HWPT_ALLOC")]
    pub fn alloc(
        device: &dyn IommuDevice,
        parent: HwptParent<'_>,
        flags: HwptFlags,
        data: HwptData<'_>,
        fault: Option<&FaultQueue>,
    ) -> Result<Self, Error> {
        let command = command::HWPT_ALLOC;
        let (parent, ioas) = match parent {
            HwptParent::Ioas(ioas) => (ioas.object(), Some(ioas.clone())),
            HwptParent::Hwpt(hwpt) => (&hwpt.object, None),
            HwptParent::Viommu(viommu) => (viommu.object(), None),
        };
        let iommufd = parent.iommufd();
        iommufd.check_own(device.iommufd(), command)?;
        let fault = fault.map(FaultQueue::object);
        if let Some(queue) = fault {
            iommufd.check_own(queue.iommufd(), command)?;
        }
        let (kind, data) = data.encode();
        if kind == 0 && !data.is_empty() {
            return Err(command.invalid("data without a type"));
        }
        let request = HwptAlloc {
            device: device.device_id().0,
            parent: parent.id().0,
            flags: flags.bits(),
            kind,
            data: &data,
            fault: fault.map(|queue| queue.id().0),
        };
        let id = iommufd
            .calls()
            .hwpt_alloc(&request)
            .map_err(|errno| command.error(errno))?;
        let parents = std::iter::once(parent)
            .chain(fault)
            .map(|object| Arc::<Object>::clone(object) as Parent);
        let kind = if fault.is_some() { FAULTING_HWPT } else { "HWPT" };
        let object = Object::new(iommufd, id, kind, parents.collect());
        Ok(Self { object, ioas })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// Starts or stops tracking which pages devices write. Starting forgets what was dirty before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the IOMMU cannot.
    #[doc(alias = "IOMMU_HWPT_SET_DIRTY_TRACKING")]
    pub fn set_dirty_tracking(&self, on: bool) -> Result<(), Error> {
        let set = self.object.iommufd().calls().hwpt_set_dirty_tracking(self.id().0, on);
        set.map_err(|errno| command::HWPT_SET_DIRTY_TRACKING.error(errno))
    }

    /// Adds to `bitmap` the pages of its range that devices have written since tracking began or since they were last cleared. Without `clear`
    /// the kernel keeps them as dirty, which saves work just before an unmap.
    ///
    /// What counts as one page may be as large as the table's entries are, 1 GiB or more, but never larger than a mapping. To clear, the range
    /// must hold every mapping that it touches whole: where it begins inside an entry, the kernel would clear it without telling. Without `clear`
    /// such an entry is not told either.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) to clear a range that cuts a mapping, or anything of a table that was made over a
    /// [`HwptParent::Hwpt`] or [`HwptParent::Viommu`];
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the table cannot track.
    #[doc(alias = "IOMMU_HWPT_GET_DIRTY_BITMAP")]
    pub fn dirty_bitmap(&self, bitmap: &mut DirtyBitmap, clear: bool) -> Result<(), Error> {
        let command = command::HWPT_GET_DIRTY_BITMAP;
        let shared = self.ioas.as_ref().map(|ioas| ioas.space().share());
        if clear {
            match &shared {
                Some(shared) if !shared.is_cut_by(bitmap.range()) => {}
                Some(_) => return Err(command.invalid("clearing a part of a mapping")),
                // Whose mappings they would be is not known, and the kernel keeps none for such a table.
                None => return Err(command.invalid("clearing what a guest's own table has marked")),
            }
        }
        let (start, len, page_size) = (bitmap.range().start().0, bitmap.len_bytes(), bitmap.page_size());
        let calls = self.object.iommufd().calls();
        let read = calls.hwpt_get_dirty_bitmap(self.id().0, clear, start, len, page_size, bitmap.words_mut());
        read.map_err(|errno| command.error(errno))
    }

    /// Invalidates what the IOMMU has cached of a nested table, entry by entry; returns how many there were.
    ///
    /// # Errors
    ///
    /// With the number of entries that were handled before one failed.
    #[doc(alias = "IOMMU_HWPT_INVALIDATE")]
    pub fn invalidate(&self, entries: Invalidation<'_>) -> Result<u32, InvalidateError> {
        invalidate::run(&self.object, entries)
    }
}

impl sealed::Sealed for Hwpt {}

impl PageTable for Hwpt {
    fn object(&self) -> &Arc<Object> {
        &self.object
    }
}

impl HwptData<'_> {
    /// Type and structure, as the kernel wants them.
    fn encode(&self) -> (u32, Vec<u8>) {
        match self {
            Self::None => (0, Vec::new()),
            Self::VtdS1 {
                flags,
                table,
                address_width,
            } => {
                let words = [flags.bits(), *table, 0];
                let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                for (to, from) in bytes.iter_mut().skip(16).zip(address_width.to_ne_bytes()) {
                    *to = from;
                }
                (1, bytes)
            }
            Self::SmmuV3 { ste } => (2, ste.iter().flat_map(|word| word.to_le_bytes()).collect()),
            Self::AmdGuest { dte } => (3, dte.iter().flat_map(|word| word.to_ne_bytes()).collect()),
            Self::Raw { kind, bytes } => (*kind, bytes.to_vec()),
        }
    }
}
