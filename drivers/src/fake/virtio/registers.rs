//! Registers of a virtio device in memory, and what goes wrong with it.

use super::queue::DeviceQueue;
use crate::virtio::spec::{Features, common, status};
use std::collections::BTreeSet;
use vfio_core::fake::Bus;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its status never becomes 0.
    NeverResets,
    /// It refuses the features that it has offered.
    RefusesFeatures,
    /// It has no queues.
    NoQueues,
    /// Its queues keep the size that they have.
    KeepsSize,
    /// Its queues do not come up.
    QueuesStayOff,
    /// It has no room for interrupts.
    NoVectors,
    /// Its queues are notified outside of what is for that.
    NotifyOutside,
    /// Its configuration changes all the time.
    Restless,
    /// It does nothing.
    Mute,
    /// It says that it needs a reset.
    NeedsReset,
    /// It resets itself, and says nothing.
    ResetsItself,
    /// Its capability says that its configuration has four bytes.
    ShortConfiguration,
    /// It is done with a chain that is none.
    UnknownChain,
    /// It is done with a chain twice.
    DoneTwice,
    /// It says that it wrote more than it was given.
    TooLong,
    /// Its index goes further than the driver's.
    IndexJumps,
    /// Its disk answers with errors.
    DiskError,
    /// Its disk does not write its status.
    NoStatus,
    /// It says that frames take no buffers.
    NoBuffers,
    /// The headers of its frames say everything that there is to say, also what was not settled.
    StrayHeader,
    /// It writes nothing, and says so.
    Nothing,
}

/// Where everything is in BAR 0.
pub(super) mod part {
    pub(crate) const COMMON: u32 = 0;
    pub(crate) const DEVICE: u32 = 0x1000;
    /// Not at the start of a page.
    pub(crate) const NOTIFY: u32 = 0x2040;
    pub(crate) const MULTIPLIER: u32 = 4;
    pub(crate) const LEN: u64 = 0x4000;
}

#[derive(Debug)]
pub(super) struct Registers {
    pub(super) offered: u64,
    pub(super) faults: BTreeSet<Fault>,
    pub(super) mistakes: Vec<String>,
    pub(super) notifications: u64,
    pub(super) interrupts: u64,
    config: Vec<u8>,
    /// How many bytes at its start are read one by one (virtio 1.3 §4.1.3.1).
    pub(super) single: u64,
    generation: u8,
    depth: u16,
    pub(super) queues: Vec<DeviceQueue>,
    feature_select: u64,
    driver_select: u64,
    accepted: u64,
    status: u8,
    vector: u16,
    selected: u16,
    told: BTreeSet<usize>,
}

impl Registers {
    pub(super) fn new(offered: u64, config: Vec<u8>, queues: usize, depth: u16) -> Self {
        Self {
            offered,
            faults: BTreeSet::new(),
            mistakes: Vec::new(),
            notifications: 0,
            interrupts: 0,
            config,
            single: 0,
            generation: 0,
            depth,
            queues: vec![DeviceQueue::new(depth); queues],
            feature_select: 0,
            driver_select: 0,
            accepted: 0,
            status: 0,
            vector: common::NO_VECTOR,
            selected: 0,
            told: BTreeSet::new(),
        }
    }

    pub(super) fn reset(&mut self) {
        let depth = self.depth;
        for queue in &mut self.queues {
            *queue = DeviceQueue::new(depth);
        }
        (self.accepted, self.status, self.vector, self.selected) = (0, 0, common::NO_VECTOR, 0);
        self.told.clear();
    }

    pub(super) fn is_running(&self) -> bool {
        self.status & status::DRIVER_OK != 0 && self.status & status::NEEDS_RESET == 0
    }

    pub(super) fn has(&self, feature: Features) -> bool {
        self.accepted & feature.bits() != 0
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn fails(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub(super) fn mistake(&mut self, text: impl Into<String>) {
        self.mistakes.push(text.into());
    }

    /// The queues that it was told of since.
    pub(super) fn take_told(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.told)
    }

    pub(super) fn need_reset(&mut self, bus: &Bus<'_>) {
        self.status |= status::NEEDS_RESET;
        self.changed(bus);
    }

    fn changed(&mut self, bus: &Bus<'_>) {
        if self.vector != common::NO_VECTOR {
            self.interrupts += 1;
            bus.msix(self.vector.into());
        }
    }

    pub(super) fn configure(&mut self, offset: usize, byte: u8) {
        if let Some(place) = self.config.get_mut(offset) {
            *place = byte;
        }
        self.generation = self.generation.wrapping_add(1);
    }

    fn selected(&self) -> Option<&DeviceQueue> {
        if self.fails(Fault::NoQueues) {
            return None;
        }
        self.queues.get(usize::from(self.selected))
    }

    pub(super) fn read(&mut self, offset: u64, width: u32) -> u64 {
        let device = u64::from(part::DEVICE);
        if offset >= device {
            if offset - device < self.single && width != 1 {
                self.mistake(format!(
                    "{width} bytes of the configuration, which are to be read one by one"
                ));
            }
            let start = usize::try_from(offset - device).unwrap_or(usize::MAX);
            let bytes = self.config.iter().skip(start).take(usize::try_from(width).unwrap_or(0));
            return bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        let half = |features: u64, select: u64| match select {
            0 => features & u64::from(u32::MAX),
            1 => features >> 32,
            _ => 0,
        };
        let of = |read: fn(&DeviceQueue) -> u16| self.selected().map_or(0, read).into();
        match usize::try_from(offset).unwrap_or(usize::MAX) {
            common::DEVICE_FEATURE => half(self.offered, self.feature_select),
            common::DRIVER_FEATURE => half(self.accepted, self.driver_select),
            common::CONFIG_VECTOR => self.vector.into(),
            common::QUEUES if self.fails(Fault::NoQueues) => 0,
            common::QUEUES => self.queues.len() as u64,
            common::STATUS => self.status.into(),
            common::GENERATION => {
                if self.fails(Fault::Restless) {
                    self.generation = self.generation.wrapping_add(1);
                }
                self.generation.into()
            }
            common::QUEUE_SELECT => self.selected.into(),
            common::QUEUE_SIZE => of(|queue| queue.size),
            common::QUEUE_VECTOR => of(|queue| queue.vector),
            common::QUEUE_ENABLE => of(|queue| u16::from(queue.is_on)),
            common::QUEUE_NOTIFY => u64::from(self.selected),
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u64) {
        let notify = u64::from(part::NOTIFY);
        let short = u16::try_from(value & 0xffff).unwrap_or_default();
        if offset >= notify {
            self.notified((offset - notify) / u64::from(part::MULTIPLIER), short);
            return;
        }
        if offset >= u64::from(part::DEVICE) {
            // Only the register for last words can be written, and nobody listens.
            return;
        }
        let half = value & u64::from(u32::MAX);
        match usize::try_from(offset).unwrap_or(usize::MAX) {
            common::DEVICE_FEATURE_SELECT => self.feature_select = half,
            common::DRIVER_FEATURE_SELECT => self.driver_select = half,
            common::DRIVER_FEATURE => self.accept(half),
            common::CONFIG_VECTOR if !self.fails(Fault::NoVectors) => self.vector = short,
            common::STATUS => self.set_status(u8::try_from(value & 0xff).unwrap_or_default()),
            common::QUEUE_SELECT => self.selected = short,
            place @ common::QUEUE_SIZE.. => self.set_up(place, half),
            _ => {}
        }
    }

    fn accept(&mut self, half: u64) {
        if self.status & status::FEATURES_OK != 0 {
            self.mistake("features change after FEATURES_OK");
        }
        let shift = 32 * self.driver_select.min(1);
        self.accepted = self.accepted & !(u64::from(u32::MAX) << shift) | half << shift;
    }

    fn set_status(&mut self, now: u8) {
        if now == 0 {
            if !self.fails(Fault::NeverResets) {
                self.reset();
            }
            return;
        }
        if self.status & !now & !status::NEEDS_RESET != 0 {
            self.mistake("a bit of the status was cleared");
        }
        let settles = now & status::FEATURES_OK & !self.status != 0;
        self.status |= now;
        if !settles {
            return;
        }
        let needed = Features::VERSION_1 | Features::ACCESS_PLATFORM;
        if self.accepted & !self.offered != 0 || self.accepted & needed.bits() != needed.bits() {
            self.mistake(format!("features {:#x} of {:#x}", self.accepted, self.offered));
        }
        if self.fails(Fault::RefusesFeatures) {
            self.status &= !status::FEATURES_OK;
        }
    }

    /// A register of the selected queue.
    fn set_up(&mut self, place: usize, value: u64) {
        let is_settled = self.status & status::FEATURES_OK != 0;
        if !is_settled || self.status & status::DRIVER_OK != 0 {
            self.mistake(format!("queue register {place:#x} in status {:#x}", self.status));
        }
        let (no_vectors, stays_off) = (self.fails(Fault::NoVectors), self.fails(Fault::QueuesStayOff));
        let keeps_size = self.fails(Fault::KeepsSize);
        let Some(queue) = self.queues.get_mut(usize::from(self.selected)) else {
            return;
        };
        let short = u16::try_from(value & 0xffff).unwrap_or_default();
        match place {
            common::QUEUE_SIZE if keeps_size => {}
            common::QUEUE_SIZE => queue.size = short,
            common::QUEUE_VECTOR if !no_vectors => queue.vector = short,
            common::QUEUE_ENABLE => queue.is_on = short == 1 && !stays_off,
            _ => queue.set_address(place, value),
        }
    }

    fn notified(&mut self, queue: u64, said: u16) {
        let index = usize::try_from(queue).unwrap_or(usize::MAX);
        let is_on = self.queues.get(index).is_some_and(|queue| queue.is_on);
        if !is_on || !self.is_running() && self.status & status::NEEDS_RESET == 0 || u64::from(said) != queue {
            self.mistake(format!(
                "queue {said} is notified at the place of {queue}, in status {:#x}",
                self.status
            ));
        }
        self.notifications += 1;
        self.told.insert(index);
    }
}
