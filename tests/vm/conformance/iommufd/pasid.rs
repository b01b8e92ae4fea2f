//! Fixture `iommufd_device_pasid`: tables attached to PASIDs, replaced and detached.

use super::bench::{nested, refused, selftest_data};
use super::nested::page_request;
use crate::PASSED;
use anyhow::{Context, Result};
use lab::case::Outcome;
use rustix::io::Errno;
use vfio_core::System;
use vfio_core::iommufd::selftest::{IOTLB_DEFAULT, MockDevice, MockFlags, PASID_RESERVED, VIOMMU, nested_data};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, Iommufd, Viommu};

pub(super) const VARIANTS: [&str; 2] = ["no_pasid", "has_pasid"];

pub(super) fn pasid_attach(variant: &str) -> Result<Outcome> {
    let iommufd = Iommufd::open(&System::host())?;
    let ioas = iommufd.alloc_ioas()?;
    let device = MockDevice::new(&ioas, MockFlags::PASID)?;
    let without = (variant == "no_pasid").then(|| MockDevice::new(&ioas, MockFlags::empty()));
    let without = without.transpose()?;
    let is_on = |pasid, hwpt: Option<&Hwpt>| {
        device
            .check_pasid(pasid, hwpt.map(Hwpt::id))
            .with_context(|| format!("PASID {pasid} is not on {hwpt:?}"))
    };

    let pasid = 100;
    device.detach_pasid(pasid).context("nothing was attached")?;
    let over_ioas = |flags| Hwpt::alloc(&device, HwptParent::Ioas(&ioas), flags, HwptData::None, None);
    let parent = over_ioas(HwptFlags::NEST_PARENT)?;
    let first = nested(&device, HwptParent::Hwpt(&parent), HwptFlags::PASID)?;
    let second = nested(&device, HwptParent::Hwpt(&parent), HwptFlags::PASID)?;
    let queue = iommufd.alloc_fault_queue()?;
    let data = nested_data(IOTLB_DEFAULT, false);
    let iopf = Hwpt::alloc(
        &device,
        HwptParent::Hwpt(&parent),
        HwptFlags::PASID,
        selftest_data(&data),
        Some(&queue),
    )?;
    let viommu = Viommu::alloc(&device, &parent, VIOMMU, &mut [])?;
    let in_viommu = nested(&device, HwptParent::Viommu(&viommu), HwptFlags::PASID)?;
    let plain = over_ioas(HwptFlags::PASID)?;

    // A device on a table that is not for PASIDs has none, and one that has some stays on tables that are.
    device.replace(&parent)?;
    refused(device.attach_pasid(pasid, &plain), Errno::INVAL)?;
    device.replace(&plain)?;
    device.attach_pasid(pasid, &first)?;
    refused(device.replace(&parent), Errno::INVAL)?;
    device.detach_pasid(pasid)?;
    is_on(pasid, None)?;

    if let Some(without) = &without {
        without.replace(&first)?;
        without.replace(&ioas)?;
        refused(without.attach_pasid(pasid, &parent), Errno::INVAL)?;
        refused(without.attach_pasid(pasid, &plain), Errno::INVAL)?;
    }

    refused(device.attach_pasid(pasid, &parent), Errno::INVAL)?;
    is_on(pasid, None)?;
    refused(device.attach_pasid(pasid, &ioas), Errno::INVAL)?;
    is_on(pasid, None)?;
    device.attach_pasid(pasid, &plain)?;
    is_on(pasid, Some(&plain))?;
    refused(device.attach_pasid(pasid, &first), Errno::BUSY)?;
    device.detach_pasid(pasid)?;
    is_on(pasid, None)?;
    device.attach_pasid(pasid, &first)?;
    is_on(pasid, Some(&first))?;
    refused(device.attach_pasid(pasid, &first), Errno::BUSY)?;
    device.detach_pasid(pasid)?;

    let pasid = 200;
    refused(device.replace_pasid(pasid, &plain), Errno::INVAL)?;
    device.attach_pasid(pasid, &plain)?;
    is_on(pasid, Some(&plain))?;
    refused(device.replace_pasid(pasid, &ioas), Errno::INVAL)?;
    is_on(pasid, Some(&plain))?;
    for table in [&first, &second] {
        device.replace_pasid(pasid, table)?;
        is_on(pasid, Some(table))?;
    }
    device.detach_pasid(pasid)?;

    // The mock fails this one on purpose, half-way.
    let pasid = PASID_RESERVED;
    device.attach_pasid(pasid, &plain)?;
    refused(device.replace_pasid(pasid, &first), Errno::NOMEM)?;
    is_on(pasid, Some(&plain))?;
    device.detach_pasid(pasid)?;

    let pasid = 2048;
    device.attach_pasid(pasid, &iopf)?;
    is_on(pasid, Some(&iopf))?;
    page_request(&device, &queue, Some(pasid))?;
    device.replace_pasid(pasid, &plain)?;
    is_on(pasid, Some(&plain))?;
    device.detach_pasid(pasid)?;

    drop((iopf, queue, in_viommu, viommu));
    device.replace(&ioas)?;
    PASSED
}
