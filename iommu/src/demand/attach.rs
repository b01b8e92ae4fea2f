//! The devices whose page requests a space serves.

use super::DemandSpace;
use crate::{Error, Result};
use vfio_core::iommufd::IommuDevice;
use vfio_core::{BoundDevice, Errno, Pasid};

const NO_TABLE: Error = Error::Unsupported(
    "page requests through the kernel: the space has its own source of them, or the device is on type1",
);
const NO_DEVICE: Error = Error::Invalid("the device is not attached to the space");

impl DemandSpace {
    /// Attaches the device that the space was made for, or another that shares it, so that its page requests come here. It stays attached
    /// until [`detach`](Self::detach) or the end of the space: nobody else could answer it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a device without PRI, for a PASID that device and IOMMU do not have, and for a space that another source
    /// serves; those of the kernel, which says EINVAL of a VF: VFs share the PF's page request interface, so use the PF, or pin the
    /// memory. An IOMMU of larger pages than the processor's, and so perhaps than the unit, has no iommufd table at all.
    pub fn attach(&mut self, device: &BoundDevice) -> Result<()> {
        let table = self.table.as_ref().ok_or(NO_TABLE)?;
        let object = device.iommufd_device().ok_or(NO_TABLE)?;
        let pasid = self.options.pasid.map(|pasid| {
            let bits = u32::from(object.iommufd().hw_info(&object)?.max_pasid_log2);
            // The kernel would not say so, and the PASID would have no effect.
            let is_beyond = pasid.checked_shr(bits).is_some_and(|beyond| beyond != 0);
            let has_none = bits == 0;
            let beyond = Error::Unsupported("this PASID: the device or its IOMMU has none, or fewer bits for one");
            let number = Pasid::new(pasid).filter(|_| !is_beyond && !has_none);
            number.ok_or(beyond)
        });
        // Detached again if the rest fails.
        let attachment = device.attach(table, pasid.transpose()?).map_err(explain)?;
        self.space.refresh()?;
        self.attachments.insert(object.device_id(), attachment);
        Ok(())
    }

    /// Detaches a device. What it still waits for is answered as invalid, by the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a device that is not attached; those of the kernel.
    pub fn detach(&mut self, device: &BoundDevice) -> Result<()> {
        let object = device.iommufd_device().ok_or(NO_DEVICE)?;
        // Other iommufds have the same numbers.
        let is_ours = self.attachments.get(&object.device_id()).is_some_and(|attachment| {
            let own = attachment.device().iommufd_device();
            own.is_some_and(|own| own.iommufd().is_same(object.iommufd()))
        });
        let attachment = is_ours.then(|| self.attachments.remove(&object.device_id())).flatten();
        attachment.ok_or(NO_DEVICE)?.detach()?;
        self.space.refresh().map(drop)
    }
}

/// What a failure to attach a device to a table with a fault queue means.
fn explain(error: vfio_core::Error) -> Error {
    match error.errno() {
        Some(Errno::NODEV) => Error::Unsupported(
            "page requests: the device or its IOMMU has no PRI, so its memory must be pinned: use AddressSpace::map, \
             or serve the device's own reports through a FaultSource",
        ),
        _ => error.into(),
    }
}
