//! Which devices use a space.

use super::{AddressSpace, Backend};
use crate::{Error, IovaRange, Result};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, IommuDevice};
use vfio_core::{Attachment, BoundDevice, Pasid};

/// A device, or one of its PASIDs, on a space. Detached when dropped; holds the device open and the space alive.
///
/// Where that device could not have memory stays excluded until [`detach`](Self::detach) or [`AddressSpace::refresh`].
///
/// On type1 a device uses the space of its group's container for as long as it is open, and this says so.
#[derive(Debug)]
#[must_use = "the device is detached when it is dropped"]
pub struct Attached {
    attachment: Option<Attachment>,
    device: BoundDevice,
    space: AddressSpace,
    table: Table,
}

/// Which of the space's page tables a device is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// The kernel's choice.
    Any,
    /// One that PASIDs can be beside.
    WithPasids,
    /// The caller's.
    Given,
}

impl AddressSpace {
    /// Lets a device use the space, and reads again where mappings may be made.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a device of another container, or one that was opened the other way; the kernel's, among them
    /// [`Busy`](vfio_core::ErrorKind::Busy), and EADDRINUSE when something is mapped where this device cannot have it. Devices of one
    /// group share one space: while one of them is in another, the kernel answers EINVAL.
    pub fn attach(&self, device: &BoundDevice) -> Result<Attached> {
        let attachment = match &self.shared.backend {
            Backend::Iommufd(ioas) => Some(device.attach(ioas, None)?),
            Backend::Type1(container) => {
                let own = device
                    .group()
                    .ok_or(Error::Invalid("the device is on an iommufd, the space in a container"))?;
                if !own.container().is_same(container) {
                    return Err(Error::Invalid("the device's group is in another container"));
                }
                None
            }
            #[cfg(test)]
            Backend::Test(_) => None,
        };
        self.attached(attachment, device, Table::Any)
    }

    /// As [`attach`](Self::attach), through a page table of this space that was made on purpose: for dirty tracking, or as a parent of
    /// nested ones.
    ///
    /// # Errors
    ///
    /// Those of [`attach`](Self::attach).
    pub fn attach_table(&self, device: &BoundDevice, table: &Hwpt) -> Result<Attached> {
        self.attached(Some(device.attach(table, None)?), device, Table::Given)
    }

    /// As [`attach`](Self::attach), through a page table beside which the device's PASIDs can have others.
    ///
    /// # Errors
    ///
    /// Those of [`attach`](Self::attach); [`Error::Unsupported`] on type1 and without PASIDs.
    pub fn attach_beside_pasids(&self, device: &BoundDevice) -> Result<Attached> {
        let table = self.pasid_table(device)?;
        self.attached(Some(device.attach(&table, None)?), device, Table::WithPasids)
    }

    /// Lets one PASID of a device use the space. The device itself is attached through
    /// [`attach_beside_pasids`](Self::attach_beside_pasids), to this space or another.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on type1, and if device and IOMMU have no such PASID, which the kernel would not say; those of
    /// [`attach`](Self::attach).
    pub fn attach_pasid(&self, device: &BoundDevice, pasid: Pasid) -> Result<Attached> {
        let table = self.pasid_table(device)?;
        let width = info(device)?.max_pasid_log2;
        if pasid
            .number()
            .checked_shr(u32::from(width))
            .is_some_and(|beyond| beyond != 0)
        {
            return Err(Error::Unsupported(
                "this PASID: the device or its IOMMU has fewer bits for one",
            ));
        }
        self.attached(Some(device.attach(&table, Some(pasid))?), device, Table::WithPasids)
    }

    fn attached(&self, attachment: Option<Attachment>, device: &BoundDevice, table: Table) -> Result<Attached> {
        // Detached again if that fails.
        let attached = Attached {
            attachment,
            device: device.clone(),
            space: self.clone(),
            table,
        };
        warn_of(&self.refresh()?);
        Ok(attached)
    }

    /// After a change that is done and cannot be refused any more.
    fn refresh_or_warn(&self) {
        match self.refresh() {
            Ok(illegal) => warn_of(&illegal),
            Err(error) => tracing::warn!(%error, "where mappings may be made could not be read again"),
        }
    }

    /// A page table of the space that can stand beside others of one device.
    fn pasid_table(&self, device: &BoundDevice) -> Result<Hwpt> {
        let ioas = self
            .ioas()
            .ok_or(Error::Unsupported("PASIDs on type1; iommufd has them"))?;
        if info(device)?.max_pasid_log2 == 0 {
            return Err(Error::Unsupported("PASIDs: the device or its IOMMU has none"));
        }
        let device = device.iommufd_device().ok_or(NO_IOMMUFD)?;
        let parent = HwptParent::Ioas(ioas);
        Ok(Hwpt::alloc(&device, parent, HwptFlags::PASID, HwptData::None, None)?)
    }
}

fn warn_of(illegal: &[IovaRange]) {
    for range in illegal {
        tracing::warn!(%range, "in use, but no longer allowed");
    }
}

const NO_IOMMUFD: Error = Error::Invalid("the device is in a container, the space on an iommufd");

fn info(device: &BoundDevice) -> Result<vfio_core::iommufd::HwInfo> {
    let device = device.iommufd_device().ok_or(NO_IOMMUFD)?;
    Ok(device.iommufd().hw_info(&device)?)
}

impl Attached {
    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        &self.device
    }

    /// The space it is on.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The PASID; `None` for what the device does without one.
    #[must_use]
    pub fn pasid(&self) -> Option<Pasid> {
        self.attachment.as_ref().and_then(Attachment::pasid)
    }

    /// Moves it to another space, at once: there is no moment at which the device has none. If that fails, it stays where it is.
    ///
    /// Once it has moved, this does not fail: where a space cannot be asked for its ranges, `tracing` gets a warning, and the kernel
    /// refuses what it does not allow.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on type1; [`Error::Invalid`] if it was attached to a page table made on purpose, which
    /// [`move_to_table`](Self::move_to_table) has another for; those of [`AddressSpace::attach`].
    pub fn move_to(&mut self, space: &AddressSpace) -> Result<()> {
        let (Some(attachment), Some(ioas)) = (&mut self.attachment, space.ioas()) else {
            return Err(ON_TYPE1);
        };
        match self.table {
            Table::Any => attachment.replace(ioas)?,
            Table::WithPasids => attachment.replace(&space.pasid_table(&self.device)?)?,
            Table::Given => {
                return Err(Error::Invalid(
                    "the device's page table was made on purpose; the other space needs one too",
                ));
            }
        }
        self.has_moved(space);
        Ok(())
    }

    /// As [`move_to`](Self::move_to), through a page table of that space, or another one of this space, that was made on purpose.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on type1; those of [`AddressSpace::attach`].
    pub fn move_to_table(&mut self, space: &AddressSpace, table: &Hwpt) -> Result<()> {
        let attachment = self.attachment.as_mut().ok_or(ON_TYPE1)?;
        attachment.replace(table)?;
        self.table = Table::Given;
        self.has_moved(space);
        Ok(())
    }

    fn has_moved(&mut self, space: &AddressSpace) {
        let former = std::mem::replace(&mut self.space, space.clone());
        space.refresh_or_warn();
        // What the device could not reach is allowed again there.
        former.refresh_or_warn();
    }

    /// Detaches it, and says whether that went well.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn detach(mut self) -> Result<()> {
        if let Some(attachment) = self.attachment.take() {
            attachment.detach()?;
        }
        self.space.refresh_or_warn();
        Ok(())
    }
}

const ON_TYPE1: Error = Error::Unsupported(
    "moving a device on type1, where a whole group changes its container once all its devices are closed; iommufd moves devices",
);
