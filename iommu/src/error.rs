//! The crate's error: the kernel's, or what policy refuses before the kernel is asked.

use pci::Bdf;
use std::fmt;
use vfio_core::{Backend, Errno, ErrorKind, IovaRange};

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the kernel failed; it says which, on which device, and what helps.
    #[error(transparent)]
    Kernel(#[from] vfio_core::Error),
    /// A device can be opened in no way.
    #[error("{device}: no way to open it{}", listed(*.device, .reasons))]
    NoWay {
        /// The device.
        device: Bdf,
        /// Each way that was tried, the preferred one first, and why it is of no use.
        reasons: Vec<(Backend, Self)>,
    },
    /// No free range is large enough.
    #[error("no free IOVAs for {len} bytes aligned to {alignment:#x}")]
    NoSpace {
        /// Bytes asked for.
        len: u64,
        /// Alignment asked for, in bytes.
        alignment: u64,
    },
    /// Something is in the way.
    #[error("{wanted} is not free: {range} is {by}")]
    InUse {
        /// What was asked for.
        wanted: IovaRange,
        /// What is in the way, all of it.
        range: IovaRange,
        /// What that is.
        by: Obstacle,
    },
    /// Part of the range may not be used: outside the IOMMU's reach, or reserved.
    #[error("{0} is not among the allowed IOVAs")]
    NotAllowed(IovaRange),
    /// The range was not handed out, or not as one whole.
    #[error("{0} was not allocated")]
    NotAllocated(IovaRange),
    /// Whoever watched the map ended it, or an unmapping took away what was mapped of it so far. Nothing of it is mapped.
    #[error("the map was cancelled")]
    Cancelled,
    /// The request cannot be expressed or makes no sense; says why.
    #[error("{0}")]
    Invalid(&'static str),
    /// The kernel or the device does not offer this; says what does.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

/// What IOVAs are in use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Obstacle {
    /// Memory is mapped there.
    Memory,
    /// A file is mapped there that has no address in this process: a dma-buf.
    File,
    /// They are kept for something that is not always mapped: another function's BAR, memory that is mapped on demand, or a map that is
    /// being made.
    Kept,
    /// The kernel did not unmap what was there, and a device may still reach it.
    Leaked,
    /// Handed out by an [`IovaAllocator`](crate::allocator::IovaAllocator), which knows no more.
    Allocated,
    /// Pages that were asked to stay, or that a device waits for.
    Pinned,
}

/// What the functions of this crate give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The function concerned, where one is known.
    #[must_use]
    pub fn device(&self) -> Option<Bdf> {
        match self {
            Self::Kernel(error) => error.device,
            Self::NoWay { device, .. } => Some(*device),
            _ => None,
        }
    }

    /// What kind of failure of the kernel it is; `None` for what was refused without asking it.
    #[must_use]
    pub fn kind(&self) -> Option<&ErrorKind> {
        match self {
            Self::Kernel(error) => Some(&error.kind),
            _ => None,
        }
    }

    /// What the kernel answered, where the failure is one of the kernel's.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(error) => error.errno(),
            _ => None,
        }
    }

    /// What the user can do about it. Where a device opens in no way it is what helps the preferred one that can be helped.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Kernel(error) => error.fix(),
            Self::NoWay { reasons, .. } => reasons.iter().find_map(|(_, error)| error.fix()),
            Self::NoSpace { .. } => {
                Some("unmap something, or ask for less, for a smaller alignment or for more address bits")
            }
            Self::InUse {
                by: Obstacle::Leaked, ..
            } => Some("take other IOVAs; these come back with a new address space"),
            Self::InUse { .. } => Some("take other IOVAs, or unmap what is there first"),
            Self::NotAllowed(_) => Some("take IOVAs from AddressSpace::allowed, or let them be chosen"),
            _ => None,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "mapped memory",
            Self::File => "a mapped dma-buf",
            Self::Kept => "kept for what is not always mapped",
            Self::Leaked => "leaked: the kernel did not unmap it",
            Self::Allocated => "handed out",
            Self::Pinned => "pinned",
        })
    }
}

/// The ways and their reasons, without the device's name in front of each.
fn listed(device: Bdf, reasons: &[(Backend, Error)]) -> String {
    let named = format!("{device}: ");
    let lines = reasons.iter().map(|(backend, error)| {
        let reason = error.to_string();
        format!("; {backend}: {}", reason.strip_prefix(&named).unwrap_or(&reason))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;
    use vfio_core::Iova;

    fn busy() -> Error {
        let error = vfio_core::Error::new("VFIO_DEVICE_BIND_IOMMUFD", ErrorKind::Busy(Errno::BUSY));
        error.on("0000:01:00.0".parse::<Bdf>().unwrap()).into()
    }

    #[test]
    fn an_error_of_the_kernel_keeps_what_it_says() {
        let error = busy();
        assert_eq!(error.device(), "0000:01:00.0".parse().ok());
        assert_eq!(error.kind(), Some(&ErrorKind::Busy(Errno::BUSY)));
        assert_eq!(error.errno(), Some(Errno::BUSY));
        assert!(error.fix().is_some());
        assert!(error.source().is_none(), "it is said once");
    }

    #[test]
    fn every_way_is_listed_and_the_device_named_once() {
        let none = Error::Unsupported("type1");
        let error = Error::NoWay {
            device: "0000:01:00.0".parse().unwrap(),
            reasons: vec![(Backend::Type1v2, none), (Backend::Iommufd, busy())],
        };
        let said = error.to_string();
        assert_eq!(said.matches("0000:01:00.0").count(), 1, "{said}");
        assert!(said.contains("not supported: type1") && said.contains("busy"), "{said}");
        assert_eq!(error.fix(), busy().fix());
        assert!(error.source().is_none() && error.errno().is_none() && error.kind().is_none());
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let range = |start| IovaRange::new(Iova(start), 4096).unwrap();
        let error = Error::InUse {
            wanted: range(0x1000),
            range: range(0x2000),
            by: Obstacle::Leaked,
        };
        assert_eq!(
            error.to_string(),
            "0x1000-0x1fff is not free: 0x2000-0x2fff is leaked: the kernel did not unmap it"
        );
        assert!(error.fix().is_some() && Error::Cancelled.fix().is_none());
    }
}
