//! The functions that a guest has: their slots, their address space, and how they come and go while the guest runs.
//!
//! [`Functions`] has one root port for each slot; a slot holds one function or several of one device. What is in it when the guest starts is placed as
//! firmware would place it. A function leaves with the guest's consent: the button is pressed, the guest lets go of it and switches the slot off,
//! and then it is taken from the guest, reset and closed.
//!
//! Opening, mapping all of the guest's memory and resetting may take seconds. Who does one of these holds the lock of the address space, and nobody
//! waits for that one but who does another: not the processors, not the event thread while the guest runs, and not who only asks.

mod control;
mod life;
mod space;
mod watch;

pub use control::Controlled;
pub use life::Removal;
pub use space::{Backend, DmaOptions, File};

use crate::assigned::{Assigned, Options as Shown, SharedBus, Wiring};
use crate::bus::Bus;
use crate::interrupt::Irqs;
use crate::machine::Plugged;
use crate::memory::GuestMemory;
use crate::pci::layout::{self, Need, Room, SlotPlan};
use crate::pci::{Function, Numbered, Port, PortOptions, Root, Windows};
use crate::slot::Slots;
use crate::{Error, ErrorKind, Result};
use ::pci::{BarIndex, Bdf, RoutingId, Segment};
use life::Waiting;
use space::{Member, Space, Status};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vfio_core::{KvmVfio, RegionIndex, VfToken};
use watch::{Leaving, Listener, Watched};

/// A function that somebody has opened for the guest.
#[derive(Debug)]
pub struct Opened {
    /// Its address in the host.
    pub bdf: Bdf,
    /// What it is opened from.
    pub file: File,
    /// For a VF whose PF is on vfio-pci, and for that PF.
    pub token: Option<VfToken>,
}

/// What of the guest its functions need.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Its interrupts.
    pub irqs: Arc<dyn Irqs>,
    /// Its memory slots.
    pub slots: Arc<dyn Slots>,
    /// What answers at guest-physical addresses that are no memory.
    pub bus: Arc<Bus>,
    /// Its memory.
    pub memory: GuestMemory,
    /// Where BARs may be.
    pub windows: Windows,
    /// KVM's VFIO device; none for a guest that is not KVM's.
    pub kvm: Option<KvmVfio>,
}

/// How functions are given to the guest.
#[derive(Debug, Clone)]
pub struct Options {
    /// How memory is given to them.
    pub dma: DmaOptions,
    /// How many slots there are beside those that are filled, for functions that come later; at most 31 in all.
    pub free_slots: u8,
    /// What the guest sees of each; the line is chosen here.
    pub shown: Shown,
    /// Whether functions reach one another's BARs.
    pub are_peers: bool,
}

/// The functions of a guest.
pub struct Functions {
    root: Arc<Root>,
    parts: Parts,
    options: Options,
    backend: Backend,
    /// Locked for moments. Only who has locked the space changes who is in a slot.
    slots: Mutex<Filled>,
    /// Locked before the slots, and for as long as it takes.
    space: Mutex<Space>,
    /// Of the space; not locked.
    status: Arc<Status>,
    /// For each slot, who waits for it to be emptied.
    waiting: Vec<Arc<Waiting>>,
    listener: OnceLock<Listener>,
}

/// What is in the slots.
#[derive(Default)]
struct Filled {
    given: Vec<Vec<Given>>,
    /// The machine has ended: nothing is taken in any more.
    is_stopped: bool,
}

/// A function that the guest has.
struct Given {
    // Fields drop in this order.
    watched: Vec<Watched>,
    /// The kernel wants it back.
    leaving: Option<Leaving>,
    function: Arc<Assigned>,
    /// Where firmware has put its BARs.
    placed: Vec<(BarIndex, u64)>,
    bdf: Bdf,
    number: u8,
    member: Member,
}

/// A function of the guest, for those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its address in the host.
    pub host: Bdf,
    /// Its address in the guest, unless the guest has numbered its buses anew.
    pub guest: Bdf,
}

impl Functions {
    /// Gives functions to a guest before it starts: `slots[n]` are those of slot n, the first of which is function 0; of none it is free for those that
    /// come later. Maps all of the guest's memory for them,
    /// and tells `progress` the bytes done and those in all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for more than 31 slots, or more than 8 functions in one; those of opening, attaching and mapping. Nothing is left of it then.
    pub fn new(
        parts: Parts,
        options: Options,
        backend: Backend,
        slots: Vec<Vec<Opened>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let count = slots.len() + usize::from(options.free_slots);
        if count > MOST_SLOTS {
            return Err(Error::new("assign", ErrorKind::Invalid("a guest has at most 31 slots")));
        }
        let mut space = Space::new(backend.clone(), parts.kvm.clone(), parts.memory.clone(), options.dma);
        // Dropped before the space.
        let mut filled = Filled::default();
        // All are attached before memory is mapped: each narrows where it may be.
        let open = |opened: Vec<Opened>| match opened.is_empty() {
            true => Ok(Vec::new()),
            false => space.open_all(opened),
        };
        let members: Vec<Vec<(Bdf, Member)>> = slots.into_iter().map(open).collect::<Result<_>>()?;
        space.map(progress)?;
        for (slot, members) in (0..).zip(members) {
            filled.given.push(give(&mut space, members, slot, &parts, &options)?);
        }
        filled.given.resize_with(count, Vec::new);

        let plans = layout::plan(parts.windows, Room::default(), &filled.needs())?;
        let ports = (0..).zip(&plans);
        let ports = ports.map(|(slot, plan)| port(slot, plan, parts.windows, &parts.irqs));
        let root = Root::new(ports.collect())?;
        for ((port, given), plan) in root.ports().iter().zip(&mut filled.given).zip(plans) {
            if given.is_empty() {
                continue;
            }
            port.install(numbered(given))?;
            for (given, addresses) in given.iter_mut().zip(plan.addresses) {
                given.placed = addresses;
                given.place();
            }
        }
        Ok(Self {
            root,
            parts,
            options,
            backend,
            slots: Mutex::new(filled),
            status: Arc::clone(space.status()),
            space: Mutex::new(space),
            waiting: (0..count).map(|_| Arc::default()).collect(),
            listener: OnceLock::new(),
        })
    }

    /// The host bridge and its ports, for the machine's configuration space.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The guest's functions.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let slots = self.slots();
        let listed = self.root.ports().iter().zip(&slots.given);
        let listed = listed.flat_map(|(port, given)| given.iter().map(|given| given.listed(port)));
        listed.collect()
    }

    /// By which interface of the kernel the guest has its functions.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Why the guest's memory cannot be taken from it by a balloon; `None` where it can.
    #[must_use]
    pub fn refuses_balloon(&self) -> Option<&'static str> {
        self.status
            .is_pinned
            .load(Ordering::Acquire)
            .then_some(crate::dma::NO_BALLOON)
    }

    fn slots(&self) -> MutexGuard<'_, Filled> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many slots a guest may have: devices 1 to 31 of bus 0; the host bridge is device 0.
pub const MOST_SLOTS: usize = 31;

impl Filled {
    fn needs(&self) -> Vec<Vec<Vec<Need>>> {
        let of = |given: &Vec<Given>| given.iter().map(|given| given.function.needs()).collect();
        self.given.iter().map(of).collect()
    }

    /// Takes out all of what is in a slot.
    fn take(&mut self, slot: usize) -> Vec<Given> {
        self.given.get_mut(slot).map(std::mem::take).unwrap_or_default()
    }

    fn take_all(&mut self) -> Vec<Given> {
        self.given.iter_mut().flat_map(std::mem::take).collect()
    }
}

/// Makes functions of a slot what the guest sees.
fn give(
    space: &mut Space,
    members: Vec<(Bdf, Member)>,
    slot: u8,
    parts: &Parts,
    options: &Options,
) -> Result<Vec<Given>> {
    let peers = space.peers().filter(|_| options.are_peers).cloned();
    let wiring = Wiring {
        irqs: Arc::clone(&parts.irqs),
        slots: Arc::clone(&parts.slots),
        memory: Arc::clone(&parts.bus),
        peers,
    };
    let is_multi_function = members.len() > 1;
    let all = members.iter().map(|(bdf, _)| *bdf).collect();
    let bus = Arc::new(SharedBus::new(all, space.groups_of(&members)));
    let mut given = Vec::new();
    let mut failed = None;
    let mut left = Vec::new();
    for (number, (bdf, member)) in (0..).zip(members) {
        if failed.is_some() {
            left.push((bdf, member));
            continue;
        }
        let mut shown = options.shown.clone();
        shown.presentation.is_multi_function = is_multi_function;
        shown.gsi = gsi(&member, slot);
        shown.bus = Some((Arc::clone(&bus), bdf));
        match Assigned::new(member.device(), &wiring, &shown) {
            Ok(function) => given.push(Given {
                watched: Vec::new(),
                leaving: None,
                function: Arc::new(function),
                placed: Vec::new(),
                bdf,
                number,
                member,
            }),
            Err(error) => {
                failed = Some(error);
                left.push((bdf, member));
            }
        }
    }
    let Some(error) = failed else { return Ok(given) };
    for Given {
        function, bdf, member, ..
    } in given
    {
        drop(function);
        left.push((bdf, member));
    }
    space.close(left);
    Err(error)
}

impl Given {
    /// Whether it may do DMA. One that has left the bus reads as all ones, and does none.
    fn is_bus_master(&self) -> Result<bool> {
        const COMMAND: u16 = 0x04;
        let command = self.member.device().config()?.read_u16(COMMAND)?;
        Ok(command != u16::MAX && command & 1 << 2 != 0)
    }

    fn place(&self) {
        for (bar, address) in &self.placed {
            self.function.place(*bar, *address);
        }
    }

    fn listed(&self, port: &Port) -> Listed {
        Listed {
            host: self.bdf,
            guest: Bdf::new(
                Segment(0),
                RoutingId(u16::from(bus(port.device())) << 8 | u16::from(self.number)),
            ),
        }
    }
}

/// The bus of a slot, as [`layout::plan`] numbers them.
const fn bus(device: u8) -> u8 {
    device
}

fn numbered(given: &[Given]) -> Vec<Numbered> {
    let function = |given: &Given| -> Arc<dyn Function> { Arc::<Assigned>::clone(&given.function) };
    given.iter().map(|given| (given.number, function(given))).collect()
}

fn port(slot: u8, plan: &SlotPlan, limits: Windows, irqs: &Arc<dyn Irqs>) -> Arc<Port> {
    let options = PortOptions {
        device: slot + 1,
        slot: u16::from(slot) + 1,
        buses: plan.buses,
        windows: plan.windows,
        limits,
    };
    Port::new(options, Arc::clone(irqs))
}

/// The line of a function: pin p of what is behind device d of bus 0 (`_PRT`). `None` of one without a pin.
fn gsi(member: &Member, slot: u8) -> Option<u32> {
    const PIN: u64 = 0x3D;
    let pin = member
        .device()
        .region(RegionIndex::CONFIG)
        .and_then(|config| config.read_u8(PIN))
        .ok()?;
    Some(crate::acpi::intx(slot + 1, pin.checked_sub(1)? % 4))
}

impl Plugged for Functions {
    fn reset(&self) -> Result<()> {
        // What takes long is done before the lock: whoever comes or goes meanwhile has the lock of its port.
        for port in self.root.ports() {
            port.reset();
        }
        let slots = self.slots();
        let mut lost = Vec::new();
        for (slot, given) in slots.given.iter().enumerate() {
            for given in given {
                given.place();
                match given.is_bus_master() {
                    Ok(false) => {}
                    // What is not said to a guest is said here: one that still does DMA would do it to the next kernel.
                    Ok(true) => {
                        let kind = ErrorKind::Malformed("it is a bus master after its reset".into());
                        return Err(Error::new("reset a function", kind).on(given.bdf));
                    }
                    Err(error) => {
                        tracing::error!(%error, bdf = %given.bdf, "a function does not answer after the machine's reset, and is taken from the guest");
                        lost.push((slot, Arc::downgrade(&given.function)));
                    }
                }
            }
        }
        drop(slots);
        for (slot, function) in lost {
            if let Err(error) = self.expel(slot, &function) {
                tracing::error!(%error, "a function that does not answer was not let go of as it should be");
            }
        }
        Ok(())
    }

    fn drop_silent_slots(&self) -> bool {
        let slots = self.slots();
        let functions = slots.given.iter().flatten();
        functions.fold(false, |any, given| given.function.drop_silent_slots() | any)
    }

    fn stop(&self) -> Result<()> {
        // Whoever is adding one is refused when it comes to its slot.
        self.slots().is_stopped = true;
        self.status.is_ended.store(true, Ordering::Release);
        let mut space = self.space();
        for port in self.root.ports() {
            drop(port.eject());
        }
        let all = self.slots().take_all();
        let ended = space.end(all);
        drop(space);
        self.waiting.iter().for_each(|waiting| waiting.signal());
        if let Some(listener) = self.listener.get() {
            listener.stop();
        }
        ended
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            listener.stop();
        }
        let all = self.slots().take_all();
        if let Err(error) = self.space().end(all) {
            tracing::error!(%error, "a guest's function was not let go of as it should be");
        }
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

#[cfg(test)]
mod tests;
