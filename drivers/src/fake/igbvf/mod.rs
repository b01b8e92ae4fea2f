//! The virtual function of an 82576 in memory, with its PF and the network that it is on; or the physical one, with the network alone.
//!
//! A register that is written is only noted; the PF answers, frames move and interrupts are sent when the device is poked, a few descriptors at
//! a time. [`Wire`] is everything outside of the function: what it sent, what it is to receive, what its PF allows, and what goes wrong.
//! Follows the 82576 datasheet, and Linux for what the PF says.

mod pf;
mod physical;
mod queues;
mod wire;

pub use pf::Granted;
pub use wire::{Fault, Wire};

use crate::igbvf::regs::{self, Mailbox, physical as port};
use pf::Pf;
use queues::Sending;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::fake::{Bus, Description, Device, Region};

/// The device. Give it to a [`FakeBacking`](super::FakeBacking), and keep its [`Wire`].
#[derive(Debug)]
pub struct IgbVf {
    state: Arc<Mutex<State>>,
    has_reset: bool,
}

/// The function, its PF, and the network.
#[derive(Debug)]
struct State {
    is_physical: bool,
    registers: Box<[u32]>,
    /// Causes of vectors that were not told of yet.
    causes: u32,
    /// Transmit queues: what was gathered of a frame.
    sending: [Sending; 2],
    pf: Pf,
    faults: BTreeSet<Fault>,
    /// Frames on their way to the function, and whether they come from one of the same port.
    inbound: VecDeque<(Vec<u8>, bool)>,
    /// Frames that the function sent.
    outbound: VecDeque<Vec<u8>>,
    /// Descriptors that each queue may use in a step.
    burst: u32,
    /// What it sends comes back to it.
    is_loop: bool,
    /// How often a tail was written.
    doorbells: u64,
    link: Link,
}

/// The link is up when both are so.
#[derive(Debug)]
struct Link {
    /// There is somebody at the other end.
    is_plugged: bool,
    /// The PHY has been told to negotiate; that of a virtual function's port has been.
    is_negotiated: bool,
}

/// Interrupt vectors, whose table is in BAR 3.
const VECTORS: u16 = 3;
const DEVICE_ID: u16 = 0x10ca;
/// The same of the physical function, of whose vectors the driver uses as many as of a virtual one's.
const PHYSICAL_VECTORS: u16 = 10;
const PHYSICAL_ID: u16 = 0x10c9;
const PHYSICAL_LEN: u64 = 0x2_0000;

impl IgbVf {
    /// A function whose PF is up and has no address for it, and the network that it is on.
    #[must_use]
    pub fn new() -> (Self, Wire) {
        Self::of(State::new(false))
    }

    /// The physical function, and the network that it is on.
    #[must_use]
    pub fn physical() -> (Self, Wire) {
        Self::of(State::new(true))
    }

    fn of(state: State) -> (Self, Wire) {
        let state = Arc::new(Mutex::new(state));
        (
            Self {
                state: Arc::clone(&state),
                has_reset: true,
            },
            Wire::new(state),
        )
    }

    /// The kernel has no way to reset it.
    #[must_use]
    pub fn without_reset(self) -> Self {
        Self {
            has_reset: false,
            ..self
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

/// A step of it that panicked was a test's own.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new(is_physical: bool) -> Self {
        let len = usize::try_from(port::LEN / 4).unwrap_or_default();
        let mut state = Self {
            is_physical,
            registers: vec![0; len].into_boxed_slice(),
            causes: 0,
            sending: Default::default(),
            pf: Pf::default(),
            faults: BTreeSet::new(),
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            burst: 32,
            is_loop: false,
            doorbells: 0,
            link: Link {
                is_plugged: true,
                is_negotiated: true,
            },
        };
        state.reset();
        state
    }

    fn get(&self, offset: usize) -> u32 {
        self.registers.get(offset / 4).copied().unwrap_or_default()
    }

    fn set(&mut self, offset: usize, value: u32) {
        if let Some(register) = self.registers.get_mut(offset / 4) {
            *register = value;
        }
    }

    fn change(&mut self, offset: usize, set: u32, clear: u32) {
        self.set(offset, self.get(offset) & !clear | set);
    }

    fn count(&mut self, offset: usize, by: usize) {
        let by = u32::try_from(by).unwrap_or_default();
        self.set(offset, self.get(offset).wrapping_add(by));
    }

    fn set_link(&mut self, is_up: bool) {
        self.link.is_plugged = is_up;
        self.update_link();
        if self.is_physical {
            self.report_link();
        }
    }

    fn update_link(&mut self) {
        let status = regs::Status::new()
            .with_is_full_duplex(true)
            .with_speed(2)
            .with_is_up(self.link.is_plugged && self.link.is_negotiated);
        self.set(STATUS, status.into_bits());
    }

    fn read(&mut self, offset: usize) -> u32 {
        if self.faults.contains(&Fault::Unreachable) {
            return u32::MAX;
        }
        if self.is_physical {
            return self.read_physical(offset);
        }
        let value = self.get(offset);
        if offset == MAILBOX {
            let once = Mailbox::PF_MESSAGE | Mailbox::PF_ACKNOWLEDGE | Mailbox::PF_RESET;
            self.change(MAILBOX, 0, once.bits());
        }
        value
    }

    fn write(&mut self, offset: usize, value: u32) {
        if self.is_physical && self.write_physical(offset, value) {
            return;
        }
        match offset {
            CTRL if value & regs::RESET != 0 && !self.faults.contains(&Fault::IgnoresReset) => self.reset(),
            STATUS | CTRL => {}
            MAILBOX => self.write_mailbox(Mailbox::from_bits_truncate(value)),
            EIMS => self.change(EIMS, value, 0),
            EIMC => self.change(EIMS, 0, value),
            EICS => self.causes |= value,
            _ => self.write_queue(offset, value),
        }
    }

    fn write_queue(&mut self, offset: usize, value: u32) {
        let register = offset % regs::QUEUE_STRIDE;
        let is_queue = (regs::RX..regs::RX + 2 * regs::QUEUE_STRIDE).contains(&offset)
            || (regs::TX..regs::TX + 2 * regs::QUEUE_STRIDE).contains(&offset);
        let mut value = value;
        if is_queue && register == regs::queue::TAIL {
            self.doorbells += 1;
        }
        if is_queue && register == regs::queue::CONTROL {
            let was_on = self.get(offset) & regs::ENABLE;
            if self.faults.contains(&Fault::QueueStaysOn) {
                value |= was_on;
            }
            if self.faults.contains(&Fault::QueueStaysOff) {
                value &= !regs::ENABLE;
            }
        }
        self.set(offset, value);
    }

    /// What resetting the function resets; the PF is told.
    fn reset(&mut self) {
        let mailbox = self.get(MAILBOX);
        self.registers.fill(0);
        self.causes = 0;
        self.sending = Default::default();
        if self.is_physical {
            self.reset_physical();
        } else {
            self.set(MAILBOX, mailbox);
            self.pf.function_was_reset();
        }
        self.update_link();
    }

    /// Makes the vector of an entry of VTIVAR pending.
    fn raise(&mut self, register: usize, entry: u32) {
        let vector = self.get(register) >> (8 * entry) & 0xff;
        if vector & regs::IVAR_VALID != 0 {
            self.causes |= 1 << (vector & 3);
        }
    }

    fn send_interrupts(&mut self, bus: &Bus<'_>) {
        if self.is_physical && self.get(port::GPIE) & port::VECTORS != port::VECTORS {
            return;
        }
        for vector in 0..u32::from(VECTORS) {
            let bit = 1 << vector;
            if self.causes & self.get(EIMS) & bit != 0 {
                if self.get(EIAC) & bit != 0 {
                    self.causes &= !bit;
                }
                if self.get(EIAM) & bit != 0 {
                    self.change(EIMS, 0, bit);
                }
                bus.msix(vector);
            }
        }
    }
}

const CTRL: usize = 0x0000;
const STATUS: usize = 0x0008;
const MAILBOX: usize = 0x0c40;
const EICS: usize = 0x1520;
const EIMS: usize = 0x1524;
const EIMC: usize = 0x1528;
const EIAC: usize = 0x152c;
const EIAM: usize = 0x1530;
const IVAR: usize = 0x1700;
const IVAR_MISC: usize = 0x1740;

impl Device for IgbVf {
    fn description(&self) -> Description {
        let (id, vectors, len) = if self.state().is_physical {
            (PHYSICAL_ID, PHYSICAL_VECTORS, PHYSICAL_LEN)
        } else {
            (DEVICE_ID, VECTORS, regs::LEN as u64)
        };
        let description = Description::new(0x8086, id);
        let description = if self.has_reset {
            description
        } else {
            description.without_reset()
        };
        description
            .class(0x02_0000)
            .region(Region::bar(0, len))
            .region(Region::bar(3, regs::LEN as u64).without_mmap())
            .msix(vectors, 3, 0)
    }

    fn read(&mut self, region: u32, offset: u64, width: u32, _bus: &Bus<'_>) -> u64 {
        match usize::try_from(offset) {
            Ok(offset) if region == 0 && width == 4 => self.state().read(offset).into(),
            _ => 0,
        }
    }

    fn write(&mut self, region: u32, offset: u64, width: u32, value: u64, _bus: &Bus<'_>) {
        if let (Ok(offset), Ok(value)) = (usize::try_from(offset), u32::try_from(value))
            && region == 0
            && width == 4
        {
            self.state().write(offset, value);
        }
    }

    fn reset(&mut self) {
        self.state().reset();
    }

    fn poke(&mut self, bus: &Bus<'_>) {
        let mut state = self.state();
        if state.faults.contains(&Fault::Unreachable) {
            return;
        }
        if state.is_physical {
            state.change(CTRL, 0, regs::RESET);
        } else {
            state.serve_mailbox();
        }
        for queue in 0..2 {
            state.transmit(queue, bus);
        }
        state.receive(bus);
        state.send_interrupts(bus);
    }
}
