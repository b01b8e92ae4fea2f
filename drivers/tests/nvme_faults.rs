//! Faults of an NVMe controller by name, and what the driver says of each: on both interfaces, with what it costs in the device's time.
#![cfg(test)]

use drivers::fake::nvme::{Fault, Nvme, Options, Status, When};
use drivers::fake::{FakeBacking, Interface};
use drivers::nvme::{self, Controller, Interrupt, Namespace, Payload, Policy, QueueOptions, QueuePair};
use drivers::{Backing, ErrorKind};
use iommu::Iova;
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use std::sync::Arc;
use std::time::Duration;
use vfio_core::Access;
use vfio_core::fake::FaultReason;

const READ: u8 = 2;
const WRITE: u8 = 1;
const DEPTH: u64 = 8;

/// Memory of a command, or an address at which there is none.
#[derive(Debug, Clone)]
enum Data {
    Memory(Arc<DmaBuffer<Both>>),
    Unmapped(Iova, u64),
}

impl Payload for Data {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(buffer) => DmaBuffer::len(buffer) as u64,
            Self::Unmapped(_, len) => *len,
        }
    }

    fn access(&self) -> Access {
        Access::READ | Access::WRITE
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        let start = match self {
            Self::Memory(buffer) => buffer.iova(),
            Self::Unmapped(start, _) => *start,
        };
        (index == 0).then_some((start, self.len()))
    }
}

struct Stage {
    nvme: Nvme,
    backing: FakeBacking,
    namespace: Namespace,
    queue: QueuePair<FakeBacking, Data>,
    controller: Controller<FakeBacking>,
}

fn each(test: impl Fn(Stage)) {
    for interface in [Interface::Iommufd, Interface::Type1] {
        for interrupt in [Interrupt::Off, Interrupt::Vector(1)] {
            test(Stage::new(interface, interrupt));
        }
    }
}

impl Stage {
    fn new(interface: Interface, interrupt: Interrupt) -> Self {
        let nvme = Nvme::new(Options::default());
        let backing = FakeBacking::through(interface, nvme.clone()).unwrap();
        let asked = nvme::Options {
            admin_timeout: Duration::from_millis(100),
            ..nvme::Options::default()
        };
        let controller = Controller::new(backing.clone(), &asked).unwrap();
        let options = QueueOptions {
            interrupt,
            timeout: Duration::from_millis(50),
            can_replay: true,
            ..QueueOptions::default()
        };
        Self {
            nvme,
            backing,
            namespace: controller.namespace(1).unwrap(),
            queue: controller.queue_pair(options).unwrap(),
            controller,
        }
    }

    fn memory(&self, byte: u8) -> Data {
        let mut buffer = DmaBuffer::new(self.backing.space(), 4096, &BufferOptions::default()).unwrap();
        buffer.write(0, &[byte; 4096]).unwrap();
        Data::Memory(Arc::new(buffer))
    }

    /// Writes one page to each of some places, and does not wait.
    fn storm(&mut self) {
        for at in 0..DEPTH {
            let data = self.memory(u8::try_from(at).unwrap() + 1);
            self.queue.write(&self.namespace, 8 * at, 8, data).unwrap();
        }
        self.queue.ring();
    }

    /// What comes back until all has, or until the queue cannot go on.
    fn collect(&mut self) -> (Vec<u16>, Option<ErrorKind>) {
        let mut statuses = Vec::new();
        while self.queue.outstanding() != 0 {
            match self.queue.wait(Some(Duration::from_secs(1))) {
                Ok(Some(completion)) => statuses.push(completion.status.code()),
                Ok(None) => panic!("neither a completion nor a time-out: {:?}", self.queue),
                Err(error) => return (statuses, Some(error.kind)),
            }
        }
        (statuses, None)
    }

    /// What comes back of a queue that goes on.
    fn whole(&mut self) -> Vec<u16> {
        let (statuses, kind) = self.collect();
        assert!(kind.is_none(), "{kind:?}");
        statuses
    }

    /// Everything works: what a storm has written is there, and is read.
    fn works(&mut self) {
        self.storm();
        assert_eq!(self.whole(), [0; 8]);
        for at in 0..DEPTH {
            let byte = u8::try_from(at).unwrap() + 1;
            assert_eq!(self.nvme.blocks(1, 8 * at, 8), Some(vec![byte; 4096]));
            let Data::Memory(buffer) = self.memory(0) else { return };
            let data = Data::Memory(Arc::clone(&buffer));
            self.queue.read(&self.namespace, 8 * at, 8, data).unwrap();
            assert_eq!(self.whole(), [0]);
            let mut bytes = [0; 4096];
            buffer.read(0, &mut bytes).unwrap();
            assert_eq!(bytes, [byte; 4096]);
        }
    }

    /// Ends with everything given back.
    fn end(self) {
        let (nvme, machine) = (self.nvme.clone(), self.backing.machine().clone());
        drop(self);
        assert_eq!(nvme.mistakes(), Vec::<String>::new());
        assert_eq!(machine.leaks(), Vec::<String>::new());
        assert_eq!(machine.mistakes(), Vec::<String>::new());
    }

    /// A fault of the third command breaks the queue; after recovery all its commands have come back, and everything works.
    fn breaks(mut self, fault: Fault, is_said: impl Fn(&ErrorKind) -> bool) {
        self.nvme.inject(When::NthIo(2), fault);
        self.storm();
        let begin = self.backing.now();
        let (mut statuses, kind) = self.collect();
        let kind = kind.unwrap_or_else(|| panic!("{fault:?}: nothing is said"));
        assert!(is_said(&kind), "{fault:?}: {kind:?}");
        assert!(self.backing.now() - begin < Duration::from_secs(5), "{fault:?}");
        self.queue.recover(Policy::Replay).unwrap();
        statuses.extend(self.whole());
        assert_eq!(statuses, [0; 8], "{fault:?}");
        self.works();
        self.end();
    }
}

#[test]
fn controller_never_ready() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let nvme = Nvme::new(Options {
            timeout: 3,
            ..Options::default()
        });
        nvme.inject(When::Now, Fault::NeverReady);
        let backing = FakeBacking::through(interface, nvme.clone()).unwrap();
        let error = Controller::new(backing.clone(), &nvme::Options::default()).unwrap_err();
        assert_eq!(error.step, "CC.EN = 1");
        assert!(matches!(error.kind, ErrorKind::Timeout(limit) if limit >= Duration::from_millis(1500)));
        nvme.heal();
        Controller::new(backing, &nvme::Options::default()).unwrap();
    }
}

#[test]
fn cfs_during_io() {
    each(|stage| {
        stage.breaks(
            Fault::Fatal,
            |kind| matches!(kind, ErrorKind::Failed(text) if text.contains("CFS")),
        );
    });
}

#[test]
fn completion_with_unknown_cid() {
    each(|stage| {
        stage.breaks(
            Fault::UnknownId,
            |kind| matches!(kind, ErrorKind::Failed(text) if text.contains("not outstanding")),
        );
    });
}

#[test]
fn duplicate_completion() {
    each(|stage| {
        stage.breaks(
            Fault::Duplicate,
            |kind| matches!(kind, ErrorKind::Failed(text) if text.contains("not outstanding")),
        );
    });
}

/// A completion that nobody can see holds up those behind it.
#[test]
fn phase_glitch() {
    each(|stage| {
        stage.breaks(Fault::StalePhase, |kind| {
            matches!(kind, ErrorKind::Timeout(_) | ErrorKind::Failed(_))
        });
    });
    // Its halves at different times: what has the phase is whole but for the result, which these commands do not have.
    for fault in [Fault::InParts, Fault::PhaseFirst] {
        each(|mut stage| {
            stage.nvme.inject_always(When::Io(WRITE), fault);
            stage.works();
            stage.end();
        });
    }
}

/// As the kernel's `vfio_pci_driver_test.mix_and_match`: good transfers, one to an address that is not mapped, and an interrupt, in turn.
#[test]
fn mix_and_match() {
    const ROUNDS: usize = 10;
    each(|mut stage| {
        for round in 1..=ROUNDS {
            stage.works();
            let unmapped = Data::Unmapped(Iova(0x7f00_0000_0000), 4096);
            let opcode = if round % 2 == 0 { READ } else { WRITE };
            let submitted = match opcode {
                READ => stage.queue.read(&stage.namespace, 0, 8, unmapped),
                _ => stage.queue.write(&stage.namespace, 0, 8, unmapped),
            };
            let tag = submitted.unwrap();
            let completion = stage.queue.wait(Some(Duration::from_secs(1))).unwrap().unwrap();
            assert_eq!(
                (completion.tag, completion.status.code()),
                (tag, 4),
                "Data Transfer Error"
            );
            let faults = stage.backing.machine().faults();
            assert_eq!(faults.len(), round);
            let fault = faults.last().unwrap();
            assert_eq!((fault.iova.0, fault.write), (0x7f00_0000_0000, opcode == READ));
            assert_eq!(fault.reason, FaultReason::NotMapped);
        }
        assert_eq!(stage.controller.error_log().unwrap().len(), ROUNDS);
        stage.end();
    });
}

/// A fault in the middle of a storm is that command's alone.
#[test]
fn iova_fault_in_a_storm() {
    each(|mut stage| {
        for page in [0, 3] {
            stage.nvme.inject(When::NthIo(4), Fault::WrongPage(page));
            stage.storm();
            let statuses = stage.whole();
            assert_eq!(statuses.iter().filter(|status| **status == 4).count(), 1);
            assert_eq!(statuses.iter().filter(|status| **status == 0).count(), 7);
            stage.works();
        }
        stage.nvme.inject(When::Io(READ), Fault::Status(Status::READ_ERROR));
        let data = stage.memory(0);
        stage.queue.read(&stage.namespace, 0, 8, data).unwrap();
        assert_eq!(stage.whole(), [0x281]);
        stage.works();
        stage.end();
    });
}

/// What a dropped queue had outstanding is done late, by a controller that cannot be stopped: its memory is not there any more, and nobody is
/// hurt, because it is no bus master any more either.
#[test]
fn dropped_while_it_does_not_stop() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let mut stage = Stage::new(interface, Interrupt::Off);
        stage.nvme.inject_always(When::Io(READ), Fault::Slow(40_000));
        stage.nvme.inject_always(When::Admin(0x00), Fault::Lost);
        stage.nvme.inject_always(When::Admin(0x08), Fault::Lost);
        stage.nvme.inject(When::Now, Fault::NeverStops);
        for at in 0..DEPTH {
            let data = stage.memory(0);
            stage.queue.read(&stage.namespace, 8 * at, 8, data).unwrap();
        }
        stage.queue.ring();
        stage.backing.poke();
        let (nvme, backing) = (stage.nvme, stage.backing);
        drop((stage.queue, stage.controller));
        for _ in 0..60_000 {
            backing.poke();
        }
        for fault in backing.machine().faults() {
            assert_eq!(fault.reason, FaultReason::NotMaster);
        }
        let machine = backing.machine().clone();
        drop((nvme, backing));
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}
