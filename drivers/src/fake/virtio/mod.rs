//! virtio devices in memory (virtio 1.3): a disk, a network card whose frames come back to it, a console that says what it hears, and a source of
//! entropy.
//!
//! A register that is written is only noted; requests are done when the device is poked, of queues that it was told of alone. [`Handle`] is what a
//! test has of it: what goes wrong, what a driver did wrong, and what the device holds.

mod models;
mod queue;
mod registers;

pub use registers::Fault;

use crate::virtio::Kind;
use crate::virtio::spec::{self, BlockFeatures, ConsoleFeatures, Features, NetFeatures, block, capability};
use models::Model;
use registers::{Registers, part};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::fake::{Bus, Description, Device, Region};

/// The device. Give it to a [`FakeBacking`](super::FakeBacking), and keep its [`Handle`].
#[derive(Debug)]
pub struct Virtio {
    state: Arc<Mutex<State>>,
    kind: Kind,
    vectors: u16,
}

/// What a test has of a device.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    registers: Registers,
    model: Model,
    /// What the device writes instead of doing anything, as [`Handle::script`] says.
    script: VecDeque<(u32, u32, u16)>,
}

/// Descriptors of each queue.
const DEPTH: u16 = 64;
const VECTORS: u16 = 4;

impl Virtio {
    /// A disk of so many sectors, with two queues.
    #[must_use]
    pub fn block(sectors: u32) -> Self {
        let features = BlockFeatures::all().difference(BlockFeatures::RO | BlockFeatures::SIZE_MAX);
        let mut config = vec![0; 60];
        put(&mut config, block::CAPACITY, &sectors.to_le_bytes());
        put(&mut config, block::SEG_MAX, &6_u32.to_le_bytes());
        put(&mut config, block::BLK_SIZE, &512_u32.to_le_bytes());
        put(&mut config, block::QUEUES, &2_u16.to_le_bytes());
        put(&mut config, block::MAX_DISCARD, &1024_u32.to_le_bytes());
        put(&mut config, block::MAX_WRITE_ZEROES, &1024_u32.to_le_bytes());
        Self::new(Kind::Block, features.bits(), config, 2, Model::disk(sectors))
    }

    /// A network card. What it sends comes back to it.
    #[must_use]
    pub fn net(mac: [u8; 6]) -> Self {
        let mut config = vec![0; 12];
        put(&mut config, 0, &mac);
        put(&mut config, spec::net::STATUS, &spec::net::LINK_UP.to_le_bytes());
        put(&mut config, spec::net::MTU, &1500_u16.to_le_bytes());
        let card = Self::new(Kind::Network, NetFeatures::all().bits(), config, 2, Model::net());
        locked(&card.state).registers.single = mac.len() as u64;
        card
    }

    /// A console that says what it hears.
    #[must_use]
    pub fn console() -> Self {
        let config = vec![80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        Self::new(
            Kind::Console,
            ConsoleFeatures::all().bits(),
            config,
            2,
            Model::console(),
        )
    }

    /// A source of entropy, whose bytes are always the same.
    #[must_use]
    pub fn entropy() -> Self {
        Self::new(Kind::Entropy, 0, Vec::new(), 1, Model::Entropy(0))
    }

    fn new(kind: Kind, features: u64, config: Vec<u8>, queues: usize, model: Model) -> Self {
        let state = State {
            registers: Registers::new(features | Features::all().bits(), config, queues, DEPTH),
            model,
            script: VecDeque::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            kind,
            vectors: VECTORS,
        }
    }

    /// Takes features away; the bits are those of [`spec`].
    #[must_use]
    pub fn without(self, features: u64) -> Self {
        locked(&self.state).registers.offered &= !features;
        self
    }

    /// Adds features.
    #[must_use]
    pub fn with(self, features: u64) -> Self {
        locked(&self.state).registers.offered |= features;
        self
    }

    /// It has so many vectors.
    #[must_use]
    pub fn vectors(self, vectors: u16) -> Self {
        Self { vectors, ..self }
    }

    /// Goes wrong from the start.
    #[must_use]
    pub fn faulty(self, fault: Fault) -> Self {
        self.handle().set(fault, true);
        self
    }

    /// What a test keeps of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.state))
    }
}

impl Handle {
    /// Lets something go wrong, or not any more.
    pub fn set(&self, fault: Fault, on: bool) {
        let faults = &mut locked(&self.0).registers.faults;
        if on {
            faults.insert(fault);
        } else {
            faults.remove(&fault);
        }
    }

    /// What the driver did that the specification forbids.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        locked(&self.0).registers.mistakes.clone()
    }

    /// Whether it holds queues: it was started, and not reset since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        locked(&self.0).registers.is_running()
    }

    /// How often it was told of a queue.
    #[must_use]
    pub fn notifications(&self) -> u64 {
        locked(&self.0).registers.notifications
    }

    /// How many interrupts it has sent.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        locked(&self.0).registers.interrupts
    }

    /// Instead of doing what it is asked, it says of its queues one after the other: chain `id` is done, with `len` bytes, and the index moves
    /// by `step`.
    pub fn script(&self, lies: impl IntoIterator<Item = (u32, u32, u16)>) {
        locked(&self.0).script.extend(lies);
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn disk(&self) -> Vec<u8> {
        match &locked(&self.0).model {
            Model::Disk(disk) => disk.clone(),
            _ => Vec::new(),
        }
    }

    /// A frame that the card is to receive.
    pub fn deliver(&self, frame: &[u8]) {
        if let Model::Net(frames) = &mut locked(&self.0).model {
            frames.push_back(frame.to_vec());
        }
    }

    /// Changes a byte of its configuration, and says so.
    pub fn configure(&self, offset: usize, byte: u8) {
        locked(&self.0).registers.configure(offset, byte);
    }
}

impl Device for Virtio {
    fn description(&self) -> Description {
        let base = Description::new(spec::VENDOR, 0x1040 + self.kind.number())
            .region(Region::bar(0, part::LEN))
            .region(Region::bar(1, 4096))
            .msix(self.vectors, 1, 0);
        let has = |fault| locked(&self.state).registers.faults.contains(&fault);
        [
            (capability::COMMON, part::COMMON, 0x38, None),
            // A kind that nobody knows, and a BAR that is none: to be passed over.
            (0x77, 0, 4, None),
            (
                capability::NOTIFY,
                part::NOTIFY,
                if has(Fault::NotifyOutside) { 1 } else { 0xf00 },
                Some(part::MULTIPLIER),
            ),
            (
                capability::DEVICE,
                part::DEVICE,
                if has(Fault::ShortConfiguration) { 4 } else { 0x100 },
                None,
            ),
        ]
        .into_iter()
        .fold(base, |description, (kind, offset, len, multiplier)| {
            let mut body = vec![if multiplier.is_some() { 20 } else { 16 }, kind, 0, 0, 0, 0];
            body.extend(u32::to_le_bytes(offset));
            body.extend(u32::to_le_bytes(len));
            body.extend(multiplier.map(u32::to_le_bytes).into_iter().flatten());
            description.capability(0x09, &body)
        })
    }

    fn read(&mut self, region: u32, offset: u64, width: u32, _: &Bus<'_>) -> u64 {
        if region != 0 {
            return 0;
        }
        locked(&self.state).registers.read(offset, width)
    }

    fn write(&mut self, region: u32, offset: u64, _: u32, value: u64, _: &Bus<'_>) {
        if region == 0 {
            locked(&self.state).registers.write(offset, value);
        }
    }

    fn poke(&mut self, bus: &Bus<'_>) {
        let state = &mut *locked(&self.state);
        if !state.registers.is_running() {
            return;
        }
        if state.registers.faults.contains(&Fault::Mute) {
            return;
        }
        if state.registers.faults.contains(&Fault::NeedsReset) {
            state.registers.need_reset(bus);
            return;
        }
        if state.registers.faults.contains(&Fault::ResetsItself) {
            state.registers.reset();
            return;
        }
        for index in state.registers.take_told() {
            match state.script.pop_front() {
                Some(lie) => state.registers.lie(index, lie, bus),
                None => state.model.serve(index, &mut state.registers, bus),
            }
        }
        state.model.step(&mut state.registers, bus);
    }

    fn reset(&mut self) {
        locked(&self.state).registers.reset();
    }
}

/// A step of it that panicked was a test's own.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}
