//! What is mapped ahead of a device.

use crate::Iova;
use std::collections::HashMap;
use vfio_core::iommufd::ObjectId;

/// How many units are mapped after those that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// None.
    #[default]
    None,
    /// Always this many.
    Next(u32),
    /// One after a request that goes on where the last one ended, twice as many after each further one, up to this many; none after one
    /// that does not. Counted for each device in each region.
    Adaptive(u32),
}

/// What was asked for last, by each device in each region: a copy reads and writes, and several devices do not wait for one another.
#[derive(Debug)]
pub(super) struct Ahead {
    prefetch: Prefetch,
    streams: HashMap<Key, Stream>,
}

/// The device, and the first IOVA of the region.
pub(super) type Key = (ObjectId, Iova);

#[derive(Debug, Default)]
struct Stream {
    /// Where the last request, and what was mapped ahead of it, ended.
    expected: Option<Iova>,
    units: u32,
}

/// Streams that are known at most. If there are more, all begin anew.
const STREAMS: usize = 1024;

impl Ahead {
    pub(super) fn new(prefetch: Prefetch) -> Self {
        Self {
            prefetch,
            streams: HashMap::new(),
        }
    }

    /// How many units to map after a request that began at `first`.
    pub(super) fn units(&mut self, key: Key, first: Iova) -> u32 {
        match self.prefetch {
            Prefetch::None => 0,
            Prefetch::Next(units) => units,
            Prefetch::Adaptive(max) => {
                if self.streams.len() >= STREAMS && !self.streams.contains_key(&key) {
                    self.streams.clear();
                }
                let stream = self.streams.entry(key).or_default();
                let goes_on = stream.expected == Some(first);
                stream.units = if goes_on {
                    (stream.units * 2).clamp(1, max.max(1)).min(max)
                } else {
                    0
                };
                stream.units
            }
        }
    }

    /// Says where the request and what was mapped ahead of it ended: the first unit that is not there.
    pub(super) fn ended(&mut self, key: Key, next: Option<Iova>) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.expected = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (ObjectId(1), Iova(0));

    #[test]
    fn not_more_streams_are_known_than_a_number() {
        let mut ahead = Ahead::new(Prefetch::Adaptive(4));
        for region in 0..3000 {
            ahead.units((ObjectId(1), Iova(region)), Iova(0));
            assert!(ahead.streams.len() <= STREAMS);
        }
    }

    #[test]
    fn a_stream_is_followed_ever_further_until_it_breaks() {
        let mut ahead = Ahead::new(Prefetch::Adaptive(4));
        let mut next = 0;
        let mut window = |ahead: &mut Ahead, first: u64| {
            let units = ahead.units(KEY, Iova(first));
            next = first + 1 + u64::from(units);
            ahead.ended(KEY, Some(Iova(next)));
            (units, next)
        };
        let (mut units, mut first) = (vec![], 10);
        for _ in 0..6 {
            let (count, next) = window(&mut ahead, first);
            units.push(count);
            first = next;
        }
        assert_eq!(units, [0, 1, 2, 4, 4, 4]);
        assert_eq!(window(&mut ahead, 500).0, 0);
    }

    #[test]
    fn fixed_numbers_are_fixed() {
        assert_eq!(Ahead::new(Prefetch::None).units(KEY, Iova(0)), 0);
        assert_eq!(Ahead::new(Prefetch::Next(3)).units(KEY, Iova(0)), 3);
        assert_eq!(Ahead::new(Prefetch::Adaptive(0)).units(KEY, Iova(0)), 0);
    }
}
