//! A region of a device: reading and writing it through the kernel, and mapping it.
//!
//! Key types: [`Region`], and [`RegionMap`], which is an [`Mmio`] that holds its device open.

use crate::error::misaligned;
use crate::info::{RegionFlags, RegionIndex, RegionInfo};
use crate::sys::bar::BarMemory;
use crate::{Access, BoundDevice, Error, ErrorKind, Mmio, StableMemory};
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A region that exists. Holds its device open.
///
/// ```no_run
/// use vfio_core::{BoundDevice, RegionIndex};
///
/// fn status(device: &BoundDevice) -> Result<u32, vfio_core::Error> {
///     device.region(RegionIndex::BAR0)?.read_u32(0x08)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Region {
    device: BoundDevice,
    info: RegionInfo,
}

/// How a part of a region is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RegionMapOptions {
    /// Which way. Default: both that the region offers.
    pub access: Option<Access>,
    /// The address is a multiple of `.0`, a power of two, plus `.1`; both are multiples of the page size. Default: the largest power of two
    /// in the length, at most 1 GiB, so that the kernel can use huge pages.
    pub alignment: Option<(usize, usize)>,
}

/// The largest page that an alignment pays for.
const HUGE: usize = 1 << 30;

impl Region {
    pub(crate) fn new(device: BoundDevice, info: RegionInfo) -> Self {
        Self { device, info }
    }

    /// What VFIO tells about it.
    #[must_use]
    pub fn info(&self) -> &RegionInfo {
        &self.info
    }

    /// Its index.
    #[must_use]
    pub fn index(&self) -> RegionIndex {
        self.info.index
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        &self.device
    }

    /// Reads bytes. The kernel takes as few accesses as alignment allows, of at most 8 bytes each.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRegion`] outside; [`ErrorKind::ShortTransfer`] when not all bytes came; EIO while memory decoding is off.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        let at = self.place(offset, to.len(), "read")?;
        let wanted = to.len();
        let read = self.device.calls().read(at, to);
        let done = read.map_err(|errno| self.failed("read", ErrorKind::from_errno(errno)))?;
        self.whole("read", wanted, done)
    }

    /// Writes bytes, in as few accesses as [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        let at = self.place(offset, from.len(), "write")?;
        let written = self.device.calls().write(at, from);
        if self.index() == RegionIndex::CONFIG && may_revoke(offset, from) {
            self.device.revoked();
        }
        let done = written.map_err(|errno| self.failed("write", ErrorKind::from_errno(errno)))?;
        self.whole("write", from.len(), done)
    }

    /// Maps a part, from a page on. Access is by [`Mmio`], to which the map dereferences.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRegion`] outside; [`ErrorKind::Misaligned`] off a page; [`ErrorKind::Invalid`] for no bytes, where the region cannot be
    /// mapped, and in low power; the kernel's errno.
    #[doc(alias = "mmap")]
    pub fn map(&self, part: Range<u64>) -> Result<RegionMap, Error> {
        self.map_with(part, RegionMapOptions::default())
    }

    /// Maps a part in a special way.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn map_with(&self, part: Range<u64>, options: RegionMapOptions) -> Result<RegionMap, Error> {
        let invalid = |why| self.failed("mmap", ErrorKind::Invalid(why));
        let len = part.end.checked_sub(part.start).filter(|len| *len != 0);
        let len = len.ok_or_else(|| invalid("a map of no bytes"))?;
        let len = usize::try_from(len)
            .ok()
            .ok_or_else(|| invalid("longer than the address space"))?;
        let at = self.place(part.start, len, "mmap")?;
        let page = rustix::param::page_size();
        let (alignment, beyond) = options.alignment.unwrap_or_else(|| natural(part.start, len, page));
        let numbers = [
            ("offset", part.start),
            ("alignment", alignment as u64),
            ("place in the alignment", beyond as u64),
        ];
        if let Some(kind) = misaligned(numbers.map(|(what, value)| (what, Some(value))), page as u64) {
            return Err(self.failed("mmap", kind));
        }
        if !alignment.is_power_of_two() || beyond >= alignment {
            return Err(invalid("an alignment that is no power of two, or a place beyond it"));
        }
        let mappable = self.info.mappable();
        if !mappable
            .iter()
            .any(|area| area.start <= part.start && part.end <= area.end)
        {
            return Err(invalid("the region, or this part of it, cannot be mapped"));
        }
        let access = options.access.unwrap_or_else(|| self.access());
        if !self.device.claims().map() {
            return Err(invalid("the device may be in low power: low_power_exit comes first"));
        }
        let map = self.device.calls().map(at, len, access, alignment, beyond);
        let map = map.map_err(|errno| {
            self.device.claims().release_map();
            self.failed("mmap", ErrorKind::from_errno(errno))
        })?;
        Ok(RegionMap {
            mmio: Mmio::new(map, access),
            start: part.start,
            region: self.clone(),
        })
    }

    /// Which ways it can be accessed.
    #[must_use]
    pub fn access(&self) -> Access {
        let mut access = Access::empty();
        access.set(Access::READ, self.info.flags.contains(RegionFlags::READ));
        access.set(Access::WRITE, self.info.flags.contains(RegionFlags::WRITE));
        access
    }

    /// Where in the device file the bytes lie, if they lie inside the region.
    fn place(&self, offset: u64, len: usize, what: &'static str) -> Result<u64, Error> {
        let len = len as u64;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.info.size);
        let outside = || ErrorKind::OutOfRegion {
            index: self.info.index.0,
            offset,
            len,
            size: self.info.size,
        };
        // The region's end in the file was checked when the region was described.
        let at = self.info.offset.checked_add(offset).filter(|_| inside);
        at.ok_or_else(|| self.failed(what, outside()))
    }

    fn whole(&self, what: &'static str, wanted: usize, done: usize) -> Result<(), Error> {
        if done == wanted {
            return Ok(());
        }
        Err(self.failed(what, ErrorKind::ShortTransfer { wanted, done }))
    }

    fn failed(&self, what: &'static str, kind: ErrorKind) -> Error {
        Error::new(format!("{what} {}", self.info.index), kind).on(self.device.bdf())
    }

    pub(crate) fn file_offset(&self, offset: u64, len: usize, what: &'static str) -> Result<u64, Error> {
        self.place(offset, len, what)
    }
}

macro_rules! accessors {
    ($($read:ident, $write:ident, $type:ty);*) => {
        impl Region {
            $(
                /// Reads a little-endian number. On its alignment it is one access of the device.
                ///
                /// # Errors
                ///
                /// As [`read`](Self::read).
                pub fn $read(&self, offset: u64) -> Result<$type, Error> {
                    let mut bytes = [0; size_of::<$type>()];
                    self.read(offset, &mut bytes)?;
                    Ok(<$type>::from_le_bytes(bytes))
                }

                /// Writes a little-endian number. On its alignment it is one access of the device.
                ///
                /// # Errors
                ///
                /// As [`write`](Self::write).
                pub fn $write(&self, offset: u64, value: $type) -> Result<(), Error> {
                    self.write(offset, &value.to_le_bytes())
                }
            )*
        }
    };
}

accessors!(
    read_u8, write_u8, u8;
    read_u16, write_u16, u16;
    read_u32, write_u32, u32;
    read_u64, write_u64, u64
);

/// Whether a write to configuration space may take dma-bufs back: memory decoding goes off, or a capability is told to reset the function or
/// to put it to sleep. Where these capabilities lie is not looked up.
fn may_revoke(offset: u64, from: &[u8]) -> bool {
    const COMMAND: u64 = 4;
    const MEMORY: u8 = 1 << 1;
    let command = COMMAND
        .checked_sub(offset)
        .and_then(|at| from.get(usize::try_from(at).ok()?));
    let end = offset.saturating_add(from.len() as u64);
    command.is_some_and(|command| command & MEMORY == 0) || (end > 0x40 && offset < 0x100)
}

/// The alignment with which address and place in the BAR agree in all bits that a huge page covers.
fn natural(start: u64, len: usize, page: usize) -> (usize, usize) {
    let largest = 1_usize.checked_shl(len.ilog2()).unwrap_or(HUGE);
    let alignment = largest.clamp(page, HUGE);
    let beyond = usize::try_from(start % alignment as u64).unwrap_or(0);
    (alignment, beyond)
}

/// A mapped part of a region. Unmapped when dropped; holds its device open.
///
/// An access ends the process with SIGBUS while memory decoding of the function is off, or after its configuration space was told to go to
/// D3hot: as soon as either is written, by whomever. (Low power by VFIO's own feature is refused while a map exists.) A child of fork has no map,
/// and must not drop this value: what lies at the address by then is something else.
///
/// ```no_run
/// use vfio_core::{BoundDevice, RegionIndex};
///
/// fn read_id(device: &BoundDevice) -> Result<Option<u32>, vfio_core::Error> {
///     let bar = device.region(RegionIndex::BAR0)?;
///     let map = bar.map(0..bar.size())?;
///     Ok(map.read_u32(0))
/// }
/// ```
#[derive(Debug)]
pub struct RegionMap {
    // Fields drop in this order: the map goes before the device.
    mmio: Mmio,
    start: u64,
    region: Region,
}

impl RegionMap {
    /// The region.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Which bytes of the region are mapped.
    #[must_use]
    pub fn part(&self) -> Range<u64> {
        self.start..self.start + self.mmio.len() as u64
    }

    /// The map as memory that a type1 container can map for another device, so that one reaches the other's registers (peer to peer).
    /// An iommufd refuses it: there a dma-buf is mapped instead ([`BoundDevice::dma_buf`]). `None` of a map that goes one way only, and for
    /// registers that have no address in this process, as those of a fake machine.
    #[must_use]
    pub fn to_memory(self: &Arc<Self>) -> Option<Arc<dyn StableMemory>> {
        let memory = BarMemory::new(Arc::clone(self))?;
        Some(Arc::new(memory))
    }
}

impl Drop for RegionMap {
    fn drop(&mut self) {
        // It is unmapped right after this, and nobody can access it any more.
        self.region.device.claims().release_map();
    }
}

impl Deref for RegionMap {
    type Target = Mmio;

    fn deref(&self) -> &Mmio {
        &self.mmio
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn address_and_place_agree_in_every_bit_of_a_huge_page(page in 0_u64..1 << 20, len in 1_usize..1 << 34) {
            let start = page << 12;
            let (alignment, beyond) = natural(start, len, 4096);
            prop_assert!(alignment.is_power_of_two() && (4096..=HUGE).contains(&alignment));
            prop_assert_eq!(beyond as u64, start % alignment as u64);
            prop_assert!(len < 4096 || alignment <= len, "no more than the part is long");
            prop_assert!(len < 2 << 20 || alignment >= 2 << 20, "what holds a huge page is aligned to one");
        }
    }
}
