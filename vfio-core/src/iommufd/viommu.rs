//! Slices of an IOMMU for one virtual machine.

use super::command;
use super::hwpt::Hwpt;
use super::invalidate::{self, InvalidateError, Invalidation};
use super::{IommuDevice, Object, ObjectId, PageTable, Parent};
use crate::sys::mmio::Map;
use crate::{Error, IovaRange};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A kind of virtual IOMMU (`enum iommu_viommu_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViommuKind(pub u32);

impl ViommuKind {
    /// Arm SMMUv3; no data.
    pub const ARM_SMMUV3: Self = Self(1);
    /// NVIDIA Tegra241 CMDQV; the kernel writes offset and length of the virtual interface, 8 bytes each, to map with
    /// [`Viommu::map`].
    pub const TEGRA241_CMDQV: Self = Self(2);
}

/// A kind of queue in hardware (`enum iommu_hw_queue_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HwQueueKind(pub u32);

impl HwQueueKind {
    /// A virtual command queue of NVIDIA Tegra241 CMDQV: allocated from index 0 upwards.
    pub const TEGRA241_CMDQV: Self = Self(1);
}

/// A virtual IOMMU: what a physical one sets apart for a virtual machine. Cheap to clone.
///
/// ```no_run
/// use vfio_core::Error;
/// use vfio_core::iommufd::{
///     Hwpt, HwptData, HwptFlags, HwptParent, IommuDevice, Ioas, Vdevice, VeventKind, VeventQueue, Viommu, ViommuKind,
/// };
///
/// /// A virtual machine's SMMUv3, in which the device has stream id 8.
/// fn slice(device: &dyn IommuDevice, ioas: &Ioas) -> Result<(Vdevice, VeventQueue), Error> {
///     let parent = Hwpt::alloc(device, HwptParent::Ioas(ioas), HwptFlags::NEST_PARENT, HwptData::None, None)?;
///     let viommu = Viommu::alloc(device, &parent, ViommuKind::ARM_SMMUV3, &mut [])?;
///     Ok((Vdevice::alloc(&viommu, device, 8)?, VeventQueue::alloc(&viommu, VeventKind::ARM_SMMUV3, 64)?))
/// }
/// ```
#[derive(Clone)]
pub struct Viommu {
    inner: Arc<Inner>,
}

struct Inner {
    object: Arc<Object>,
    /// Its queues by kind and index.
    queues: Mutex<BTreeMap<(HwQueueKind, u32), Weak<Object>>>,
}

/// A device as a virtual machine numbers it.
#[derive(Debug)]
pub struct Vdevice {
    object: Arc<Object>,
}

/// A queue in guest memory that the hardware reads by itself. Holds the one with the index before its own, which must not go first.
#[derive(Debug)]
pub struct HwQueue {
    object: Arc<Object>,
}

/// A part of an object that is mapped into the process. Unmapped when dropped.
#[derive(Debug)]
pub struct ObjectMap {
    map: Map,
    /// Pins the pages that are shown.
    _object: Arc<Object>,
}

impl Viommu {
    /// Makes one over `parent`, a page table with [`HwptFlags::NEST_PARENT`](super::HwptFlags::NEST_PARENT), on the IOMMU in front of
    /// `device`. `data` is what this kind takes and gives, and may be empty.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the IOMMU has no such thing (Intel's never has);
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) with EINVAL if `parent` is none.
    #[doc(alias = "IOMMU_VIOMMU_ALLOC")]
    pub fn alloc(device: &dyn IommuDevice, parent: &Hwpt, kind: ViommuKind, data: &mut [u8]) -> Result<Self, Error> {
        let command = command::VIOMMU_ALLOC;
        let parent = parent.object();
        let iommufd = parent.iommufd();
        iommufd.check_own(device.iommufd(), command)?;
        let made = iommufd
            .calls()
            .viommu_alloc(device.device_id().0, parent.id().0, kind.0, data);
        let id = made.map_err(|errno| command.error(errno))?;
        let object = Object::new(iommufd, id, "VIOMMU", vec![Arc::<Object>::clone(parent) as Parent]);
        let queues = Mutex::default();
        Ok(Self {
            inner: Arc::new(Inner { object, queues }),
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.inner.object.id()
    }

    /// Invalidates what the IOMMU or its devices have cached for the virtual machine; returns how many entries there were.
    ///
    /// # Errors
    ///
    /// With the number of entries that were handled before one failed.
    #[doc(alias = "IOMMU_HWPT_INVALIDATE")]
    pub fn invalidate(&self, entries: Invalidation<'_>) -> Result<u32, InvalidateError> {
        invalidate::run(self.object(), entries)
    }

    /// Maps what it shows to user space, at the offset and of the length that its data gave, both whole pages.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) with ENXIO for any other offset or length.
    pub fn map(&self, offset: u64, len: usize) -> Result<ObjectMap, Error> {
        let mapped = self.object().iommufd().calls().map(offset, len);
        let map = mapped.map_err(|errno| command::MAP_OBJECT.error(errno))?;
        let _object = Arc::clone(self.object());
        Ok(ObjectMap { map, _object })
    }

    pub(super) fn object(&self) -> &Arc<Object> {
        &self.inner.object
    }
}

impl fmt::Debug for Viommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.object.fmt(f)
    }
}

impl Vdevice {
    /// Tells the virtual IOMMU that the guest knows `device` as `virtual_id`: a stream id for SMMUv3, a device id for AMD.
    /// Holds the device, which the kernel wants to outlive it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) with EEXIST if the device or the number has one already, EINVAL for a device behind
    /// another IOMMU.
    #[doc(alias = "IOMMU_VDEVICE_ALLOC")]
    pub fn alloc(viommu: &Viommu, device: &dyn IommuDevice, virtual_id: u64) -> Result<Self, Error> {
        let command = command::VDEVICE_ALLOC;
        let iommufd = viommu.object().iommufd();
        iommufd.check_own(device.iommufd(), command)?;
        let made = iommufd
            .calls()
            .vdevice_alloc(viommu.id().0, device.device_id().0, virtual_id);
        let id = made.map_err(|errno| command.error(errno))?;
        let parents = vec![Arc::<Object>::clone(viommu.object()) as Parent, device.hold()];
        let object = Object::new(iommufd, id, "VDEVICE", parents);
        Ok(Self { object })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }
}

impl HwQueue {
    /// Gives the hardware a queue at `queue`, in the addresses of the virtual IOMMU's parent table. What is mapped there cannot be
    /// unmapped meanwhile: drop the queue before its [`Mapping`](super::Mapping), which leaks its memory otherwise.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where nothing is mapped; [`ErrorKind::Os`](crate::ErrorKind::Os) with EEXIST for an
    /// index in use, EIO for one out of order, EINVAL for memory that is not contiguous or writable.
    #[doc(alias = "IOMMU_HW_QUEUE_ALLOC")]
    pub fn alloc(viommu: &Viommu, kind: HwQueueKind, index: u32, queue: IovaRange) -> Result<Self, Error> {
        let command = command::HW_QUEUE_ALLOC;
        let len = u64::try_from(queue.len_bytes()).map_err(|_too_long| command.invalid("a queue of all addresses"))?;
        let iommufd = viommu.object().iommufd();
        let mut queues = viommu.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let made = iommufd
            .calls()
            .hw_queue_alloc(viommu.id().0, kind.0, index, queue.start().0, len);
        let id = made.map_err(|errno| command.error(errno))?;
        // Hardware whose queues are numbered in order gives them back from the last.
        let before = index
            .checked_sub(1)
            .and_then(|before| queues.get(&(kind, before))?.upgrade());
        let parents = std::iter::once(Arc::clone(viommu.object())).chain(before);
        let object = Object::new(
            iommufd,
            id,
            "HW_QUEUE",
            parents.map(|object| object as Parent).collect(),
        );
        queues.insert((kind, index), Arc::downgrade(&object));
        Ok(Self { object })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }
}

impl ObjectMap {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Reads a register; `None` outside, or off its alignment.
    #[must_use]
    pub fn read_u32(&self, offset: usize) -> Option<u32> {
        self.covers(offset).then(|| self.map.read_u32(offset))
    }

    /// Writes a register; `None` outside, or off its alignment.
    pub fn write_u32(&self, offset: usize, value: u32) -> Option<()> {
        self.covers(offset).then(|| self.map.write_u32(offset, value))
    }

    fn covers(&self, offset: usize) -> bool {
        offset.is_multiple_of(4) && offset.checked_add(4).is_some_and(|end| end <= self.map.len())
    }
}
