//! A device with 28 address bits (QEMU's edu) moves memory through buffers of a pool, over iommufd or type1.
//!
//! `edu BDF iommufd|type1`; the function is on vfio-pci.

#![expect(clippy::print_stdout, reason = "this is a program")]

use iommu::bounce::{BouncePool, Crossover};
use iommu::buffer::{Both, BufferOptions, DmaBuffer, FromDevice, ToDevice};
use iommu::demand::{DemandOptions, DemandSpace};
use iommu::group::GroupSpace;
use iommu::pool::DmaPool;
use iommu::space::{AddressSpace, MapOptions};
use iommu::{Error, Iova, Result};
use pci::{Bdf, Sysfs};
use std::sync::Arc;
use vfio_core::iommufd::Iommufd;
use vfio_core::{
    Access, Backing, BoundDevice, CdevFile, ContainerPath, Memory, MemoryOptions, RegionIndex, RegionMap, System,
};

const SHORT: Error = Error::Invalid("a buffer shorter than what is moved");
const WIDTH: u32 = 28;
/// In the device.
const BUFFER: u64 = 0x4_0000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bdf: Bdf = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or(Error::Invalid("which function?"))?;
    let system = System::host();
    if arguments.next().as_deref() == Some("type1") {
        let group = pci::Topology::read(&Sysfs::host())
            .ok()
            .and_then(|topology| {
                topology
                    .groups()
                    .find(|group| group.functions.contains(&bdf))
                    .map(|group| group.id)
            })
            .ok_or(Error::Invalid("the function is in no group"))?;
        let groups = GroupSpace::open(&system, ContainerPath::Vfio, &[group])?;
        run(groups.space(), &groups.device(bdf, None)?)
    } else {
        let iommufd = Iommufd::open(&system)?;
        let device = CdevFile::open_bdf(&system, &Sysfs::host(), bdf)?.bind(&iommufd, None)?;
        // It has no PRI, and demand paging says what to do instead.
        let object = device.iommufd_device().ok_or(Error::Invalid("bound to an iommufd"))?;
        match DemandSpace::new(&object, DemandOptions::default())?.attach(&device) {
            Err(error @ Error::Unsupported(_)) => println!("{error}"),
            Err(error) => return Err(error),
            Ok(_) => return Err(Error::Invalid("an edu with PRI")),
        }
        run(&AddressSpace::iommufd(&iommufd)?, &device)
    }
}

fn run(space: &AddressSpace, device: &BoundDevice) -> Result<()> {
    let attached = space.attach(device)?;
    println!("allowed: {:x?}, units of {}", space.allowed(), space.granule());
    device.config()?.set_memory_decode(true)?;
    device.config()?.set_bus_master(true)?;
    let bar = device.region(RegionIndex::BAR0)?;
    let edu = Edu(bar.map(0..bar.size())?);

    let options = BufferOptions {
        width: WIDTH,
        ..BufferOptions::default()
    };
    let mut out = DmaPool::<ToDevice>::new(space, 2 << 20, options)?;
    let mut back = DmaPool::<FromDevice>::new(space, 2 << 20, options)?;
    let (mut request, answer) = (out.take(1000)?, back.take(1000)?);
    request.write(10, b"through the device").ok_or(SHORT)?;
    edu.move_in(request.iova(), 1000)?;
    edu.move_out(answer.iova(), 1000)?;
    let mut got = [0; 18];
    answer.read(10, &mut got).ok_or(SHORT)?;
    assert_eq!(&got, b"through the device");
    println!(
        "pool: {} -> {}, on pages of {:?}",
        request.iova(),
        answer.iova(),
        back.pages()
    );
    // The IOMMU keeps the direction: what is to be read by the device is not written by it.
    let mut other = out.take(1000)?;
    other.write(10, b"something else ...").ok_or(SHORT)?;
    edu.move_in(other.iova(), 1000)?;
    edu.move_out(request.iova(), 1000)?;
    edu.move_in(request.iova(), 1000)?;
    edu.move_out(answer.iova(), 1000)?;
    answer.read(10, &mut got).ok_or(SHORT)?;
    assert_eq!(&got, b"through the device", "the device wrote where it may only read");

    let shared = Arc::new(Memory::new(
        8192,
        MemoryOptions {
            backing: Backing::Shared,
            ..MemoryOptions::default()
        },
    )?);
    let both = MapOptions::new(Access::READ | Access::WRITE).within(WIDTH);
    let mapping = space.map_shared(&shared, 4096..8192, both)?;
    edu.move_out(mapping.iova(), 64)?;
    assert_eq!(space.lookup_part(&*shared, 4096..8192), Some(mapping.iova()));
    println!(
        "memfd: {}, first bytes {:x?}",
        mapping.iova(),
        shared.read_value::<u64>(4096)
    );
    mapping.unmap()?;

    let huge = DmaBuffer::<Both>::new(space, 4 << 20, &options)?;
    println!("4 MiB at {} on pages of {:?}", huge.iova(), huge.pages());
    let mut bounce = BouncePool::new(space, 1 << 18, options, Crossover::ALWAYS_COPY)?;
    let incoming = bounce.incoming(&shared, 100..164)?;
    edu.move_out(incoming.iova(), 64)?;
    incoming.finish(64)?;
    println!("mapping pays above {} bytes here", Crossover::measure(space)?.bytes());
    drop((request, other, answer, huge, out, back, bounce));
    println!("unmapped at the end: {} bytes", space.unmap_all()?);
    attached.detach()
}

/// The registers of `docs/specs/edu.rst` in QEMU.
struct Edu(RegionMap);

impl Edu {
    fn move_in(&self, from: Iova, len: u64) -> Result<()> {
        self.start(from.0, BUFFER, len, 1)
    }

    fn move_out(&self, to: Iova, len: u64) -> Result<()> {
        self.start(BUFFER, to.0, len, 1 | 2)
    }

    fn start(&self, source: u64, target: u64, len: u64, command: u64) -> Result<()> {
        let outside = Error::Invalid("the BAR is too small for an edu");
        for (offset, value) in [(0x80, source), (0x88, target), (0x90, len), (0x98, command)] {
            self.0.write_u64(offset, value).ok_or(outside.clone())?;
        }
        while self.0.read_u64(0x98).ok_or(outside.clone())? & 1 != 0 {
            std::thread::yield_now();
        }
        Ok(())
    }
}
