//! Mock devices.

use super::super::object::sealed;
use super::super::{IommuDevice, Iommufd, Object, ObjectId, PageAccess, PageTable};
use super::{op, run, step};
use crate::sys::iommufd::{TestBuffer, TestCommand};
use crate::{Error, Iova};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

bitflags::bitflags! {
    /// What a mock device is like.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct MockFlags: u32 {
        /// Its IOMMU does not track dirty pages.
        const NO_DIRTY = 1;
        /// It has PASIDs.
        const PASID = 4;
    }
}

/// A mock device, attached to a page table. Cheap to clone; gone with the last clone.
///
/// ```no_run
/// use vfio_core::System;
/// use vfio_core::iommufd::Iommufd;
/// use vfio_core::iommufd::selftest::{MockDevice, MockFlags};
///
/// let iommufd = Iommufd::open(&System::host())?;
/// let ioas = iommufd.alloc_ioas()?;
/// let device = MockDevice::new(&ioas, MockFlags::PASID)?;
/// assert_eq!(iommufd.hw_info(&device)?.max_pasid_log2, 20);
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MockDevice {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The device as an object of the test; destroyed before the tables it is attached to.
    object: Arc<Object>,
    /// Number of the device proper.
    device: ObjectId,
    attached: Mutex<Attached>,
}

#[derive(Debug)]
struct Attached {
    table: Arc<Object>,
    hwpt: ObjectId,
    pasids: BTreeMap<u32, Arc<Object>>,
}

impl MockDevice {
    /// Makes a device and attaches it.
    ///
    /// # Errors
    ///
    /// What attaching a device fails with; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) on a kernel without the mock.
    #[doc(alias = "IOMMU_TEST_OP_MOCK_DOMAIN")]
    pub fn new(table: &impl PageTable, flags: MockFlags) -> Result<Self, Error> {
        let table = Arc::clone(table.object());
        let iommufd = table.iommufd().clone();
        let mut request = TestCommand::new(op::MOCK_DOMAIN_FLAGS, table.id().0);
        request.put_u32(28, flags.bits());
        run(
            &iommufd,
            &mut request,
            TestBuffer::None,
            "IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS",
        )?;
        let attached = Attached {
            table,
            hwpt: ObjectId(request.u32(20)),
            pasids: BTreeMap::new(),
        };
        let inner = Inner {
            object: Object::new(&iommufd, request.u32(16), "SELFTEST", Vec::new()),
            device: ObjectId(request.u32(24)),
            attached: Mutex::new(attached),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The page table it is attached to; the kernel's own if an address space was given.
    #[must_use]
    pub fn hwpt(&self) -> ObjectId {
        self.inner.attached().hwpt
    }

    /// Attaches it to another page table in one step; returns that table. On failure it stays where it is.
    ///
    /// # Errors
    ///
    /// What attaching fails with.
    #[doc(alias = "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE")]
    pub fn replace(&self, table: &impl PageTable) -> Result<ObjectId, Error> {
        let mut attached = self.inner.attached();
        let mut request = TestCommand::new(op::MOCK_DOMAIN_REPLACE, self.inner.object.id().0);
        let table = self.own(table)?;
        request.put_u32(16, table.id().0);
        self.run(&mut request, "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE")?;
        attached.hwpt = ObjectId(request.u32(16));
        attached.table = Arc::clone(table);
        Ok(attached.hwpt)
    }

    /// Attaches a page table to one PASID; returns that table.
    ///
    /// # Errors
    ///
    /// EBUSY if one is attached, EINVAL for a table without [`HwptFlags::PASID`](super::super::HwptFlags::PASID).
    #[doc(alias = "IOMMU_TEST_OP_PASID_ATTACH")]
    pub fn attach_pasid(&self, pasid: u32, table: &impl PageTable) -> Result<ObjectId, Error> {
        self.set_pasid(pasid, table, op::PASID_ATTACH, "IOMMU_TEST_OP_PASID_ATTACH")
    }

    /// Attaches another one.
    ///
    /// # Errors
    ///
    /// EINVAL if none was attached. On failure the old one stays.
    #[doc(alias = "IOMMU_TEST_OP_PASID_REPLACE")]
    pub fn replace_pasid(&self, pasid: u32, table: &impl PageTable) -> Result<ObjectId, Error> {
        self.set_pasid(pasid, table, op::PASID_REPLACE, "IOMMU_TEST_OP_PASID_REPLACE")
    }

    /// Detaches what is attached to a PASID. Nothing if nothing is.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    #[doc(alias = "IOMMU_TEST_OP_PASID_DETACH")]
    pub fn detach_pasid(&self, pasid: u32) -> Result<(), Error> {
        let mut attached = self.inner.attached();
        if !attached.pasids.contains_key(&pasid) {
            return Ok(());
        }
        self.inner.detach_pasid(pasid)?;
        drop(attached.pasids.remove(&pasid));
        Ok(())
    }

    /// Whether that table is attached to a PASID, or none.
    ///
    /// # Errors
    ///
    /// EINVAL if not.
    #[doc(alias = "IOMMU_TEST_OP_PASID_CHECK_HWPT")]
    pub fn check_pasid(&self, pasid: u32, hwpt: Option<ObjectId>) -> Result<(), Error> {
        let mut request = TestCommand::new(op::PASID_CHECK_HWPT, self.inner.object.id().0);
        request.put_u32(16, pasid);
        request.put_u32(20, hwpt.map_or(0, |id| id.0));
        self.run(&mut request, "IOMMU_TEST_OP_PASID_CHECK_HWPT")
    }

    /// Makes the device ask for a page, in a group of one. Without a page table that has a fault queue, the kernel answers it as invalid.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    #[doc(alias = "IOMMU_TEST_OP_TRIGGER_IOPF")]
    pub fn request_page(&self, pasid: Option<u32>, group: u32, access: PageAccess, iova: Iova) -> Result<(), Error> {
        let mut request = TestCommand::new(op::TRIGGER_IOPF, 0);
        request.put_u32(16, self.inner.device.0);
        // 0 is the kernel's IOMMU_NO_PASID.
        request.put_u32(20, pasid.unwrap_or(0));
        request.put_u32(24, group);
        request.put_u32(28, access.bits());
        request.put_u64(32, iova.0);
        self.run(&mut request, "IOMMU_TEST_OP_TRIGGER_IOPF")
    }

    /// Makes its virtual IOMMU report an event about it.
    ///
    /// # Errors
    ///
    /// ENOENT without a [`Vdevice`](super::super::Vdevice).
    #[doc(alias = "IOMMU_TEST_OP_TRIGGER_VEVENT")]
    pub fn report_event(&self) -> Result<(), Error> {
        let mut request = TestCommand::new(op::TRIGGER_VEVENT, 0);
        request.put_u32(16, self.inner.device.0);
        self.run(&mut request, "IOMMU_TEST_OP_TRIGGER_VEVENT")
    }

    /// Whether an entry of the device's cache holds `value`.
    ///
    /// # Errors
    ///
    /// EINVAL if not.
    #[doc(alias = "IOMMU_TEST_OP_DEV_CHECK_CACHE")]
    pub fn check_cache(&self, entry: u32, value: u32) -> Result<(), Error> {
        let mut request = TestCommand::new(op::DEV_CHECK_CACHE, self.inner.device.0);
        request.put_u32(16, entry);
        request.put_u32(20, value);
        self.run(&mut request, "IOMMU_TEST_OP_DEV_CHECK_CACHE")
    }

    fn set_pasid(&self, pasid: u32, table: &impl PageTable, op: u32, name: &'static str) -> Result<ObjectId, Error> {
        let mut attached = self.inner.attached();
        let mut request = TestCommand::new(op, self.inner.object.id().0);
        request.put_u32(16, pasid);
        let table = self.own(table)?;
        request.put_u32(20, table.id().0);
        self.run(&mut request, name)?;
        drop(attached.pasids.insert(pasid, Arc::clone(table)));
        Ok(ObjectId(request.u32(20)))
    }

    fn own<'a>(&self, table: &'a impl PageTable) -> Result<&'a Arc<Object>, Error> {
        let object = table.object();
        self.iommufd()
            .check_own(object.iommufd(), step("attach a mock device"))?;
        Ok(object)
    }

    fn run(&self, request: &mut TestCommand, name: &'static str) -> Result<(), Error> {
        run(self.iommufd(), request, TestBuffer::None, name)
    }
}

impl sealed::Sealed for MockDevice {}

impl IommuDevice for MockDevice {
    fn device_id(&self) -> ObjectId {
        self.inner.device
    }

    fn iommufd(&self) -> &Iommufd {
        self.inner.object.iommufd()
    }

    fn hold(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::<Inner>::clone(&self.inner)
    }
}

impl Inner {
    fn attached(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach_pasid(&self, pasid: u32) -> Result<(), Error> {
        let mut request = TestCommand::new(op::PASID_DETACH, self.object.id().0);
        request.put_u32(16, pasid);
        run(
            self.object.iommufd(),
            &mut request,
            TestBuffer::None,
            "IOMMU_TEST_OP_PASID_DETACH",
        )
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The kernel's mock does not do this by itself, and complains.
        let attached: Vec<u32> = self.attached().pasids.keys().copied().collect();
        for pasid in attached {
            if let Err(error) = self.detach_pasid(pasid) {
                tracing::error!(pasid, %error, "a PASID of a mock device stays attached");
            }
        }
    }
}
