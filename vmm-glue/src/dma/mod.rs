//! Guest memory for devices: each byte at an IOVA equal to its guest-physical address.
//!
//! Normally all of it is mapped, and so pinned, before the guest runs. With page requests (PRI) it need not be: then it is mapped when a device
//! asks for it ([`Pin`]).

mod server;

use crate::memory::Ram;
use crate::{Error, ErrorKind, Result};
use iommu::demand::{DemandOptions, DemandSpace, Statistics};
use iommu::prefault;
use iommu::space::{AddressSpace, DmaMapping, MapOptions, Progress};
use iommu::{Iova, IovaRange};
use server::Server;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use vfio_core::{Access, BoundDevice};

/// How much of the guest's memory is pinned for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pin {
    /// All, before the guest runs. Works with every device.
    #[default]
    All,
    /// What devices have asked for so far.
    WorkingSet,
    /// What devices have asked for lately: 64 MiB at most, the least recently used goes first.
    None,
}

/// Guest memory that devices reach. They do not any more when it is dropped.
#[derive(Debug)]
pub struct Dma(Kind);

#[derive(Debug)]
enum Kind {
    Pinned { _mappings: Vec<DmaMapping> },
    Demand(Server),
}

/// How much is locked when all of the guest's memory is mapped for devices, in bytes.
#[must_use]
pub fn locked_bytes(ram: &[Ram]) -> u64 {
    ram.iter().map(|ram| ram.part.len() as u64).sum()
}

impl Dma {
    /// Maps all of the guest's memory in a space that its devices are attached to: attaching first narrows where mappings may be made. Threads make
    /// the pages present before; `progress` is told the bytes that are mapped or present, and those in all, and may
    /// end it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Reserved`] for memory where the IOMMU of a device has none; [`MemlockExceeded`](vfio_core::ErrorKind::MemlockExceeded), with the limit that
    /// is needed for all of it, before any is touched; those of [`AddressSpace::map_shared`]. Nothing stays mapped.
    pub fn pinned(
        space: &AddressSpace,
        ram: &[Ram],
        threads: NonZeroUsize,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        check_reserved(space, ram)?;
        let total = locked_bytes(ram);
        space.check_memlock(total)?;
        let mut before = 0;
        let mut mappings = Vec::with_capacity(ram.len());
        for ram in ram {
            let mut tell = |now: Progress| {
                // Making pages present is most of the work, and done a piece ahead.
                progress(before + now.populated.max(now.mapped), total)
            };
            let options = at(ram).prefault(threads).progress(&mut tell);
            let mapping = match ram.memory.file() {
                Some(_) => space.map_shared(&ram.memory, ram.part.clone(), options)?,
                None => space.map(&ram.memory, ram.part.clone(), options)?,
            };
            mappings.push(mapping);
            before += ram.part.len() as u64;
        }
        Ok(Self(Kind::Pinned { _mappings: mappings }))
    }

    /// Maps the guest's memory when devices ask for it, which a thread serves from here on. The devices share one page table, and are on an
    /// iommufd and attached to nothing else; they are detached when this is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for no devices and for [`Pin::All`]; [`ErrorKind::Unsupported`], saying what is missing: iommufd, a device with PRI that is
    /// no VF, an IOMMU that serves it; [`ErrorKind::Reserved`].
    pub fn on_demand(devices: &[BoundDevice], ram: &[Ram], pin: Pin) -> Result<Self> {
        let budget = match pin {
            Pin::All => {
                return Err(refused(ErrorKind::Invalid(
                    "all memory is to be pinned, and none on demand",
                )));
            }
            Pin::WorkingSet => locked_bytes(ram),
            Pin::None => 64 << 20,
        };
        let options = DemandOptions {
            budget,
            ..DemandOptions::default()
        };
        let first = devices.first();
        let first = first.ok_or_else(|| refused(ErrorKind::Invalid("no device asks for memory")))?;
        let object = first.iommufd_device().ok_or_else(|| missing(first, ON_TYPE1))?;
        let mut space = DemandSpace::new(&object, options).map_err(|error| explain(first, error))?;
        for device in devices {
            space.attach(device).map_err(|error| explain(device, error))?;
        }
        check_reserved(space.space(), ram)?;
        for ram in ram {
            space.add(&ram.memory, ram.part.clone(), at(ram))?;
        }
        Ok(Self(Kind::Demand(Server::new(space)?)))
    }

    /// Answers the page requests of devices from now on, on a thread of its own; nothing to do where memory is pinned. Before that they wait.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn serve(&self) -> Result<()> {
        match &self.0 {
            Kind::Pinned { .. } => Ok(()),
            Kind::Demand(server) => server.start(),
        }
    }

    /// Lets one more device ask for memory, of what is mapped on demand.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where memory is pinned: the device is attached to its [`AddressSpace`]; those of [`on_demand`](Self::on_demand).
    pub fn attach(&self, device: &BoundDevice) -> Result<()> {
        let server = self.server()?;
        server
            .with(|space| space.attach(device))
            .map_err(|error| explain(device, error))
    }

    /// Takes all memory from a device, of what is mapped on demand.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn detach(&self, device: &BoundDevice) -> Result<()> {
        Ok(self.server()?.with(|space| space.detach(device))?)
    }

    /// What was done on demand; `None` where memory is pinned.
    #[must_use]
    pub fn statistics(&self) -> Option<Statistics> {
        let server = self.server().ok()?;
        Some(server.with(|space| space.statistics()))
    }

    /// Why the guest's memory cannot be taken from it while it runs (a balloon); `None` where it can.
    #[must_use]
    pub fn refuses_balloon(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::Pinned { .. } => Some(NO_BALLOON),
            Kind::Demand(_) => None,
        }
    }

    fn server(&self) -> Result<&Server> {
        match &self.0 {
            Kind::Demand(server) => Ok(server),
            Kind::Pinned { .. } => Err(refused(ErrorKind::Invalid(
                "all memory is pinned, and none mapped on demand",
            ))),
        }
    }
}

/// Why there is no balloon where memory is pinned.
pub(crate) const NO_BALLOON: &str = "devices reach all of the guest's memory, which is pinned: pages that a balloon gave back would stay with the devices, \
                                     and the guest would get others";

/// Where a part is mapped.
fn at(ram: &Ram) -> MapOptions {
    MapOptions::new(Access::READ | Access::WRITE).at(Iova(ram.guest))
}

/// Refuses memory where the space has no IOVAs, and says which.
fn check_reserved(space: &AddressSpace, ram: &[Ram]) -> Result<()> {
    let allowed = space.allowed();
    for ram in ram {
        let Some(wanted) = IovaRange::new(Iova(ram.guest), ram.part.len() as u64) else {
            return Err(refused(ErrorKind::Invalid(
                "guest memory of no bytes, or past the last address",
            )));
        };
        if let Some(reserved) = first_outside(wanted, &allowed) {
            let wanted = wanted.start().0..wanted.last().0.saturating_add(1);
            return Err(refused(ErrorKind::Reserved { wanted, reserved }));
        }
    }
    Ok(())
}

/// The first bytes of a range that no allowed one has. Those that are allowed are in order and do not touch.
fn first_outside(wanted: IovaRange, allowed: &[IovaRange]) -> Option<Range<u64>> {
    let mut start = wanted.start().0;
    let end = wanted.last().0.saturating_add(1);
    for range in allowed {
        if range.last().0 < start {
            continue;
        }
        if range.start().0 > start {
            return Some(start..range.start().0.min(end));
        }
        if range.last().0 >= end - 1 {
            return None;
        }
        start = range.last().0 + 1;
    }
    Some(start..end)
}

fn refused(kind: ErrorKind) -> Error {
    Error::new("map guest memory for devices", kind)
}

pub(crate) const ON_TYPE1: &str = "page requests on type1, without which all guest memory is pinned: iommufd and a VFIO character device (Linux 6.11)";

/// What is missing for memory on demand.
fn missing(device: &BoundDevice, what: &'static str) -> Error {
    let error = refused(ErrorKind::Unsupported(what));
    match device.bdf() {
        Some(bdf) => error.on(bdf),
        None => error,
    }
}

fn explain(device: &BoundDevice, error: iommu::Error) -> Error {
    match error {
        iommu::Error::Unsupported(_) => missing(
            device,
            "page requests (PRI) of the device, or an IOMMU that serves them, without which all guest memory is pinned: a function with ATS \
             and PRI that is no VF, behind an IOMMU in scalable mode",
        ),
        iommu::Error::Kernel(error) if error.errno() == Some(vfio_core::Errno::INVAL) => missing(
            device,
            "page requests (PRI) of a VF, which shares those of its PF, without which all guest memory is pinned: a function with PRI of its own",
        ),
        other => other.into(),
    }
}

/// Makes guest memory present that no device uses yet, with the same threads and progress as [`Dma::pinned`].
///
/// # Errors
///
/// Those of [`prefault::populate`].
pub fn populate(ram: &[Ram], threads: NonZeroUsize, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let (mut before, total) = (0, locked_bytes(ram));
    for ram in ram {
        prefault::populate(&ram.memory, ram.part.clone(), threads, |done, _| {
            progress(before + done as u64, total);
        })?;
        before += ram.part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GuestMemory, Node};
    use ::pci::{Bdf, GroupId};
    use iommu::group::GroupSpace;
    use std::sync::Arc;
    use vfio_core::fake::{Copier, Iommu, Machine};
    use vfio_core::iommufd::Iommufd;
    use vfio_core::{CdevFile, ContainerPath, PageSize};

    const MIB: u64 = 1 << 20;

    fn space(machine: &Machine, bdf: Bdf) -> (AddressSpace, iommu::space::Attached) {
        let iommufd = Iommufd::open(&machine.system()).unwrap();
        let path = machine.cdev_path(bdf).unwrap();
        let device = CdevFile::open(&machine.system(), path)
            .unwrap()
            .bind(&iommufd, None)
            .unwrap();
        let space = AddressSpace::iommufd(&iommufd).unwrap();
        let attached = space.attach(&device).unwrap();
        (space, attached)
    }

    fn memory(len_bytes: u64) -> GuestMemory {
        let node = Node {
            len_bytes,
            vcpus: 1,
            host: None,
        };
        GuestMemory::new(&[node], PageSize::Base).unwrap()
    }

    fn range(start: u64, end: u64) -> IovaRange {
        IovaRange::new(Iova(start), end - start).unwrap()
    }

    #[test]
    fn the_first_bytes_that_devices_cannot_have_are_found() {
        let allowed = [range(0, 0x9000), range(0xA000, 0x2_0000)];
        assert_eq!(first_outside(range(0, 0x9000), &allowed), None);
        assert_eq!(first_outside(range(0x1000, 0xB000), &allowed), Some(0x9000..0xA000));
        assert_eq!(first_outside(range(0x9800, 0x9900), &allowed), Some(0x9800..0x9900));
        assert_eq!(
            first_outside(range(0x1_F000, 0x3_0000), &allowed),
            Some(0x2_0000..0x3_0000)
        );
        assert_eq!(first_outside(range(0, 1), &[]), Some(0..1));
        assert_eq!(first_outside(range(0, 4096), &[IovaRange::ALL]), None);
    }

    #[test]
    fn a_guests_memory_is_mapped_at_its_own_addresses_and_progress_is_told() {
        let bdf = "0000:01:00.0".parse().unwrap();
        let machine = Machine::builder().device(bdf, GroupId(1), Copier::new()).build();
        let (space, attached) = space(&machine, bdf);
        let memory = memory(8 * MIB);
        let mut told = Vec::new();
        let threads = NonZeroUsize::new(2).unwrap();
        let dma = Dma::pinned(&space, memory.ram(), threads, &mut |done, total| {
            told.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(space.mapped(), [range(0, 8 * MIB)]);
        assert_eq!(machine.pinned(), 8 * MIB);
        assert_eq!(told.last(), Some(&(8 * MIB, 8 * MIB)));
        assert!(told.is_sorted());
        drop(dma);
        assert_eq!((space.mapped().len(), machine.pinned()), (0, 0));
        drop(attached);
    }

    #[test]
    fn memory_where_the_iommu_has_none_is_refused_with_its_addresses() {
        let bdf = "0000:01:00.0".parse().unwrap();
        let iommu = Iommu {
            reserved: vec![range(2 * MIB, 3 * MIB)],
            ..Iommu::default()
        };
        let machine = Machine::builder()
            .iommu(iommu)
            .device(bdf, GroupId(1), Copier::new())
            .build();
        let (space, _attached) = space(&machine, bdf);
        let memory = memory(8 * MIB);
        let error = Dma::pinned(&space, memory.ram(), NonZeroUsize::MIN, &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
        assert!(error.to_string().contains("0x200000..0x300000"), "{error}");
        assert!(error.fix().is_some());
        assert!(space.mapped().is_empty());
    }

    #[test]
    fn too_low_a_limit_of_locked_memory_is_said_before_anything_is_mapped_with_the_one_that_is_needed() {
        let bdf = "0000:01:00.0".parse().unwrap();
        let builder = || Machine::builder().device(bdf, GroupId(1), Copier::new());
        let on_iommufd = |limit| {
            let machine = builder().memlock(limit).build();
            let (space, attached) = space(&machine, bdf);
            (machine, space, Some(attached), None)
        };
        let on_type1 = |limit| {
            let machine = builder().memlock(limit).build();
            let groups = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[GroupId(1)]).unwrap();
            let space = groups.space().clone();
            (machine, space, None, Some(groups))
        };
        let memory = memory(8 * MIB);
        let map = |space: &AddressSpace| {
            Dma::pinned(space, memory.ram(), NonZeroUsize::MIN, &mut |_, _| {
                ControlFlow::Continue(())
            })
        };
        for (machine, space, attached, groups) in [on_iommufd(8 * MIB + 4095), on_type1(8 * MIB + 4095)] {
            // What is mapped already counts.
            let page = Arc::new(vfio_core::Memory::new(4096, vfio_core::MemoryOptions::default()).unwrap());
            let options = MapOptions::new(Access::READ).at(Iova(1 << 32));
            let mapped = space.map(&page, 0..4096, options).unwrap();
            machine.forget_calls();
            let error = map(&space).unwrap_err();
            assert!(error.to_string().contains("8392704"), "{error}");
            assert!(error.fix().unwrap().contains("ulimit"));
            let calls = format!("{:?}", machine.calls());
            assert!(!calls.contains("MAP"), "{calls}");
            drop(mapped);
            map(&space).unwrap();
            drop((space, attached, groups));
        }
    }
}
