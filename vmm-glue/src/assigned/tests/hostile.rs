//! A guest does anything at all, to a device that answers anything at all.

use super::{BAR0, Bench, COMMAND, HERE, Way, bdf, description, message};
use crate::pci::{BusEvent, Function};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use vfio_core::fake::Plain;

#[derive(Debug, Clone)]
enum Deed {
    Config { offset: u16, bytes: Vec<u8> },
    Store { address: u64, bytes: Vec<u8> },
    Load { address: u64, len: usize },
    Reset,
    Down,
    Fail,
    Error,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9),
        Just(vec![0xFF; 4]),
        Just(vec![6, 0])
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let offset = prop_oneof![0_u16..0x90, any::<u16>()];
    let address = prop_oneof![0xC000_0000_u64..0xC002_0000, 0xC000_8000_u64..0xC000_80A0, any::<u64>()];
    prop_oneof![
        6 => (offset, bytes()).prop_map(|(offset, bytes)| Deed::Config { offset, bytes }),
        6 => (address.clone(), bytes()).prop_map(|(address, bytes)| Deed::Store { address, bytes }),
        2 => (address, 0_usize..70).prop_map(|(address, len)| Deed::Load { address, len }),
        1 => Just(Deed::Reset),
        1 => Just(Deed::Down),
        1 => Just(Deed::Fail),
        1 => Just(Deed::Error),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_that_a_guest_does_outlives_its_function(deeds in prop::collection::vec(deed(), 0..80)) {
        let bench = Bench::running(Way::Iommufd, raiser_of_anything());
        for deed in deeds {
            match deed {
                Deed::Config { offset, bytes } => {
                    bench.function.config_write(offset, &bytes);
                    bench.function.config_read(offset, &mut vec![0; bytes.len()]);
                }
                Deed::Store { address, bytes } => bench.bus.write(address, &bytes),
                Deed::Load { address, len } => bench.bus.read(address, &mut vec![0; len]),
                Deed::Reset => bench.function.bus_event(BusEvent::Reset),
                Deed::Down => bench.function.bus_event(BusEvent::Down),
                Deed::Fail => bench.machine.fail_nth(1, vfio_core::Errno::IO),
                Deed::Error => {
                    bench.machine.report_error(bdf(1));
                    bench.function.take_notices().unwrap();
                }
            }
            let slots = bench.guest.slots();
            prop_assert!(slots.iter().all(|slot| slot.range.start >= 0xC000_0000 && slot.range.end <= 0xD000_0000), "{slots:x?}");
            prop_assert!(bench.guest.delivered().iter().all(|message| message.is_deliverable()));
        }
        bench.machine.fail_nth(u32::MAX, vfio_core::Errno::IO);
        bench.function.stop().unwrap();
        prop_assert_eq!(bench.guest_has(), (0, 0, 0));
        let machine = bench.machine.clone();
        drop(bench);
        prop_assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

/// Counts what a host would find in its journal.
#[derive(Debug, Default)]
struct Journal(Arc<AtomicUsize>);

impl Subscriber for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_guest_does_not_fill_the_journal() {
    let journal = Journal::default();
    let lines = Arc::clone(&journal.0);
    // With one subscriber alone, a test of another thread that comes to an event first says for all that nobody listens.
    let _other = tracing::Dispatch::new(Journal::default());
    tracing::subscriber::with_default(journal, || {
        let said = |what: &dyn Fn()| {
            let before = lines.load(Ordering::Relaxed);
            what();
            lines.load(Ordering::Relaxed) - before
        };
        let bench = Bench::new(Way::Iommufd, raiser_of_anything());
        let taken = Arc::clone(&bench.bus);
        bench.bus.insert(HERE..HERE + 1, Arc::new(Nobody)).unwrap();
        let occupied =
            || (0..100).for_each(|_| [0, 2].into_iter().for_each(|command| bench.write(COMMAND, 2, command)));
        bench.write(BAR0, 4, HERE);
        assert_eq!(said(&occupied), 1, "a BAR over another device");
        drop(taken.remove(HERE));
        bench.write(COMMAND, 2, 0);
        bench.start();
        bench.enable_msix();
        let refused = || {
            for _ in 0..100 {
                bench.guest.fail_nth(0);
                bench.set_vector(1, message(1), false);
                bench.set_vector(1, message(1), true);
            }
        };
        assert_eq!(said(&refused), 1, "a vector that cannot be had");
        let failing = || {
            for _ in 0..100 {
                bench.machine.fail_next("VFIO_DEVICE_RESET", vfio_core::Errno::IO);
                bench.function.bus_event(BusEvent::Reset);
            }
        };
        assert_eq!(said(&failing), 1, "a reset that fails");
    });
}

#[derive(Debug)]
struct Nobody;

impl crate::bus::Device for Nobody {
    fn read(&self, _: u64, _: &mut [u8]) {}
    fn write(&self, _: u64, _: &[u8]) {}
}

/// Whatever is written raises interrupts, also of vectors that there are not.
fn raiser_of_anything() -> Plain {
    Plain::new(description().without_dynamic_msix()).on_write(|_, write, bus| {
        let vector = u32::try_from(write.value & 0xF).unwrap_or_default();
        bus.msix(vector);
        bus.msi(vector);
        bus.intx(vector & 1 != 0);
    })
}
