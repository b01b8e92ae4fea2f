//! A skip list of mappings by their first address: the class of libvfn's look-up, which has a lock around it.

use std::iter::successors;

const LEVELS: usize = 8;

/// Takes O(log n) to find one: each level has half of the nodes of the one below, up to 2^8 nodes per node of the highest.
#[derive(Debug)]
pub struct SkipList {
    /// The first is before all others and is no mapping.
    nodes: Vec<Node>,
    /// Chooses levels.
    random: u64,
}

#[derive(Debug, Clone)]
struct Node {
    address: u64,
    len: u64,
    iova: u64,
    /// The node that follows on each level; 0 for none.
    next: [usize; LEVELS],
}

impl Default for SkipList {
    fn default() -> Self {
        let first = Node {
            address: 0,
            len: 0,
            iova: 0,
            next: [0; LEVELS],
        };
        Self {
            nodes: vec![first],
            random: 1,
        }
    }
}

impl SkipList {
    /// Notes a mapping.
    pub fn insert(&mut self, address: u64, len: u64, iova: u64) {
        self.random = self.random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let height = (self.random.leading_zeros() as usize + 1).min(LEVELS);
        let new = self.nodes.len();
        let mut node = Node {
            address,
            len,
            iova,
            next: [0; LEVELS],
        };
        let mut at = 0;
        for level in (0..LEVELS).rev() {
            at = self.last_before(at, level, |next| next.address < address);
            if level < height
                && let Some(before) = self.nodes.get_mut(at).and_then(|before| before.next.get_mut(level))
                && let Some(after) = node.next.get_mut(level)
            {
                *after = std::mem::replace(before, new);
            }
        }
        self.nodes.push(node);
    }

    /// The IOVA of a byte.
    #[must_use]
    pub fn lookup(&self, address: u64) -> Option<u64> {
        let mut at = 0;
        for level in (0..LEVELS).rev() {
            at = self.last_before(at, level, |next| next.address <= address);
        }
        let node = self.nodes.get(at)?;
        let offset = address.checked_sub(node.address).filter(|offset| *offset < node.len)?;
        Some(node.iova + offset)
    }

    /// The last node on a level, from a node of that level on, that is itself `before`, as are all between.
    #[inline]
    fn last_before(&self, from: usize, level: usize, before: impl Fn(&Node) -> bool) -> usize {
        let next = |at: &usize| {
            let next = *self.nodes.get(*at)?.next.get(level)?;
            (next != 0 && self.nodes.get(next).is_some_and(&before)).then_some(next)
        };
        successors(Some(from), next).last().unwrap_or(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mapping_is_found_and_nothing_else() {
        let mut list = SkipList::default();
        for number in (0..500).map(|number| number * 7 % 500) {
            list.insert(0x1000 + number * 32, 16, number << 20);
        }
        for number in 0..500 {
            assert_eq!(list.lookup(0x1000 + number * 32 + 15), Some((number << 20) + 15));
            assert_eq!(list.lookup(0x1000 + number * 32 + 16), None);
        }
        assert_eq!(list.lookup(0xFFF), None);
    }
}
