//! Ranges that were just released: what the next request of the same size gets without a search.

use super::Grains;

/// Released ranges that have not been joined with their neighbours. Each waits until it is taken or [`MOST`] more have come: a ring in
/// the order of coming, through which runs a stack for each size. Bounded, so that giving them all back takes bounded time.
#[derive(Debug)]
pub(super) struct Recent {
    ring: Vec<Waiting>,
    /// Number of the next that comes. Its place in the ring is the remainder by [`MOST`].
    next: u64,
    /// Numbers of the last ones by class.
    tops: Box<[u64; CLASSES]>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    first: u64,
    /// 0 when it has been taken.
    count: u64,
    /// Number of the one before in its class, which may not wait any more.
    below: u64,
}

/// Ranges that wait at a time. Few where tests are to see what comes of waiting too long.
const MOST: u64 = if cfg!(test) { 8 } else { 4096 };
/// Sizes below this have a class of their own, the others share as many.
const SMALL: u64 = 64;
const CLASSES: usize = 128;
/// How many in a class are looked at: others may not lie where they are wanted, or be of another size.
const LOOKED_AT: usize = 4;
/// A number that is too old to wait.
const NONE: u64 = 0;

impl Default for Recent {
    fn default() -> Self {
        Self {
            ring: Vec::new(),
            next: 2 * MOST,
            tops: Box::new([NONE; CLASSES]),
        }
    }
}

impl Recent {
    /// One of the last released ranges of `count` grains that lies `offset` behind a multiple of 2^`order` and ends by `last`.
    pub(super) fn take(&mut self, count: u64, order: u32, offset: u64, last: u64) -> Option<u64> {
        let is_there = |first: u64| {
            let start = first.checked_sub(offset);
            start.is_some_and(|start| start.trailing_zeros() >= order)
        };
        let fits = |first| is_there(first) && first + (count - 1) <= last;
        self.unlink(count, LOOKED_AT, fits)
    }

    /// Takes this very range, if it waits.
    pub(super) fn take_exactly(&mut self, grains: Grains) -> bool {
        let is_it = |first| first == grains.first;
        self.unlink(grains.last - grains.first + 1, usize::MAX, is_it).is_some()
    }

    /// Keeps a range, and gives the one that has waited too long.
    pub(super) fn put(&mut self, count: u64, first: u64) -> Option<Grains> {
        let top = self.tops.get_mut(class(count))?;
        let below = std::mem::replace(top, self.next);
        let new = Waiting { first, count, below };
        let place = place(self.next);
        self.next += 1;
        let Some(old) = self.ring.get_mut(place) else {
            self.ring.push(new);
            return None;
        };
        std::mem::replace(old, new).grains()
    }

    pub(super) fn into_ranges(self) -> impl Iterator<Item = Grains> {
        self.ring.into_iter().filter_map(Waiting::grains)
    }

    /// Takes one out of its stack, of which a few are looked at.
    fn unlink(&mut self, count: u64, most: usize, is_wanted: impl Fn(u64) -> bool) -> Option<u64> {
        let class = class(count);
        let (mut above, mut number) = (None, *self.tops.get(class)?);
        for _ in 0..most {
            if self.next - number > MOST {
                return None;
            }
            let found = self.ring.get_mut(place(number))?;
            let Waiting { first, below, .. } = *found;
            if found.count == count && is_wanted(first) {
                *found = Waiting {
                    first,
                    count: 0,
                    below: NONE,
                };
                let link = match above {
                    Some(above) => &mut self.ring.get_mut(place(above))?.below,
                    None => self.tops.get_mut(class)?,
                };
                *link = below;
                // What is taken at once needs no other place than the next one that comes.
                self.next -= u64::from(number + 1 == self.next);
                return Some(first);
            }
            (above, number) = (Some(number), below);
        }
        None
    }
}

impl Waiting {
    fn grains(self) -> Option<Grains> {
        (self.count > 0).then(|| Grains::new(self.first, self.count))
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % MOST).unwrap_or(usize::MAX)
}

fn class(count: u64) -> usize {
    let class = match count {
        0..SMALL => count,
        // Fibonacci hashing: Knuth, TAOCP 3 §6.4.
        _ => SMALL + (count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SMALL.trailing_zeros())),
    };
    usize::try_from(class).unwrap_or(usize::MAX)
}
