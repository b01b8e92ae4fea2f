//! A backend in memory that fails on demand and checks what is asked of it.

use super::{AddressSpace, Backend, Source};
use crate::{Error, Iova, IovaRange, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use vfio_core::{Access, StableMemory};

/// What the kernel would know. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) allowed: Vec<IovaRange>,
    pub(crate) mapped: BTreeMap<Iova, Held>,
    /// Calls made so far.
    pub(crate) calls: u32,
    /// What could not be unmapped.
    pub(crate) stuck: Vec<IovaRange>,
    /// The call that fails.
    pub(crate) fail_at: Option<u32>,
    /// Whether nothing more can be mapped, whatever is unmapped.
    pub(crate) is_full: bool,
    /// How many mappings a ranged unmap that fails takes away before.
    pub(crate) unmaps_before_failure: usize,
    /// Whether a ranged unmap that fails does not tell what it left.
    pub(crate) tells_nothing: bool,
    /// Of what is there nobody can tell whether it is.
    unclear: Vec<IovaRange>,
}

/// Where, how, and what is pinned.
pub(crate) type Held = (IovaRange, Access, Option<Arc<dyn StableMemory>>);

#[derive(Debug)]
pub(crate) struct Guard(Ledger, IovaRange);

impl Ledger {
    pub(crate) fn new() -> Self {
        let ledger = Self::default();
        ledger.state().allowed = vec![IovaRange::new(Iova(0), 1 << 39).unwrap()];
        ledger
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn space(&self) -> Result<AddressSpace> {
        AddressSpace::over(Backend::Test(self.clone()))
    }

    /// Bytes that devices reach.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        let state = self.state();
        state
            .mapped
            .values()
            .map(|(range, ..)| u64::try_from(range.len_bytes()).unwrap())
            .sum()
    }

    fn call(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.calls += 1;
        if state.fail_at == Some(state.calls) {
            Err(Error::Invalid("injected"))
        } else {
            Ok(state)
        }
    }
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(_, part) => part.len() as u64,
            Self::File(_, part) => part.end - part.start,
        }
    }
}

impl Ledger {
    pub(super) fn ranges(&self) -> Result<(Vec<IovaRange>, u64)> {
        Ok((self.call()?.allowed.clone(), 4096))
    }

    pub(super) fn map(&self, source: &Source, range: IovaRange, access: Access) -> Result<Guard> {
        let mut state = self.call()?;
        if state.is_full {
            let kind = vfio_core::ErrorKind::Os(vfio_core::Errno::NOMEM);
            return Err(vfio_core::Error::new("map", kind).into());
        }
        assert!(
            state.allowed.iter().any(|allowed| allowed.contains(&range)),
            "{range} is not allowed"
        );
        assert!(
            !state.mapped.values().any(|(other, ..)| other.overlaps(&range)),
            "{range} is mapped already"
        );
        assert_eq!(range.len_bytes(), u128::from(source.len()));
        let memory = match source {
            Source::Memory(memory, _) => Some(Arc::clone(memory)),
            Source::File(..) => None,
        };
        state.mapped.insert(range.start(), (range, access, memory));
        Ok(Guard(self.clone(), range))
    }

    pub(super) fn unmap(&self, range: IovaRange) -> Result<u64> {
        let failure = self.call().map(drop);
        let mut state = self.state();
        let limit = if failure.is_ok() {
            usize::MAX
        } else {
            state.unmaps_before_failure
        };
        let gone: Vec<_> = state
            .mapped
            .values()
            .map(|entry| entry.0)
            .filter(|inside| range.contains(inside))
            .take(limit)
            .collect();
        gone.iter()
            .for_each(|inside| drop(state.mapped.remove(&inside.start())));
        if failure.is_err() && state.tells_nothing {
            let left: Vec<_> = state.mapped.values().map(|entry| entry.0).collect();
            state
                .unclear
                .extend(left.into_iter().filter(|inside| range.contains(inside)));
        }
        failure?;
        let bytes = gone.iter().map(|inside| u64::try_from(inside.len_bytes()).unwrap());
        Ok(bytes.sum())
    }
}

impl Guard {
    pub(super) fn is_mapped(&self) -> bool {
        let state = self.0.state();
        state.mapped.contains_key(&self.1.start()) && !state.unclear.contains(&self.1)
    }

    pub(super) fn unmap(self) -> Result<()> {
        if !self.0.state().mapped.contains_key(&self.1.start()) {
            return Ok(());
        }
        // On failure the entry stays, and with it the memory: leaked, as the kernel's pins would be.
        let Self(ledger, range) = self;
        if ledger.state().unclear.contains(&range) {
            ledger.state().stuck.push(range);
            return Err(Error::Invalid("whether it is mapped cannot be told"));
        }
        let unmapped = ledger.call().map(|mut state| drop(state.mapped.remove(&range.start())));
        if unmapped.is_err() {
            ledger.state().stuck.push(range);
        }
        unmapped
    }
}
