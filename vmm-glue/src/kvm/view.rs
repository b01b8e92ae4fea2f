//! The guest's memory as `linux-loader` takes it.

use crate::memory::Ram;
use crate::{Error, ErrorKind, Result};
use libc::{MAP_NORESERVE, MAP_SHARED, PROT_READ, PROT_WRITE};
use std::error::Error as Cause;
use vfio_core::StableMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// All of it, by copy only. Gives regions by reference and is never given away itself: nothing of it outlives the call that it is lent to.
#[derive(Debug)]
pub(crate) struct View(GuestMemoryMmap<()>);

impl GuestMemoryBackend for View {
    type R = GuestRegionMmap<()>;

    fn find_region(&self, address: GuestAddress) -> Option<&Self::R> {
        self.0.find_region(address)
    }

    fn iter(&self) -> impl Iterator<Item = &Self::R> {
        self.0.iter()
    }
}

/// Lends `use_it` a view of it.
pub(crate) fn with<R>(ram: &[Ram], use_it: impl FnOnce(&View) -> Result<R>) -> Result<R> {
    let regions = ram.iter().map(region).collect::<Result<Vec<_>>>()?;
    let view = GuestMemoryMmap::from_regions(regions).map_err(|error| failed(&error))?;
    use_it(&View(view))
}

fn region(ram: &Ram) -> Result<GuestRegionMmap<()>> {
    let invalid = |why| Error::new("look at the guest's memory", ErrorKind::Invalid(why));
    if ram.part.end > ram.memory.len() {
        return Err(invalid("the part lies outside the memory"));
    }
    let address = ram.memory.address().wrapping_add(ram.part.start);
    let (protection, flags) = (PROT_READ | PROT_WRITE, MAP_NORESERVE | MAP_SHARED);
    // SAFETY: the part was checked to lie in the memory, which stays mapped while it lives, and `ram` is lent to `with`, the one caller. There the
    // region goes into a `View`, which lends its regions (they cannot be cloned) and cannot be cloned or moved out of the loan itself: all that is made
    // of it ends before `with` returns. It copies by volatile accesses, and unmaps nothing.
    let region = unsafe { MmapRegion::build_raw(address, ram.part.len(), protection, flags) };
    let region = region.map_err(|error| failed(&error))?;
    GuestRegionMmap::new(region, GuestAddress(ram.guest)).ok_or_else(|| invalid("addresses overflow"))
}

fn failed(error: &dyn Cause) -> Error {
    Error::new(
        "look at the guest's memory",
        ErrorKind::Malformed(error.to_string().into()),
    )
}
