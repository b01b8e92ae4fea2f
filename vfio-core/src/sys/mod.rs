//! The boundary itself: what the rest of the crate asks of the kernel, as traits, and the running kernel behind them.
//!
//! One file per kernel header. A call takes slices and owned objects, never addresses or descriptor numbers, so that the fake
//! machine implements the same traits in safe code. Failures are bare errno values here; context is added one level up.
//!
//! All `unsafe` code of the workspace is below this module.
#![allow(
    unsafe_code,
    reason = "the one place of the workspace for it: every block states its proof"
)]

pub(crate) mod bar;
mod bitmap;
mod copy;
pub(crate) mod exec;
pub(crate) mod fence;
pub(crate) mod ioctl;
pub(crate) mod iommufd;
#[cfg(feature = "kvm")]
pub(crate) mod kvm;
pub(crate) mod located;
pub(crate) mod mem;
pub(crate) mod mmio;
pub(crate) mod space;
#[cfg_attr(miri, expect(dead_code, reason = "the interpreter has no mmap"))]
mod span;
pub(crate) mod vfio;
pub(crate) mod words;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// What a call of the kernel gives.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Opens the files of the device path.
pub(crate) trait Files: Debug + Send + Sync {
    /// `/dev/iommu`.
    fn iommufd(&self, path: &Path) -> Result<Arc<dyn iommufd::Calls>>;
    /// `/dev/vfio/devices/vfioN`.
    fn cdev(&self, path: &Path) -> Result<Arc<dyn vfio::DeviceCalls>>;
    /// `/dev/vfio/vfio`, or `/dev/iommu` as a container.
    fn container(&self, path: &Path) -> Result<Arc<dyn vfio::ContainerCalls>>;
    /// `/dev/vfio/GROUP`.
    fn group(&self, path: &Path) -> Result<Arc<dyn vfio::GroupCalls>>;
    /// RLIMIT_MEMLOCK in bytes, `None` without a limit or with CAP_IPC_LOCK.
    fn memlock_limit(&self) -> Option<u64>;
    /// What counts against that limit where it is counted by process: type1, and iommufd when told so. In bytes (`VmLck` of `/proc/self/status`).
    fn memlock_used(&self) -> u64;
    /// What the process has pinned, in bytes (`VmPin`). Where it is counted by user, that is a part of what counts.
    fn pinned(&self) -> u64 {
        self.memlock_used()
    }
}

/// The running kernel.
#[derive(Debug)]
pub(crate) struct Host;

impl Files for Host {
    fn iommufd(&self, path: &Path) -> Result<Arc<dyn iommufd::Calls>> {
        iommufd::open(path)
    }
    fn cdev(&self, path: &Path) -> Result<Arc<dyn vfio::DeviceCalls>> {
        Ok(Arc::new(vfio::Device::new(vfio::open(path)?)))
    }
    fn container(&self, path: &Path) -> Result<Arc<dyn vfio::ContainerCalls>> {
        Ok(Arc::new(vfio::Container::new(vfio::open(path)?)))
    }
    fn group(&self, path: &Path) -> Result<Arc<dyn vfio::GroupCalls>> {
        Ok(Arc::new(vfio::Group::new(vfio::open(path)?)))
    }
    fn memlock_limit(&self) -> Option<u64> {
        let unlimited =
            rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
        if unlimited {
            return None;
        }
        rustix::process::getrlimit(rustix::process::Resource::Memlock).current
    }
    fn memlock_used(&self) -> u64 {
        bytes_of("VmLck", &status())
    }
    fn pinned(&self) -> u64 {
        bytes_of("VmPin", &status())
    }
}

/// Empty without `/proc`.
fn status() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "our own process, not the machine that a captured tree stands for"
    )]
    let status = std::fs::read_to_string("/proc/self/status");
    status.unwrap_or_default()
}

/// A value of `/proc/PID/status`, which counts in KiB; 0 if it is not there.
fn bytes_of(name: &str, status: &str) -> u64 {
    let value = status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    value.unwrap_or_default().saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_and_pinned_memory_are_counted_apart() {
        let status = "Name:\tcat\nVmPeak:\t    5604 kB\nVmLck:\t       4 kB\nVmPin:\t     128 kB\nVmHWM:\t 7 kB\n";
        assert_eq!(bytes_of("VmLck", status), 4 << 10);
        assert_eq!(bytes_of("VmPin", status), 128 << 10);
        assert_eq!(bytes_of("VmLck", "VmLck: many kB\nVmPin"), 0);
    }

    #[test]
    fn the_process_has_a_status() {
        assert!(status().contains("VmLck:") && status().contains("VmPin:"));
        assert!(Host.memlock_used() < 1 << 40 && Host.pinned() < 1 << 40);
    }
}
