//! What is mapped ahead of a device.

use crate::Iova;

/// How many units are mapped after those that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// None.
    #[default]
    None,
    /// Always this many.
    Next(u32),
    /// One after a request that goes on where the last one ended, twice as many after each further one, up to this many; none after one
    /// that does not.
    Adaptive(u32),
}

/// What was asked for last.
#[derive(Debug)]
pub(super) struct Ahead {
    prefetch: Prefetch,
    /// Where the last request, and what was mapped ahead of it, ended.
    expected: Option<Iova>,
    units: u32,
}

impl Ahead {
    pub(super) fn new(prefetch: Prefetch) -> Self {
        Self {
            prefetch,
            expected: None,
            units: 0,
        }
    }

    /// How many units to map after a request that began at `first`.
    pub(super) fn units(&mut self, first: Iova) -> u32 {
        match self.prefetch {
            Prefetch::None => 0,
            Prefetch::Next(units) => units,
            Prefetch::Adaptive(max) => {
                let goes_on = self.expected == Some(first);
                self.units = if goes_on {
                    (self.units * 2).clamp(1, max.max(1)).min(max)
                } else {
                    0
                };
                self.units
            }
        }
    }

    /// Says where the request and what was mapped ahead of it ended: the first unit that is not there.
    pub(super) fn ended(&mut self, next: Option<Iova>) {
        self.expected = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_followed_ever_further_until_it_breaks() {
        let mut ahead = Ahead::new(Prefetch::Adaptive(4));
        let mut next = 0;
        let mut window = |ahead: &mut Ahead, first: u64| {
            let units = ahead.units(Iova(first));
            next = first + 1 + u64::from(units);
            ahead.ended(Some(Iova(next)));
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
        assert_eq!(Ahead::new(Prefetch::None).units(Iova(0)), 0);
        assert_eq!(Ahead::new(Prefetch::Next(3)).units(Iova(0)), 3);
        assert_eq!(Ahead::new(Prefetch::Adaptive(0)).units(Iova(0)), 0);
    }
}
