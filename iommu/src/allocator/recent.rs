//! Ranges that were just released: what the next request of the same size gets without a search.

use super::Grains;

/// Released ranges that have not been joined with their neighbours. Each waits until it is taken or as many have come as may wait: a
/// ring in the order of coming, through which runs a stack for each size. Bounded, so that giving them all back takes bounded time.
#[derive(Debug)]
pub(super) struct Recent {
    ring: Vec<Waiting>,
    /// How many may wait at a time, a power of two.
    most: u64,
    /// Number of the next that comes. Its place in the ring is the remainder by `most`.
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

/// Sizes below this have a class of their own, the others share as many.
const SMALL: u64 = 64;
const CLASSES: usize = 128;
/// How many in a class are looked at: others may not lie where they are wanted, or be of another size.
const LOOKED_AT: usize = 4;
/// And how many for a range that is wanted by name.
const LOOKED_AT_BY_NAME: usize = 64;
/// A number that is too old to wait.
const NONE: u64 = 0;

impl Recent {
    /// None waits, and `most` may: a power of two.
    pub(super) fn new(most: u64) -> Self {
        Self {
            ring: Vec::new(),
            most,
            next: 2 * most,
            tops: Box::new([NONE; CLASSES]),
        }
    }

    /// One of the last released ranges of `count` grains in `within` that lies `offset` behind a multiple of 2^`order`.
    pub(super) fn take(&mut self, count: u64, order: u32, offset: u64, within: Grains) -> Option<u64> {
        let is_there = |first: u64| {
            let start = first.checked_sub(offset);
            start.is_some_and(|start| start.trailing_zeros() >= order)
        };
        let fits = |first| is_there(first) && within.contains(Grains::new(first, count));
        self.unlink(count, LOOKED_AT, fits)
    }

    /// Takes this very range, if it waits and is found soon.
    pub(super) fn take_exactly(&mut self, grains: Grains) -> bool {
        let is_it = |first| first == grains.first;
        self.unlink(grains.last - grains.first + 1, LOOKED_AT_BY_NAME, is_it)
            .is_some()
    }

    /// Keeps a range, and gives the one that has waited too long.
    pub(super) fn put(&mut self, count: u64, first: u64) -> Option<Grains> {
        let top = self.tops.get_mut(class(count))?;
        let below = std::mem::replace(top, self.next);
        let new = Waiting { first, count, below };
        let place = self.place(self.next);
        self.next += 1;
        let Some(old) = self.ring.get_mut(place) else {
            self.ring.push(new);
            return None;
        };
        std::mem::replace(old, new).grains()
    }

    /// Takes all of them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Grains> {
        self.next = 2 * self.most;
        self.tops.fill(NONE);
        self.ring.drain(..).filter_map(Waiting::grains)
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number & (self.most - 1)).unwrap_or(usize::MAX)
    }

    /// Takes one out of its stack, of which a few are looked at.
    fn unlink(&mut self, count: u64, most: usize, is_wanted: impl Fn(u64) -> bool) -> Option<u64> {
        let class = class(count);
        let (mut above, mut number) = (None::<usize>, *self.tops.get(class)?);
        for _ in 0..most {
            if self.next - number > self.most {
                return None;
            }
            let place = self.place(number);
            let found = self.ring.get_mut(place)?;
            let Waiting { first, below, .. } = *found;
            if found.count == count && is_wanted(first) {
                *found = Waiting {
                    first,
                    count: 0,
                    below: NONE,
                };
                let link = match above {
                    Some(above) => &mut self.ring.get_mut(above)?.below,
                    None => self.tops.get_mut(class)?,
                };
                *link = below;
                // What is taken at once needs no other place than the next one that comes.
                self.next -= u64::from(number + 1 == self.next);
                return Some(first);
            }
            (above, number) = (Some(place), below);
        }
        None
    }
}

impl Waiting {
    fn grains(self) -> Option<Grains> {
        (self.count > 0).then(|| Grains::new(self.first, self.count))
    }
}

fn class(count: u64) -> usize {
    let class = match count {
        0..SMALL => count,
        // Fibonacci hashing: Knuth, TAOCP 3 §6.4.
        _ => SMALL + (count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SMALL.trailing_zeros())),
    };
    usize::try_from(class).unwrap_or(usize::MAX)
}
