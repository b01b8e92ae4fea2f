//! Devices in memory, behind the same contract as real ones.
//!
//! A [`FakeBacking`] is a [`VfioBacking`] over the fake kernel of `vfio_core::fake`: memory is mapped, limited and faulted by the same model, and every
//! call of the kernel can be made to fail. The device is any [`Device`].
//!
//! Nothing runs by itself: a device acts when a register is touched, or when it is poked, and that is what waiting for it does: each
//! [`idle`](Backing::idle) is a poke and a tick of its clock, [`TICK`] long. So what a driver does is the same every time, and a device that never
//! answers takes no time. [`FakeBacking::run`] pokes it from a thread, for futures.

mod edu;
pub mod igbvf;
pub mod nvme;
pub mod virtio;

pub use edu::Edu;

use crate::backing::poll_until;
use crate::{Backing, Error, Presence, Quiet, Registers, Removal, Result, Vectors, VfioBacking, Woken};
use iommu::group::GroupSpace;
use iommu::space::{AddressSpace, Attached};
use pci::{Bdf, ConfigSpace, GroupId, RoutingId, Segment};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use vfio_core::fake::{Device, Machine};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, ContainerPath, EventFd};

/// A function of a fake machine.
#[derive(Debug, Clone)]
pub struct FakeBacking {
    vfio: VfioBacking,
    machine: Machine,
    bdf: Bdf,
    /// In ticks.
    clock: Arc<AtomicU64>,
}

/// How long a turn of a waiting loop takes by a fake device's clock.
pub const TICK: Duration = Duration::from_nanos(TICK_NANOS);
const TICK_NANOS: u64 = 10_000;

/// Through which of the kernel's interfaces a fake function is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// `/dev/iommu` and the device's own file.
    Iommufd,
    /// A container and a group.
    Type1,
}

impl FakeBacking {
    /// A machine with this device alone, opened through iommufd.
    ///
    /// # Errors
    ///
    /// None but those that a test asks for.
    pub fn new(device: impl Device + 'static) -> Result<Self> {
        Self::through(Interface::Iommufd, device)
    }

    /// As [`new`](Self::new), through either interface.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn through(interface: Interface, device: impl Device + 'static) -> Result<Self> {
        let bdf = Bdf::new(Segment(0), RoutingId(0x100));
        let machine = Machine::builder().device(bdf, GROUP, device).build();
        Self::open(&machine, bdf, interface)
    }

    /// A function of a machine, which is alone in its group `GroupId(1)` if it goes through type 1.
    ///
    /// # Errors
    ///
    /// Those that the machine was told to give.
    pub fn open(machine: &Machine, bdf: Bdf, interface: Interface) -> Result<Self> {
        let vfio = match interface {
            Interface::Iommufd => over_iommufd(machine, bdf),
            Interface::Type1 => over_type1(machine, bdf),
        };
        let failed = |error: iommu::Error| Error::new(Some(bdf), "open the device", error.into());
        let attached = vfio.map_err(failed)?;
        Ok(Self {
            vfio: VfioBacking::new(attached)?,
            machine: machine.clone(),
            bdf,
            clock: Arc::default(),
        })
    }

    /// The machine: for faults, failing calls, removal, and what was left behind.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The device, as the kernel's boundary shows it.
    #[must_use]
    pub fn device(&self) -> &vfio_core::BoundDevice {
        self.vfio.device()
    }

    fn failed(&self, step: &'static str, error: vfio_core::Error) -> Error {
        Error::new(Some(self.bdf), step, error.into())
    }

    /// Lets the device do a step.
    pub fn poke(&self) {
        self.machine.poke(self.bdf);
    }

    /// Pokes the device from a thread until the result is dropped.
    ///
    /// # Errors
    ///
    /// When the process has no threads left.
    pub fn run(&self) -> std::io::Result<Running> {
        let end = Arc::new(AtomicBool::new(false));
        let (machine, bdf, ended) = (self.machine.clone(), self.bdf, Arc::clone(&end));
        let thread = Builder::new().name("device".to_owned()).spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                machine.poke(bdf);
                std::thread::yield_now();
            }
        })?;
        Ok(Running {
            end,
            thread: Some(thread),
        })
    }
}

/// The group of a device that is alone.
const GROUP: GroupId = GroupId(1);

fn over_iommufd(machine: &Machine, bdf: Bdf) -> iommu::Result<Attached> {
    let system = machine.system();
    let iommufd = Iommufd::open(&system)?;
    let path = machine
        .cdev_path(bdf)
        .ok_or(iommu::Error::Invalid("the machine has no such device"))?;
    let device = CdevFile::open(&system, path)?.bind(&iommufd, None)?;
    AddressSpace::iommufd(&iommufd)?.attach(&device)
}

fn over_type1(machine: &Machine, bdf: Bdf) -> iommu::Result<Attached> {
    let groups = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[GROUP])?;
    let device = groups.device(bdf, None)?;
    groups.space().attach(&device)
}

/// A device that is poked until this is dropped.
#[derive(Debug)]
#[must_use = "the device stops when it is dropped"]
pub struct Running {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the fake device has panicked");
        }
    }
}

impl Backing for FakeBacking {
    fn bdf(&self) -> Option<Bdf> {
        Some(self.bdf)
    }

    fn config(&self) -> Result<ConfigSpace> {
        self.vfio.config()
    }

    fn bar_len(&self, bar: u8) -> Result<u64> {
        self.vfio.bar_len(bar)
    }

    fn map_bar(&self, bar: u8, part: Range<u64>) -> Result<Registers> {
        self.vfio.map_bar(bar, part)
    }

    fn space(&self) -> &AddressSpace {
        self.vfio.space()
    }

    fn vectors(&self, count: usize) -> Result<Vectors> {
        self.vfio.vectors(count)
    }

    fn start(&self) -> Result<()> {
        self.vfio.start()
    }

    fn quiesce(&self) -> Result<Quiet> {
        self.vfio.quiesce()
    }

    fn reset(&self) -> Result<()> {
        self.vfio.reset()
    }

    fn removal(&self) -> &Removal {
        self.vfio.removal()
    }

    fn presence(&self) -> Presence {
        self.vfio.presence()
    }

    fn now(&self) -> Duration {
        let ticks = self.clock.load(Ordering::Relaxed);
        Duration::from_nanos(ticks.saturating_mul(TICK_NANOS))
    }

    fn idle(&self) {
        self.clock.fetch_add(1, Ordering::Relaxed);
        self.poke();
    }

    fn wait(&self, event: &EventFd, timeout: Option<Duration>) -> Result<Woken> {
        // Waiting takes time even if the signal is there already: a pin that stays asserted would stop the clock.
        self.idle();
        // What a test waits for without a limit comes soon or never.
        let limit = timeout.unwrap_or(Duration::from_secs(60));
        let woken = poll_until(self, limit, || {
            let signalled = event
                .try_read()
                .map_err(|error| self.failed("wait for an interrupt", error))?;
            Ok(match (signalled, self.removal().presence()) {
                (Some(_), _) => Some(Woken::Signalled),
                (None, Presence::Present) => None,
                (None, _) => Some(Woken::Removal),
            })
        })?;
        Ok(woken.unwrap_or(Woken::TimedOut))
    }
}
