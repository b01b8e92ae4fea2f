//! From an address in this process to the IOVA of the same byte.
//!
//! [`Translator`] is a table of four levels like the CPU's own: an entry stands for one page of 4 KiB, 2 MiB, 1 GiB or 512 GiB,
//! whichever the mapping's place in this process allows. A look-up loads one word for each level down to the entry, and from each level to
//! the next a flag and a pointer: seven loads for an entry of 2 MiB, ten for one of 4 KiB. It takes no lock, writes nothing, and never
//! waits for a writer. Tables are made once and stay, so a reader can never meet a freed one: 4 KiB for each 2 MiB of the process's
//! addresses that was ever mapped in pieces, 12 KiB for each GiB.
//!
//! An entry is one word that holds the whole answer, so a reader sees a mapping or none, never half of one. A length that spans entries
//! is followed from entry to entry, and every byte of it must be mapped contiguously.
//!
//! Memory may be mapped several times. An entry belongs to the mapping that came first among those that are divided into entries of this
//! size there, a larger entry hides smaller ones, and when a mapping goes, its entries pass to those that are left, without a gap.

use crate::sync::{AtomicU64, Mutex, OnceLock, Ordering, locked};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use vfio_core::{Iova, IovaRange, RecentMap, StableMemory};

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
    mappings: Mutex<Mappings>,
}

/// What is noted.
#[derive(Default)]
struct Mappings {
    /// By binary logarithm of the length, address and IOVA: length in bytes. Thus a search for those that reach an address knows how far
    /// back to begin.
    known: RecentMap<(u32, u64, u64), u64>,
    /// Whether memory may be noted several times. While it is not, no search is needed.
    has_shared: bool,
}

/// One mapping, in bytes.
#[derive(Debug, Clone, Copy)]
struct Noted {
    address: u64,
    len: u64,
    iova: u64,
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
    /// It is for memory that stays mapped during the call: for that the answer is right whatever else is mapped and unmapped meanwhile.
    /// For memory that is mapped or unmapped during the call, the answer is `None` or one that each page had at some time during the
    /// call, but not all pages need have had it at the same time.
    ///
    /// Of memory that is mapped several times, one mapping is found for each page. A length across pages for which different ones are
    /// found is not contiguous, also if one of the mappings has all of it; and it may not be found while one of them comes or goes.
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

    /// Notes a mapping. Address, length and IOVA are multiples of 4 KiB. The memory may be mapped elsewhere as well.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] off that alignment, beyond 48 address bits, or if the process's addresses or the IOVAs overflow or part of the
    /// memory is noted at the same IOVAs already.
    pub fn insert(&self, address: usize, len: usize, iova: Iova) -> Result<()> {
        let noted = Noted::new(address, len, iova);
        if ![noted.address, noted.len, noted.iova]
            .into_iter()
            .all(|value| value.is_multiple_of(PAGE))
        {
            return Err(Error::Invalid("address, length or IOVA is not a multiple of 4 KiB"));
        }
        let end = noted.address.checked_add(noted.len);
        let is_inside = noted.len > 0 && end.is_some_and(|end| end <= 1 << ADDRESS_BITS);
        if !is_inside || IovaRange::new(iova, noted.len).is_none() {
            return Err(Error::Invalid("no bytes, or beyond the addresses that there are"));
        }
        let mut mappings = locked(&self.mappings);
        // Every page of every mapping has an entry, so where there is none nothing needs to be searched for.
        let own = self.single(noted);
        if let Some(vacant) = own.filter(|entries| entries.iter().all(|entry| entry.load(Ordering::Relaxed) == 0)) {
            mappings.known.insert(noted.key(), noted.len);
            for (entry, page) in vacant.iter().zip(noted.pages().0..) {
                entry.store(noted.entry(page), Ordering::Release);
            }
            return Ok(());
        }
        let mut others = overlapping(mappings.known.sorted(), noted).peekable();
        let is_shared = others.peek().is_some();
        if others.any(|other| other.entry(0) == noted.entry(0)) {
            return Err(Error::Invalid("part of the memory is noted at these IOVAs already"));
        }
        drop(others);
        mappings.has_shared |= is_shared;
        mappings.known.insert(noted.key(), noted.len);
        let claim = |page, entry| if entry == 0 { noted.entry(page) } else { entry };
        self.root.write(noted.pages(), noted.pages(), &claim);
        Ok(())
    }

    /// Forgets a mapping that was noted with these arguments.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if none was.
    pub fn remove(&self, address: usize, len: usize, iova: Iova) -> Result<()> {
        let noted = Noted::new(address, len, iova);
        let mut mappings = locked(&self.mappings);
        let removed = mappings.known.remove_if(noted.key(), |len| *len == noted.len);
        if noted.len == 0 || removed.is_none() {
            return Err(Error::Invalid("no such mapping is noted"));
        }
        if mappings.has_shared {
            for other in overlapping(mappings.known.sorted(), noted) {
                let inherit = |page, entry| {
                    let is_free = entry == 0 || entry == noted.entry(page);
                    if is_free { other.entry(page) } else { entry }
                };
                self.root.write(other.pages(), noted.pages(), &inherit);
            }
            mappings.has_shared = !mappings.known.is_empty();
        } else if let Some(own) = self.single(noted) {
            own.iter().for_each(|entry| entry.store(0, Ordering::Release));
            return Ok(());
        }
        let clear = |page, entry| if entry == noted.entry(page) { 0 } else { entry };
        self.root.write(noted.pages(), noted.pages(), &clear);
        Ok(())
    }

    /// How many mappings are noted.
    #[must_use]
    pub fn len(&self) -> usize {
        locked(&self.mappings).known.len()
    }

    /// Whether none is noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries of a mapping, if all of them are in one table of single pages and no larger entry hides them.
    #[inline]
    fn single(&self, noted: Noted) -> Option<&[AtomicU64]> {
        let (first, last) = noted.pages();
        // All of a table would be one larger entry.
        let is_part = first >> LEVEL_BITS == last >> LEVEL_BITS && last - first + 1 < ENTRIES as u64;
        let table = is_part.then(|| self.root.last(first))??;
        table.entries.get(Last::index(first)..=Last::index(last))
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
            .field("mappings", &locked(&self.mappings).known)
            .finish()
    }
}

impl Noted {
    fn new(address: usize, len: usize, iova: Iova) -> Self {
        Self {
            address: address as u64,
            len: len as u64,
            iova: iova.0,
        }
    }

    fn key(self) -> (u32, u64, u64) {
        (self.len.checked_ilog2().unwrap_or(0), self.address, self.iova)
    }

    /// First and last.
    fn pages(self) -> (u64, u64) {
        (self.address / PAGE, (self.address + self.len) / PAGE - 1)
    }

    /// What stands for a page, or for as many as begin there.
    fn entry(self, page: u64) -> u64 {
        self.iova.wrapping_add((page * PAGE).wrapping_sub(self.address)) | VALID
    }
}

/// The mappings that share a byte of this process with one.
fn overlapping(mappings: &BTreeMap<(u32, u64, u64), u64>, noted: Noted) -> impl Iterator<Item = Noted> {
    let (address, end) = (noted.address, noted.address + noted.len);
    let next_class = |class| Some(mappings.range((class, 0, 0)..).next()?.0.0);
    let classes = std::iter::successors(next_class(0), move |class| next_class(class + 1));
    let near = classes.flat_map(move |class| {
        let longest = (2_u64 << class) - 1;
        mappings.range((class, address.saturating_sub(longest), 0)..(class, end, 0))
    });
    near.map(|(&(_, address, iova), &len)| Noted { address, len, iova })
        .filter(move |other| other.address + other.len > address)
}

/// One level of the table. Pages are counted from address 0.
trait Level: Default {
    /// Bits of a page's number that an entry of this level leaves open.
    const BITS: u32;

    /// The entry that covers a page, and its level's [`BITS`](Self::BITS); 0 if there is none.
    fn read(&self, page: u64) -> (u64, u32);

    /// Changes the entries into which these pages are divided, as few as possible, as far as they touch `window`. The same pages are
    /// divided into the same entries every time. `change` is given the page at which an entry starts and what it is, and gives what it
    /// becomes.
    fn write(&self, pages: (u64, u64), window: (u64, u64), change: &impl Fn(u64, u64) -> u64);

    /// The table that has an entry for this page alone, unless a larger entry hides it.
    fn last(&self, page: u64) -> Option<&Last>;

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

    fn write(&self, (first, last): (u64, u64), window: (u64, u64), change: &impl Fn(u64, u64) -> u64) {
        let begin = first.max(window.0);
        let end = last.min(window.1);
        let mut slot_first = begin & !((1 << Self::BITS) - 1);
        // Cut before they are paired: to skip pairs is to go through them.
        let from = Self::index(begin)..;
        let entries = self.entries.get(from.clone()).unwrap_or_default();
        let below = self.below.get(from).unwrap_or_default();
        for (entry, below) in entries.iter().zip(below) {
            let slot_last = slot_first | ((1 << Self::BITS) - 1);
            if first <= slot_first && slot_last <= last {
                replace(entry, slot_first, change);
            } else {
                let part = (first.max(slot_first), last.min(slot_last));
                below.get_or_init(Box::default).write(part, window, change);
            }
            if slot_last >= end {
                break;
            }
            slot_first = slot_last + 1;
        }
    }

    #[inline]
    fn last(&self, page: u64) -> Option<&Last> {
        let index = Self::index(page);
        let is_hidden = self.entries.get(index)?.load(Ordering::Relaxed) != 0;
        let below = self.below.get(index).filter(|_| !is_hidden)?;
        below.get_or_init(Box::default).last(page)
    }
}

/// Changes an entry. Only one thread at a time does.
#[inline]
fn replace(entry: &AtomicU64, page: u64, change: &impl Fn(u64, u64) -> u64) {
    let before = entry.load(Ordering::Relaxed);
    let after = change(page, before);
    if after != before {
        entry.store(after, Ordering::Release);
    }
}

impl Level for Last {
    const BITS: u32 = 0;

    #[inline]
    fn read(&self, page: u64) -> (u64, u32) {
        let entry = self.entries.get(Self::index(page));
        (entry.map_or(0, |entry| entry.load(Ordering::Acquire)), 0)
    }

    fn write(&self, (first, last): (u64, u64), window: (u64, u64), change: &impl Fn(u64, u64) -> u64) {
        let (begin, end) = (first.max(window.0), last.min(window.1));
        for (page, entry) in (begin..=end).zip(self.entries.iter().skip(Self::index(begin))) {
            replace(entry, page, change);
        }
    }

    #[inline]
    fn last(&self, _page: u64) -> Option<&Last> {
        Some(self)
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
