//! What a device and its queues share: registers, interrupts, and whether it works (virtio 1.3 §3.1, §4.1).

use super::layout::{Kind, Layout};
use super::part::Part;
use super::spec::{Features, common, status};
use crate::backing::poll_until;
use crate::{Backing, Error, ErrorKind, Presence, Result, VectorKind, Vectors};
use std::any::Any;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_core::EventFd;

/// The device. Held by each of its queues, which may be on threads of their own.
///
/// When the last of them lets go, the device is reset, and only then what it was given is freed.
#[derive(Debug)]
pub(super) struct Function<B: Backing> {
    // Once the device is stopped: memory, interrupts, registers, and the function itself.
    /// Memory of queues, and what they had in flight when they were dropped.
    retired: Mutex<Vec<Box<dyn Any + Send>>>,
    vectors: Option<Vectors>,
    common: Part,
    notify: Part,
    multiplier: u32,
    device: Option<Part>,
    features: u64,
    /// [`Health`].
    health: AtomicU8,
    /// It does no DMA any more.
    is_quiet: AtomicBool,
    pub(super) backing: B,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Health {
    Running,
    /// It has to be reset.
    Failed,
    /// It was.
    Stopped,
    Gone,
}

/// How long a reset may take. The specification has no limit; a device in software has to let go of queues that others work on.
const RESET: Duration = Duration::from_secs(1);
/// How often its configuration may change while it is read.
const READS: u32 = 100;
/// The vector of changes of the configuration. Queues have those behind it.
pub(super) const CHANGES: u16 = 0;

impl<B: Backing> Function<B> {
    /// Resets the device and settles the features: those of `wanted` that it has, and what all of them need. With `queues` more than 0 there are
    /// interrupts, for as many queues as there are vectors.
    pub(super) fn open(backing: B, kind: Kind, wanted: u64, queues: u16) -> Result<Self> {
        let unsupported = |text: &'static str| {
            Error::new(
                backing.bdf(),
                "identify the device",
                ErrorKind::Unsupported(text.into()),
            )
        };
        let layout = Layout::of(&backing.config()?).map_err(unsupported)?;
        if layout.kind != kind {
            let kind = ErrorKind::Unsupported(format!("a {}, where a {kind} is wanted", layout.kind).into());
            return Err(Error::new(backing.bdf(), "identify the device", kind));
        }
        // Registers answer from here on. It may do DMA, too, but nothing is mapped for it before it was reset.
        backing.start()?;
        let part = |place| Part::map(&backing, place);
        let (common, notify) = (part(layout.common)?, part(layout.notify)?);
        let device = layout.device.map(part).transpose()?;
        let vectors = (queues > 0)
            .then(|| backing.vectors(usize::from(queues) + 1))
            .transpose()?;
        if vectors
            .as_ref()
            .is_some_and(|vectors| vectors.kind() != VectorKind::Msix)
        {
            return Err(unsupported("interrupts without MSI-X: queues can only be polled"));
        }
        let mut function = Self {
            retired: Mutex::default(),
            vectors,
            common,
            notify,
            multiplier: layout.multiplier,
            device,
            features: 0,
            health: AtomicU8::new(Health::Running as u8),
            is_quiet: AtomicBool::new(false),
            backing,
        };
        function.reset()?;
        function.settle(wanted)?;
        function.route(common::CONFIG_VECTOR, CHANGES)?;
        Ok(function)
    }

    fn settle(&mut self, wanted: u64) -> Result<()> {
        const STEP: &str = "settle features";
        let refused = |text: &'static str| self.failed(STEP, ErrorKind::Unsupported(text.into()));
        let mut now = status::ACKNOWLEDGE | status::DRIVER;
        self.common.write_u8(common::STATUS, status::ACKNOWLEDGE);
        self.common.write_u8(common::STATUS, now);
        let offered = self.offered();
        for (feature, text) in [
            (Features::VERSION_1, "the device is older than virtio 1"),
            (
                Features::ACCESS_PLATFORM,
                // It takes IOVAs for addresses of memory: no queue of this process may be shown to it.
                "the device bypasses the IOMMU; iommu_platform=on",
            ),
        ] {
            if offered & feature.bits() == 0 {
                return Err(refused(text));
            }
        }
        let features = offered & (wanted | Features::all().bits());
        for (select, half) in halves(features).into_iter().enumerate() {
            self.common
                .write_u32(common::DRIVER_FEATURE_SELECT, u32::try_from(select).unwrap_or_default());
            self.common.write_u32(common::DRIVER_FEATURE, half);
        }
        now |= status::FEATURES_OK;
        self.common.write_u8(common::STATUS, now);
        if self.status()? & status::FEATURES_OK == 0 {
            return Err(refused("the device refuses the features that it has offered"));
        }
        self.features = features;
        Ok(())
    }

    fn offered(&self) -> u64 {
        let half = |select| {
            self.common.write_u32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read_u32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// From here on the device works.
    pub(super) fn run(&self) -> Result<()> {
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.common.write_u8(common::STATUS, all);
        self.check()
    }

    /// What was settled.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    pub(super) fn has(&self, feature: Features) -> bool {
        self.features & feature.bits() != 0
    }

    /// Shows a queue to the device, before it [runs](Self::run). `size` chooses how many descriptors it has, knowing the most; then `addresses`
    /// makes them: descriptors, driver's and device's part. Gives where it is notified.
    pub(super) fn add_queue(
        &self,
        index: u16,
        vector: Option<u16>,
        make: impl FnOnce(u16) -> Result<(u16, [u64; 3])>,
    ) -> Result<usize> {
        const STEP: &str = "make a queue";
        let broken = |text: &'static str| self.failed(STEP, ErrorKind::Failed(text.into()));
        self.common.write_u16(common::QUEUE_SELECT, index);
        let most = self.common.read_u16(common::QUEUE_SIZE);
        if index >= self.common.read_u16(common::QUEUES) || most == 0 {
            return Err(broken("a queue is missing"));
        }
        let (size, addresses) = make(most)?;
        self.common.write_u16(common::QUEUE_SIZE, size);
        self.route(common::QUEUE_VECTOR, vector.unwrap_or(common::NO_VECTOR))?;
        let places = [common::QUEUE_DESCRIPTORS, common::QUEUE_DRIVER, common::QUEUE_DEVICE];
        for (place, address) in places.into_iter().zip(addresses) {
            let [low, high] = halves(address);
            self.common.write_u32(place, low);
            self.common.write_u32(place + 4, high);
        }
        let stride = u64::from(self.multiplier) * u64::from(self.common.read_u16(common::QUEUE_NOTIFY));
        let place = usize::try_from(stride).unwrap_or(usize::MAX);
        let is_inside = place.checked_add(2).is_some_and(|end| end <= self.notify.len);
        if !is_inside || !(self.notify.base + place).is_multiple_of(2) {
            return Err(broken("a queue is notified outside of what is for that"));
        }
        self.common.write_u16(common::QUEUE_ENABLE, 1);
        if self.common.read_u16(common::QUEUE_ENABLE) != 1 {
            return Err(self.broken(STEP, "a queue does not come up"));
        }
        Ok(place)
    }

    /// Sends what `register` stands for to a vector, if there are any.
    fn route(&self, register: usize, vector: u16) -> Result<()> {
        let vector = if self.vectors.is_some() {
            vector
        } else {
            common::NO_VECTOR
        };
        self.common.write_u16(register, vector);
        if self.common.read_u16(register) != vector {
            return Err(self.broken("route an interrupt", "the device has no room for an interrupt"));
        }
        Ok(())
    }

    /// The vector of a queue: one of its own.
    pub(super) fn vector(&self, queue: u16) -> Result<Option<u16>> {
        let Some(vectors) = &self.vectors else { return Ok(None) };
        let vector = CHANGES + 1 + queue;
        if usize::from(vector) < vectors.count() {
            return Ok(Some(vector));
        }
        let text = format!(
            "the function has {} vectors, of which queue {queue} gets none: poll it",
            vectors.count()
        );
        Err(self.failed("give a queue an interrupt", ErrorKind::Unsupported(text.into())))
    }

    /// The event of a vector.
    pub(super) fn event(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.as_ref()?.event(vector.into())
    }

    /// Tells the device that there is something in a queue.
    #[inline]
    pub(super) fn notify(&self, place: usize, queue: u16) {
        self.notify.write_u16(place, queue);
    }

    /// Two bytes of the device's configuration; all ones where there are none.
    pub(super) fn config_u16(&self, offset: usize) -> u16 {
        self.device.as_ref().map_or(u16::MAX, |part| part.read_u16(offset))
    }

    /// Four bytes of it.
    pub(super) fn config_u32(&self, offset: usize) -> u32 {
        self.device.as_ref().map_or(u32::MAX, |part| part.read_u32(offset))
    }

    /// Writes four bytes of it.
    pub(super) fn write_config_u32(&self, offset: usize, value: u32) {
        if let Some(part) = &self.device {
            part.write_u32(offset, value);
        }
    }

    /// Reads parts of the device's configuration that belong together: none is older than another.
    pub(super) fn config<T>(&self, read: impl Fn(&Self) -> T) -> Result<T> {
        for _ in 0..READS {
            let before = self.common.read_u8(common::GENERATION);
            let value = read(self);
            if self.common.read_u8(common::GENERATION) == before {
                self.check()?;
                return Ok(value);
            }
            self.backing.idle();
        }
        Err(self.broken("read the configuration", "its configuration never rests"))
    }

    /// Whether requests are taken: it works, and nobody wants it back. Two loads.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        // Relaxed: a queue touches nothing on the strength of it.
        self.health.load(Ordering::Relaxed) == Health::Running as u8
            && self.backing.removal().presence() == Presence::Present
    }

    /// Whether answers come: it works. Two loads.
    #[inline]
    pub(super) fn alive(&self, step: &'static str) -> Result<()> {
        if self.health.load(Ordering::Relaxed) == Health::Running as u8
            && self.backing.removal().presence() != Presence::Gone
        {
            return Ok(());
        }
        Err(self.why_not(step))
    }

    #[cold]
    pub(super) fn why_not(&self, step: &'static str) -> Error {
        if self.backing.removal().presence() != Presence::Present {
            return self.failed(step, ErrorKind::Gone);
        }
        let health = self.health.load(Ordering::Relaxed);
        let kind = if health == Health::Gone as u8 {
            ErrorKind::Gone
        } else if health == Health::Stopped as u8 {
            ErrorKind::Invalid("the device was stopped".into())
        } else {
            ErrorKind::Failed("the device has to be stopped and opened again".into())
        };
        self.failed(step, kind)
    }

    /// Asks the device whether it works. One read of a register.
    pub(super) fn check(&self) -> Result<()> {
        self.alive("look at the device")?;
        if self.status()? & status::NEEDS_RESET != 0 {
            return Err(self.broken("look at the device", "it says that it needs a reset"));
        }
        Ok(())
    }

    /// Its status register; all ones is no status.
    fn status(&self) -> Result<u8> {
        match self.common.read_u8(common::STATUS) {
            u8::MAX if self.backing.presence() == Presence::Gone => {
                self.backing.removal().tell(Presence::Gone);
                self.worsen(Health::Gone);
                Err(self.failed("look at the device", ErrorKind::Gone))
            }
            u8::MAX => Err(self.broken("look at the device", "its registers do not answer")),
            now => Ok(now),
        }
    }

    /// It does what it must not: nothing is asked of it any more.
    #[cold]
    pub(super) fn broken(&self, step: &'static str, text: impl Into<Cow<'static, str>>) -> Error {
        // A device that has gone answers nonsense, too.
        if self.backing.presence() == Presence::Gone {
            self.backing.removal().tell(Presence::Gone);
            self.worsen(Health::Gone);
            return self.failed(step, ErrorKind::Gone);
        }
        self.worsen(Health::Failed);
        self.failed(step, ErrorKind::Failed(text.into()))
    }

    fn worsen(&self, health: Health) {
        self.health.fetch_max(health as u8, Ordering::Relaxed);
    }

    /// Stops the device for good: from here on it does no DMA.
    ///
    /// # Errors
    ///
    /// When nothing proves that.
    pub(super) fn stop(&self) -> Result<()> {
        self.worsen(Health::Stopped);
        // One at a time: the second has nothing to do.
        let _turn = self.retired();
        if self.is_quiet() {
            return Ok(());
        }
        if let Err(error) = self.reset() {
            if !error.is_gone() {
                tracing::warn!(%error, "the function is made quiet instead");
            }
            self.backing.quiesce()?;
        }
        // Released: who sees it sees what the device wrote before that.
        self.is_quiet.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether what it was given can be taken back.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Acquire)
    }

    /// Writes 0 to the status, and waits until the device has done so, too (§2.4.2).
    fn reset(&self) -> Result<()> {
        const STEP: &str = "reset the device";
        if self.backing.presence() == Presence::Gone {
            return Err(self.failed(STEP, ErrorKind::Gone));
        }
        self.common.write_u8(common::STATUS, 0);
        let done = poll_until(&self.backing, RESET, || match self.common.read_u8(common::STATUS) {
            0 => Ok(Some(())),
            u8::MAX => self.status().map(|_| None),
            _ => Ok(None),
        })?;
        done.ok_or_else(|| self.failed(STEP, ErrorKind::Timeout(RESET)))
    }

    /// Keeps memory until the device has stopped.
    pub(super) fn keep(&self, memory: impl Any + Send) {
        self.retired().push(Box::new(memory));
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        Error::new(self.backing.bdf(), step, kind)
    }
}

impl<B: Backing> Drop for Function<B> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "a device that cannot be stopped keeps its queues and their buffers");
            std::mem::forget(std::mem::take(&mut *self.retired()));
        }
    }
}

/// The lower and the upper 32 bits.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
