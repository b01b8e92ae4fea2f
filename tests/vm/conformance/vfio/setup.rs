//! `vfio_iommufd_setup_test`: a character device is bound to an iommufd, once, and attached to address spaces.

use crate::PASSED;
use crate::harness::Case;
use crate::stage::Staged;
use anyhow::{Result, ensure};
use lab::case::Outcome;
use pci::Sysfs;
use rustix::fs::{Mode, OFlags, open};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, Iommufd};
use vfio_core::{BoundDevice, CdevFile, System};

type Test = (&'static str, fn(&Staged) -> Result<Outcome>);

pub(super) fn cases() -> Vec<Case> {
    let tests: [Test; 6] = [
        ("bind", bind),
        ("get_info_without_bind_fails", get_info_without_bind_fails),
        ("bind_bad_iommufd_fails", bind_bad_iommufd_fails),
        ("repeated_bind_fails", repeated_bind_fails),
        ("attach_detatch_pt", attach_detatch_pt),
        ("attach_invalid_pt_fails", attach_invalid_pt_fails),
    ];
    let case = |(name, run): Test| Case::new(format!("conf_vfio_cdev.{name}"), run);
    tests.into_iter().map(case).collect()
}

fn cdev(staged: &Staged) -> Result<CdevFile> {
    Ok(CdevFile::open_bdf(&System::host(), &Sysfs::host(), staged.pf()?)?)
}

fn bound(staged: &Staged) -> Result<(Iommufd, BoundDevice)> {
    let iommufd = Iommufd::open(&System::host())?;
    let device = cdev(staged)?.bind(&iommufd, None)?;
    Ok((iommufd, device))
}

/// Binding asks for the device's information, and is not done without.
fn bind(staged: &Staged) -> Result<Outcome> {
    let (_iommufd, device) = bound(staged)?;
    ensure!(device.info().num_regions > 0);
    PASSED
}

/// A file that is not bound offers nothing but binding: there is nothing to call. As a group's device it is none, and has no information.
fn get_info_without_bind_fails(_: &Staged) -> Result<Outcome> {
    Ok(Outcome::Skipped(
        "an unbound file has no other method than to bind it: the compiler asserts it".to_owned(),
    ))
}

fn bind_bad_iommufd_fails(staged: &Staged) -> Result<Outcome> {
    let file = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let bound = cdev(staged)?.bind(&Iommufd::from_fd(file), None);
    ensure!(bound.is_err(), "it is bound to /dev/null");
    // That did no harm.
    drop(self::bound(staged)?);
    PASSED
}

fn repeated_bind_fails(staged: &Staged) -> Result<Outcome> {
    let (iommufd, device) = bound(staged)?;
    // The file was used up by binding it; a duplicate is the same file.
    let again = CdevFile::from_fd(device.try_clone_fd()?, None).bind(&iommufd, None);
    ensure!(again.is_err(), "it is bound twice");
    // The device is none the worse.
    ensure!(device.config()?.read_u16(0)? == 0x8086);
    PASSED
}

fn attach_detatch_pt(staged: &Staged) -> Result<Outcome> {
    let (iommufd, device) = bound(staged)?;
    let ioas = iommufd.alloc_ioas()?;
    device.attach(&ioas, None)?.detach()?;
    let (first, second) = (device.attach(&ioas, None)?, device.attach(&ioas, None));
    ensure!(second.is_err(), "it is attached twice");
    first.detach()?;
    PASSED
}

/// A number that names no table cannot be said here. A table of another iommufd can, and is none of this device's.
fn attach_invalid_pt_fails(staged: &Staged) -> Result<Outcome> {
    let (iommufd, device) = bound(staged)?;
    let other = Iommufd::open(&System::host())?.alloc_ioas()?;
    ensure!(
        device.attach(&other, None).is_err(),
        "it is attached to another iommufd's address space"
    );
    let ioas = iommufd.alloc_ioas()?;
    let object = device
        .iommufd_device()
        .ok_or_else(|| anyhow::anyhow!("not in an iommufd"))?;
    // A nesting parent or not, a table of the right iommufd is taken.
    let table = Hwpt::alloc(
        &object,
        HwptParent::Ioas(&ioas),
        HwptFlags::empty(),
        HwptData::None,
        None,
    )?;
    device.attach(&table, None)?.detach()?;
    PASSED
}
