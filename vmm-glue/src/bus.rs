//! Addresses that leave the guest: ports and memory that a device answers for.

use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

/// What answers at a range of addresses. Called by the guest's processors, several at a time.
pub trait Device: fmt::Debug + Send + Sync {
    /// Reads `to.len()` bytes, 1 to 8, at `offset` from the beginning of its range. They do not leave the range.
    fn read(&self, offset: u64, to: &mut [u8]);

    /// Writes them; alike.
    fn write(&self, offset: u64, from: &[u8]);
}

/// Who answers where. A look-up takes O(log n) for n ranges, a change O(n).
#[derive(Debug, Default)]
pub struct Bus {
    /// By first address; they do not overlap.
    ranges: RwLock<Vec<Occupant>>,
    waiting: Mutex<Vec<Waiting>>,
}

/// Would answer at addresses that another device had.
pub(crate) trait Heir: fmt::Debug + Send + Sync {
    /// Somebody reaches for these addresses, and nobody answers: may answer from now on.
    fn claim(&self);
}

#[derive(Debug)]
struct Waiting {
    range: Range<u64>,
    heir: Weak<dyn Heir>,
}

/// Waits for addresses until it is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    bus: Arc<Bus>,
    range: Range<u64>,
    heir: Weak<dyn Heir>,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.bus.waiting();
        let is_this = |other: &Waiting| other.range == self.range && other.heir.ptr_eq(&self.heir);
        if let Some(place) = waiting.iter().position(is_this) {
            waiting.swap_remove(place);
        }
    }
}

#[derive(Debug)]
struct Occupant {
    start: u64,
    end: u64,
    device: Arc<dyn Device>,
}

impl Bus {
    /// Lets a device answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Occupied`] for addresses that another device answers for, [`ErrorKind::Invalid`] for no address at all.
    pub fn insert(&self, range: Range<u64>, device: Arc<dyn Device>) -> Result<()> {
        let failed = |kind| Error::new("insert a device", kind);
        if range.is_empty() {
            return Err(failed(ErrorKind::Invalid("no address")));
        }
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let place = ranges.partition_point(|occupant| occupant.start < range.end);
        if let Some(before) = place.checked_sub(1).and_then(|before| ranges.get(before))
            && before.end > range.start
        {
            return Err(failed(ErrorKind::Occupied(before.start..before.end)));
        }
        let Range { start, end } = range;
        ranges.insert(place, Occupant { start, end, device });
        Ok(())
    }

    /// Lets an heir claim a range that another device has. It is asked when the range is reached for and nobody answers.
    pub(crate) fn wait_for(self: &Arc<Self>, range: Range<u64>, heir: Weak<dyn Heir>) -> Wait {
        self.waiting().push(Waiting {
            range: range.clone(),
            heir: Weak::clone(&heir),
        });
        Wait {
            bus: Arc::clone(self),
            range,
            heir,
        }
    }

    /// Takes away the device whose range begins at `start`. Somebody may still be calling it.
    pub fn remove(&self, start: u64) -> Option<Arc<dyn Device>> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let place = ranges.binary_search_by_key(&start, |occupant| occupant.start).ok()?;
        Some(ranges.remove(place).device)
    }

    /// Reads; where nobody answers, or not for all bytes, all ones, as a PCI bus does.
    pub fn read(&self, address: u64, to: &mut [u8]) {
        match self.find(address, to.len()) {
            Some((offset, device)) => device.read(offset, to),
            None => to.fill(0xFF),
        }
    }

    /// Writes; where nobody answers, or not for all bytes, it is lost.
    pub fn write(&self, address: u64, from: &[u8]) {
        if let Some((offset, device)) = self.find(address, from.len()) {
            device.write(offset, from);
        }
    }

    /// Nothing is locked while the device is called: it may change who answers where.
    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn Device>)> {
        let last = address.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        self.look(address, last).or_else(|| {
            let is_wanted = |waiting: &&Waiting| waiting.range.contains(&address);
            let waiting = self.waiting();
            let heirs: Vec<_> = waiting
                .iter()
                .filter(is_wanted)
                .map(|of| Weak::clone(&of.heir))
                .collect();
            drop(waiting);
            // One whose range meets somebody else's cannot answer, and another may.
            heirs.iter().filter_map(Weak::upgrade).find_map(|heir| {
                heir.claim();
                self.look(address, last)
            })
        })
    }

    fn look(&self, address: u64, last: u64) -> Option<(u64, Arc<dyn Device>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let behind = ranges.partition_point(|occupant| occupant.start <= address);
        let occupant = ranges.get(behind.checked_sub(1)?)?;
        (last < occupant.end).then(|| (address - occupant.start, Arc::clone(&occupant.device)))
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Device for Noted {
        fn read(&self, offset: u64, to: &mut [u8]) {
            to.fill(offset.to_le_bytes()[0]);
        }

        fn write(&self, offset: u64, from: &[u8]) {
            self.0.lock().unwrap().push((offset, from.to_vec()));
        }
    }

    #[test]
    fn who_has_an_address_answers_and_elsewhere_all_ones_are_read() {
        let bus = Bus::default();
        let device = Arc::new(Noted::default());
        bus.insert(0x1000..0x1010, Arc::<Noted>::clone(&device)).unwrap();
        let read = |address, len| {
            let mut bytes = vec![0; len];
            bus.read(address, &mut bytes);
            bytes
        };
        assert_eq!(read(0x1004, 4), [4; 4]);
        assert_eq!(read(0x100C, 4), [12; 4]);
        assert_eq!(read(0x100D, 4), [0xFF; 4], "beyond its end");
        assert_eq!(read(0xFFF, 4), [0xFF; 4], "before its beginning");
        assert_eq!(read(u64::MAX, 8), [0xFF; 8]);
        bus.write(0x1008, &[1, 2]);
        bus.write(0x1010, &[3]);
        assert_eq!(*device.0.lock().unwrap(), [(8, vec![1, 2])]);
    }

    #[derive(Debug)]
    struct Claims(Arc<Bus>, Range<u64>);

    impl Heir for Claims {
        fn claim(&self) {
            // Refused where its range meets another's.
            drop(self.0.insert(self.1.clone(), Arc::new(Noted::default())));
        }
    }

    #[test]
    fn an_heir_that_cannot_claim_keeps_no_other_from_it() {
        let bus = Arc::new(Bus::default());
        bus.insert(0x2000..0x3000, Arc::new(Noted::default())).unwrap();
        let heirs = [0x1000..0x3000, 0x1000..0x2000].map(|range| Arc::new(Claims(Arc::clone(&bus), range)));
        let _waits = heirs.each_ref().map(|heir| {
            let waits: Weak<dyn Heir> = Arc::<Claims>::downgrade(heir);
            bus.wait_for(heir.1.clone(), waits)
        });
        let mut byte = [0];
        bus.read(0x1004, &mut byte);
        assert_eq!(byte, [4]);
    }

    #[test]
    fn nobody_answers_for_what_another_has_until_that_is_gone() {
        let bus = Bus::default();
        let device = || Arc::new(Noted::default());
        bus.insert(0x1000..0x2000, device()).unwrap();
        for taken in [0x0..0x1001, 0x1FFF..0x3000, 0x1100..0x1200, 0x0..0x9000] {
            let error = bus.insert(taken, device()).unwrap_err();
            assert!(
                matches!(&error.kind, ErrorKind::Occupied(by) if *by == (0x1000..0x2000)),
                "{error}"
            );
        }
        assert!(bus.insert(0x5000..0x5000, device()).is_err());
        bus.insert(0x2000..0x2001, device()).unwrap();
        bus.insert(0xFFF..0x1000, device()).unwrap();
        assert!(bus.remove(0x1001).is_none());
        assert!(bus.remove(0x1000).is_some());
        bus.insert(0x1800..0x1900, device()).unwrap();
    }
}
