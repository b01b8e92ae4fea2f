//! From an address in this process to the IOVA of the same byte.
//!
//! [`Translator`] is a table of four levels like the CPU's own: an entry stands for one page of 4 KiB, 2 MiB, 1 GiB or 512 GiB,
//! whichever the mapping's place in this process allows. A look-up of memory on huge pages reads three words; it takes no lock, writes
//! nothing, and never waits for a writer. Tables are made once and stay, so a reader can never meet a freed one: 4 KiB for each 2 MiB
//! of the process's addresses that was ever mapped in pieces, 12 KiB for each GiB.
//!
//! An entry is one word that holds the whole answer, so a reader sees a mapping or none, never half of one. A length that spans entries
//! is followed from entry to entry, and every byte of it must be mapped contiguously.

use crate::sync::{AtomicU64, Mutex, OnceLock, Ordering, locked};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use vfio_core::{Iova, IovaRange, StableMemory};

/// What is mapped where, for readers that cannot wait.
///
/// ```
/// use iommu::{Iova, lookup::Translator};
///
/// let translator = Translator::new();
/// translator.insert(0x7000_0000, 0x2000, Iova(0x10_0000))?;
/// assert_eq!(translator.lookup(0x7000_0e00, 0x300), Some(Iova(0x10_0e00)));
/// assert_eq!(translator.lookup(0x7000_1fff, 2), None); // ends behind the mapping
/// # Ok::<(), iommu::Error>(())
/// ```
#[derive(Default)]
pub struct Translator {
    root: Table<Table<Table<Last>>>,
    /// By address: length in bytes and IOVA.
    mappings: Mutex<BTreeMap<u64, (u64, Iova)>>,
}

/// Base pages: the smallest unit that an IOMMU maps.
const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;
/// Address bits that a level of the table resolves. The model checker looks at every entry, so it gets few.
const LEVEL_BITS: u32 = if cfg!(loom) { 1 } else { 9 };
const ENTRIES: usize = 1 << LEVEL_BITS;
/// Of addresses in a process; beyond it memory is given only to those who ask.
const ADDRESS_BITS: u32 = PAGE_BITS + 4 * LEVEL_BITS;
/// In an entry, beside the IOVA of its first byte.
const VALID: u64 = 1;

impl Translator {
    /// Knows no mapping.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// IOVA of the byte at `address`, if all of the `len` bytes from there are mapped, and contiguously; `None` for no bytes.
    ///
    /// While another thread changes mappings, the answer for memory that it does not touch is right; for memory that it does touch it
    /// is one that was right during the call, or `None`.
    #[must_use]
    #[inline]
    pub fn lookup(&self, address: usize, len: usize) -> Option<Iova> {
        let (address, len) = (address as u64, len as u64);
        let last = address.checked_add(len.checked_sub(1)?)?;
        if last >> ADDRESS_BITS != 0 {
            return None;
        }
        let (iova, mut known) = self.entry(address)?;
        while known < len {
            let (next, more) = self.entry(address + known)?;
            if next != iova.checked_add(known)? {
                return None;
            }
            known += more;
        }
        Some(iova)
    }

    /// IOVA of a part of `memory`, if the part is mapped contiguously.
    #[must_use]
    pub fn lookup_part(&self, memory: &dyn StableMemory, part: Range<usize>) -> Option<Iova> {
        let len = part.end.checked_sub(part.start)?;
        let is_inside = part.end <= memory.len();
        let address = memory.address().addr().checked_add(part.start).filter(|_| is_inside)?;
        self.lookup(address, len)
    }

    /// Notes a mapping. Address, length and IOVA are multiples of 4 KiB.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] off that alignment, beyond 48 address bits, or if the process's addresses or the IOVAs overflow or the
    /// addresses are noted already.
    pub fn insert(&self, address: usize, len: usize, iova: Iova) -> Result<()> {
        let (address, len) = (address as u64, len as u64);
        if ![address, len, iova.0]
            .into_iter()
            .all(|value| value.is_multiple_of(PAGE))
        {
            return Err(Error::Invalid("address, length or IOVA is not a multiple of 4 KiB"));
        }
        let end = address
            .checked_add(len)
            .filter(|end| len > 0 && *end <= 1 << ADDRESS_BITS);
        let (Some(end), Some(_)) = (end, IovaRange::new(iova, len)) else {
            return Err(Error::Invalid("no bytes, or beyond the addresses that there are"));
        };
        let mut mappings = locked(&self.mappings);
        let before = mappings.range(..end).next_back();
        if before.is_some_and(|(&start, &(len, _))| start + len > address) {
            return Err(Error::Invalid("part of the memory is noted already"));
        }
        mappings.insert(address, (len, iova));
        self.root
            .write(pages(address, len), &|page| (iova.0 + (page * PAGE - address)) | VALID);
        Ok(())
    }

    /// Forgets a mapping that starts at `address`, and returns where it was.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if none starts there.
    pub fn remove(&self, address: usize) -> Result<(usize, Iova)> {
        let address = address as u64;
        let mut mappings = locked(&self.mappings);
        let mapping = mappings.remove(&address);
        let (len, iova) = mapping.ok_or(Error::Invalid("no mapping starts at this address"))?;
        self.root.write(pages(address, len), &|_| 0);
        Ok((usize::try_from(len).unwrap_or(usize::MAX), iova))
    }

    /// How many mappings are noted.
    #[must_use]
    pub fn len(&self) -> usize {
        locked(&self.mappings).len()
    }

    /// Whether none is noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// IOVA of a byte, and how many bytes from there its entry covers.
    #[inline]
    fn entry(&self, address: u64) -> Option<(Iova, u64)> {
        let (entry, bits) = self.root.read(address >> PAGE_BITS);
        let size = PAGE << bits;
        let offset = address & (size - 1);
        (entry & VALID != 0).then(|| (Iova((entry & !VALID) + offset), size - offset))
    }
}

impl fmt::Debug for Translator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translator")
            .field("mappings", &*locked(&self.mappings))
            .finish()
    }
}

/// The pages of a mapping, first and last.
fn pages(address: u64, len: u64) -> (u64, u64) {
    (address / PAGE, (address + len) / PAGE - 1)
}

/// One level of the table. Pages are counted from address 0.
trait Level: Default {
    /// Bits of a page's number that an entry of this level leaves open.
    const BITS: u32;

    /// The entry that covers a page, and its level's [`BITS`](Self::BITS); 0 if there is none.
    fn read(&self, page: u64) -> (u64, u32);

    /// Writes the entries of these pages, in as few as possible. The same pages give the same entries every time, and no others are
    /// touched. `value` gives the entry that starts at a page.
    fn write(&self, pages: (u64, u64), value: &dyn Fn(u64) -> u64);

    fn index(page: u64) -> usize {
        usize::try_from((page >> Self::BITS) % ENTRIES as u64).unwrap_or(usize::MAX)
    }
}

/// A level whose entries may be divided further.
struct Table<Below> {
    entries: [AtomicU64; ENTRIES],
    below: [OnceLock<Box<Below>>; ENTRIES],
}

/// The level of single pages.
struct Last {
    entries: [AtomicU64; ENTRIES],
}

impl<Below: Level> Level for Table<Below> {
    const BITS: u32 = Below::BITS + LEVEL_BITS;

    #[inline]
    fn read(&self, page: u64) -> (u64, u32) {
        let index = Self::index(page);
        let entry = self.entries.get(index).map_or(0, |entry| entry.load(Ordering::Acquire));
        if entry != 0 {
            return (entry, Self::BITS);
        }
        let below = self.below.get(index).and_then(OnceLock::get);
        below.map_or((0, Self::BITS), |below| below.read(page))
    }

    fn write(&self, (first, last): (u64, u64), value: &dyn Fn(u64) -> u64) {
        let slots = self.entries.iter().zip(&self.below);
        let mut page = first;
        for (entry, below) in slots.skip(Self::index(first)) {
            let slot_last = page | ((1 << Self::BITS) - 1);
            let is_whole = page == slot_last + 1 - (1 << Self::BITS) && slot_last <= last;
            if is_whole {
                entry.store(value(page), Ordering::Release);
            } else {
                below
                    .get_or_init(Box::default)
                    .write((page, slot_last.min(last)), value);
            }
            if slot_last >= last {
                break;
            }
            page = slot_last + 1;
        }
    }
}

impl Level for Last {
    const BITS: u32 = 0;

    #[inline]
    fn read(&self, page: u64) -> (u64, u32) {
        let entry = self.entries.get(Self::index(page));
        (entry.map_or(0, |entry| entry.load(Ordering::Acquire)), 0)
    }

    fn write(&self, (first, last): (u64, u64), value: &dyn Fn(u64) -> u64) {
        for (page, entry) in (first..=last).zip(self.entries.iter().skip(Self::index(first))) {
            entry.store(value(page), Ordering::Release);
        }
    }
}

impl<Below> Default for Table<Below> {
    fn default() -> Self {
        Self {
            entries: std::array::from_fn(|_| AtomicU64::new(0)),
            below: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

impl Default for Last {
    fn default() -> Self {
        Self {
            entries: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(test)]
mod tests;
