//! What a device and its queues share: registers, interrupts, and whether it works (virtio 1.3 §3.1, §4.1). Here a device is brought up.

mod configuration;
mod health;

use super::layout::{Kind, Layout};
use super::part::Part;
use super::spec::{Features, common, status};
use crate::{Backing, Error, ErrorKind, Result, VectorKind, Vectors};
use health::Health;
use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
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
    /// Bits of the status that were written, and that the device keeps until it is reset.
    promised: AtomicU8,
    /// [`Health`].
    health: AtomicU8,
    /// It does no DMA any more.
    is_quiet: AtomicBool,
    pub(super) backing: B,
}

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
        // Registers answer from here on. It may do DMA, too, for a user before whose queues outlived the reset of the function, if it has one:
        // into what is mapped for it, until it is reset below.
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
            promised: AtomicU8::new(0),
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
        self.promised.store(now, Ordering::Relaxed);
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
        self.promised.store(all, Ordering::Relaxed);
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
        if self.common.read_u16(common::QUEUE_SIZE) != size {
            return Err(self.broken(STEP, "a queue does not take its size"));
        }
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

    pub(super) fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        Error::new(self.backing.bdf(), step, kind)
    }
}

/// The lower and the upper 32 bits.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
