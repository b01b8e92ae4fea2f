//! Physical region pages (Base §4.3.1): a pointer for each page of the controller, in lists that end with a pointer to the next list.

use super::{Lists, Pieces, Unfit};
use crate::nvme::payload::Payload;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Entries begin at multiples of this.
const ALIGNMENT: u64 = 4;

/// The two entries for `bytes` contiguous bytes, if two suffice.
#[inline]
pub(super) fn pair(iova: u64, bytes: u64, page_bytes: u64) -> Option<(u64, u64)> {
    let in_first = page_bytes - (iova & (page_bytes - 1));
    if !iova.is_multiple_of(ALIGNMENT) || bytes > in_first + page_bytes {
        return None;
    }
    // The second is reserved if it is not needed.
    Some((
        iova,
        if bytes > in_first {
            iova.wrapping_add(in_first)
        } else {
            0
        },
    ))
}

/// Words of the list of a command with `transfer_bytes` of data at any address: a power of two if it fits into a page, so that it lies in
/// one; else as many pages as it has chained lists.
pub(super) fn list_words(page_bytes: u64, transfer_bytes: u64) -> u64 {
    // The first entry is in the command; the data may begin at the end of a page.
    let entries = transfer_bytes.div_ceil(page_bytes).max(1);
    let per_page = page_bytes / ENTRY;
    if entries <= per_page {
        // At least two descriptors of an SGL.
        return entries.next_power_of_two().max(4);
    }
    // Each list but the last ends with a pointer.
    let lists = (entries - 1).div_ceil(per_page - 1);
    lists.saturating_mul(per_page)
}

impl Lists {
    /// The two entries for data of more than two pages, or in pieces.
    pub(super) fn prp_list<P: Payload>(&self, index: u16, payload: &P, bytes: u64) -> Result<(u64, u64), Unfit> {
        let (list, list_iova) = self.list(index);
        let page = self.page_bytes;
        let mut writer = Writer::new(list, list_iova, page);
        let mut pieces = Pieces::new(payload, bytes);
        let (first, len) = pieces.next()?.ok_or(Unfit::Short)?;
        if !first.is_multiple_of(ALIGNMENT) {
            return Err(Unfit::Alignment);
        }
        let in_first = page - (first & (page - 1));
        let mut piece = (first.wrapping_add(in_first), len.saturating_sub(in_first));
        // Where what was pointed at ends: inside of the data that must be the end of a page.
        let mut end = first.wrapping_add(len);
        loop {
            let (mut iova, mut left) = piece;
            while left != 0 {
                writer.push(iova)?;
                iova = iova.wrapping_add(page);
                left = left.saturating_sub(page);
            }
            let Some((next, len)) = pieces.next()? else { break };
            if end & (page - 1) != 0 || next & (page - 1) != 0 {
                return Err(Unfit::Pieces);
            }
            end = next.wrapping_add(len);
            piece = (next, len);
        }
        Ok((first, writer.finish()))
    }
}

/// Fills lists.
struct Writer<'a> {
    list: &'a [AtomicU64],
    iova: u64,
    /// Entries of a page.
    per_page: usize,
    next: usize,
    /// The last entry, which may have to move to a next list.
    last: u64,
}

impl<'a> Writer<'a> {
    fn new(list: &'a [AtomicU64], iova: u64, page_bytes: u64) -> Self {
        Self {
            list,
            iova,
            per_page: usize::try_from(page_bytes / ENTRY).unwrap_or(usize::MAX),
            next: 0,
            last: 0,
        }
    }

    /// Relaxed: the doorbell orders them.
    fn put(&mut self, entry: u64) -> Result<(), Unfit> {
        let word = self.list.get(self.next).ok_or(Unfit::TooMany)?;
        word.store(entry.to_le(), Ordering::Relaxed);
        self.next += 1;
        Ok(())
    }

    fn push(&mut self, entry: u64) -> Result<(), Unfit> {
        // The last place of a page holds an entry only if that is the last one.
        if self.next != 0 && self.next.is_multiple_of(self.per_page) {
            self.next -= 1;
            let following = (self.next + 1) as u64;
            self.put(self.iova + following * ENTRY)?;
            self.put(self.last)?;
        }
        self.last = entry;
        self.put(entry)
    }

    /// The command's second entry: none, the only one, or a pointer to the list, whose next entry is 0 for a controller that reads on.
    fn finish(self) -> u64 {
        if let Some(word) = self.list.get(self.next) {
            word.store(0, Ordering::Relaxed);
        }
        match self.next {
            0 => 0,
            1 => self.last,
            _ => self.iova,
        }
    }
}
