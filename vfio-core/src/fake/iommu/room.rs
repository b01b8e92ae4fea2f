//! Where in an IOVA space there is room: reserved and allowed ranges, and the IOVA that the kernel chooses.

use super::pages::PAGE;
use super::table::{Owner, Table};
use crate::sys::Result;
use rustix::io::Errno;

/// The largest alignment that a chosen IOVA is given: a huge page.
const LARGEST_ALIGNMENT: u64 = 2 << 20;

impl Table {
    /// Ranges that are not reserved, sorted.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut reserved: Vec<_> = self.reserved.iter().map(|(start, last, _)| (*start, *last)).collect();
        reserved.sort_unstable();
        let mut ranges = Vec::new();
        let mut next = Some(0_u64);
        for (start, last) in reserved {
            if let Some(from) = next
                && from < start
            {
                ranges.push((from, start - 1));
            }
            next = next.and_then(|from| Some(from.max(last.checked_add(1)?)));
        }
        ranges.extend(next.map(|from| (from, u64::MAX)));
        ranges
    }

    /// Replaces the allowed ranges; EADDRINUSE and nothing changed when one is reserved.
    pub(crate) fn allow(&mut self, ranges: &[(u64, u64)]) -> Result<()> {
        let mut allowed: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for &(start, last) in ranges {
            if start >= last || allowed.iter().any(|range| overlap(*range, (start, last))) {
                return Err(Errno::INVAL);
            }
            allowed.push((start, last));
        }
        if allowed.iter().any(|range| self.is_reserved(*range)) {
            return Err(Errno::ADDRINUSE);
        }
        allowed.sort_unstable();
        self.allowed = allowed;
        Ok(())
    }

    /// Takes a range out; EADDRINUSE when it is mapped or allowed.
    pub(crate) fn reserve(&mut self, start: u64, last: u64, owner: Owner) -> Result<()> {
        let taken = self.first_overlap(start, last).is_some();
        if taken || self.allowed.iter().any(|range| overlap(*range, (start, last))) {
            return Err(Errno::ADDRINUSE);
        }
        self.reserved.push((start, last, owner));
        Ok(())
    }

    pub(crate) fn release(&mut self, owner: Owner) {
        self.reserved.retain(|(_, _, of)| *of != owner);
    }

    /// The first free IOVA for `len` bytes of memory at `address`; never 0, and never in the last page.
    pub(super) fn choose(&self, address: u64, len: u64) -> Result<u64> {
        if len >= u64::MAX / 2 {
            return Err(Errno::OVERFLOW);
        }
        let natural = len.next_power_of_two();
        let of_address = if address == 0 {
            natural
        } else {
            1 << address.trailing_zeros()
        };
        let alignment = natural.min(of_address).min(LARGEST_ALIGNMENT);
        if alignment < self.alignment {
            return Err(Errno::INVAL);
        }
        let (low, high) = (PAGE, u64::MAX - PAGE);
        let everything = [(low, high)];
        let spans = if self.allowed.is_empty() {
            &everything[..]
        } else {
            &self.allowed
        };
        for (start, last) in spans {
            let (mut at, last) = ((*start).max(low), (*last).min(high));
            while let Some(iova) = align_up(at, alignment).map(|iova| iova | (address % PAGE)) {
                if iova >= last || last - iova < len - 1 {
                    break;
                }
                match self.last_taken(iova, iova + (len - 1)) {
                    None => return Ok(iova),
                    Some(taken) => match taken.checked_add(1) {
                        Some(next) => at = next,
                        None => break,
                    },
                }
            }
        }
        Err(Errno::NOSPC)
    }

    /// The last address of something that is in the way of a range.
    fn last_taken(&self, start: u64, last: u64) -> Option<u64> {
        let area = self.areas.range(..=last).next_back().map(|(_, area)| area.last);
        let reserved = self
            .reserved
            .iter()
            .filter(|(from, to, _)| overlap((*from, *to), (start, last)));
        area.filter(|end| *end >= start)
            .max(reserved.map(|(_, to, _)| *to).max())
    }

    pub(super) fn is_reserved(&self, range: (u64, u64)) -> bool {
        self.reserved
            .iter()
            .any(|(start, last, _)| overlap((*start, *last), range))
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

fn align_up(value: u64, alignment: u64) -> Option<u64> {
    Some(value.checked_add(alignment - 1)? & !(alignment - 1))
}
