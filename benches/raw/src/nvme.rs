//! Queues and interrupts for the controllers of virtual functions, given by a physical function that the kernel drives: the call that `nvme virt-mgmt`
//! makes.

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;

/// Virtualization Management (NVM Express Base 2.1, §5.2.6).
const VIRTUALIZATION_MANAGEMENT: u8 = 0x1c;

/// `struct nvme_passthru_cmd` of `include/uapi/linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: [u32; 2],
    metadata: u64,
    data: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

/// What is done with resources of a physical function's controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manage {
    /// So many are this controller's own after its next reset.
    Keep(Resource, u16),
    /// A controller, which is offline, has so many.
    Assign(u16, Resource, u16),
    /// A controller goes online.
    Online(u16),
}

/// What a controller is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Queue pairs.
    Queues = 0,
    /// Interrupt vectors.
    Interrupts = 1,
}

impl Manage {
    fn words(self) -> [u32; 2] {
        let (action, controller, resource, count) = match self {
            Self::Keep(resource, count) => (1, 0, resource, count),
            Self::Assign(controller, resource, count) => (8, controller, resource, count),
            Self::Online(controller) => (9, controller, Resource::Queues, 0),
        };
        let first = action | (resource as u32) << 8 | u32::from(controller) << 16;
        [first, count.into()]
    }

    /// Does it, by the kernel's file of the controller, as `/dev/nvme0`.
    ///
    /// # Errors
    ///
    /// Those of the kernel, and [`Other`](io::ErrorKind::Other) with the status of the controller that refuses.
    pub fn ask(self, controller: impl AsFd) -> io::Result<()> {
        let [cdw10, cdw11] = self.words();
        let command = Command {
            opcode: VIRTUALIZATION_MANAGEMENT,
            cdw10: [cdw10, cdw11, 0, 0, 0, 0],
            ..Command::default()
        };
        // SAFETY: `Command` is the structure that the kernel knows for this number, with no address in it.
        match unsafe { ioctl(controller, command) }? {
            0 => Ok(()),
            status => Err(io::Error::other(format!(
                "the controller refuses {self:?}: status {status:#x}"
            ))),
        }
    }
}

// SAFETY: the kernel reads and writes as many bytes as `NVME_IOCTL_ADMIN_CMD` says, those of the structure, while it is borrowed.
unsafe impl Ioctl for Command {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Self>(b'N', 0x41)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    /// The status of the controller, which is no errno.
    unsafe fn output_from_ptr(status: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that the kernel's header and the specification have.
    #[test]
    fn a_command_is_laid_out_as_the_kernel_has_it() {
        assert_eq!(Command::default().opcode(), 0xc048_4e41);
        assert_eq!(std::mem::offset_of!(Command, cdw10), 40);
        assert_eq!(Manage::Keep(Resource::Interrupts, 0).words(), [0x101, 0]);
        assert_eq!(Manage::Assign(3, Resource::Queues, 2).words(), [0x3_0008, 2]);
        assert_eq!(Manage::Online(127).words(), [0x7f_0009, 0]);
    }

    #[test]
    fn what_is_no_controller_refuses() {
        let nothing = std::fs::File::open("/dev/null").unwrap();
        let error = Manage::Online(1).ask(nothing).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
    }
}
