//! BARs are found where the guest has put them, and nowhere else.

use super::{
    BAR0, Bench, COMMAND, HELD, HERE, MASTER, MEMORY, POWER, WAYS, Way, bdf, description, options, raiser, windows,
    wiring,
};
use crate::assigned::Assigned;
use crate::pci::Function;
use ::pci::{BarIndex, GroupId};
use iommu::Iova;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::fake::{Copier, Description, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, RegionIndex};

fn slots(bench: &Bench) -> Vec<Range<u64>> {
    bench.guest.slots().into_iter().map(|slot| slot.range).collect()
}

/// All but the page of table and pending bits.
fn at(address: u64) -> [Range<u64>; 2] {
    [address..address + 0x8000, address + 0x9000..address + 0x1_0000]
}

#[test]
fn a_bar_is_reached_while_it_is_decoded_and_where_it_is() {
    for way in WAYS {
        let bench = Bench::new(way, raiser(description()));
        bench.write(BAR0, 4, HERE);
        assert_eq!(slots(&bench), [], "{way:?}: not yet decoded");
        assert_eq!(bench.load(HERE + HELD), u32::MAX);
        bench.write(COMMAND, 2, MEMORY.into());
        assert_eq!(slots(&bench), at(HERE));
        bench.store(HERE + HELD, 0x1234_5678);
        assert_eq!(
            bench.load(HERE + HELD),
            0x1234_5678,
            "what no slot has goes through the kernel"
        );
        let there = HERE + 0x40_0000;
        bench.write(BAR0, 4, there);
        assert_eq!(slots(&bench), at(there), "moved while decoded");
        assert_eq!(
            (bench.load(HERE + HELD), bench.load(there + HELD)),
            (u32::MAX, 0x1234_5678)
        );
        bench.write(BAR0, 4, 0xFFFF_FFFF);
        assert_eq!(slots(&bench), [], "while it is sized");
        assert_eq!(bench.read(BAR0, 4), 0xFFFF_0000);
        bench.write(BAR0, 4, there);
        bench.write(COMMAND, 2, 0);
        assert_eq!((slots(&bench).len(), bench.load(there + HELD)), (0, u32::MAX));
        let config = bench.attached.device().config().unwrap();
        assert!(!config.memory_decode().unwrap(), "the device does not decode either");
    }
}

#[test]
fn a_function_that_the_guest_puts_over_another_is_not_found_until_that_is_gone() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    let device = {
        let iommufd = bench.attached.device().iommufd_device().unwrap();
        let iommufd = vfio_core::iommufd::IommuDevice::iommufd(&iommufd).clone();
        let path = bench.machine.cdev_path(bdf(2)).unwrap();
        CdevFile::open(&bench.machine.system(), path)
            .unwrap()
            .bind(&iommufd, None)
            .unwrap()
    };
    let other = Assigned::new(&device, &wiring(&bench.guest, &bench.bus, None), &options()).unwrap();
    other.bus_event(windows());
    other.place(BarIndex::Bar(0), HERE);
    other.config_write(COMMAND, &MEMORY.to_le_bytes());
    assert_eq!(slots(&bench), at(HERE), "the first one stays");
    bench.write(COMMAND, 2, 0);
    assert_eq!(slots(&bench), []);
    assert_eq!(bench.load(HERE), 0x4350_4D45, "the other one, which has not moved");
    assert_eq!(slots(&bench), at(HERE));
    bench.write(COMMAND, 2, MEMORY.into());
    other.config_write(COMMAND, &[0, 0]);
    bench.store(HERE + HELD, 5);
    assert_eq!(bench.load(HERE + HELD), 5, "and the first one again");
    drop(other);
    bench.function.stop().unwrap();
    assert_eq!(bench.load(HERE), u32::MAX);
}

#[test]
fn a_bar_that_cannot_be_mapped_or_only_in_parts_is_reached_all_the_same() {
    let unmappable = Description::new(1, 2).region(Region::bar(0, 8192).without_mmap());
    let sparse = Description::new(1, 2).region(Region::bar(0, 0x4000).sparse(vec![0x1000..0x2000, 0x3000..0x4000]));
    let small = Description::new(1, 2).region(Region::bar(0, 256));
    let parts = [
        vec![],
        vec![HERE + 0x1000..HERE + 0x2000, HERE + 0x3000..HERE + 0x4000],
        vec![],
    ];
    for (description, parts) in [unmappable, sparse, small].into_iter().zip(parts) {
        let bench = Bench::running(Way::Iommufd, Plain::new(description).register(0, 0x40, 4, 77));
        assert_eq!(slots(&bench), parts);
        assert_eq!(bench.load(HERE + 0x40), 77);
    }
}

#[test]
fn without_slots_a_bar_is_slow_but_there() {
    let bench = Bench::new(Way::Iommufd, raiser(description()));
    bench.write(BAR0, 4, HERE);
    // The line comes first.
    bench.guest.fail_nth(1);
    bench.write(COMMAND, 2, MEMORY.into());
    assert_eq!(slots(&bench), at(HERE).get(1..).unwrap());
    bench.store(HERE + HELD, 5);
    assert_eq!(bench.load(HERE + HELD), 5);
}

#[test]
fn in_sleep_nothing_is_reached() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.write(POWER + 4, 2, 3);
    assert_eq!(slots(&bench), []);
    let control = bench.attached.device().config().unwrap();
    assert_eq!(control.read_u16(POWER + 4).unwrap() & 3, 3, "the device sleeps too");
    bench.write(POWER + 4, 2, 0);
    assert_eq!(control.read_u16(POWER + 4).unwrap() & 3, 0);
    bench.start();
    assert_eq!(slots(&bench), at(HERE));
}

#[test]
fn slots_of_a_function_that_stopped_to_decode_by_itself_are_dropped() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    assert!(!bench.function.drop_silent_slots(), "it decodes");
    bench
        .attached
        .device()
        .config()
        .unwrap()
        .set_memory_decode(false)
        .unwrap();
    assert!(bench.function.drop_silent_slots());
    assert!(!bench.function.drop_silent_slots(), "there are none any more");
    assert_eq!((slots(&bench).len(), bench.load(HERE + HELD)), (0, u32::MAX));
    bench.write(COMMAND, 2, 0);
    bench.start();
    assert_eq!(slots(&bench), at(HERE));
}

#[test]
fn a_function_that_decodes_again_is_reached_without_exits_again() {
    let bench = Bench::running(Way::Iommufd, raiser(description().region(Region::rom(4096))));
    let config = bench.attached.device().config().unwrap();
    config.set_memory_decode(false).unwrap();
    assert!(bench.function.drop_silent_slots());
    config.set_memory_decode(true).unwrap();
    // Only the ROM moves.
    bench.write(0x30, 4, 0xC100_0001);
    assert_eq!(slots(&bench), at(HERE));
}

#[test]
fn the_expansion_rom_is_read_once() {
    let description = description().region(Region::rom(4096));
    let bench = Bench::running(Way::Iommufd, raiser(description).register(6, 0, 4, 0xAA55));
    bench.write(0x30, 4, 0xC100_0001);
    assert_eq!(bench.load(0xC100_0000), 0xAA55);
    let read = bench.count("pread");
    assert_eq!(bench.load(0xC100_0004), 0);
    bench.store(0xC100_0000, 1);
    assert_eq!((bench.load(0xC100_0000), bench.count("pread")), (0xAA55, read));
    bench.write(0x30, 4, 0xC100_0000);
    assert_eq!(bench.load(0xC100_0000), u32::MAX, "not decoded");
}

#[test]
fn functions_reach_one_anothers_bars_where_the_processors_do() {
    let builder = Machine::builder().device(bdf(1), GroupId(1), raiser(description()));
    let machine = builder.device(bdf(2), GroupId(2), Copier::new()).build();
    let bench = Bench::on(&machine, crate::fake::Guest::default(), Way::Iommufd).unwrap();
    // The bench's own function knows of no others: it is given anew.
    bench.function.stop().unwrap();
    let wiring = wiring(&bench.guest, &bench.bus, Some(bench.space.clone()));
    let function = Assigned::new(bench.attached.device(), &wiring, &options()).unwrap();
    let iommufd: Iommufd = bench.space.ioas().unwrap().iommufd().clone();
    let path = machine.cdev_path(bdf(2)).unwrap();
    let copier = CdevFile::open(&machine.system(), path)
        .unwrap()
        .bind(&iommufd, None)
        .unwrap();
    let _attached = bench.space.attach(&copier).unwrap();
    copier.config().unwrap().set_bus_master(true).unwrap();
    let registers = copier.region(RegionIndex::BAR0).unwrap();
    let copy = |from: u64, to: u64| {
        for (offset, value) in [(0x08, from), (0x10, to), (0x18, 4)] {
            registers.write_u64(offset, value).unwrap();
        }
        registers.write_u32(0x28, 1).unwrap();
        registers.read_u32(0x2C).unwrap() == 1
    };
    function.bus_event(windows());
    function.place(BarIndex::Bar(0), HERE);
    assert!(!copy(HERE + HELD, HERE + HELD + 4), "nothing is there");
    function.config_write(COMMAND, &(MEMORY | MASTER).to_le_bytes());
    bench.store(HERE + HELD, 99);
    assert!(copy(HERE + HELD, HERE + HELD + 4));
    assert_eq!(bench.load(HERE + HELD + 4), 99);
    assert!(!copy(HERE + HELD, HERE + 0x8000), "the MSI-X table is the host's");
    let there = HERE + 0x40_0000;
    function.place(BarIndex::Bar(0), there);
    assert!(!copy(HERE + HELD, HERE + HELD + 4) && copy(there + HELD, there + HELD + 8));
    function.config_write(COMMAND, &[0, 0]);
    assert!(!copy(there + HELD, there + HELD + 8));
    assert!(
        bench.space.lookup(0, 4).is_none() && bench.space.mapped().iter().all(|range| range.start() != Iova(there))
    );
    let _kept = Arc::new(function);
}
