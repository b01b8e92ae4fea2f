//! Opens one function in every way that the machine offers, tries what VFIO offers for it, and prints what came of it:
//! `every_way 0000:01:00.0`. The function is bound to vfio-pci and belongs to nobody. Changes nothing that outlives it, but does reset it.
#![expect(clippy::print_stdout, reason = "an example's output")]

use pci::{Bdf, Sysfs};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::iommufd::{Iommufd, Placement};
use vfio_core::mmio::{ReadOnly, Reg, Window};
use vfio_core::{
    Access, Backend, BoundDevice, CdevFile, Container, EventFd, EventSet, Group, Iova, IrqIndex, Memory, MemoryOptions,
    Region, RegionIndex, System, VfToken, wait_any,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let bdf: Bdf = std::env::args().nth(1).ok_or("usage: every_way BDF")?.parse()?;
    let (system, sysfs) = (System::host(), Sysfs::host());
    let mut failed = false;
    for (backend, usable) in Backend::probe(&system, &sysfs, Some(bdf)) {
        if let Err(reason) = usable {
            println!("{backend}: not offered here: {reason}");
            continue;
        }
        match try_out(backend, &system, &sysfs, bdf) {
            Ok(()) => println!("{backend}: all done"),
            Err(error) => {
                println!("{backend}: {error}");
                failed = true;
            }
        }
    }
    if failed {
        Err("some ways did not work".into())
    } else {
        Ok(())
    }
}

fn try_out(backend: Backend, system: &System, sysfs: &Sysfs, bdf: Bdf) -> Outcome<()> {
    println!("\n== {bdf} by {backend}");
    let memory = Arc::new(Memory::new(1 << 20, MemoryOptions::default())?);
    let access = Access::READ | Access::WRITE;
    let Some((path, kind)) = backend.container() else {
        let iommufd = Iommufd::open(system)?;
        let device = CdevFile::open_bdf(system, sysfs, bdf)?.bind(&iommufd, None)?;
        let (ioas, other) = (iommufd.alloc_ioas()?, iommufd.alloc_ioas()?);
        let mapping = ioas.map(memory, 0..1 << 20, Placement::Any, access)?;
        let mut attachment = device.attach(&ioas, None)?;
        println!("mapped at {}, attached to {:?}", mapping.range(), attachment.table());
        attachment.replace(&other)?;
        attachment.replace(&ioas)?;
        use_device(&device)?;
        println!("hot reset: {:x?}", device.hot_reset_set());
        println!(
            "by its iommufd: {:?}",
            device.hot_reset(&[]).map_err(|error| error.to_string())
        );
        match device.dma_buf(first_bar(&device)?.index(), std::slice::from_ref(&(0..4096))) {
            Ok(file) => {
                let peer = ioas.map_file(&file, 0, 4096, Placement::Any, access);
                println!(
                    "dma-buf: mapped: {}",
                    peer.map_or_else(|e| e.to_string(), |m| m.range().to_string())
                );
            }
            Err(error) => println!("dma-buf: {error}"),
        }
        let again = CdevFile::open_bdf(system, sysfs, bdf)?.bind(&iommufd, None);
        println!(
            "a second time: {}",
            again.map_or_else(|e| e.to_string(), |_| "bound".to_owned())
        );
        return Ok(attachment.detach()?);
    };
    let link = sysfs.link_name(format!("sys/bus/pci/devices/{bdf}/iommu_group"))?;
    let group = Group::open(system, pci::GroupId(link.parse()?))?;
    let attached = Container::with_group(system, path, kind, &group)?;
    let container = attached.container();
    let device = attached.device(bdf, None)?;
    println!("container: {:x?}", container.info()?);
    let mapping = container.map(memory.clone(), 0..1 << 20, Iova(1 << 30), access)?;
    let again = container.map(memory.clone(), 0..4096, Iova(1 << 30), access);
    println!(
        "the same place: {}",
        again.map_or_else(|e| e.to_string(), |_| "mapped".to_owned())
    );
    let reserved = container.map(memory.clone(), 0..4096, Iova(0xfee0_0000), access);
    println!(
        "the MSI window: {}",
        reserved.map_or_else(|e| e.to_string(), |_| "mapped".to_owned())
    );
    let beyond = container.map(memory.clone(), 0..8192, Iova(u64::MAX - 4095), access);
    println!(
        "past the end: {}",
        beyond.map_or_else(|e| e.to_string(), |_| "mapped".to_owned())
    );
    let second = container.map(memory, 0..8192, Iova(2 << 30), access)?;
    println!("unmapped by range: {:#x}", container.unmap(second.range())?);
    second.unmap()?;
    use_device(&device)?;
    let bar = first_bar(&device)?;
    let bar = Arc::new(bar.map(0..bar.size())?);
    if let Some(memory) = bar.to_memory() {
        let len = memory.len();
        let peer = container.map(memory, 0..len, Iova(3 << 30), access);
        println!(
            "a BAR for others: {}",
            peer.map_or_else(|e| e.to_string(), |m| m.range().to_string())
        );
    }
    println!("hot reset: {:x?}", device.hot_reset_set());
    println!(
        "by its group: {:?}",
        device.hot_reset(&[&group]).map_err(|error| error.to_string())
    );
    let token = attached.device(bdf, Some(VfToken::random()?));
    println!(
        "with a token: {}",
        token.map_or_else(|e| e.to_string(), |_| "opened".to_owned())
    );
    println!("unmapped: {:#x}", container.unmap_all()?);
    Ok(mapping.unmap()?)
}

fn use_device(device: &BoundDevice) -> Outcome<()> {
    println!("{:?}", device.info());
    for (index, region) in device.regions() {
        match region {
            Ok(region) => println!("{index}: {:x?}", region.info()),
            Err(error) => println!("{index}: {error}"),
        }
    }
    let config = device.config()?;
    println!("id {:#010x}, bus master {}", config.read_u32(0)?, config.bus_master()?);
    config.set_bus_master(true)?;
    if !config.bus_master()? {
        return Err("bus master stays off".into());
    }
    config.set_bus_master(false)?;
    println!("{} bytes of configuration space", config.image()?.bytes().len());
    let bar = first_bar(device)?;
    let map = bar.map(0..bar.size())?;
    let (mapped, read) = (map.read_u32(0), bar.read_u32(0)?);
    println!("{}: {mapped:x?} mapped, {read:#x} read", bar.index());
    const ID: Reg<u32, ReadOnly, 0> = Reg::new();
    let window = Window::<_, 4096>::new(&*map, 0).ok_or("the BAR has no page")?;
    if Some(window.read(ID)) != mapped {
        return Err("two reads of one register differ".into());
    }
    for (feature, access) in device.features()?.iter() {
        println!("{feature}: {access:?}");
    }
    for index in [
        IrqIndex::Intx,
        IrqIndex::Msi,
        IrqIndex::Msix,
        IrqIndex::Err,
        IrqIndex::Req,
    ] {
        let info = device.irq_info(index)?;
        println!("{index}: {} vectors, {:?}", info.count, info.flags);
        if info.count != 0 {
            loop_back(device, index, info.count.min(4))?;
        }
    }
    if device.info().flags.contains(vfio_core::info::DeviceFlags::RESET) {
        device.reset()?;
        println!("reset");
    } else {
        println!("no reset: {:?}", device.reset().map_err(|error| error.to_string()));
    }
    println!(
        "low power: {:?}",
        device.low_power_entry().map_err(|error| error.to_string())
    );
    println!(
        "awake: {:?}",
        device.low_power_exit().map_err(|error| error.to_string())
    );
    println!(
        "migration: {:?}",
        device.migration()?.map(|migration| migration.flags())
    );
    println!(
        "token: {:?}",
        device
            .set_vf_token(VfToken::random()?)
            .map_err(|error| error.to_string())
    );
    Ok(())
}

/// The first BAR that can be mapped.
fn first_bar(device: &BoundDevice) -> Outcome<Region> {
    let mut bars = RegionIndex::BARS
        .into_iter()
        .filter_map(|index| device.region(index).ok());
    Ok(bars
        .find(|bar| !bar.info().mappable().is_empty())
        .ok_or("no BAR can be mapped")?)
}

fn loop_back(device: &BoundDevice, index: IrqIndex, count: u32) -> Outcome<()> {
    let second = Some(Duration::from_secs(1));
    let events: Vec<EventFd> = (0..count).map(|_| EventFd::new()).collect::<Result<_, _>>()?;
    let set = EventSet::new()?;
    for (key, event) in (0..).zip(&events) {
        set.add(event, key)?;
    }
    let interrupts = device.interrupts(index)?;
    if device.interrupts(index).is_ok() {
        return Err("two are in charge".into());
    }
    interrupts.enable(0, &events.iter().map(Some).collect::<Vec<_>>())?;
    for (vector, event) in (0..).zip(&events) {
        interrupts.trigger(vector)?;
        if wait_any(&[event], second)? != [0] || event.wait()? != 1 {
            return Err(format!("{index} vector {vector} was not signalled").into());
        }
        if index == IrqIndex::Intx {
            interrupts.unmask(0)?;
        }
    }
    if count > 1 {
        // The first one is dropped, the others stay.
        interrupts.enable(0, &[None])?;
        let refused = interrupts.trigger(0);
        let each: Vec<bool> = (0..count).map(|vector| vector != 0).collect();
        interrupts.trigger_each(0, &each)?;
        let signalled = set.wait(second, |_| ())?;
        println!(
            "{index}: dropped vector: {:?}, {signalled} of {count} signalled",
            refused.map_err(|e| e.to_string())
        );
        let more = interrupts.enable(interrupts.info().count - 1, &[events.first()]);
        println!("{index}: one more: {:?}", more.map_err(|error| error.to_string()));
    }
    interrupts.disable()?;
    Ok(())
}
