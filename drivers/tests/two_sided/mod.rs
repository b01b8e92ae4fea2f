//! Any calls of the NVMe driver against a controller that goes wrong in any way, as bytes say.
//!
//! Whatever both sides do: nothing panics, every wait ends, a command that was submitted comes back once with what it was submitted with, memory
//! that came back is not written to, and the controller reaches nothing that is not mapped for it.

mod ledger;
mod script;
mod watched;

use drivers::Backing;
use drivers::fake::nvme::{Event, Fault, Nvme};
use drivers::fake::{FakeBacking, Interface};
use drivers::nvme::{
    Command, Controller, DataForm, Interrupt, Namespace, Options, Policy, QueueOptions, QueuePair, Tag,
};
use ledger::{Data, Ledger};
use script::{Script, device, fault};
use std::collections::HashMap;
use std::time::Duration;
use vfio_core::fake::FaultReason;
use watched::Watched;

/// Both sides.
struct Scene {
    nvme: Nvme,
    backing: Watched,
    ledger: Ledger,
    controller: Option<Controller<Watched>>,
    namespace: Option<Namespace>,
    queues: Vec<Queue>,
    /// Whether the controller has memory for queues.
    has_buffer: bool,
}

struct Queue {
    pair: QueuePair<Watched, Data>,
    /// Commands that are outstanding, and their payloads.
    sent: HashMap<Tag, Option<u64>>,
}

/// By the fake's clock: no more is done then.
const END: Duration = Duration::from_secs(60);
const OPERATIONS: usize = 200;
const QUEUES: usize = 3;

/// Runs a script.
pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data);
    let device = device(&mut script);
    let has_buffer = device.buffer != 0;
    let nvme = Nvme::new(device);
    let interface = if script.flag() {
        Interface::Type1
    } else {
        Interface::Iommufd
    };
    let backing = FakeBacking::through(interface, nvme.clone()).expect("no call of the kernel fails");
    let machine = backing.machine().clone();
    let ledger = Ledger::default();
    let mut scene = Scene {
        nvme,
        backing: Watched::new(backing),
        ledger: ledger.clone(),
        controller: None,
        namespace: None,
        queues: Vec::new(),
        has_buffer,
    };
    if script.below(8) == 0 {
        let (when, fault) = fault(&mut script);
        scene.nvme.inject(when, fault);
    }
    scene.open(&mut script);
    scene.add_queue(&mut script);
    for turn in 0..OPERATIONS {
        if script.0.is_empty() || scene.backing.now() > END {
            break;
        }
        scene.backing.begin();
        scene.step(&mut script);
        if turn % 16 == 0 {
            scene.ledger.check();
        }
    }
    scene.backing.begin();
    scene.end(script.flag());
    ledger.check();
    assert_eq!(ledger.lost(), Vec::<u64>::new(), "payloads that did not come back");
    drop(ledger);
    assert_eq!(machine.leaks(), Vec::<String>::new());
    assert_eq!(machine.mistakes(), Vec::<String>::new());
    for fault in machine.faults() {
        let is_meant =
            matches!(fault.reason, FaultReason::NotMaster | FaultReason::Gone) || fault.iova.0 >= Fault::NOWHERE.0;
        assert!(is_meant, "{fault}");
    }
}

impl Scene {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(32) {
            0 => self.open(script),
            1 => self.add_queue(script),
            2..=9 => self.submit(script),
            10 => self.submit_fused(script),
            11..=13 => self.in_queue(script, |queue| queue.pair.ring()),
            14..=17 => self.pop(script),
            18 => self.wait(script),
            19 => self.recover(script),
            20 => self.abort(script),
            21 => {
                let at = usize::from(script.below(4));
                if at < self.queues.len() {
                    drop(self.queues.swap_remove(at));
                }
            }
            22..=24 => {
                for _ in 0..script.byte() {
                    self.backing.idle();
                }
            }
            25 | 26 => {
                let (when, fault) = fault(script);
                if script.below(8) == 0 {
                    self.nvme.inject_always(when, fault);
                } else {
                    self.nvme.inject(when, fault);
                }
            }
            27 => self.nvme.chaos(script.number().into(), u32::from(script.byte())),
            28 => self.nvme.heal(),
            29 => self.outside(script),
            _ => self.ask(script),
        }
    }

    fn open(&mut self, script: &mut Script<'_>) {
        if self.controller.is_some() && script.flag() {
            self.controller = None;
        }
        if self.controller.is_none() {
            let options = Options {
                queues: script.below(5).into(),
                vectors: script.below(4).into(),
                admin_timeout: Duration::from_millis(10),
                shadow_doorbells: script.flag(),
            };
            self.controller = Controller::new(self.backing.clone(), &options).ok();
        }
        self.look_up();
    }

    fn look_up(&mut self) {
        let namespace = self
            .controller
            .as_ref()
            .and_then(|controller| controller.namespace(1).ok());
        self.namespace = namespace.or(self.namespace.take());
    }

    fn add_queue(&mut self, script: &mut Script<'_>) {
        let interrupt = match script.below(4) {
            0 => Interrupt::Vector(script.below(3).into()),
            1 => Interrupt::Adaptive {
                vector: script.below(3).into(),
                poll: Duration::from_micros(u64::from(script.byte())),
            },
            _ => Interrupt::Off,
        };
        let depth = script.byte();
        let options = QueueOptions {
            depth: 1 + u16::from(depth % 32),
            transfer_bytes: u64::from(script.number()) + 1,
            interrupt,
            form: if script.flag() {
                DataForm::Prp
            } else {
                DataForm::Shortest
            },
            timeout: Duration::from_micros(u64::from(script.byte()) * 100 + 1),
            can_replay: script.flag(),
            submission_in_buffer: self.has_buffer && depth >= 128,
        };
        if let Some(controller) = self.controller.as_ref().filter(|_| self.queues.len() < QUEUES)
            && let Ok(pair) = controller.queue_pair(options)
        {
            self.queues.push(Queue {
                pair,
                sent: HashMap::new(),
            });
        }
    }

    fn queue(&mut self, script: &mut Script<'_>) -> Option<&mut Queue> {
        let at = usize::from(script.below(u8::try_from(self.queues.len()).unwrap_or(u8::MAX)));
        self.queues.get_mut(at)
    }

    fn in_queue(&mut self, script: &mut Script<'_>, act: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.queue(script) {
            act(queue);
            queue.check();
        }
    }

    fn data(&self, script: &mut Script<'_>) -> Option<Data> {
        let len = 1 + usize::from(script.number() % 20_000);
        (script.below(16) != 0).then(|| self.ledger.take(self.backing.space(), len, script.number()))
    }

    fn command(&self, script: &mut Script<'_>) -> Option<Command> {
        let namespace = self.namespace.as_ref()?;
        let (lba, blocks) = (u64::from(script.number()) % 4200, u32::from(script.below(80)));
        Some(match script.below(12) {
            0..=3 => Command::read(namespace, lba, blocks),
            4..=6 => Command::write(namespace, lba, blocks),
            7 => Command::compare(namespace, lba, blocks),
            8 => Command::write_zeroes(namespace, lba, blocks),
            9 => Command::verify(namespace, lba, blocks),
            10 => Command::deallocate(namespace, blocks),
            _ => Command::flush(namespace),
        })
    }

    fn submit(&mut self, script: &mut Script<'_>) {
        let (command, data) = (self.command(script), self.data(script));
        let Some(command) = command else { return };
        self.in_queue(script, |queue| {
            let id = data.as_ref().map(Data::id);
            match queue.pair.submit(&command, data) {
                Ok(tag) => queue.note(tag, id),
                Err(refused) => assert_eq!(refused.payload.as_ref().map(Data::id), id, "another payload"),
            }
        });
    }

    fn submit_fused(&mut self, script: &mut Script<'_>) {
        let Some(namespace) = &self.namespace else { return };
        let lba = u64::from(script.number()) % 4200;
        let commands = (Command::compare(namespace, lba, 1), Command::write(namespace, lba, 1));
        let data = [self.data(script), self.data(script)];
        self.in_queue(script, |queue| {
            let ids = data.each_ref().map(|data| data.as_ref().map(Data::id));
            match queue.pair.submit_fused([&commands.0, &commands.1], data) {
                Ok(tags) => {
                    for (tag, id) in tags.into_iter().zip(ids) {
                        queue.note(tag, id);
                    }
                }
                Err(refused) => {
                    let back = refused.payload.each_ref().map(|data| data.as_ref().map(Data::id));
                    assert_eq!(back, ids, "other payloads");
                }
            }
        });
    }

    fn pop(&mut self, script: &mut Script<'_>) {
        let most = script.byte();
        self.in_queue(script, |queue| {
            for _ in 0..=most {
                match queue.pair.pop() {
                    Ok(Some(completion)) => queue.take(completion.tag, completion.payload),
                    Ok(None) | Err(_) => break,
                }
            }
        });
    }

    fn wait(&mut self, script: &mut Script<'_>) {
        let timeout = Duration::from_micros(u64::from(script.number()) / 4);
        self.in_queue(script, |queue| {
            if let Ok(Some(completion)) = queue.pair.wait(Some(timeout)) {
                queue.take(completion.tag, completion.payload);
            }
        });
    }

    fn recover(&mut self, script: &mut Script<'_>) {
        let policy = if script.flag() { Policy::Fail } else { Policy::Replay };
        self.in_queue(script, |queue| match queue.pair.recover(policy) {
            Ok(()) | Err(_) => {}
        });
    }

    fn abort(&mut self, script: &mut Script<'_>) {
        let at = usize::from(script.byte());
        self.in_queue(script, |queue| {
            if let Some(tag) = queue.sent.keys().nth(at % queue.sent.len().max(1)).copied() {
                match queue.pair.abort(tag) {
                    Ok(()) | Err(_) => {}
                }
            }
        });
    }

    /// What others do to the device.
    fn outside(&mut self, script: &mut Script<'_>) {
        let bdf = self.backing.bdf().expect("it has an address");
        match script.below(8) {
            0 => self.backing.machine().request_release(bdf),
            1 => self.backing.machine().remove(bdf),
            2 => {
                self.nvme.resize(1, u64::from(script.number()));
            }
            3 => self
                .nvme
                .report(Event::new(script.below(8), script.byte(), script.byte())),
            _ => self.look_up(),
        }
    }

    /// Admin commands. What they answer does not matter.
    fn ask(&mut self, script: &mut Script<'_>) {
        let Some(controller) = self.controller.as_ref() else {
            return;
        };
        let is_done = match script.below(16) {
            0 => controller.reset().is_ok(),
            1 => controller.identify().is_ok(),
            2 => controller.namespaces().is_ok(),
            3 => controller.namespace(script.byte().into()).is_ok(),
            4 => controller.identifiers(1).is_ok(),
            5 => controller.error_log().is_ok(),
            6 => controller.health().is_ok(),
            7 => controller.changed_namespaces().is_ok(),
            8 => controller.commands().is_ok(),
            9 => controller.sanitize_status().is_ok(),
            10 => controller
                .next_event(Duration::from_micros(script.byte().into()))
                .is_ok(),
            11 => controller.controllers().is_ok(),
            12 => controller.write_cache().is_ok(),
            13 => controller.secondary_controllers().is_ok(),
            14 => controller.firmware_slots().is_ok(),
            _ => script.below(8) == 0 && controller.shut_down().is_ok(),
        };
        if !is_done {
            self.backing.idle();
        }
    }

    fn end(self, is_controller_first: bool) {
        let Self { controller, queues, .. } = self;
        if is_controller_first {
            drop(controller);
            drop(queues);
        } else {
            drop(queues);
            drop(controller);
        }
    }
}

impl Queue {
    fn note(&mut self, tag: Tag, id: Option<u64>) {
        assert_eq!(self.sent.insert(tag, id), None, "{tag:?} was given twice");
    }

    fn take(&mut self, tag: Tag, payload: Option<Data>) {
        let sent = self.sent.remove(&tag);
        assert_eq!(
            sent,
            Some(payload.as_ref().map(Data::id)),
            "{tag:?} is not of this payload, or of none"
        );
        if let Some(payload) = payload {
            payload.rest();
        }
    }

    fn check(&self) {
        assert_eq!(self.pair.outstanding(), self.sent.len());
    }
}
