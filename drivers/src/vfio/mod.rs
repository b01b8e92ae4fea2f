//! A function of this machine, through VFIO: iommufd or type1.

mod registers;
mod vectors;

pub use registers::Registers;
pub use vectors::{VectorKind, Vectors};

use crate::removal::Watcher;
use crate::wait::wait;
use crate::{Backing, Error, ErrorKind, Presence, Removal, Result, Woken};
use iommu::OpenOptions;
use iommu::space::{AddressSpace, Attached};
use pci::cap::{Decode, Express};
use pci::{Bdf, ConfigSpace};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vfio_core::{BoundDevice, Config, Errno, EventFd, Interrupts, IrqIndex, RegionIndex};

/// A function that is bound to a driver of VFIO, and the memory that it reaches.
#[derive(Clone)]
pub struct VfioBacking {
    inner: Arc<Inner>,
}

/// Proof that a device does no DMA any more and that none is under way: what it was given can be taken back.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Quiet {}

/// What is held by all that is had of the function.
struct Inner {
    // Fields drop in this order, after the function is quiet.
    _request: Option<Request>,
    removal: Removal,
    /// One at a time changes the command register.
    command: Mutex<Config>,
    /// Whether bus mastering was switched off to make it quiet: what it was told to do before would go on with it. Under `command`.
    is_quieted: AtomicBool,
    attached: Attached,
    opened: Instant,
}

/// The request interrupt, and who listens to it.
struct Request {
    // The interrupt is off before nobody listens.
    _interrupt: Interrupts,
    _watcher: Watcher,
}

/// How long the kernel may be busy with a function that is to be reset.
const BUSY: Duration = Duration::from_secs(1);
/// How long DMA that is under way may take after bus mastering is off: the longest that a PCI function has to finish what it began (PCIe 6.0
/// §6.6.2 lets 100 ms pass before a reset).
const UNDER_WAY: Duration = Duration::from_millis(100);

/// A function that reads as ones for so long is gone. One that is reset may do so for 100 ms (PCIe 6.0 §6.6.2), a virtual function also while its
/// physical function is.
const ONES: Duration = Duration::from_millis(200);

impl VfioBacking {
    /// Opens a function that is bound to a VFIO driver, the best way that the machine offers, and with an address space of its own.
    ///
    /// ```no_run
    /// use drivers::{Backing, VfioBacking};
    ///
    /// let backing = VfioBacking::open("0000:01:00.0".parse().unwrap())?;
    /// println!("BAR 0 has {} bytes", backing.bar_len(0)?);
    /// # Ok::<(), drivers::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(bdf: Bdf) -> Result<Self> {
        Self::open_with(&OpenOptions::default(), bdf)
    }

    /// As [`open`](Self::open), with a VF token, or by one way only.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Kernel`] with what stands in the way of each way.
    pub fn open_with(options: &OpenOptions, bdf: Bdf) -> Result<Self> {
        let attached = options.open(bdf);
        Self::new(attached.map_err(|error| Error::new(Some(bdf), "open the device", error.into()))?)
    }

    /// Takes over a device, and resets it if it can be: whatever its last user left running is over.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn new(attached: Attached) -> Result<Self> {
        let device = attached.device();
        let failed = |error: vfio_core::Error| Error::new(device.bdf(), "take over the device", error.into());
        let config = device.config().map_err(failed)?;
        config.set_bus_master(false).map_err(failed)?;
        match device.reset() {
            Err(error) if !matches!(error.kind, vfio_core::ErrorKind::Unsupported { .. }) => return Err(failed(error)),
            _ => {}
        }
        let removal = Removal::new().map_err(failed)?;
        let request = Request::new(device, &removal).map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                _request: request,
                removal,
                command: Mutex::new(config),
                is_quieted: AtomicBool::new(false),
                attached,
                opened: Instant::now(),
            }),
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        self.inner.attached.device()
    }

    fn failed(&self, step: &'static str, error: impl Into<ErrorKind>) -> Error {
        Error::new(self.bdf(), step, error.into())
    }
}

impl Request {
    /// `None` of a kernel that has no such interrupt.
    fn new(device: &BoundDevice, removal: &Removal) -> Result<Option<Self>, vfio_core::Error> {
        if device.irq_info(IrqIndex::Req)?.count == 0 {
            return Ok(None);
        }
        let event = EventFd::new()?;
        let interrupt = device.interrupts(IrqIndex::Req)?;
        interrupt.enable(0, &[Some(&event)])?;
        Ok(Some(Self {
            _interrupt: interrupt,
            _watcher: Watcher::new(removal, event)?,
        }))
    }
}

impl Inner {
    fn command(&self) -> MutexGuard<'_, Config> {
        self.command.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn presence(&self, config: &Config) -> Presence {
        if is_gone(config) {
            Presence::Gone
        } else {
            self.removal.presence()
        }
    }

    /// Whether bus mastering is off and nothing is under way.
    fn is_quiet(&self, config: &Config) -> Result<bool, vfio_core::Error> {
        config.set_bus_master(false)?;
        let image = config.image()?;
        let capabilities = image.capabilities();
        let express = capabilities
            .items
            .iter()
            .find(|capability| capability.id() == Express::ID);
        let Some(express) = express.map(|capability| capability.offset()) else {
            // Conventional PCI has no way to say: who is not on the bus has nothing under way.
            return Ok(!config.bus_master()?);
        };
        let end = Instant::now() + UNDER_WAY;
        loop {
            let pending = config.read_u16(express + DEVICE_STATUS)? & TRANSACTIONS_PENDING != 0;
            if !pending {
                return Ok(!config.bus_master()?);
            }
            if Instant::now() > end {
                return Ok(false);
            }
            std::thread::yield_now();
        }
    }

    fn reset_in_time(&self) -> Result<(), vfio_core::Error> {
        let begin = Instant::now();
        loop {
            match self.attached.device().reset() {
                // Something else uses its configuration space for a moment.
                Err(error) if error.errno() == Some(Errno::AGAIN) && begin.elapsed() < BUSY => std::thread::yield_now(),
                reset => return reset,
            }
        }
    }

    /// What was said of its removal is no proof: only the function itself, and the kernel, are asked.
    fn quiesce(&self) -> Result<Quiet, ErrorKind> {
        let config = self.command();
        let quiet = self.is_quiet(&config);
        self.is_quieted.store(true, Ordering::Relaxed);
        if matches!(quiet, Ok(true)) || is_gone(&config) {
            return Ok(Quiet {});
        }
        // A reset ends what is under way, and leaves bus mastering as it was.
        self.attached.device().reset()?;
        config.set_bus_master(false)?;
        if config.bus_master()? {
            return Err(ErrorKind::Failed("bus mastering stays on".into()));
        }
        Ok(Quiet {})
    }
}

/// Whether the function is not there any more: the kernel says so, or it does not answer for longer than one that is reset.
fn is_gone(config: &Config) -> bool {
    let start = Instant::now();
    loop {
        match config.read_u16(STATUS) {
            // Reserved bits of it are 0, and VFIO emulates none of it.
            Ok(u16::MAX) => {}
            Err(error) => return matches!(error.kind, vfio_core::ErrorKind::Gone(_)),
            Ok(_) => return false,
        }
        if start.elapsed() > ONES {
            return true;
        }
        std::thread::yield_now();
    }
}

/// Offsets in configuration space (PCIe 6.0 §7.5.1.1.4, §7.5.3.5).
const STATUS: u16 = 6;
const DEVICE_STATUS: u16 = 10;
const TRANSACTIONS_PENDING: u16 = 1 << 5;

impl Backing for VfioBacking {
    fn bdf(&self) -> Option<Bdf> {
        self.device().bdf()
    }

    fn config(&self) -> Result<ConfigSpace> {
        let image = self.inner.command().image();
        image.map_err(|error| self.failed("read the configuration space", error))
    }

    fn bar_len(&self, bar: u8) -> Result<u64> {
        let info = self.device().region_info(bar_index(bar));
        info.map(|info| info.size).map_err(|error| self.failed("BAR", error))
    }

    fn map_bar(&self, bar: u8, part: Range<u64>) -> Result<Registers> {
        let map = self.device().region(bar_index(bar)).and_then(|region| region.map(part));
        let map = map.map_err(|error| self.failed("map a BAR", error))?;
        Ok(Registers::new(map, Arc::clone(&self.inner)))
    }

    fn space(&self) -> &AddressSpace {
        self.inner.attached.space()
    }

    fn vectors(&self, count: usize) -> Result<Vectors> {
        Vectors::new(&self.inner, count).map_err(|kind| self.failed("enable interrupts", kind))
    }

    fn start(&self) -> Result<()> {
        let config = self.inner.command();
        if self.inner.removal.presence() == Presence::Gone {
            return Err(self.failed("switch bus mastering on", ErrorKind::Gone));
        }
        if self.inner.is_quieted.load(Ordering::Relaxed) {
            let reset = self.inner.reset_in_time();
            reset.map_err(|error| self.failed("reset", error))?;
            self.inner.is_quieted.store(false, Ordering::Relaxed);
        }
        let started = config
            .set_memory_decode(true)
            .and_then(|()| config.set_bus_master(true))
            .and_then(|()| config.bus_master());
        match started.map_err(|error| self.failed("switch bus mastering on", error))? {
            true => Ok(()),
            false => Err(self.failed("switch bus mastering on", ErrorKind::Failed("it stays off".into()))),
        }
    }

    fn quiesce(&self) -> Result<Quiet> {
        let quiet = self.inner.quiesce();
        quiet.map_err(|error| self.failed("switch bus mastering off", error))
    }

    fn reset(&self) -> Result<()> {
        // Held, so that what is made quiet meanwhile is not taken for reset.
        let _command = self.inner.command();
        self.device().reset().map_err(|error| self.failed("reset", error))?;
        self.inner.is_quieted.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn removal(&self) -> &Removal {
        &self.inner.removal
    }

    fn presence(&self) -> Presence {
        self.inner.presence(&self.inner.command())
    }

    fn now(&self) -> Duration {
        self.inner.opened.elapsed()
    }

    /// Nothing, not even `pause`: that takes up to 140 cycles, as long as an empty look at a ring many times over, and may end in an exit in a
    /// virtual machine. Who leaves the CPU to others naps, or waits for an interrupt.
    #[inline]
    fn idle(&self) {}

    fn nap(&self) {
        std::thread::park_timeout(Duration::from_millis(1));
    }

    fn wait(&self, event: &EventFd, timeout: Option<Duration>) -> Result<Woken> {
        let woken = wait(event, self.removal(), timeout);
        woken.map_err(|error| self.failed("wait for an interrupt", error))
    }
}

const fn bar_index(bar: u8) -> RegionIndex {
    RegionIndex(bar as u32)
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A reset of what is gone would be waited for in vain.
        if is_gone(&self.command()) {
            return;
        }
        let quiet = self.command().set_bus_master(false);
        let reset = self.attached.device().reset();
        for error in [quiet.err(), reset.err()].into_iter().flatten() {
            // A function without a reset is quiet without its bus mastering. While the kernel waits for the device it does not reset it.
            let is_expected = matches!(
                error.kind,
                vfio_core::ErrorKind::Gone(_) | vfio_core::ErrorKind::Unsupported { .. }
            ) || error.errno() == Some(Errno::AGAIN);
            if !is_expected {
                tracing::error!(%error, "the device is not quiet; the kernel resets it when it is closed");
            }
        }
    }
}

impl fmt::Debug for VfioBacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioBacking")
            .field("bdf", &self.bdf())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
