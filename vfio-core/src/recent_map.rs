//! A map of which most goes soon after it came.

use std::collections::BTreeMap;

/// Values by key. The last few that came are looked at one by one, and only what stays longer than they is put in order: a mapping for one
/// transfer never is. Whatever came when, each call but [`sorted`](Self::sorted)'s first takes the logarithm of their number.
///
/// ```
/// use vfio_core::{Iova, RecentMap};
///
/// let mut names = RecentMap::default();
/// names.insert(Iova(0x2000), "ring");
/// assert_eq!(names.last_until(Iova(0x2fff)), Some((Iova(0x2000), &"ring")));
/// assert_eq!(names.remove(Iova(0x2000)), Some("ring"));
/// ```
#[derive(Debug)]
pub struct RecentMap<K, V> {
    /// Not in order, at most [`RECENT`], and none is in `rest` too.
    recent: Vec<(K, V)>,
    rest: BTreeMap<K, V>,
}

/// More, and to look at them would take longer than a search.
const RECENT: usize = 16;

impl<K, V> Default for RecentMap<K, V> {
    fn default() -> Self {
        Self {
            recent: Vec::new(),
            rest: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy, V> RecentMap<K, V> {
    /// Puts a value where there is none: of two, either may be found.
    pub fn insert(&mut self, key: K, value: V) {
        if self.recent.len() == RECENT {
            self.sorted();
        }
        self.recent.push((key, value));
    }

    /// The value there.
    #[must_use]
    pub fn get(&self, key: K) -> Option<&V> {
        let recent = self.recent.iter().rev().find(|(found, _)| *found == key);
        recent.map(|(_, value)| value).or_else(|| self.rest.get(&key))
    }

    /// The value there, to be changed.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let recent = self.recent.iter_mut().rev().find(|(found, _)| *found == key);
        recent.map(|(_, value)| value).or_else(|| self.rest.get_mut(&key))
    }

    /// Takes the value from there.
    pub fn remove(&mut self, key: K) -> Option<V> {
        self.remove_if(key, |_| true)
    }

    /// Takes the value from there if it is wanted.
    pub fn remove_if(&mut self, key: K, is_wanted: impl FnOnce(&V) -> bool) -> Option<V> {
        match self.recent.iter().rposition(|(found, _)| *found == key) {
            Some(at) => {
                let (_, value) = self.recent.get(at)?;
                is_wanted(value).then(|| self.recent.swap_remove(at).1)
            }
            None if is_wanted(self.rest.get(&key)?) => self.rest.remove(&key),
            None => None,
        }
    }

    /// The last one at a key or before it.
    #[must_use]
    pub fn last_until(&self, last: K) -> Option<(K, &V)> {
        let recent = self.recent.iter().filter(|(key, _)| *key <= last);
        let recent = recent.map(|(key, value)| (*key, value));
        let rest = self.rest.range(..=last).next_back();
        let rest = rest.map(|(key, value)| (*key, value));
        recent.chain(rest).max_by_key(|(key, _)| *key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recent.len() + self.rest.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    pub fn sorted(&mut self) -> &mut BTreeMap<K, V> {
        self.rest.extend(self.recent.drain(..));
        &mut self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 64 }))]

        #[test]
        fn it_holds_what_a_sorted_map_does(actions in prop::collection::vec((0_u64..60, 0_u8..9), 1..400)) {
            let (mut map, mut model) = (RecentMap::default(), BTreeMap::new());
            for (number, (key, action)) in actions.into_iter().enumerate() {
                match action {
                    0..5 if !model.contains_key(&key) => {
                        map.insert(key, number);
                        model.insert(key, number);
                    }
                    5 => prop_assert_eq!(map.sorted(), &mut model),
                    6 => prop_assert_eq!(map.get_mut(key).map(|value| *value += 1), model.get_mut(&key).map(|value| *value += 1)),
                    7 => prop_assert_eq!(map.remove_if(key, |value| value % 2 == 0), model.get(&key).copied().filter(|value| value % 2 == 0).inspect(|_| {
                        model.remove(&key);
                    })),
                    _ => prop_assert_eq!(map.remove(key), model.remove(&key)),
                }
                prop_assert_eq!(map.get(key), model.get(&key));
                prop_assert_eq!(map.last_until(key), model.range(..=key).next_back().map(|(key, value)| (*key, value)));
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
