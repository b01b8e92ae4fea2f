//! The crate's error: which step, on which device, went wrong how, and what helps.

use crate::{Iova, IovaRange};
use pci::{Bdf, GroupId};
use rustix::io::Errno;
use std::borrow::Cow;
use std::fmt;

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{step}: {kind}", .device.map(|bdf| format!("{bdf}: ")).unwrap_or_default())]
pub struct Error {
    /// The function concerned, where one is.
    pub device: Option<Bdf>,
    /// What was being done.
    pub step: Step,
    /// What happened.
    pub kind: ErrorKind,
}

/// A step as the kernel spells it: `VFIO_DEVICE_BIND_IOMMUFD`, `open /dev/iommu`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step(Cow<'static, str>);

/// The kinds of failure that callers may tell apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file or object does not exist.
    #[error("{}", message(*.0))]
    NotFound(Errno),
    /// Permission denied.
    #[error("{}", message(*.0))]
    Denied(Errno),
    /// Somebody uses it, this process or another, or it still has users.
    #[error("{}", message(*.0))]
    Busy(Errno),
    /// The device was removed, or is being removed.
    #[error("the device is gone: {}", message(*.0))]
    Gone(Errno),
    /// The kernel or the device does not offer this.
    #[error("not supported: {}; needs {since}", message(*.errno))]
    Unsupported {
        /// What the kernel answered.
        errno: Errno,
        /// What offers it, for example `Linux 6.6 with CONFIG_IOMMUFD`.
        since: &'static str,
    },
    /// The process may not pin that much memory (RLIMIT_MEMLOCK).
    #[error("needs {need} bytes of locked memory, the limit is {limit}")]
    MemlockExceeded {
        /// What would be locked after this call, in bytes. At least: iommufd counts what all processes of the user have pinned, of which only this
        /// process's part is known. Where the others' decides, the failure is ENOMEM, as for a lack of memory.
        need: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A type1 container holds no more mappings (`vfio_iommu_type1.dma_entry_limit`).
    #[error("the container has as many mappings as vfio_iommu_type1.dma_entry_limit allows")]
    MappingLimit,
    /// Part of the range is mapped already.
    #[error("{0} overlaps a mapping")]
    AlreadyMapped(IovaRange),
    /// The range is not mapped, or not as one whole.
    #[error("{0} is not mapped")]
    NotMapped(IovaRange),
    /// The range, or part of it, may not be mapped: outside the IOMMU's reach, or reserved (RMRR, MSI window).
    #[error("{0} is not among the allowed IOVAs")]
    NotAllowed(IovaRange),
    /// The kernel unmapped another amount than was asked for.
    #[error("{got} bytes were unmapped, not {want}")]
    ShortUnmap {
        /// Bytes asked for.
        want: u64,
        /// Bytes unmapped.
        got: u64,
    },
    /// It is unmapped, and nothing is leaked, but which of its pages were written is lost.
    #[error("{range} is unmapped, but which of its pages are dirty is not known{}", .errno.map(|errno| format!(": {}", message(errno))).unwrap_or_default())]
    DirtyUnknown {
        /// What was mapped.
        range: IovaRange,
        /// What the kernel answered; nothing if it had been unmapped before.
        errno: Option<Errno>,
    },
    /// An access outside a region.
    #[error("{len} bytes at {offset:#x} are outside region {index} of {size:#x} bytes")]
    OutOfRegion {
        /// Index of the region.
        index: u32,
        /// Offset of the access in bytes.
        offset: u64,
        /// Length of the access in bytes.
        len: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// Fewer bytes were read or written than were asked for.
    #[error("{done} of {wanted} bytes were transferred")]
    ShortTransfer {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes transferred.
        done: usize,
    },
    /// Not every function of the group is on a VFIO driver or without one.
    #[error("IOMMU group {} is not viable{}", .group.0, in_the_way(.culprits))]
    GroupNotViable {
        /// The group.
        group: GroupId,
        /// The functions that are in the way, as far as they are known.
        culprits: Vec<Bdf>,
    },
    /// A VF whose PF is on vfio-pci opens only with the PF's token.
    #[error("the PF's VF token is needed, or another one was given")]
    Token,
    /// The kernel refuses direct hardware access: lockdown, or interrupts that cannot be isolated.
    #[error("refused to keep the machine safe: {}", message(*.0))]
    Unsafe(Errno),
    /// A number is off its alignment.
    #[error("the {what} must be a multiple of {multiple_of:#x}, and is {value:#x}")]
    Misaligned {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it must be a multiple of: the smallest page of the IOMMU, the page of the CPU.
        multiple_of: u64,
    },
    /// The request cannot be expressed or makes no sense; says why.
    #[error("{0}")]
    Invalid(&'static str),
    /// The kernel's answer does not follow its own format; says how.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// Any other error of the operating system.
    #[error("{}", message(*.0))]
    Os(Errno),
}

impl Error {
    /// An error of `step` with no device to name.
    #[must_use]
    pub fn new(step: impl Into<Step>, kind: ErrorKind) -> Self {
        Self {
            device: None,
            step: step.into(),
            kind,
        }
    }

    /// Names the device, if there is one to name.
    #[must_use]
    pub fn on(self, device: impl Into<Option<Bdf>>) -> Self {
        Self {
            device: device.into().or(self.device),
            ..self
        }
    }

    /// What the kernel answered, where the failure is one of the kernel's.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match &self.kind {
            ErrorKind::NotFound(errno)
            | ErrorKind::Denied(errno)
            | ErrorKind::Busy(errno)
            | ErrorKind::Gone(errno)
            | ErrorKind::Unsafe(errno)
            | ErrorKind::Os(errno)
            | ErrorKind::Unsupported { errno, .. } => Some(*errno),
            ErrorKind::MemlockExceeded { .. } => Some(Errno::NOMEM),
            ErrorKind::MappingLimit => Some(Errno::NOSPC),
            ErrorKind::AlreadyMapped(_) => Some(Errno::EXIST),
            ErrorKind::NotMapped(_) => Some(Errno::NOENT),
            ErrorKind::GroupNotViable { .. } => Some(Errno::PERM),
            ErrorKind::Token => Some(Errno::ACCESS),
            ErrorKind::DirtyUnknown { errno, .. } => *errno,
            _ => None,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        match &self.kind {
            ErrorKind::Denied(_) => Some("run as root, or give this user the device node (udev rule, chown)"),
            ErrorKind::Busy(_) => Some(
                "drop what this process has open or in use of it (device, group, guard), or stop the process that holds it: sriovctl status",
            ),
            ErrorKind::NotFound(_) if self.step.is_a_node() => {
                Some("bind the function to vfio-pci, and load the modules vfio and vfio_pci")
            }
            ErrorKind::Gone(_) => Some("close the device; open it again once it is back"),
            ErrorKind::MemlockExceeded { .. } => {
                Some("raise RLIMIT_MEMLOCK: ulimit -l, LimitMEMLOCK= in the unit, or limits.conf")
            }
            ErrorKind::MappingLimit => {
                Some("use larger mappings or a pool, or raise /sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
            }
            ErrorKind::NotAllowed(_) => {
                Some("take an IOVA from the allowed ranges; reserved ones are in reserved_regions")
            }
            ErrorKind::GroupNotViable { .. } => {
                Some("bind the group's other functions to vfio-pci too, or unbind them: sriovctl groups")
            }
            ErrorKind::DirtyUnknown { .. } => Some("take all of its pages for dirty"),
            ErrorKind::Token => Some("give the token that the holder of the PF has set"),
            ErrorKind::Unsafe(_) => {
                Some("enable interrupt remapping, or opt in with allow_unsafe_interrupts=1; leave kernel lockdown")
            }
            _ => None,
        }
    }
}

impl From<&'static str> for Step {
    fn from(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

impl From<String> for Step {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

impl Step {
    /// Whether it looks for a file that is there only while a function is on a VFIO driver.
    fn is_a_node(&self) -> bool {
        self.0.starts_with("open /dev/vfio/") || self.0.ends_with("/vfio-dev")
    }

    /// The step's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ErrorKind {
    /// What an errno means where it has no other meaning for the call.
    pub(crate) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound(errno),
            Errno::ACCESS | Errno::PERM => Self::Denied(errno),
            Errno::BUSY => Self::Busy(errno),
            Errno::NODEV | Errno::NXIO => Self::Gone(errno),
            _ => Self::Os(errno),
        }
    }
}

/// The first of the numbers that is no multiple of an alignment, a power of two.
pub(crate) fn misaligned<const N: usize>(
    numbers: [(&'static str, Option<u64>); N],
    multiple_of: u64,
) -> Option<ErrorKind> {
    let mut known = numbers.into_iter().filter_map(|(what, value)| Some((what, value?)));
    let (what, value) = known.find(|(_, value)| !Iova(*value).is_aligned_to(multiple_of))?;
    Some(ErrorKind::Misaligned {
        what,
        value,
        multiple_of,
    })
}

/// Who spoils a group, as far as it is known.
fn in_the_way(culprits: &[Bdf]) -> String {
    let names: Vec<_> = culprits.iter().map(Bdf::to_string).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(": {} on a driver of the host", names.join(", ")),
    }
}

/// The system's words for an errno, without Rust's `(os error N)`.
fn message(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_device_step_and_cause() {
        let bdf: Bdf = "0000:01:10.0".parse().unwrap();
        let error = Error::new("VFIO_DEVICE_BIND_IOMMUFD", ErrorKind::from_errno(Errno::BUSY)).on(bdf);
        assert_eq!(
            error.to_string(),
            "0000:01:10.0: VFIO_DEVICE_BIND_IOMMUFD: device or resource busy"
        );
        assert_eq!(error.errno(), Some(Errno::BUSY));
        assert!(error.fix().is_some());
        assert_eq!(error.on(None).device, Some(bdf), "a name once given stays");
    }

    #[test]
    fn who_spoils_a_group_is_said() {
        let group = GroupId(7);
        let spoiled = |culprits| ErrorKind::GroupNotViable { group, culprits }.to_string();
        let culprits = ["0000:01:00.1", "0000:01:00.2"].map(|bdf| bdf.parse().unwrap());
        assert_eq!(
            spoiled(culprits.to_vec()),
            "IOMMU group 7 is not viable: 0000:01:00.1, 0000:01:00.2 on a driver of the host"
        );
        assert_eq!(spoiled(Vec::new()), "IOMMU group 7 is not viable");
    }

    #[test]
    fn what_is_off_its_alignment_is_said_in_numbers() {
        let numbers = [("IOVA", None), ("length", Some(0x2000)), ("address", Some(0x1234))];
        let kind = misaligned(numbers, 0x1000).unwrap();
        assert_eq!(
            kind.to_string(),
            "the address must be a multiple of 0x1000, and is 0x1234"
        );
        assert_eq!(misaligned(numbers, 4), None);
    }

    #[test]
    fn what_is_not_supported_says_what_it_needs() {
        let kind = ErrorKind::Unsupported {
            errno: Errno::NOTTY,
            since: "Linux 6.6",
        };
        assert!(
            Error::new("IOMMU_GET_HW_INFO", kind)
                .to_string()
                .ends_with("; needs Linux 6.6")
        );
    }

    #[test]
    fn a_missing_node_is_made_by_binding() {
        let missing = |step: &'static str| Error::new(step, ErrorKind::NotFound(Errno::NOENT)).fix();
        assert!(missing("open /dev/vfio/7").is_some());
        assert!(missing("IOMMU_DESTROY").is_none());
    }
}
