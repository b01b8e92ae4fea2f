//! The drivers on devices in memory.

mod block;
mod hostile;
mod life;
mod others;

use crate::Backing;
use crate::fake::virtio::{Handle, Virtio};
use crate::fake::{FakeBacking, Interface};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// For what never comes: a second is a hundred thousand steps of a model.
const SHORT: Duration = Duration::from_millis(5);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// On both of the kernel's interfaces.
fn each(device: impl Fn() -> Virtio, test: impl Fn(FakeBacking, &Handle)) {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let device = device();
        let handle = device.handle();
        let backing = FakeBacking::through(interface, device).unwrap();
        let machine = backing.machine().clone();
        test(backing, &handle);
        assert_eq!(handle.mistakes(), Vec::<String>::new(), "{interface:?}");
        assert_eq!(machine.faults(), [], "{interface:?}");
        assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}");
    }
}

fn buffer(backing: &FakeBacking, bytes: &[u8]) -> DmaBuffer<Both> {
    let mut buffer = DmaBuffer::new(backing.space(), bytes.len(), &BufferOptions::default()).unwrap();
    buffer.write(0, bytes).unwrap();
    buffer
}

fn bytes(buffer: &DmaBuffer<Both>) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.read(0, &mut bytes).unwrap();
    bytes
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}
