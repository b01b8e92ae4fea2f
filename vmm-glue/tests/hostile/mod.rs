//! Any accesses of a guest to functions with any configuration space, as bytes say.
//!
//! Whatever both sides do: nothing panics; what is hidden is not there; lists of capabilities come to an end; BARs answer only in the windows of their
//! port, and never over one another; whoever holds a function is told of every change that it has to act upon, and of none that is not; MSI-X does
//! what a small model of it does; an empty or unpowered slot reads as all ones.

mod device;
mod function;
mod msix;

use crate::script::Script;
use function::Shown;
use pci::RoutingId;
use std::sync::{Arc, Mutex};
use vmm_glue::bus::Device;
use vmm_glue::interrupt::{Irqs, Line, MsiMessage, Route};
use vmm_glue::pci::{Ecam, Mechanism1, Numbered, Port, PortOptions, Root, Windows};
use vmm_glue::{Error, ErrorKind, Result};

/// Hot-plug interrupts.
#[derive(Debug, Default)]
struct Messages(Mutex<Vec<MsiMessage>>);

impl Irqs for Messages {
    fn route(&self) -> Result<Box<dyn Route>> {
        Err(Error::new("route", ErrorKind::Unsupported("routes")))
    }

    fn set(&self, _: &[(&dyn Route, MsiMessage)]) -> Result<()> {
        Err(Error::new("route", ErrorKind::Unsupported("routes")))
    }

    fn line(&self, _: u32) -> Result<Box<dyn Line>> {
        Err(Error::new("line", ErrorKind::Unsupported("lines")))
    }

    fn signal(&self, message: MsiMessage) -> Result<()> {
        self.0.lock().unwrap().push(message);
        Ok(())
    }
}

/// Two slots, and what is or could be in them.
struct Scene {
    root: Arc<Root>,
    ecam: Ecam,
    legacy: Mechanism1,
    functions: Vec<Arc<Shown>>,
    /// What is in no slot.
    spare: Arc<Mutex<Vec<Numbered>>>,
}

const OPERATIONS: usize = 300;
const LIMITS: [std::ops::Range<u64>; 2] = [0xC000_0000..0xE000_0000, 1 << 38..1 << 39];

/// Runs a script.
pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data);
    let Some(mut scene) = Scene::new(&mut script) else {
        return;
    };
    for _ in 0..OPERATIONS {
        if script.is_empty() {
            break;
        }
        scene.step(&mut script);
        scene.check();
    }
    for function in &scene.functions {
        function.check_image();
    }
}

impl Scene {
    fn new(script: &mut Script<'_>) -> Option<Self> {
        let irqs: Arc<dyn Irqs> = Arc::new(Messages::default());
        let [memory, prefetchable] = LIMITS;
        let limits = Windows::new(memory, prefetchable);
        let ports: Vec<_> = [1_u8, 2]
            .map(|device| {
                let (low, high) = (u64::from(device) << 24, u64::from(device) << 32);
                let windows = Windows::new(
                    0xC000_0000 + low..0xC100_0000 + low,
                    (1 << 38) + high..(1 << 38) + high + (1 << 32),
                );
                let options = PortOptions {
                    device,
                    slot: device.into(),
                    buses: [device; 2],
                    windows,
                    limits,
                };
                Port::new(options, Arc::clone(&irqs))
            })
            .into();
        let mut functions = Vec::new();
        for _ in 0..2 {
            functions.push(Arc::new(Shown::new(script)?));
        }
        let numbered = (0..).zip(functions.iter().map(Arc::clone));
        let numbered: Vec<Numbered> = numbered.map(|(number, function)| (number, function as _)).collect();
        let spare = Arc::new(Mutex::new(Vec::new()));
        if script.flag() {
            ports[0].install(numbered).unwrap();
        } else {
            *spare.lock().unwrap() = numbered;
        }
        let root = Root::new(ports).unwrap();
        Some(Self {
            ecam: Ecam::new(Arc::clone(&root)),
            legacy: Mechanism1::new(Arc::clone(&root)),
            root,
            functions,
            spare,
        })
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let port = Arc::clone(&self.root.ports()[usize::from(script.flag())]);
        match script.byte() % 14 {
            0 => {
                let mut bytes = vec![0; usize::from(script.byte() % 17)];
                self.ecam.read(script.u32().into(), &mut bytes);
            }
            1 => {
                let offset = script.u32().into();
                self.ecam.write(offset, script.bytes(16));
            }
            2 => {
                let offset = u64::from(script.byte() % 8);
                let mut bytes = vec![0; usize::from(script.byte() % 9)];
                self.legacy.read(offset, &mut bytes);
            }
            3 => {
                let offset = u64::from(script.byte() % 8);
                self.legacy.write(offset, script.bytes(8));
            }
            // To a function, wherever its bus is now.
            4..=6 => {
                let id = self.below(&port, script.byte() & 1);
                let register = script.u16() % 4096;
                self.root.write(id, register, script.bytes(8));
            }
            // Where a function decides most: command, BARs, capabilities.
            7 => {
                let id = self.below(&port, script.byte() & 1);
                let register = [0x04, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30][usize::from(script.byte() % 8)];
                self.root.write(id, register, &script.u32().to_le_bytes());
            }
            8 => self.place(&port, script),
            9 => {
                let id = RoutingId::new(0, port.device() << 3);
                let register = u16::from(script.byte());
                self.root.write(id, register, script.bytes(4));
            }
            // Power, link, reset, memory and bus master of the port.
            10 => {
                let id = RoutingId::new(0, port.device() << 3);
                let register = [0x58, 0x50, 0x3E, 0x04, 0x5A, 0x82][usize::from(script.byte() % 6)];
                self.root.write(id, register, &script.u16().to_le_bytes());
            }
            11 => self.plug(&port, script),
            _ => {
                let function = &self.functions[usize::from(script.flag())];
                function.reach_msix(script);
            }
        }
    }

    fn below(&self, port: &Port, function: u8) -> RoutingId {
        let mut bus = [0];
        let id = RoutingId::new(0, port.device() << 3);
        self.root.read(id, 0x19, &mut bus);
        RoutingId::new(bus[0], function)
    }

    fn leads_to(&self, port: &Port, bus: u8) -> bool {
        let mut buses = [0; 2];
        self.root.read(RoutingId::new(0, port.device() << 3), 0x19, &mut buses);
        buses[0] != 0 && (buses[0]..=buses[1]).contains(&bus)
    }

    /// Lets a BAR decode at a place that may be in the window, mostly of a port that is on.
    fn place(&self, port: &Port, script: &mut Script<'_>) {
        if !script.byte().is_multiple_of(4) {
            let id = RoutingId::new(0, port.device() << 3);
            for (register, value) in [
                (0x04, 6),
                (0x58, 0x11E1),
                (0x50, 0),
                (0x3E, 0),
                (0x19, u16::from(port.device()) * 0x101),
            ] {
                self.root.write(id, register, &u16::to_le_bytes(value));
            }
        }
        let id = self.below(port, script.byte() & 1);
        let bar = 0x10 + 4 * u16::from(script.byte() % 5);
        let windows = port.windows();
        let start = if script.flag() {
            windows.memory().start
        } else {
            windows.prefetchable().start
        };
        // A few places only, so that BARs meet.
        let place = u64::from(script.byte() % 4) << (12 + script.byte() % 12);
        let address = start.wrapping_add(place);
        let [a, b, c, d, upper @ ..] = address.to_le_bytes();
        self.root.write(id, bar, &[a, b, c, d]);
        self.root.write(id, bar + 4, &upper);
        self.root.write(id, 0x04, &0x0006_u16.to_le_bytes());
    }

    fn plug(&self, port: &Port, script: &mut Script<'_>) {
        match script.byte() % 6 {
            0 | 1 => {
                let functions = std::mem::take(&mut *self.spare.lock().unwrap());
                if port.state().is_present {
                    assert!(port.insert(functions.clone()).is_err());
                    *self.spare.lock().unwrap() = functions;
                } else if !functions.is_empty() {
                    port.insert(functions).unwrap();
                }
            }
            2 => {
                let spare = Arc::clone(&self.spare);
                let was_present = port.state().is_present;
                let asked = port.request_removal(move |functions| {
                    assert!(!functions.is_empty());
                    spare.lock().unwrap().extend(functions);
                });
                assert_eq!(asked.is_ok(), was_present);
            }
            3 => {
                port.cancel_removal();
            }
            4 => self.spare.lock().unwrap().extend(port.eject()),
            _ => port.reset(),
        }
    }

    fn check(&self) {
        for port in self.root.ports() {
            let state = port.state();
            assert!(state.is_present || !state.is_link_up);
            let id = self.below(port, 0);
            let leads = self.root.ports().iter().find(|port| self.leads_to(port, id.bus()));
            let is_it = leads.is_some_and(|first| first.device() == port.device());
            if is_it && !(state.is_present && state.is_powered) {
                let mut word = [0; 4];
                self.root.read(id, 0, &mut word);
                assert_eq!(word, [0xFF; 4], "nothing answers in a slot without power");
            }
            if !(state.is_powered && state.is_link_up) {
                assert_eq!(port.windows(), Windows::NONE);
            }
        }
        for function in &self.functions {
            function.check();
        }
    }
}
