//! An open device, whichever way it was opened.
//!
//! [`BoundDevice`] comes from a [`CdevFile`](crate::CdevFile) bound to an iommufd, or from an [`AttachedGroup`] of a container. What it
//! gives out holds it open: regions, maps, interrupts, attachments. It is closed when the last of these has gone, and lets
//! its iommufd or group go after that.

use crate::config::Config;
use crate::info::{DeviceInfo, RegionIndex, RegionInfo};
use crate::iommufd::{IommuDevice, Iommufd, ObjectId, sealed};
use crate::legacy::{AttachedGroup, Member};
use crate::sys::vfio::DeviceCalls;
use crate::{Error, ErrorKind, Interrupts, IrqFlags, IrqIndex, IrqInfo, Region, Step};
use pci::Bdf;
use rustix::io::Errno;
use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device that can be used. Cheap to clone.
///
/// One that is bound to an iommufd has no address space at first: all its DMA is stopped, and page tables, dirty bits and page requests are of no
/// use to it, until it is [attached](Self::attach) to one. One of a group has that of its container from the start. Either does DMA
/// and sends MSI only as a bus master ([`Config::set_bus_master`]), which is off after opening.
///
/// ```no_run
/// use vfio_core::{CdevFile, RegionIndex, System};
/// use vfio_core::iommufd::Iommufd;
///
/// let system = System::host();
/// let iommufd = Iommufd::open(&system)?;
/// let cdev = CdevFile::open_bdf(&system, &pci::Sysfs::host(), "0000:01:00.0".parse().unwrap())?;
/// let device = cdev.bind(&iommufd, None)?;
/// for (index, region) in device.regions() {
///     if let Ok(region) = region {
///         println!("{index}: {} bytes", region.size());
///     }
/// }
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Clone)]
pub struct BoundDevice {
    inner: Arc<Inner>,
}

struct Inner {
    // Fields drop in this order: the file is closed before what it depends on goes.
    calls: Arc<dyn DeviceCalls>,
    hold: Hold,
    bdf: Option<Bdf>,
    info: DeviceInfo,
    claims: Claims,
    revocations: AtomicU64,
}

/// What keeps a device usable.
enum Hold {
    Iommufd { iommufd: Iommufd, id: ObjectId },
    Group(Member),
}

/// What one guard at a time may have.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Claimed>);

#[derive(Debug, Default)]
struct Claimed {
    interrupts: BTreeSet<u32>,
    attachments: BTreeSet<Option<u32>>,
    /// Maps of regions.
    maps: usize,
    /// Whether it may be in low power, where an access to a map would end the process.
    asleep: bool,
}

impl BoundDevice {
    pub(crate) fn on_iommufd(
        calls: Arc<dyn DeviceCalls>,
        bdf: Option<Bdf>,
        iommufd: &Iommufd,
        id: ObjectId,
    ) -> Result<Self, Error> {
        let iommufd = iommufd.clone();
        Self::new(calls, bdf, Hold::Iommufd { iommufd, id })
    }

    pub(crate) fn in_group(calls: Arc<dyn DeviceCalls>, bdf: Option<Bdf>, member: Member) -> Result<Self, Error> {
        Self::new(calls, bdf, Hold::Group(member))
    }

    fn new(calls: Arc<dyn DeviceCalls>, bdf: Option<Bdf>, hold: Hold) -> Result<Self, Error> {
        let failed = |kind| Error::new("VFIO_DEVICE_GET_INFO", kind).on(bdf);
        let answer = calls.info().map_err(|errno| failed(ErrorKind::from_errno(errno)))?;
        let info = DeviceInfo::parse(&answer).map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                calls,
                hold,
                bdf,
                info,
                claims: Claims::default(),
                revocations: AtomicU64::new(0),
            }),
        })
    }

    /// Its address; `None` of a device that is no PCI function, and of a file handed in without saying which it is.
    #[must_use]
    pub fn bdf(&self) -> Option<Bdf> {
        self.inner.bdf
    }

    /// What VFIO tells about it.
    #[must_use]
    #[doc(alias = "VFIO_DEVICE_GET_INFO")]
    pub fn info(&self) -> &DeviceInfo {
        &self.inner.info
    }

    /// The group through which it was opened; `None` of one that is bound to an iommufd.
    #[must_use]
    pub fn group(&self) -> Option<&AttachedGroup> {
        match &self.inner.hold {
            Hold::Group(member) => Some(member.group()),
            Hold::Iommufd { .. } => None,
        }
    }

    /// The device as an object of its iommufd, for hardware page tables and virtual devices; `None` of one that was opened through a group.
    #[must_use]
    pub fn iommufd_device(&self) -> Option<IommufdDevice> {
        match &self.inner.hold {
            Hold::Iommufd { iommufd, id } => Some(IommufdDevice {
                iommufd: iommufd.clone(),
                id: *id,
                device: self.clone(),
            }),
            Hold::Group(_) => None,
        }
    }

    /// Asks about a region.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an index that the device does not have; [`ErrorKind::Malformed`].
    #[doc(alias = "VFIO_DEVICE_GET_REGION_INFO")]
    pub fn region_info(&self, index: RegionIndex) -> Result<RegionInfo, Error> {
        let failed = |kind| self.failed("VFIO_DEVICE_GET_REGION_INFO", kind);
        let answer = self.calls().region_info(index.0).map_err(|errno| {
            failed(match errno {
                Errno::INVAL => NO_REGION,
                other => ErrorKind::from_errno(other),
            })
        })?;
        let info = RegionInfo::parse(&answer).map_err(failed)?;
        if info.index != index {
            return Err(failed(ErrorKind::Malformed("the answer is about another region")));
        }
        Ok(info)
    }

    /// A region that exists.
    ///
    /// # Errors
    ///
    /// As [`region_info`](Self::region_info); [`ErrorKind::Invalid`] also for a region of no bytes.
    pub fn region(&self, index: RegionIndex) -> Result<Region, Error> {
        let info = self.region_info(index)?;
        if !info.exists() {
            return Err(self.failed("VFIO_DEVICE_GET_REGION_INFO", NO_REGION));
        }
        Ok(Region::new(self.clone(), info))
    }

    /// Every region index with its region, or why there is none. An index keeps its meaning whatever the others give.
    pub fn regions(&self) -> impl Iterator<Item = (RegionIndex, Result<Region, Error>)> {
        (0..self.info().num_regions).map(|index| (RegionIndex(index), self.region(RegionIndex(index))))
    }

    /// The configuration space.
    ///
    /// # Errors
    ///
    /// As [`region`](Self::region): on anything but a PCI function.
    pub fn config(&self) -> Result<Config, Error> {
        Config::new(self)
    }

    /// Asks about a kind of interrupt. A kind that the device does not have has no vectors.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    #[doc(alias = "VFIO_DEVICE_GET_IRQ_INFO")]
    pub fn irq_info(&self, index: IrqIndex) -> Result<IrqInfo, Error> {
        let (flags, count) = match self.calls().irq_info(index.number()) {
            Err(Errno::INVAL) => (0, 0),
            other => other.map_err(|errno| self.failed("VFIO_DEVICE_GET_IRQ_INFO", ErrorKind::from_errno(errno)))?,
        };
        Ok(IrqInfo {
            index,
            flags: IrqFlags::from_bits_retain(flags),
            count,
        })
    }

    /// Takes charge of a kind of interrupt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] while another guard is in charge of it; as [`irq_info`](Self::irq_info).
    pub fn interrupts(&self, index: IrqIndex) -> Result<Interrupts, Error> {
        Interrupts::new(self, index)
    }

    /// Resets the device, and no other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] on a function without a reset of its own; EAGAIN while something else uses its configuration space: try
    /// again.
    #[doc(alias = "VFIO_DEVICE_RESET")]
    pub fn reset(&self) -> Result<(), Error> {
        let reset = self.calls().reset();
        self.revoked();
        reset.map_err(|errno| {
            let kind = match errno {
                Errno::INVAL | Errno::NOTTY => ErrorKind::Unsupported {
                    errno,
                    since: "a function that can be reset by itself; a hot reset takes others with it",
                },
                other => ErrorKind::from_errno(other),
            };
            self.failed("VFIO_DEVICE_RESET", kind)
        })
    }

    /// How often something was done to the device through this value or a clone that takes its dma-bufs back, or may: a reset, a hot reset asked
    /// of it, low power, memory decoding switched off, and any other write to a capability of its configuration space, which may reset it or
    /// put it to sleep. What an IOAS has mapped of a dma-buf is gone then for good, and no event tells of it: once the count differs from
    /// the one before mapping, it is to be mapped anew.
    #[must_use]
    pub fn revocations(&self) -> u64 {
        self.inner.revocations.load(Ordering::Acquire)
    }

    /// Something was done that takes dma-bufs back, or was tried. Counted afterwards: who maps meanwhile has read the former count, and maps
    /// once more than needed rather than once less.
    pub(crate) fn revoked(&self) {
        self.inner.revocations.fetch_add(1, Ordering::AcqRel);
    }

    /// A duplicate of the device's descriptor, for a VMM that drives VFIO by itself. It keeps the device open after this value has gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] of a fake machine; when the process has no descriptors left.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        let failed = |kind| self.failed("fcntl F_DUPFD_CLOEXEC", kind);
        let file = self
            .calls()
            .descriptor()
            .map_err(|errno| failed(ErrorKind::from_errno(errno)))?;
        file.ok_or_else(|| {
            failed(ErrorKind::Unsupported {
                errno: Errno::OPNOTSUPP,
                since: "the running kernel",
            })
        })
    }

    pub(crate) fn calls(&self) -> &dyn DeviceCalls {
        &*self.inner.calls
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.inner.claims
    }

    pub(crate) fn failed(&self, step: impl Into<Step>, kind: ErrorKind) -> Error {
        Error::new(step, kind).on(self.bdf())
    }
}

const NO_REGION: ErrorKind = ErrorKind::Invalid("the device has no such region");

impl fmt::Debug for BoundDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("BoundDevice");
        shown.field("bdf", &self.inner.bdf);
        match &self.inner.hold {
            Hold::Iommufd { id, .. } => shown.field("iommufd", &id.0),
            Hold::Group(member) => shown
                .field("name", &member.name())
                .field("container", &member.group().container().path()),
        };
        shown.finish()
    }
}

/// A device as an object of its iommufd. Holds the device open.
#[derive(Debug, Clone)]
pub struct IommufdDevice {
    device: BoundDevice,
    iommufd: Iommufd,
    id: ObjectId,
}

impl IommufdDevice {
    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        &self.device
    }
}

impl sealed::Sealed for IommufdDevice {}

impl IommuDevice for IommufdDevice {
    fn device_id(&self) -> ObjectId {
        self.id
    }

    fn iommufd(&self) -> &Iommufd {
        &self.iommufd
    }

    fn hold(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.device.inner) as Arc<dyn Any + Send + Sync>
    }
}

impl Claims {
    /// Whether nobody was in charge of these interrupts; the caller is now.
    pub(crate) fn interrupts(&self, index: u32) -> bool {
        self.lock().interrupts.insert(index)
    }

    pub(crate) fn release_interrupts(&self, index: u32) {
        self.lock().interrupts.remove(&index);
    }

    /// Whether nothing was attached there; the caller's attachment is now.
    pub(crate) fn attachment(&self, pasid: Option<u32>) -> bool {
        self.lock().attachments.insert(pasid)
    }

    pub(crate) fn release_attachment(&self, pasid: Option<u32>) {
        self.lock().attachments.remove(&pasid);
    }

    /// Whether a region may be mapped; it counts as mapped now.
    pub(crate) fn map(&self) -> bool {
        let mut claimed = self.lock();
        claimed.maps += usize::from(!claimed.asleep);
        !claimed.asleep
    }

    pub(crate) fn release_map(&self) {
        let mut claimed = self.lock();
        claimed.maps = claimed.maps.saturating_sub(1);
    }

    /// Does what lets the device sleep while nothing is mapped; nothing can be mapped from then on if it succeeds. `None` while something is.
    /// One step with the call, so that two who do this at once, or one who wakes it, cannot leave it asleep and mappable.
    pub(crate) fn sleep<E>(&self, enter: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        let mut claimed = self.lock();
        (claimed.maps == 0).then(|| {
            let entered = enter();
            claimed.asleep |= entered.is_ok();
            entered
        })
    }

    /// Does what keeps the device awake; regions can be mapped from then on if it succeeds.
    pub(crate) fn wake<E>(&self, exit: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut claimed = self.lock();
        exit().inspect(|()| claimed.asleep = false)
    }

    fn lock(&self) -> MutexGuard<'_, Claimed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
