//! The commands' names, since when each exists, and what their errno values mean.

use crate::{Error, ErrorKind};
use rustix::io::Errno;

/// A command of iommufd as errors name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) step: &'static str,
    since: &'static str,
}

pub(super) const fn command(step: &'static str, since: &'static str) -> Command {
    Command { step, since }
}

pub(super) const OPEN: Command = command("open /dev/iommu", "Linux 6.2 with CONFIG_IOMMUFD");
pub(super) const IOAS_ALLOC: Command = command("IOMMU_IOAS_ALLOC", "Linux 6.2");
pub(super) const IOAS_ALLOW_IOVAS: Command = command("IOMMU_IOAS_ALLOW_IOVAS", "Linux 6.2");
pub(super) const IOAS_COPY: Command = command("IOMMU_IOAS_COPY", "Linux 6.2");
pub(super) const IOAS_IOVA_RANGES: Command = command("IOMMU_IOAS_IOVA_RANGES", "Linux 6.2");
pub(super) const IOAS_MAP: Command = command("IOMMU_IOAS_MAP", "Linux 6.2");
pub(super) const IOAS_UNMAP: Command = command("IOMMU_IOAS_UNMAP", "Linux 6.2");
pub(super) const OPTION: Command = command("IOMMU_OPTION", "Linux 6.2");
pub(super) const VFIO_IOAS: Command = command("IOMMU_VFIO_IOAS", "Linux 6.2 with CONFIG_VFIO_GROUP");
pub(super) const HWPT_ALLOC: Command = command(
    "IOMMU_HWPT_ALLOC",
    "Linux 6.6 (6.7 to nest or track dirty pages, 6.11 for page requests, 6.15 for PASIDs), and an IOMMU that offers it",
);
pub(super) const GET_HW_INFO: Command = command("IOMMU_GET_HW_INFO", "Linux 6.6; a chosen type of data Linux 6.17");
pub(super) const HWPT_SET_DIRTY_TRACKING: Command = command(
    "IOMMU_HWPT_SET_DIRTY_TRACKING",
    "Linux 6.7, and an IOMMU that tracks dirty pages",
);
pub(super) const HWPT_GET_DIRTY_BITMAP: Command = command(
    "IOMMU_HWPT_GET_DIRTY_BITMAP",
    "Linux 6.7, and an IOMMU that tracks dirty pages",
);
pub(super) const HWPT_INVALIDATE: Command = command(
    "IOMMU_HWPT_INVALIDATE",
    "Linux 6.8, and an IOMMU with nested translation",
);
pub(super) const FAULT_QUEUE_ALLOC: Command = command("IOMMU_FAULT_QUEUE_ALLOC", "Linux 6.11");
pub(super) const IOAS_MAP_FILE: Command = command(
    "IOMMU_IOAS_MAP_FILE",
    "Linux 6.13; for a dma-buf Linux 6.19 with CONFIG_VFIO_PCI_DMABUF",
);
pub(super) const VIOMMU_ALLOC: Command = command(
    "IOMMU_VIOMMU_ALLOC",
    "Linux 6.13, and an IOMMU that can be sliced (SMMUv3; AMD since Linux 7.0)",
);
pub(super) const VDEVICE_ALLOC: Command = command("IOMMU_VDEVICE_ALLOC", "Linux 6.13");
pub(super) const IOAS_CHANGE_PROCESS: Command = command("IOMMU_IOAS_CHANGE_PROCESS", "Linux 6.13");
pub(super) const VEVENTQ_ALLOC: Command = command(
    "IOMMU_VEVENTQ_ALLOC",
    "Linux 6.15, and a virtual IOMMU that reports such events",
);
pub(super) const HW_QUEUE_ALLOC: Command = command("IOMMU_HW_QUEUE_ALLOC", "Linux 6.17, and an IOMMU with such queues");
pub(super) const IOAS_NOIOMMU_GET_PA: Command =
    command("IOMMU_IOAS_NOIOMMU_GET_PA", "Linux 7.3 with CONFIG_IOMMUFD_NOIOMMU");
pub(super) const READ_FAULTS: Command = command("read page requests", "Linux 6.11");
pub(super) const WRITE_RESPONSE: Command = command("write page response", "Linux 6.11");
pub(super) const READ_EVENTS: Command = command("read events", "Linux 6.15");
pub(super) const MAP_OBJECT: Command = command(
    "mmap /dev/iommu",
    "Linux 6.17, and an object that shows something to user space",
);

impl Command {
    /// The error for an errno with its usual meaning in iommufd (the head of `iommufd.h` lists it).
    pub(super) fn error(self, errno: Errno) -> Error {
        match errno {
            Errno::NOTTY | Errno::OPNOTSUPP => self.unsupported(errno),
            // No removal is told by these: ENODEV is an IOMMU without operations or a dma-buf that was taken back, ENXIO an offset that shows nothing.
            Errno::NODEV | Errno::NXIO => self.fail(ErrorKind::Os(errno)),
            _ => self.fail(ErrorKind::from_errno(errno)),
        }
    }

    pub(super) fn unsupported(self, errno: Errno) -> Error {
        let since = self.since;
        self.fail(ErrorKind::Unsupported { errno, since })
    }

    pub(super) fn fail(self, kind: ErrorKind) -> Error {
        Error::new(self.step, kind)
    }

    pub(super) fn invalid(self, why: &'static str) -> Error {
        self.fail(ErrorKind::Invalid(why))
    }

    pub(super) fn malformed(self, how: &'static str) -> Error {
        self.fail(ErrorKind::Malformed(how))
    }
}
