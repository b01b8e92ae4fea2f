//! Interrupts of a device, delivered to eventfds.
//!
//! [`Interrupts`] is the guard of one kind of interrupt ([`IrqIndex`]): it enables vectors, replaces and drops them one by one, triggers
//! them from software, masks and unmasks them, and disables them all when dropped. INTx, MSI and MSI-X exclude one another. MSI and MSI-X are writes to
//! memory: of a function that is no bus master nothing comes, and no error tells of it.
//!
//! Follows `VFIO_DEVICE_GET_IRQ_INFO` and `VFIO_DEVICE_SET_IRQS` of `include/uapi/linux/vfio.h`.

use crate::sys::vfio::IrqData;
use crate::{BoundDevice, Error, ErrorKind, EventFd};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK,
};

/// A kind of interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IrqIndex {
    /// The interrupt line: one, level-triggered, masked by the kernel after each signal until it is unmasked.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
    /// An uncorrectable error was reported by the device (AER).
    Err,
    /// The kernel wants the device back: close it.
    Req,
    /// One that this version has no name for, or of a device that is no PCI function; its number.
    Other(u32),
}

impl IrqIndex {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Intx => 0,
            Self::Msi => 1,
            Self::Msix => 2,
            Self::Err => 3,
            Self::Req => 4,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for IrqIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intx => f.write_str("INTx"),
            Self::Msi => f.write_str("MSI"),
            Self::Msix => f.write_str("MSI-X"),
            Self::Err => f.write_str("ERR"),
            Self::Req => f.write_str("REQ"),
            Self::Other(number) => write!(f, "interrupt index {number}"),
        }
    }
}

bitflags::bitflags! {
    /// What can be done with a kind of interrupt.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct IrqFlags: u32 {
        /// It is delivered to eventfds.
        const EVENTFD = 1 << 0;
        /// It can be masked and unmasked.
        const MASKABLE = 1 << 1;
        /// The kernel masks it after each signal.
        const AUTOMASKED = 1 << 2;
        /// Vectors beyond those enabled first need all to be disabled before. Without it (MSI-X since Linux 6.5) vectors come and go one by one.
        const NORESIZE = 1 << 3;
        const _ = !0;
    }
}

/// What VFIO tells about a kind of interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "vfio_irq_info")]
pub struct IrqInfo {
    /// The kind.
    pub index: IrqIndex,
    /// What can be done with it.
    pub flags: IrqFlags,
    /// How many vectors there are; 0 when the device has none of the kind.
    pub count: u32,
}

/// The interrupts of one kind of one device. Disables them when dropped; holds the device open.
///
/// A function sends MSI and MSI-X only as a bus master ([`Config::set_bus_master`](crate::Config::set_bus_master)), which is off after opening: what it
/// raises before is lost. [`trigger`](Self::trigger) works all the same, because the kernel signals the event without the device.
///
/// ```no_run
/// use vfio_core::{BoundDevice, EventFd, IrqIndex};
///
/// fn loop_back(device: &BoundDevice) -> Result<u64, vfio_core::Error> {
///     let event = EventFd::new()?;
///     let interrupts = device.interrupts(IrqIndex::Msix)?;
///     interrupts.enable(0, &[Some(&event)])?;
///     interrupts.trigger(0)?;
///     event.wait()
/// }
/// ```
#[derive(Debug)]
#[must_use = "interrupts are disabled when it is dropped"]
pub struct Interrupts {
    device: BoundDevice,
    info: IrqInfo,
    /// Whether it was looked if anything comes of them.
    was_checked: AtomicBool,
}

impl Interrupts {
    /// Takes charge of a kind of interrupt, of which nobody else is.
    pub(crate) fn new(device: &BoundDevice, index: IrqIndex) -> Result<Self, Error> {
        let info = device.irq_info(index)?;
        if !device.claims().interrupts(index.number()) {
            return Err(device.failed("VFIO_DEVICE_SET_IRQS", ErrorKind::Busy(Errno::BUSY)));
        }
        Ok(Self {
            device: device.clone(),
            info,
            was_checked: AtomicBool::new(false),
        })
    }

    /// What VFIO tells about them.
    #[must_use]
    pub fn info(&self) -> &IrqInfo {
        &self.info
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        &self.device
    }

    /// Delivers the vectors from `start` on to these events; `None` drops a vector. Vectors outside of the range stay as they are. The
    /// kernel holds the events from here on. The first range to be enabled of MSI or MSI-X makes the kernel allocate all vectors up to its
    /// end; what can be added later, without [`disable`](Self::disable), is up to [`IrqFlags::NORESIZE`]. `tracing` gets a warning if the first
    /// to be enabled [are lost](Self::is_silent).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for vectors that do not exist, or that cannot be added to what is enabled ([`IrqFlags::NORESIZE`]), or while
    /// INTx, MSI or MSI-X is enabled and this is another one of them.
    #[doc(alias = "VFIO_DEVICE_SET_IRQS")]
    pub fn enable(&self, start: u32, events: &[Option<&EventFd>]) -> Result<(), Error> {
        let files: Vec<_> = events.iter().map(|event| event.map(AsFd::as_fd)).collect();
        self.set(start, VFIO_IRQ_SET_ACTION_TRIGGER, IrqData::Event(&files))?;
        // Once: it costs a call, and later the caller may want it so.
        let begins = events.iter().any(Option::is_some) && !self.was_checked.swap(true, Ordering::Relaxed);
        if begins && self.is_silent().is_ok_and(|silent| silent) {
            let (device, index) = (self.device.bdf(), self.info.index);
            tracing::warn!(?device, %index, "interrupts of a function that is no bus master are lost: Config::set_bus_master");
        }
        Ok(())
    }

    /// Whether what the function raises is lost: MSI and MSI-X while it is no bus master.
    ///
    /// # Errors
    ///
    /// As [`Region::read`](crate::Region::read).
    pub fn is_silent(&self) -> Result<bool, Error> {
        let in_memory = matches!(self.info.index, IrqIndex::Msi | IrqIndex::Msix);
        Ok(in_memory && !self.device.config()?.bus_master()?)
    }

    /// Signals a vector from software, as if the device had. That it succeeds proves nothing: of a vector that was never enabled, or was
    /// dropped, nothing comes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a vector that does not exist, and while none of the kind is enabled.
    pub fn trigger(&self, vector: u32) -> Result<(), Error> {
        self.set(vector, VFIO_IRQ_SET_ACTION_TRIGGER, IrqData::None(1))
    }

    /// Signals those vectors from `start` on that are `true`.
    ///
    /// # Errors
    ///
    /// As [`trigger`](Self::trigger).
    #[doc(alias = "VFIO_IRQ_SET_DATA_BOOL")]
    pub fn trigger_each(&self, start: u32, vectors: &[bool]) -> Result<(), Error> {
        let flags: Vec<_> = vectors.iter().copied().map(u8::from).collect();
        self.set(start, VFIO_IRQ_SET_ACTION_TRIGGER, IrqData::Bool(&flags))
    }

    /// Masks a vector.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a vector that does not exist, and of kinds that cannot be masked.
    pub fn mask(&self, vector: u32) -> Result<(), Error> {
        self.set(vector, VFIO_IRQ_SET_ACTION_MASK, IrqData::None(1))
    }

    /// Unmasks a vector: after each signal of INTx, once the device was served.
    ///
    /// # Errors
    ///
    /// As [`mask`](Self::mask).
    pub fn unmask(&self, vector: u32) -> Result<(), Error> {
        self.set(vector, VFIO_IRQ_SET_ACTION_UNMASK, IrqData::None(1))
    }

    /// Unmasks a vector whenever `event` is signalled; `None` ends that. A virtual machine's interrupt controller signals it (resample).
    ///
    /// # Errors
    ///
    /// As [`mask`](Self::mask).
    pub fn set_resample(&self, vector: u32, event: Option<&EventFd>) -> Result<(), Error> {
        self.set(
            vector,
            VFIO_IRQ_SET_ACTION_UNMASK,
            IrqData::Event(&[event.map(AsFd::as_fd)]),
        )
    }

    /// Disables all vectors; nothing happens if none is enabled.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    pub fn disable(&self) -> Result<(), Error> {
        let index = self.info.index.number();
        let disabled = (self.device.calls()).set_irqs(index, 0, VFIO_IRQ_SET_ACTION_TRIGGER, IrqData::None(0));
        match disabled {
            // EINVAL: none is enabled.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(self.device.failed("VFIO_DEVICE_SET_IRQS", ErrorKind::from_errno(errno))),
        }
    }

    fn set(&self, start: u32, action: u32, data: IrqData<'_>) -> Result<(), Error> {
        let len = match data {
            IrqData::None(count) => count,
            IrqData::Bool(flags) => u32::try_from(flags.len()).unwrap_or(u32::MAX),
            IrqData::Event(events) => u32::try_from(events.len()).unwrap_or(u32::MAX),
        };
        let exist = len != 0 && start.checked_add(len).is_some_and(|end| end <= self.info.count);
        if !exist {
            let kind = ErrorKind::Invalid("no vectors, or vectors that the device does not have");
            return Err(self.device.failed("VFIO_DEVICE_SET_IRQS", kind));
        }
        self.call(start, action, data)
    }

    fn call(&self, start: u32, action: u32, data: IrqData<'_>) -> Result<(), Error> {
        let result = self
            .device
            .calls()
            .set_irqs(self.info.index.number(), start, action, data);
        result.map_err(|errno| {
            let kind = match errno {
                Errno::INVAL if matches!(data, IrqData::Event(_)) => ErrorKind::Invalid(
                    "these vectors cannot be added to those enabled (NORESIZE), or another kind of interrupt is enabled",
                ),
                Errno::INVAL => ErrorKind::Invalid("no interrupt of this kind is enabled, or it cannot do this"),
                Errno::NOTTY => ErrorKind::Unsupported {
                    errno,
                    since: "a kind of interrupt that can be masked",
                },
                other => ErrorKind::from_errno(other),
            };
            self.device.failed("VFIO_DEVICE_SET_IRQS", kind)
        })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // A device without any vectors has nothing to disable.
        if self.info.count != 0
            && let Err(error) = self.disable()
            && !matches!(error.kind, ErrorKind::Gone(_))
        {
            tracing::error!(%error, index = %self.info.index, "interrupts stay enabled until the device is closed");
        }
        self.device.claims().release_interrupts(self.info.index.number());
    }
}
