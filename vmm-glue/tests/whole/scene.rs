//! The machine, what is done to it, and what holds afterwards.

use super::host;
use crate::script::Script;
use pci::{Bdf, RoutingId};
use std::collections::BTreeSet;
use std::io::{PipeWriter, Write, pipe};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::fake::Machine;
use vfio_core::{Errno, PageSize};
use vmm_glue::assigned::{self, Notice};
use vmm_glue::bus::Bus;
use vmm_glue::dma::Pin;
use vmm_glue::fake::{Board, Guest};
use vmm_glue::functions::{DmaOptions, Functions, Options, Parts, Removal};
use vmm_glue::machine::{End, Plugged};
use vmm_glue::memory::{ECAM, GuestMemory, Node};
use vmm_glue::pci::{Indicator, Windows};

/// Where BARs may be.
const LOW: std::ops::Range<u64> = 0xC000_0000..0xE000_0000;
const HIGH: std::ops::Range<u64> = 0x10_0000_0000..0x20_0000_0000;
const RAM: u64 = 2 << 20;
/// Slots, of which two are filled at first.
const SLOTS: u8 = 3;

pub(super) struct Scene {
    // Fields drop in this order, which is that of a machine's end.
    removals: Vec<Removal>,
    functions: Functions,
    board: Board,
    keyboard: PipeWriter,
    guest: Guest,
    host: Machine,
}

impl Scene {
    pub(super) fn new(script: &mut Script<'_>) -> Self {
        let is_type1 = script.flag();
        let host = host::machine(script);
        let (guest, bus) = (Guest::default(), Arc::new(Bus::default()));
        let node = Node {
            len_bytes: RAM,
            vcpus: 1,
            host: None,
        };
        let parts = Parts {
            irqs: Arc::new(guest.clone()),
            slots: Arc::new(guest.clone()),
            bus: Arc::clone(&bus),
            memory: GuestMemory::new(&[node], PageSize::Base).unwrap(),
            windows: Windows::new(LOW, HIGH),
            kvm: None,
        };
        let options = Options {
            dma: DmaOptions {
                pin: Pin::All,
                threads: NonZeroUsize::MIN,
            },
            free_slots: SLOTS - 2,
            shown: assigned::Options::default(),
            are_peers: script.flag(),
        };
        let slots =
            [vec![1], vec![2, 3]].map(|slot| slot.into_iter().map(|number| host::open(&host, is_type1, number)));
        let slots = slots.into_iter().map(Iterator::collect).collect();
        let functions = Functions::new(parts, options, host::backend(&host, is_type1), slots, &mut |_, _| ()).unwrap();
        let (input, keyboard) = pipe().unwrap();
        let board = Board::new(bus, functions.root(), &guest, OwnedFd::from(input)).unwrap();
        Self {
            removals: Vec::new(),
            functions,
            board,
            keyboard,
            guest,
            host,
        }
    }

    pub(super) fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 20 {
            0 | 1 => {
                let address = self.address(script);
                self.access(false, address, script);
            }
            2 => {
                let port = port(script);
                self.access(true, port, script);
            }
            3 => {
                // Mechanism 1, as guests use it.
                let at = u32::from(script.u16() & 0x3FFF);
                let address = 1 << 31 | (at >> 6) << 8 | (at & 0x3F) << 2;
                self.board.ports().write(0xCF8, &address.to_le_bytes());
                self.access(true, 0xCFC + u64::from(script.byte() % 4), script);
            }
            4..=7 => self.configure(script),
            8 | 9 => self.start(script),
            10 | 11 => self.set_vector(script),
            12 | 13 => self.use_slot(script),
            14 | 15 => self.happen(script),
            16 | 17 => self.plug(script),
            18 => self.fail(script),
            _ => {
                let typed = script.bytes(16);
                // A pipe holds more than one run can type.
                self.keyboard.write_all(typed).unwrap();
                self.board.dispatch().unwrap();
                drop(self.board.said());
            }
        }
        self.heed();
    }

    /// An access of a processor.
    fn access(&self, is_port: bool, address: u64, script: &mut Script<'_>) {
        let bus = if is_port {
            self.board.ports()
        } else {
            self.board.memory()
        };
        let how = script.byte();
        // KVM's lengths, and those between that instructions across pages have.
        let len = [1, 2, 4, 8, 3, 5, 6, 7][usize::from(if how & 0x40 == 0 { how & 3 } else { how & 7 })];
        if how & 0x80 == 0 {
            bus.read(address, &mut [0; 8][..len]);
        } else {
            let mut from = [0; 8];
            for (to, byte) in from.iter_mut().zip(script.bytes(8)) {
                *to = *byte;
            }
            bus.write(address, &from[..len]);
        }
    }

    /// Where something is, mostly.
    fn address(&self, script: &mut Script<'_>) -> u64 {
        let near = u64::from(script.u16());
        match script.byte() % 8 {
            0 => u64::from(script.u32()) << 32 | u64::from(script.u32()),
            1 => ECAM.start + (u64::from(script.byte() & 3) << 20) + near,
            2 => LOW.end - 8 + near % 16,
            3 => [0, RAM, 1 << 32, u64::MAX - 7, 0xFEC0_0000, 0xFEE0_0000][usize::from(script.byte() % 6)]
                .wrapping_add(near % 16)
                .wrapping_sub(8),
            4 => HIGH.start + near,
            _ => {
                let bar = self.bar(script.byte());
                let most = [0x40, 0x80A0, 0x1_0010, 0xFFFF][usize::from(script.byte() % 4)];
                bar + near % most
            }
        }
    }

    /// Where a function has BAR 0 now, or would have it.
    fn bar(&self, which: u8) -> u64 {
        let id = self.function(which);
        let mut register = [0; 4];
        self.functions.root().read(id, 0x10, &mut register);
        u64::from(u32::from_le_bytes(register) & !0xF)
    }

    /// A function as firmware has numbered it.
    fn function(&self, which: u8) -> RoutingId {
        RoutingId::new(1 + which % SLOTS, which >> 2 & 1)
    }

    fn configure(&self, script: &mut Script<'_>) {
        let which = script.byte();
        let id = if which & 0x80 == 0 {
            self.function(which)
        } else {
            RoutingId(u16::from(which & 7) << 8 | u16::from(script.byte()))
        };
        let register = match script.byte() % 4 {
            0 => script.u16() % 4100,
            // Header, power management, MSI, MSI-X, PCI Express, where the fake machine has them.
            1 => [0x04, 0x10, 0x14, 0x18, 0x1C, 0x30, 0x3C, 0x06][usize::from(script.byte() % 8)],
            2 => [0x44, 0x48, 0x4A, 0x4C, 0x54, 0x58, 0x62, 0x78][usize::from(script.byte() % 8)],
            _ => u16::from(script.byte()),
        };
        let address = ECAM.start + (u64::from(id.0) << 12) + u64::from(register);
        self.access(false, address, script);
    }

    /// What a driver begins with: port and function decode, are masters, BARs somewhere.
    fn start(&self, script: &mut Script<'_>) {
        let id = self.function(script.byte());
        let root = self.functions.root();
        root.write(RoutingId::new(0, id.bus() << 3), 0x04, &[6, 0]);
        if script.flag() {
            let place = LOW.start + (u64::from(id.bus() - 1) << 20) + (u64::from(script.byte()) << 12);
            root.write(id, 0x10, &u32::try_from(place).unwrap().to_le_bytes());
        }
        root.write(id, 0x04, &[if script.byte().is_multiple_of(4) { 0 } else { 6 }, 0]);
    }

    fn set_vector(&self, script: &mut Script<'_>) {
        let which = script.byte();
        let entry = self.bar(which) + 0x8000 + 16 * u64::from(script.byte() % 9);
        let memory = self.board.memory();
        let address = match script.byte() % 8 {
            0 => u64::from(script.u32()),
            high => 0xFEE0_0000 | u64::from(high) << 12,
        };
        memory.write(entry, &address.to_le_bytes());
        memory.write(entry + 8, &u32::from(script.byte()).to_le_bytes());
        memory.write(entry + 12, &u32::from(script.byte() & 1).to_le_bytes());
        let control = [0, 0x8000, 0xC000, 0x8000][usize::from(script.byte() % 4)];
        self.functions
            .root()
            .write(self.function(which), 0x62, &u16::to_le_bytes(control));
    }

    /// Slot Control and Status, bus numbers, link, windows of a port.
    fn use_slot(&self, script: &mut Script<'_>) {
        let id = RoutingId::new(0, (1 + script.byte() % SLOTS) << 3);
        let root = self.functions.root();
        match script.byte() % 4 {
            // Off and on, with the indicators that Linux sets.
            0 => root.write(id, 0x58, &0x0700_u16.to_le_bytes()),
            1 => root.write(id, 0x58, &0x0100_u16.to_le_bytes()),
            2 => root.write(id, 0x5A, &[0xFF, 0xFF]),
            _ => {
                let register = [0x58, 0x50, 0x3E, 0x04, 0x18, 0x20, 0x24, 0x82][usize::from(script.byte() % 8)];
                root.write(id, register, script.bytes(4));
            }
        }
    }

    /// What happens in the host.
    fn happen(&mut self, script: &mut Script<'_>) {
        let device = host::bdf(1 + script.byte() % 4);
        match script.byte() % 6 {
            0 => self.host.report_error(device),
            1 => self.host.request_release(device),
            2 => self.host.remove(device),
            3 => self.host.silence(device, script.byte().into()),
            _ => self.host.poke(device),
        }
        self.listen();
    }

    /// What the thread does that listens to the kernel.
    fn listen(&mut self) {
        for (device, notice) in self.functions.take_notices().unwrap_or_default() {
            match notice {
                // What fails was let go of as far as it can be.
                Notice::Failed => drop(self.functions.eject(device)),
                Notice::Wanted => self.removals.extend(self.functions.begin_removal(device)),
            }
        }
    }

    /// What is asked over the control socket.
    fn plug(&mut self, script: &mut Script<'_>) {
        let number = 1 + script.byte() % 4;
        let device = host::bdf(number);
        match script.byte() % 6 {
            0 => {
                // Where no free slot is settled, which is in the guest's hands, whoever adds waits for it.
                let listed = self.functions.list();
                let is_filled = |device| listed.iter().any(|listed| listed.guest.routing_id.bus() == device);
                let mut ports = self.functions.root().ports().iter();
                let is_free = ports.any(|port| {
                    let slot = port.state();
                    !slot.is_present && slot.power == Indicator::Off && !is_filled(port.device())
                });
                let is_type1 = host::is_type1(self.functions.backend());
                if is_free && let Some(opened) = host::try_open(&self.host, is_type1, number) {
                    drop(self.functions.add(vec![opened]));
                }
            }
            1 => self.removals.extend(self.functions.begin_removal(device)),
            2 => drop(self.functions.remove(device, Duration::ZERO)),
            3 => drop(self.functions.eject(device)),
            _ => self.finish(),
        }
    }

    fn finish(&mut self) {
        for removal in std::mem::take(&mut self.removals) {
            if let Ok(Some(_)) = removal.emptied().try_read() {
                drop(self.functions.finish_removal(&removal));
            } else {
                self.removals.push(removal);
            }
        }
    }

    fn fail(&self, script: &mut Script<'_>) {
        let nth = u32::from(script.byte() % 32);
        if script.flag() {
            self.host.fail_nth(nth, Errno::IO);
        } else {
            self.guest.fail_nth(nth);
        }
    }

    /// The event thread: what the guest wants of its machine.
    fn heed(&self) {
        if self.board.take_end().unwrap() == Some(End::Reset) {
            drop(self.functions.reset());
        }
        self.functions.drop_silent_slots();
        self.host.settle();
    }

    pub(super) fn check(&self) {
        for slot in self.guest.slots() {
            let is_within =
                |window: &std::ops::Range<u64>| window.start <= slot.range.start && slot.range.end <= window.end;
            assert!(is_within(&LOW) || is_within(&HIGH), "{slot:x?}");
        }
        assert!(self.guest.delivered().iter().all(|message| message.is_deliverable()));
        assert_eq!(self.host.mistakes(), Vec::<String>::new());
        let listed = self.functions.list();
        let hosts: BTreeSet<Bdf> = listed.iter().map(|listed| listed.host).collect();
        assert_eq!(hosts.len(), listed.len(), "{listed:?}");
        for port in self.functions.root().ports() {
            let state = port.state();
            assert!(state.is_present || !state.is_link_up);
            assert!(state.is_present || port.windows() == Windows::NONE);
        }
    }

    pub(super) fn end(self) {
        self.host.forget_calls();
        self.guest.fail_nth(u32::MAX);
        drop(self.functions.stop());
        assert_eq!((self.guest.slots().len(), self.guest.routes()), (0, 0));
        assert_eq!(self.guest.lines(), 1, "that of the serial port");
        assert!(self.functions.list().is_empty());
        let (guest, host) = (self.guest.clone(), self.host.clone());
        drop(self);
        assert_eq!(guest.lines(), 0);
        assert_eq!(host.leaks(), Vec::<String>::new());
        assert_eq!(host.mistakes(), Vec::<String>::new());
    }
}

/// A port where something is, mostly.
fn port(script: &mut Script<'_>) -> u64 {
    let near = u64::from(script.byte());
    match script.byte() % 6 {
        0 => 0x3F8 + near % 9,
        1 => 0x600 + near % 8,
        2 => 0xCF8 + near % 9,
        3 => [0x60, 0x64, 0xCF9, 0x604][usize::from(script.byte() % 4)],
        4 => 0x5F + near,
        _ => u64::from(script.u16()),
    }
}
