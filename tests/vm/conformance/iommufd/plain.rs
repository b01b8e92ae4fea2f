//! Fixture `iommufd`: the file itself, and its stand-in for a VFIO container before anything is in it.

use super::bench::{APERTURE, PAGE, READ_WRITE, memory, range, refused};
use crate::PASSED;
use crate::harness::Case;
use anyhow::{Result, ensure};
use lab::case::Outcome;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vfio_core::iommufd::{Iommufd, RlimitMode};
use vfio_core::{Container, ContainerPath, IommuType, System};

type Test = (&'static str, fn() -> Result<Outcome>);

pub(super) fn cases() -> Vec<Case> {
    let tests: [Test; 11] = [
        ("simple_close", simple_close),
        ("cmd_fail", cmd_fail),
        ("cmd_length", malformed),
        ("cmd_ex_fail", malformed),
        ("global_options", global_options),
        ("simple_ioctls", simple_ioctls),
        ("unmap_cmd", unmap_cmd),
        ("map_cmd", map_cmd),
        ("info_cmd", info_cmd),
        ("set_iommu_cmd", set_iommu_cmd),
        ("vfio_ioas", vfio_ioas),
    ];
    let case = |(name, run): Test| Case::new(format!("conf_iommufd_iommufd.{name}"), move |_| run());
    tests.into_iter().map(case).collect()
}

fn open() -> Result<Iommufd> {
    Ok(Iommufd::open(&System::host())?)
}

/// The same file as a container.
fn container() -> Result<Container> {
    Ok(Container::from_fd(open()?.try_clone_fd()?, ContainerPath::Iommu))
}

fn simple_close() -> Result<Outcome> {
    drop(open()?);
    PASSED
}

/// A file that knows none of the commands: an object that is not there, and a bad address, cannot be named here.
fn cmd_fail() -> Result<Outcome> {
    let file = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let iommufd = Iommufd::from_fd(file);
    refused(iommufd.alloc_ioas(), Errno::NOTTY)?;
    refused(iommufd.rlimit_mode(), Errno::NOTTY)?;
    PASSED
}

fn malformed() -> Result<Outcome> {
    Ok(Outcome::Skipped(
        "a malformed command: the library fills in sizes, reserved fields and addresses, and offers no raw one"
            .to_owned(),
    ))
}

fn global_options() -> Result<Outcome> {
    let iommufd = open()?;
    ensure!(iommufd.rlimit_mode()? == RlimitMode::User);
    iommufd.set_rlimit_mode(RlimitMode::Process)?;
    ensure!(iommufd.rlimit_mode()? == RlimitMode::Process);
    iommufd.set_rlimit_mode(RlimitMode::User)?;
    ensure!(iommufd.rlimit_mode()? == RlimitMode::User);
    // Once there is an object it is too late.
    let ioas = iommufd.alloc_ioas()?;
    refused(iommufd.set_rlimit_mode(RlimitMode::Process), Errno::BUSY)?;
    drop(ioas);
    PASSED
}

fn simple_ioctls() -> Result<Outcome> {
    // Opening asks for the version.
    let container = Container::open(&System::host(), ContainerPath::Iommu)?;
    ensure!(container.offers(IommuType::Type1v2)? && container.offers(IommuType::Type1)?);
    PASSED
}

/// What a container without an address space answers; sizes and flags that are wrong cannot be said here.
fn unmap_cmd() -> Result<Outcome> {
    refused(container()?.unmap(range(APERTURE, PAGE)?), Errno::NODEV)?;
    PASSED
}

fn map_cmd() -> Result<Outcome> {
    let memory = memory(PAGE)?;
    refused(
        container()?.map(memory.clone(), 0..memory.len(), APERTURE, READ_WRITE),
        Errno::NODEV,
    )?;
    PASSED
}

fn info_cmd() -> Result<Outcome> {
    refused(container()?.info(), Errno::NODEV)?;
    PASSED
}

fn set_iommu_cmd() -> Result<Outcome> {
    for kind in [IommuType::Type1v2, IommuType::Type1] {
        refused(container()?.set_iommu(kind), Errno::NODEV)?;
    }
    PASSED
}

fn vfio_ioas() -> Result<Outcome> {
    let iommufd = open()?;
    ensure!(iommufd.vfio_ioas()?.is_none());
    let ioas = iommufd.alloc_ioas()?;
    iommufd.set_vfio_ioas(&ioas)?;
    ensure!(iommufd.vfio_ioas()? == Some(ioas.id()));
    iommufd.clear_vfio_ioas()?;
    ensure!(iommufd.vfio_ioas()?.is_none());
    PASSED
}
