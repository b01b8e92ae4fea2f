//! Demand-paged DMA: memory is mapped when a device asks for it (ATS and PRI).
//!
//! A [`DemandSpace`] pins nothing up front. A device that meets an unmapped page sends a page request; [`DemandSpace::serve`] reads
//! requests, makes the pages present, maps them and answers. Mapped memory stays within a budget: when it is used up, units that were
//! not used lately are unmapped, upon which the kernel takes them out of the device's translation cache too. Their content stays.
//!
//! The kernel delivers page requests only of devices with PRI that are no VF, to a page table made for it. Requests that come by
//! another way, such as a device's own report, are served through a [`FaultSource`].

mod attach;
mod backup;
mod eviction;
mod prefetch;
mod region;
mod serve;
mod source;
mod statistics;

pub use backup::Posted;
pub use eviction::Eviction;
pub use prefetch::Prefetch;
pub use source::FaultSource;
pub use statistics::Statistics;

use crate::space::{AddressSpace, DmaMapping, MapOptions};
use crate::{Error, Iova, IovaRange, Obstacle, Result};
use eviction::{Evicted, Order};
use prefetch::Ahead;
use region::Region;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, IommuDevice, ObjectId, PageRequestGroup};
use vfio_core::{Access, Attachment, Memory};

/// How a demand-paged space behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemandOptions {
    /// What is mapped at a time, in bytes: a power of two, at least a page.
    pub unit: u64,
    /// How much may be mapped at a time, in bytes.
    pub budget: u64,
    /// What is mapped ahead.
    pub prefetch: Prefetch,
    /// What goes first.
    pub eviction: Eviction,
    /// The PASID whose requests are served; requests of any other are invalid.
    pub pasid: Option<u32>,
}

impl Default for DemandOptions {
    /// Single pages of 4 KiB, 64 MiB of them, none ahead, the least recently used goes first.
    fn default() -> Self {
        Self {
            unit: 4096,
            budget: 64 << 20,
            prefetch: Prefetch::None,
            eviction: Eviction::Lru,
            pasid: None,
        }
    }
}

/// An address space whose memory is mapped when devices ask for it.
///
/// ```no_run
/// use iommu::demand::{DemandOptions, DemandSpace};
/// use iommu::space::MapOptions;
/// use std::sync::Arc;
/// use vfio_core::{Access, BoundDevice, Memory, MemoryOptions};
///
/// fn terabyte(device: &BoundDevice) -> Result<(), iommu::Error> {
///     let object = device.iommufd_device().ok_or(iommu::Error::Unsupported("page requests on type1"))?;
///     let mut space = DemandSpace::new(&object, DemandOptions::default())?;
///     space.attach(device)?;
///     let memory = Arc::new(Memory::new(1 << 40, MemoryOptions::default())?);
///     let range = space.add(&memory, 0..memory.len(), MapOptions::new(Access::READ | Access::WRITE))?;
///     println!("the device may use {range}");
///     loop {
///         if let Some(queue) = space.ready() {
///             vfio_core::wait_any(&[queue], None)?;
///         }
///         while space.serve()? > 0 {
///             if space.is_crowded() {
///                 std::thread::yield_now();
///             }
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct DemandSpace {
    /// By the device's number in the iommufd.
    attachments: BTreeMap<ObjectId, Attachment>,
    units: BTreeMap<Iova, Unit>,
    /// How often each unit is pinned that is, mapped or not: all may have been unmapped at once.
    pins: BTreeMap<Iova, u32>,
    regions: BTreeMap<Iova, Region>,
    order: Order,
    ahead: Ahead,
    source: Box<dyn FaultSource>,
    table: Option<Hwpt>,
    space: AddressSpace,
    options: DemandOptions,
    statistics: Statistics,
    /// Counts calls that serve or pin: what one of them brings is not evicted by it.
    round: u64,
    /// A group that found no room beside what its round had brought; the next round begins with it.
    deferred: Option<PageRequestGroup>,
    /// Units that were evicted lately.
    evicted: Evicted,
}

/// A unit of a region that is mapped.
#[derive(Debug)]
struct Unit {
    range: IovaRange,
    /// `None`: the kernel did not unmap it.
    mapping: Option<DmaMapping>,
    round: u64,
}

impl DemandSpace {
    /// A new space, and a page table for `device` that reports page requests here.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for options that make no sense; the kernel's. That the device has no PRI turns out when it is attached.
    pub fn new(device: &dyn IommuDevice, options: DemandOptions) -> Result<Self> {
        let iommufd = device.iommufd();
        let space = AddressSpace::iommufd(iommufd)?;
        let queue = iommufd.alloc_fault_queue()?;
        let ioas = space
            .ioas()
            .ok_or(Error::Unsupported("type1 has no page requests; iommufd does"))?;
        let flags = if options.pasid.is_some() {
            HwptFlags::PASID
        } else {
            HwptFlags::empty()
        };
        let table = Hwpt::alloc(device, HwptParent::Ioas(ioas), flags, HwptData::None, Some(&queue))?;
        let mut made = Self::with_source(space, Box::new(queue), options)?;
        made.table = Some(table);
        // The table has an aperture; what the device itself cannot use is known when it is attached.
        made.space.refresh()?;
        Ok(made)
    }

    /// Serves what another source reports, in a space that devices are attached to.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a unit that is no power of two or smaller than the IOMMU's pages, or a budget of less than a unit.
    pub fn with_source(space: AddressSpace, source: Box<dyn FaultSource>, options: DemandOptions) -> Result<Self> {
        if !options.unit.is_power_of_two() || options.unit < space.granule() {
            return Err(Error::Invalid("the unit is not a power of two of at least a page"));
        }
        if options.budget < options.unit {
            return Err(Error::Invalid("the budget is less than one unit"));
        }
        Ok(Self {
            attachments: BTreeMap::new(),
            units: BTreeMap::new(),
            pins: BTreeMap::new(),
            regions: BTreeMap::new(),
            order: Order::new(options.eviction),
            ahead: Ahead::new(options.prefetch),
            source,
            table: None,
            space,
            options,
            statistics: Statistics::default(),
            round: 0,
            deferred: None,
            evicted: Evicted::default(),
        })
    }

    /// The page table to attach devices to.
    #[must_use]
    pub fn table(&self) -> Option<&Hwpt> {
        self.table.as_ref()
    }

    /// The space, for what must always be mapped: rings, backup buffers.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// What becomes readable when page requests come; `None` for a source that tells in another way. Requests that were read ahead do
    /// not count: before waiting, [`serve`](Self::serve) until it returns 0.
    #[must_use]
    pub fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.source.ready()
    }

    /// Whether a group waits because there is no room beside what the last [`serve`](Self::serve) brought. Serving it takes away what
    /// devices may not have used yet: let them go on first, or they only take each other's memory. Devices that together use more
    /// than the budget at a time do so in any case, which [`Statistics::refaults`] shows.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.deferred.is_some()
    }

    /// What it has done.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Lets devices use a part of memory, and returns where. Nothing is made present or mapped. Attach first: what a device cannot
    /// reach is known from then on, and requests for it could not be served.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a part that lies outside the memory or is not made of whole pages; those of choosing an IOVA.
    pub fn add(&mut self, memory: &Arc<Memory>, part: Range<usize>, options: MapOptions) -> Result<IovaRange> {
        let region = Region::new(&self.space, memory, part, self.options.unit, options)?;
        let range = region.range();
        self.regions.insert(range.start(), region);
        Ok(range)
    }

    /// Takes memory away from devices again: unmaps what is mapped of it.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllocated`] for a range that [`add`](Self::add) did not return, [`Error::InUse`] while part of it is pinned. If the
    /// kernel does not unmap, the memory and the IOVAs are leaked.
    pub fn remove(&mut self, range: IovaRange) -> Result<()> {
        let found = self
            .regions
            .get(&range.start())
            .filter(|region| region.range() == range);
        found.ok_or(Error::NotAllocated(range))?;
        if let Some((start, _)) = self.pins.range(range.start()..=range.last()).next() {
            let pinned = IovaRange::new(*start, self.options.unit);
            return Err(Error::InUse {
                wanted: range,
                range: pinned.unwrap_or(range),
                by: Obstacle::Pinned,
            });
        }
        self.take_away(range)
    }

    /// Unmaps a region. Its reservation gives the IOVAs back, or leaks them if something there was not unmapped.
    fn take_away(&mut self, range: IovaRange) -> Result<()> {
        let starts: Vec<Iova> = self
            .units
            .range(range.start()..=range.last())
            .map(|(start, _)| *start)
            .collect();
        let mut first_error = Ok(());
        for start in starts {
            self.order.remove(start);
            first_error = first_error.and(self.unmap(start));
        }
        self.regions.remove(&range.start());
        first_error
    }

    /// Says that a device has used a range, so that it is not evicted soon. A driver knows that, this space does not.
    pub fn touch(&mut self, range: IovaRange) {
        let first = Iova(range.start().0 & !(self.options.unit - 1));
        for (start, _) in self.units.range(first..=range.last()) {
            self.order.touch(*start);
        }
    }

    /// Maps a range and keeps it mapped until [`unpin`](Self::unpin), as often as it was pinned.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] outside the memory that was added, [`Error::NoSpace`] if the budget does not suffice; those of mapping.
    pub fn pin(&mut self, range: IovaRange) -> Result<()> {
        self.round += 1;
        let starts = self.units_of(range, Access::empty())?;
        self.bring_all(&starts)?;
        for start in starts {
            *self.pins.entry(start).or_default() += 1;
            self.order.remove(start);
        }
        Ok(())
    }

    /// Undoes one [`pin`](Self::pin).
    pub fn unpin(&mut self, range: IovaRange) {
        for start in self.units_of(range, Access::empty()).unwrap_or_default() {
            let Some(pins) = self.pins.get_mut(&start) else {
                continue;
            };
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&start);
                // What is stuck cannot be evicted.
                if self.units.get(&start).is_some_and(|unit| unit.mapping.is_some()) {
                    self.order.insert(start);
                }
            }
        }
    }

    /// Whether all of a range is mapped at this moment.
    #[must_use]
    pub fn is_resident(&self, range: IovaRange) -> bool {
        let starts = self.units_of(range, Access::empty());
        starts.is_ok_and(|starts| starts.iter().all(|start| self.is_mapped(*start)))
    }
}

impl Drop for DemandSpace {
    fn drop(&mut self) {
        // First, and by the kernel: nobody answers what they ask from here on.
        for (_, attachment) in std::mem::take(&mut self.attachments) {
            if let Err(error) = attachment.detach() {
                tracing::error!(%error, "a device is still attached, and its page requests are answered by nobody");
            }
        }
        let ranges: Vec<IovaRange> = self.regions.values().map(Region::range).collect();
        for range in ranges {
            if let Err(error) = self.take_away(range) {
                tracing::error!(%range, %error, "not unmapped; memory and IOVAs are leaked");
            }
        }
    }
}

/// Length in bytes of what is never the whole address space.
fn len(range: IovaRange) -> u64 {
    u64::try_from(range.len_bytes()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
