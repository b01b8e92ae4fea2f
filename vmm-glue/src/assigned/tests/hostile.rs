//! A guest does anything at all, to a device that answers anything at all.

use super::{Bench, Way, bdf, description};
use crate::pci::{BusEvent, Function};
use proptest::prelude::*;
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

/// Whatever is written raises interrupts, also of vectors that there are not.
fn raiser_of_anything() -> Plain {
    Plain::new(description().without_dynamic_msix()).on_write(|_, write, bus| {
        let vector = u32::try_from(write.value & 0xF).unwrap_or_default();
        bus.msix(vector);
        bus.msi(vector);
        bus.intx(vector & 1 != 0);
    })
}
