//! Each call of the kernel fails in turn, on both sides: nothing is left behind, and nobody panics.

use super::{BAR0, Bench, EXPRESS, HERE, MSI, MSIX, RAISE_MSIX, WAYS, Way, description, machine_of, message, raiser};
use crate::Result;
use crate::fake::Guest;
use vfio_core::Errno;
use vfio_core::fake::Machine;

/// More calls than any of the runs makes.
const ENOUGH: u32 = 600;

/// What a guest does in its life.
fn live(machine: &Machine, guest: &Guest, way: Way) -> Result<()> {
    let bench = Bench::on(machine, guest.clone(), way)?;
    bench.start();
    bench.write(MSI + 4, 4, 0xFEE0_1000);
    bench.write(MSI + 2, 2, 1 | 1 << 4);
    bench.write(MSI + 2, 2, 0);
    bench.enable_msix();
    for vector in [1, 6, 3] {
        bench.set_vector(vector, message(5), false);
        bench.store(HERE + RAISE_MSIX, 1);
    }
    bench.set_vector(6, message(5), true);
    bench.set_vector(6, message(6), false);
    bench.write(MSIX + 2, 2, 0);
    bench.write(BAR0, 4, HERE + 0x10_0000);
    bench.write(EXPRESS + 8, 2, 1 << 15);
    bench.start();
    bench.function.take_notices()?;
    bench.function.stop()
}

#[test]
fn of_the_hosts_kernel() {
    for way in WAYS {
        for description in [description(), description().without_dynamic_msix()] {
            let mut ended = false;
            for nth in 0..ENOUGH {
                let (machine, guest) = (machine_of(raiser(description.clone())), Guest::default());
                machine.fail_nth(nth, Errno::NOMEM);
                let result = live(&machine, &guest, way);
                let failed = machine.failed();
                assert_eq!(machine.leaks(), Vec::<String>::new(), "{way:?}, call {nth}, {failed:?}");
                assert_eq!(
                    (guest.slots().len(), guest.routes(), guest.lines()),
                    (0, 0, 0),
                    "{failed:?}"
                );
                if failed.is_none() {
                    result.unwrap();
                    ended = true;
                    break;
                }
            }
            assert!(ended, "{ENOUGH} calls are not enough");
        }
    }
}

#[test]
fn of_the_guests() {
    for nth in 0..ENOUGH {
        let (machine, guest) = (machine_of(raiser(description())), Guest::default());
        guest.fail_nth(nth);
        let result = live(&machine, &guest, Way::Iommufd);
        assert_eq!(
            machine.leaks(),
            Vec::<String>::new(),
            "call {nth}, {:?}",
            guest.failed()
        );
        assert_eq!((guest.slots().len(), guest.routes(), guest.lines()), (0, 0, 0));
        result.unwrap();
        if guest.failed().is_none() {
            return;
        }
    }
    panic!("{ENOUGH} calls are not enough");
}
