//! Attaching a device, or one PASID of it, to an address space of its iommufd.
//!
//! Follows `VFIO_DEVICE_ATTACH_IOMMUFD_PT` of `include/uapi/linux/vfio.h`, and PCIe 6.0 §6.20 for PASIDs.

use crate::iommufd::{IommuDevice, Object, ObjectId, PageTable};
use crate::{BoundDevice, Error, ErrorKind};
use rustix::io::Errno;
use std::fmt;
use std::sync::Arc;

/// A process address space ID: which of its address spaces a device means. 20 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pasid(u32);

impl Pasid {
    /// A PASID of at most 20 bits.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < 1 << 20 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A device, or one of its PASIDs, on an address space. Detaches when dropped; holds the device open and the address space alive.
///
/// ```no_run
/// use vfio_core::iommufd::Ioas;
/// use vfio_core::{BoundDevice, Error};
///
/// fn move_it(device: &BoundDevice, from: &Ioas, to: &Ioas) -> Result<(), Error> {
///     let mut attachment = device.attach(from, None)?;
///     // There is no moment in between at which the device has no address space.
///     attachment.replace(to)?;
///     attachment.detach()
/// }
/// ```
#[derive(Debug)]
#[must_use = "the device is detached when it is dropped"]
pub struct Attachment {
    // Fields drop in this order, after the device was detached.
    table: Arc<Object>,
    device: BoundDevice,
    pasid: Option<Pasid>,
    hwpt: ObjectId,
    released: bool,
}

const ATTACH: &str = "VFIO_DEVICE_ATTACH_IOMMUFD_PT";
const DETACH: &str = "VFIO_DEVICE_DETACH_IOMMUFD_PT";

impl BoundDevice {
    /// Attaches the device to an address space, or one PASID of it. The kernel accepts a PASID also on a device that has none, where it has no
    /// effect: ask [`HwInfo`](crate::iommufd::HwInfo) first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] while an [`Attachment`] of it lives, or while the device or another of its group is being reset;
    /// [`ErrorKind::Invalid`] on a device that was opened through a group, and for a table of another iommufd; [`ErrorKind::Unsupported`]
    /// for a table with a fault queue on a device without PRI; EINVAL for a PASID before Linux 6.15.
    #[doc(alias = "VFIO_DEVICE_ATTACH_IOMMUFD_PT")]
    #[doc(alias = "VFIO_DEVICE_ATTACH_PASID")]
    pub fn attach(&self, table: &impl PageTable, pasid: Option<Pasid>) -> Result<Attachment, Error> {
        let number = pasid.map(Pasid::number);
        if !self.claims().attachment(number) {
            return Err(self.failed(ATTACH, ErrorKind::Busy(Errno::BUSY)));
        }
        let table = table.object();
        match self.attach_to(table, pasid) {
            Ok(hwpt) => Ok(Attachment {
                table: Arc::clone(table),
                device: self.clone(),
                pasid,
                hwpt,
                released: false,
            }),
            Err(error) => {
                self.claims().release_attachment(number);
                Err(error)
            }
        }
    }

    fn attach_to(&self, table: &Object, pasid: Option<Pasid>) -> Result<ObjectId, Error> {
        let invalid = |why| self.failed(ATTACH, ErrorKind::Invalid(why));
        let iommufd = self.iommufd_device();
        let iommufd = iommufd.ok_or_else(|| invalid("the device's group decides, through its container"))?;
        if !iommufd.iommufd().is_same(table.iommufd()) {
            return Err(invalid("an object of another iommufd"));
        }
        let attached = self.calls().attach(table.id().0, pasid.map(Pasid::number));
        let hwpt = attached.map_err(|errno| self.failed(ATTACH, table.attach_error(errno)))?;
        Ok(ObjectId(hwpt))
    }
}

impl Attachment {
    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        &self.device
    }

    /// The PASID; `None` for what the device does without one.
    #[must_use]
    pub fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    /// What the kernel says it is attached to: the IOAS, or the hardware page table.
    #[must_use]
    pub fn table(&self) -> ObjectId {
        self.hwpt
    }

    /// Attaches it to another address space instead, at once. If that fails, it stays where it is.
    ///
    /// # Errors
    ///
    /// As [`BoundDevice::attach`].
    pub fn replace(&mut self, table: &impl PageTable) -> Result<(), Error> {
        let table = table.object();
        self.hwpt = self.device.attach_to(table, self.pasid)?;
        self.table = Arc::clone(table);
        Ok(())
    }

    /// Detaches it, and says whether that went well.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    #[doc(alias = "VFIO_DEVICE_DETACH_IOMMUFD_PT")]
    #[doc(alias = "VFIO_DEVICE_DETACH_PASID")]
    pub fn detach(mut self) -> Result<(), Error> {
        self.release()
    }

    fn release(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.released, true) {
            return Ok(());
        }
        let number = self.pasid.map(Pasid::number);
        let detached = self.device.calls().detach(number);
        // Where it failed the place stays taken: another attach would silently replace what is still there.
        if detached.is_ok() {
            self.device.claims().release_attachment(number);
        }
        detached.map_err(|errno| self.device.failed(DETACH, ErrorKind::from_errno(errno)))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::error!(%error, table = ?self.table, "the device stays attached until it is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasid_has_20_bits() {
        assert_eq!(Pasid::new((1 << 20) - 1).map(Pasid::number), Some(0xf_ffff));
        assert_eq!(Pasid::new(1 << 20), None);
    }
}
