//! Each call of the kernel fails in turn: nothing is leaked that was not said to be, nothing panics, and all goes well when nothing fails.

use crate::bench::{Engine, bdf, memory, open, two};
use iommu::bounce::{BouncePool, Crossover};
use iommu::buffer::BufferOptions;
use iommu::demand::{DemandOptions, DemandSpace};
use iommu::dirty::DirtyTracker;
use iommu::group::GroupSpace;
use iommu::nested::Nesting;
use iommu::space::{AddressSpace, MapOptions};
use iommu::{Iova, OpenOptions, Result};
use pci::GroupId;
use std::sync::Arc;
use vfio_core::fake::{Copier, Iommu, Machine};
use vfio_core::iommufd::Iommufd;
use vfio_core::{Access, Backend, ContainerPath, Errno, Memory, PageSize, Pasid, RegionIndex};

const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));
/// More calls than any of the runs makes.
const ENOUGH: u32 = 400;

/// Undoing. Where one fails, what it was to undo stays until its file is closed, and whoever failed says so.
const UNDO: [&str; 7] = [
    "IOMMU_DESTROY",
    "IOMMU_IOAS_UNMAP",
    "VFIO_IOMMU_UNMAP_DMA",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
    "VFIO_GROUP_UNSET_CONTAINER",
    // Starting and reporting a log of DMA have names of their own; this one stops it.
    "VFIO_DEVICE_FEATURE",
    "VFIO_IOMMU_DIRTY_PAGES",
];

/// Runs `work` on a new machine for each call that it makes, and lets that one fail.
fn each_call_fails(machine: impl Fn() -> Machine, work: impl Fn(&Machine, &Arc<Memory>) -> Result<()>) {
    for errno in [Errno::NOMEM, Errno::BUSY] {
        let mut ended = false;
        for nth in 0..ENOUGH {
            let (machine, pages) = (machine(), memory(64));
            machine.fail_nth(nth, errno);
            let result = work(&machine, &pages);
            let failed = machine.failed();
            let name = failed.as_ref().map(|step| step.as_str().to_owned()).unwrap_or_default();
            assert_eq!(machine.leaks(), Vec::<String>::new(), "call {nth}, {name}");
            let is_undo = UNDO.contains(&name.as_str());
            if !is_undo {
                assert_eq!(machine.abandoned(), Vec::<String>::new(), "call {nth}, {name}");
                assert_eq!(Arc::strong_count(&pages), 1, "call {nth}, {name}");
            }
            if failed.is_none() {
                result.unwrap();
                assert_eq!(machine.abandoned(), Vec::<String>::new());
                ended = true;
                break;
            }
        }
        assert!(ended, "{ENOUGH} calls are not enough");
    }
}

#[test]
fn of_a_space_on_iommufd() {
    each_call_fails(
        || two().build(),
        |machine, pages| {
            let iommufd = Iommufd::open(&machine.system())?;
            let [device, peer] = [open(machine, &iommufd, 0)?, open(machine, &iommufd, 1)?];
            let [space, other] = [AddressSpace::iommufd(&iommufd)?, AddressSpace::iommufd(&iommufd)?];
            let mut attached = space.attach(&device)?;
            let _low = space.map(pages, 0..8192, BOTH.within(32))?;
            let fixed = space.map(pages, 8192..12288, BOTH.at(Iova(0x70_0000)))?;
            peer.config()?.set_memory_decode(true)?;
            let mut bar = space.map_bar(&peer, RegionIndex::BAR0, 0..4096, BOTH)?;
            bar.refresh()?;
            fixed.unmap()?;
            attached.move_to(&other)?;
            space.unmap_all()?;
            attached.detach()?;
            let _own = space.attach_beside_pasids(&device)?;
            let _pasid = other.attach_pasid(&device, Pasid::new(3).ok_or(iommu::Error::Invalid("PASID"))?)?;
            Ok(())
        },
    );
}

#[test]
fn of_groups_on_type1() {
    each_call_fails(
        || two().build(),
        |machine, pages| {
            let mut groups = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[GroupId(7)])?;
            groups.add(GroupId(8))?;
            let device = groups.device(bdf(0), None)?;
            let _attached = groups.space().attach(&device)?;
            let _mapping = groups.space().map(pages, 0..8192, BOTH)?;
            let second = groups.space().map(pages, 8192..12288, BOTH)?;
            let mut tracker = DirtyTracker::new(groups.space(), 4096)?;
            tracker.track_container()?;
            for range in tracker.dirty() {
                range?;
            }
            second.unmap()?;
            groups.space().unmap_all()?;
            Ok(())
        },
    );
}

#[test]
fn of_opening() {
    for way in [Backend::Iommufd, Backend::Type1v2] {
        each_call_fails(
            || two().build(),
            |machine, pages| {
                let root = tempfile::tempdir().unwrap();
                let (system, sysfs) = machine.write_tree(root.path()).unwrap();
                let options = OpenOptions::new(&system, &sysfs).only(way);
                let first = options.open(bdf(0))?;
                let second = options.open_in(first.space(), bdf(1))?;
                let _mapping = first.space().map(pages, 0..8192, BOTH)?;
                second.detach()
            },
        );
    }
}

#[test]
fn of_buffers() {
    each_call_fails(
        || two().build(),
        |machine, pages| {
            let iommufd = Iommufd::open(&machine.system())?;
            let device = open(machine, &iommufd, 0)?;
            let space = AddressSpace::iommufd(&iommufd)?;
            let _attached = space.attach(&device)?;
            let options = BufferOptions {
                pages: PageSize::Base,
                ..BufferOptions::default()
            };
            let mut pool = BouncePool::new(&space, 1 << 16, options, Crossover::at(4096))?;
            let long = pool.outgoing(pages, 100..9000)?;
            let short = pool.incoming(pages, 100..200)?;
            drop(pool);
            short.finish(100)?;
            drop(long);
            pool_again(&space, options, pages)
        },
    );
}

fn pool_again(space: &AddressSpace, options: BufferOptions, pages: &Arc<Memory>) -> Result<()> {
    let mut pool = BouncePool::new(space, 1 << 16, options, Crossover::ALWAYS_COPY)?;
    pool.incoming(pages, 0..100_000)?.finish(100_000)
}

#[test]
fn of_demand_paging() {
    each_call_fails(
        || {
            Machine::builder()
                .device(bdf(0), GroupId(7), Copier::new().page_requests())
                .build()
        },
        |machine, pages| {
            let iommufd = Iommufd::open(&machine.system())?;
            let device = open(machine, &iommufd, 0)?;
            let object = device.iommufd_device().ok_or(iommu::Error::Invalid("on type1"))?;
            let mut space = DemandSpace::new(
                &object,
                DemandOptions {
                    budget: 8192,
                    ..DemandOptions::default()
                },
            )?;
            space.attach(&device)?;
            let range = space.add(pages, 0..pages.len(), BOTH)?;
            let bar = device.region(RegionIndex::BAR0)?;
            for page in 0..4 {
                for (offset, value) in [(8, 1), (0x10, range.start().0 + page * 4096), (0x18, 8)] {
                    bar.write_u64(offset, value)?;
                }
                bar.write_u32(0x28, 2)?;
                space.serve()?;
                machine.settle();
            }
            space.remove(range)
        },
    );
}

#[test]
fn of_dirty_tracking_and_nesting() {
    let vtd = [[0_u64, 0, 1 << 26]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect::<Vec<u8>>()]
    .concat();
    each_call_fails(
        || {
            two()
                .iommu(Iommu {
                    nesting: Some(1),
                    hw_info: (1, vtd.clone()),
                    ..Iommu::default()
                })
                .build()
        },
        |machine, pages| {
            let iommufd = Iommufd::open(&machine.system())?;
            let device = open(machine, &iommufd, 0)?;
            let object = device.iommufd_device().ok_or(iommu::Error::Invalid("on type1"))?;
            let space = AddressSpace::iommufd(&iommufd)?;
            let mapping = space.map(pages, 0..8192, BOTH)?;
            let mut tracker = DirtyTracker::new(&space, 4096)?;
            let table = tracker.table_for(&object)?;
            let attachment = device.attach(&table, None)?;
            tracker.track_table(&table)?;
            tracker.track_device(&device)?;
            let engine = Engine(device.clone());
            drop(engine);
            for range in tracker.dirty() {
                range?;
            }
            mapping.unmap()?;
            for written in tracker.dirty() {
                written?;
            }
            drop(tracker);
            attachment.detach()?;
            let nesting = Nesting::new(&space, &object)?;
            let nested = nesting.vtd_s1(&object, vfio_core::iommufd::VtdS1Flags::empty(), 0, 48)?;
            let _attachment = device.attach(nested.hwpt(), None)?;
            nested.invalidate_all().map_err(vfio_core::Error::from)?;
            Ok(())
        },
    );
}
