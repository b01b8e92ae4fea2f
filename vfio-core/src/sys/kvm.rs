//! `include/uapi/linux/kvm.h`: the one request that concerns VFIO.

use super::{Result, ioctl};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::BorrowedFd;

/// `struct kvm_device_attr`.
#[repr(C)]
struct DeviceAttr {
    flags: u32,
    group: u32,
    attr: u64,
    addr: u64,
}

const _: () = assert!(size_of::<DeviceAttr>() == 24);

const SET_DEVICE_ATTR: Opcode = opcode::write::<DeviceAttr>(0xae, 0xe1);

/// `KVM_DEV_VFIO_FILE`.
const FILE: u32 = 1;

/// `KVM_DEV_VFIO_FILE_ADD` and `KVM_DEV_VFIO_FILE_DEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Add = 1,
    Del = 2,
}

/// Adds a file of VFIO to a KVM VFIO device, or takes it away.
pub(crate) fn set_vfio_file(kvm: BorrowedFd<'_>, change: Change, file: i32) -> Result<()> {
    // Negative: of a machine in memory.
    let number = if file < 0 { return Err(Errno::BADF) } else { file };
    let mut attr = DeviceAttr {
        flags: 0,
        group: FILE,
        attr: change as u64,
        addr: std::ptr::from_ref(&number).expose_provenance() as u64,
    };
    // SAFETY: KVM_SET_DEVICE_ATTR of this group reads this structure and the one number it points to, which lives until the end; KVM takes
    // a reference of its own to the file.
    unsafe { ioctl::call(kvm, SET_DEVICE_ATTR, &mut attr) }?;
    Ok(())
}
