//! Numbers of I/O queue pairs.

use std::collections::BTreeSet;

/// Which are taken. Numbers go round, so that one that was given back is not taken again soon: who had it may not know yet that it has
/// lost it, and still ring its doorbell.
#[derive(Debug)]
pub(super) struct Numbers {
    taken: BTreeSet<u16>,
    last: u16,
    /// How many there are; they count from 1.
    count: u16,
}

impl Numbers {
    pub(super) const fn new() -> Self {
        Self {
            taken: BTreeSet::new(),
            last: 0,
            count: 0,
        }
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// There are so many from now on.
    pub(super) fn set_count(&mut self, count: u16) {
        self.count = count;
    }

    pub(super) fn take(&mut self) -> Option<u16> {
        let last = self.last.min(self.count);
        let number = (last..self.count)
            .chain(0..last)
            .map(|before| before + 1)
            .find(|number| !self.taken.contains(number))?;
        self.taken.insert(number);
        self.last = number;
        Some(number)
    }

    /// Another one for one that is taken; the same if all others are, which its owner alone has rung. `None` if that is not there any more.
    pub(super) fn exchange(&mut self, number: u16) -> Option<u16> {
        let other = self.take();
        if other.is_some() {
            self.give_back(number);
        }
        other.or_else(|| (number <= self.count).then_some(number))
    }

    pub(super) fn give_back(&mut self, number: u16) {
        self.taken.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn numbers_go_round_and_end_where_there_are_no_more() {
        let mut numbers = Numbers::new();
        assert_eq!(numbers.take(), None);
        numbers.set_count(3);
        assert_eq!(numbers.take(), Some(1));
        numbers.give_back(1);
        assert_eq!(
            (numbers.take(), numbers.take(), numbers.take()),
            (Some(2), Some(3), Some(1))
        );
        assert_eq!(numbers.take(), None);
        numbers.give_back(2);
        assert_eq!(numbers.take(), Some(2));
        // Fewer after a reset: those above are not given any more.
        numbers.set_count(1);
        numbers.give_back(3);
        assert_eq!(numbers.take(), None);
        numbers.give_back(1);
        assert_eq!(numbers.take(), Some(1));
    }

    #[test]
    fn a_number_is_exchanged_for_another_or_kept() {
        let mut numbers = Numbers::new();
        numbers.set_count(2);
        assert_eq!(numbers.take(), Some(1));
        assert_eq!(numbers.exchange(1), Some(2));
        assert_eq!(numbers.take(), Some(1));
        assert_eq!((numbers.exchange(1), numbers.exchange(2)), (Some(1), Some(2)));
        numbers.set_count(1);
        assert_eq!((numbers.exchange(1), numbers.exchange(2)), (Some(1), None));
    }
}
