//! Queue pairs of an NVMe controller in memory, through both interfaces.
#![cfg(test)]
#![expect(clippy::cast_possible_truncation, reason = "numbers that a test makes are small")]

mod buffered;
mod cases;
mod faults;
mod integrity;
mod waiting;

use drivers::Backing;
use drivers::fake::nvme::{Nvme, Options};
use drivers::fake::{FakeBacking, Interface};
use drivers::nvme::{self, Completion, Controller, Payload, QueueOptions, QueuePair};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use std::time::Duration;

type Queue<T = DmaBuffer<Both>> = QueuePair<FakeBacking, T>;

/// A controller that runs, and what a test does to it.
struct Bench {
    nvme: Nvme,
    backing: FakeBacking,
    controller: Controller<FakeBacking>,
}

impl Bench {
    fn new(interface: Interface, options: Options) -> Self {
        let nvme = Nvme::new(options);
        let backing = FakeBacking::through(interface, nvme.clone()).unwrap();
        let controller = Controller::new(backing.clone(), &nvme::Options::default()).unwrap();
        Self {
            nvme,
            backing,
            controller,
        }
    }

    /// Through iommufd, with all that the model can.
    fn usual() -> Self {
        Self::new(Interface::Iommufd, Options::default())
    }

    fn queue<T: Payload>(&self, options: QueueOptions) -> Queue<T> {
        self.controller.queue_pair(options).unwrap()
    }

    fn buffer(&self, len: usize) -> DmaBuffer<Both> {
        DmaBuffer::new(self.backing.space(), len, &BufferOptions::default()).unwrap()
    }

    /// With bytes in it.
    fn filled(&self, bytes: &[u8]) -> DmaBuffer<Both> {
        let mut buffer = self.buffer(bytes.len());
        buffer.write(0, bytes).unwrap();
        buffer
    }

    /// Nothing was done that may not be, and nothing is left.
    fn end(self) {
        let (nvme, machine) = (self.nvme.clone(), self.backing.machine().clone());
        drop(self);
        assert_eq!(nvme.queues(), (0, 0));
        assert_eq!(nvme.mistakes(), Vec::<String>::new());
        assert_eq!(machine.mistakes(), Vec::<String>::new());
        assert_eq!(machine.leaks(), Vec::<String>::new());
        let faults: Vec<_> = machine.faults();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

/// The next completion, within what is a second for the device.
fn one<T: Payload>(queue: &mut Queue<T>) -> Completion<T> {
    let completion = queue.wait(Some(Duration::from_secs(1))).unwrap();
    completion.expect("a completion in time")
}

fn bytes_of(buffer: &DmaBuffer<Both>) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.read(0, &mut bytes).unwrap();
    bytes
}

fn both(test: impl Fn(Interface)) {
    for interface in [Interface::Iommufd, Interface::Type1] {
        test(interface);
    }
}
