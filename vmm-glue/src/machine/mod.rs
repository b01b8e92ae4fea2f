//! A machine: memory, processors, platform and what they boot, and the loop that runs them.
//!
//! [`Machine::run`] stays on the caller's thread, which is the event thread; every processor has a thread of its own. When it returns, all threads are joined.

mod console;
mod events;
mod plugged;
mod spec;
mod threads;

pub use crate::acpi::intx;
pub use crate::serial::Console;
pub use events::{EventKey, Events};
pub use plugged::Plugged;
pub use spec::{End, Files, Reboot, Spec};

use crate::acpi::{self, Told};
use crate::boot::{self, Payload};
use crate::bus::Bus;
use crate::kvm::Vm;
use crate::kvm::vcpu::{Buses, Vcpu};
use crate::memory::{ECAM, GuestMemory, WINDOW_32};
use crate::pci::{Ecam, Function, Mechanism1, Port, Root, Windows};
use crate::platform::{self, Request, Requests};
use crate::serial::{self, COM1, COM1_IRQ, Com1, Input, Outbox, Writer};
use crate::slot::{Slot, Slots};
use crate::topology::Topology;
use crate::{Error, ErrorKind, Result};
use plugged::Nothing;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use threads::{Ended, Threads};
use vfio_core::{EventFd, StableMemory};

/// The register of a bridge (PCIe 6.0 §7.5.1.3.3).
const SUBORDINATE_BUS: u16 = 0x1A;

/// A machine that was not started yet.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: nobody runs, then no memory is reached, then it goes.
    vcpus: Vec<Vcpu>,
    _ram: Vec<Box<dyn Slot>>,
    buses: Buses,
    vm: Vm,
    topology: Topology,
    memory: GuestMemory,
    payload: Payload,
    reboot: Reboot,
    pci_node: Option<u32>,
    events: Arc<Events>,
    shared: Arc<Shared>,
    /// What the guest says, and the file that it goes to as soon as the machine runs.
    outbox: Arc<Outbox>,
    output: Option<OwnedFd>,
    /// Of the hierarchy that it is connected to.
    last_bus: Option<u8>,
}

/// Between the machine, its devices and those who control it.
#[derive(Debug)]
struct Shared {
    requests: Arc<Requests>,
    /// Something is wanted: by the guest, or by a handle.
    wanted: EventFd,
    is_stop_wanted: AtomicBool,
    /// A processor's thread has ended by itself.
    has_ended: AtomicBool,
    /// The processors' threads are to end.
    is_stopping: Arc<AtomicBool>,
    /// Signalled by each processor's thread at its end.
    ended: Arc<EventFd>,
}

/// Ends a machine from another thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Lets [`Machine::run`] return, now or as soon as it begins.
    ///
    /// # Errors
    ///
    /// None that an event of this process's own has.
    pub fn stop(&self) -> Result<()> {
        self.shared.is_stop_wanted.store(true, Ordering::Release);
        Ok(self.shared.wanted.signal()?)
    }
}

impl Machine {
    /// Makes all of it. The kernel is loaded when the machine starts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a machine without processors or memory, with more processors than it may have, or with functions near
    /// to no node of it; [`ErrorKind::Malformed`] for more memory
    /// than processors reach; KVM's own.
    pub fn new(spec: Spec, files: Files) -> Result<Self> {
        let invalid = |why| Error::new("make the machine", ErrorKind::Invalid(why));
        let topology = Topology::new(&spec.nodes).ok_or_else(|| invalid("a guest needs a processor"))?;
        let nodes = spec.nodes.len();
        let is_there = |node: u32| usize::try_from(node).is_ok_and(|node| node < nodes);
        if spec.pci_node.is_some_and(|node| !is_there(node)) {
            return Err(invalid("functions are near to a node that the guest does not have"));
        }
        let vm = files.kvm.create_vm()?;
        let last = topology.vcpus().iter().map(|vcpu| vcpu.apic_id).max().unwrap_or(0);
        if last >= vm.max_vcpus() {
            return Err(invalid(
                "more processors than interrupts can name: 254 at the most, each node rounded up to a power of two",
            ));
        }
        let memory = GuestMemory::new(&spec.nodes, spec.pages)?;
        let bits = vm.physical_bits().min(52);
        if memory.end() > 1 << bits {
            let end = memory.end();
            let why = format!("the memory ends at {end:#x}, and processors of this host have {bits} bits of address");
            return Err(Error::new("make the machine", ErrorKind::Malformed(why.into())));
        }
        let map = |part: &crate::memory::Ram| {
            let stable: Arc<dyn StableMemory> = Arc::<vfio_core::Memory>::clone(&part.memory);
            vm.slots().map(part.guest, &stable, part.part.clone(), true)
        };
        let ram = memory.ram().iter().map(map).collect::<Result<_>>()?;
        let vcpus = (0..topology.vcpus().len()).map(|number| vm.create_vcpu(number, &topology));
        let vcpus = vcpus.collect::<Result<_>>()?;

        let wanted = EventFd::new()?;
        let shared = Arc::new(Shared {
            requests: Arc::new(Requests::new(wanted.try_clone()?)),
            wanted,
            is_stop_wanted: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            is_stopping: Arc::default(),
            ended: Arc::new(EventFd::new()?),
        });
        let buses = Buses {
            ports: Arc::default(),
            memory: Arc::default(),
            functions: None,
        };
        let events = Arc::new(Events::new()?);
        listen(&events, &shared)?;
        if spec.has_exit_port {
            platform::insert_exit(&buses.ports, &shared.requests)?;
        }
        let outbox = Arc::new(Outbox::new());
        let edge = vm.irqs().edge(COM1_IRQ)?;
        let interrupt = serial::Interrupt(Box::new(move || edge.signal()));
        insert_com1(interrupt, &buses.ports, &events, &outbox, files.console.input)?;
        Ok(Self {
            vcpus,
            _ram: ram,
            buses,
            vm,
            topology,
            memory,
            payload: Payload {
                kernel: files.kernel,
                initrd: files.initrd,
                command_line: spec.command_line,
            },
            reboot: spec.reboot,
            // Tables say nothing of a single node.
            pci_node: spec.pci_node.filter(|_| nodes > 1),
            events,
            shared,
            outbox,
            output: Some(files.console.output),
            last_bus: None,
        })
    }

    /// Gives the machine its PCI hierarchy, once, before it runs. Without one the guest finds a host bridge and nothing else. There are no more buses than its
    /// ports have now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Occupied`] for a second hierarchy.
    pub fn connect(&mut self, root: &Arc<Root>, functions: Arc<dyn Plugged>) -> Result<()> {
        insert_root(&self.buses.memory, &self.buses.ports, root, &self.shared.requests)?;
        self.buses.functions = Some(functions);
        let subordinate = |port: &Arc<Port>| {
            let mut bus = [0];
            port.config_read(SUBORDINATE_BUS, &mut bus);
            bus[0]
        };
        self.last_bus = Some(root.ports().iter().map(subordinate).max().unwrap_or(0));
        Ok(())
    }

    /// Where functions of the guest may have addresses.
    #[must_use]
    pub fn windows(&self) -> Windows {
        Windows::new(WINDOW_32, self.window_64())
    }

    fn window_64(&self) -> Range<u64> {
        self.memory.window_64(self.vm.physical_bits())
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// KVM's part: where interrupts and slots come from.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Who answers for physical addresses that are no memory.
    #[must_use]
    pub fn mmio(&self) -> &Arc<Bus> {
        &self.buses.memory
    }

    /// Who answers for I/O ports.
    #[must_use]
    pub fn ports(&self) -> &Arc<Bus> {
        &self.buses.ports
    }

    /// What the event thread waits for.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// To end it from another thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let shared = Arc::clone(&self.shared);
        Handle { shared }
    }

    /// Boots the guest and runs it to its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] or [`ErrorKind::Unsupported`] for a kernel that cannot be booted; [`ErrorKind::Stopped`] for a processor that cannot go on:
    /// an instruction that KVM cannot emulate, memory that the host does not have.
    pub fn run(mut self) -> Result<End> {
        if self.last_bus.is_none() {
            self.connect(&Root::new(Vec::new())?, Arc::new(Nothing))?;
        }
        let ended = self.run_with_console();
        // Why the machine has ended is what counts.
        if let Some(Err(error)) = self.buses.functions.take().map(|functions| functions.stop()) {
            tracing::error!(%error, "a function was not given back in good order");
        }
        ended
    }

    fn run_with_console(&mut self) -> Result<End> {
        let writer = self
            .output
            .take()
            .map(|output| Writer::start(&self.outbox, output.into()));
        let writer = writer.transpose()?;
        let ended = self.run_to_end();
        if let Some(writer) = writer {
            writer.end();
        }
        ended
    }

    fn run_to_end(&mut self) -> Result<End> {
        loop {
            self.load()?;
            let vcpus = std::mem::take(&mut self.vcpus);
            let Shared {
                requests,
                has_ended,
                is_stopping,
                ended,
                ..
            } = &*self.shared;
            has_ended.store(false, Ordering::Relaxed);
            let threads = Threads::start(vcpus, &self.buses, requests, is_stopping, ended)?;
            self.outbox.hold(true);
            let waited = self.wait();
            // Whoever waits for somebody to read what it says is wanted now.
            self.outbox.hold(false);
            let Ended { vcpus, failure } = threads.stop();
            // Those who failed are the cause of all else.
            if let Some(failure) = failure {
                return Err(failure);
            }
            match (waited?, self.reboot) {
                (End::Reset, Reboot::InPlace) => self.vcpus = vcpus,
                (end, _) => return Ok(end),
            }
            // What the guest has said since was said by the one that is gone.
            requests.forget();
            self.reset()?;
        }
    }

    /// Kernel, initrd and tables into memory; the first processor to the kernel's entry.
    fn load(&self) -> Result<()> {
        let told = Told {
            topology: &self.topology,
            ram: self.memory.ram(),
            window_64: self.window_64(),
            last_bus: self.last_bus.unwrap_or(0),
            pci_node: self.pci_node,
        };
        // A kernel that is a file of segments could lie over them: they come last.
        let entry = boot::load(&self.memory, &self.payload, acpi::PLACE.start)?;
        acpi::write(&told, &self.memory)?;
        match self.vcpus.first() {
            Some(first) => first.enter(entry),
            None => Ok(()),
        }
    }

    /// All as after power-on, but memory keeps what is in it.
    fn reset(&self) -> Result<()> {
        // They first: what still does DMA would do it to the kernel that is loaded next.
        if let Some(functions) = &self.buses.functions {
            functions.reset()?;
        }
        self.vm.reset()?;
        self.vcpus.iter().try_for_each(Vcpu::reset)
    }

    /// Serves events until the machine is to end, or a processor has.
    fn wait(&self) -> Result<End> {
        loop {
            if self.shared.is_stop_wanted.load(Ordering::Acquire) {
                return Ok(End::Stopped);
            }
            match self.shared.requests.take() {
                Some(Request::PowerOff) => return Ok(End::PoweredOff),
                Some(Request::Reset) => return Ok(End::Reset),
                Some(Request::Exit(status)) => return Ok(End::Exited(status)),
                None => {}
            }
            if self.shared.has_ended.load(Ordering::Relaxed) {
                // It tells why when it is joined.
                return Ok(End::Stopped);
            }
            self.events.dispatch(None)?;
        }
    }
}

/// What is wanted, and who ends, wakes the event thread from now on.
fn listen(events: &Events, shared: &Arc<Shared>) -> Result<()> {
    let of = Arc::clone(shared);
    events.add(&shared.wanted, move || {
        if let Err(error) = of.wanted.try_read() {
            tracing::error!(%error, "what is wanted of the machine stays signalled");
        }
    })?;
    let of = Arc::clone(shared);
    events.add(&*shared.ended, move || match of.ended.try_read() {
        Ok(Some(_)) => of.has_ended.store(true, Ordering::Relaxed),
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the end of a processor stays signalled"),
    })?;
    Ok(())
}

/// Configuration space, by both of its ways, and the platform's ports among it.
pub(crate) fn insert_root(memory: &Bus, ports: &Bus, root: &Arc<Root>, requests: &Arc<Requests>) -> Result<()> {
    memory.insert(ECAM, Arc::new(Ecam::new(Arc::clone(root))))?;
    let mechanism = Mechanism1::new(Arc::clone(root));
    platform::insert(ports, requests, Arc::new(mechanism))
}

/// The serial port, and what feeds it.
pub(crate) fn insert_com1(
    interrupt: serial::Interrupt,
    ports: &Bus,
    events: &Arc<Events>,
    outbox: &Arc<Outbox>,
    input: Option<OwnedFd>,
) -> Result<()> {
    let drained = EventFd::new()?;
    let com1 = Arc::new(Com1::new(interrupt, Arc::clone(outbox), drained.try_clone()?));
    ports.insert(COM1.into()..u64::from(COM1 + serial::PORTS), Arc::<Com1>::clone(&com1))?;
    if let Some(input) = input {
        console::feed(events, Input::new(input, com1), drained)?;
    }
    Ok(())
}
