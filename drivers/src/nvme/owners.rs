//! Which queue waits for which interrupt vector. Whoever waits takes the signal, so two would take each other's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Vectors that queues have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners(Arc<Mutex<BTreeSet<u16>>>);

/// A vector of a queue's own, until this is dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    vector: u16,
    owners: Owners,
}

impl Owners {
    /// `None` if a queue has it.
    pub(crate) fn own(&self, vector: u16) -> Option<Owned> {
        let owners = self.clone();
        self.vectors().insert(vector).then(|| Owned { vector, owners })
    }

    fn vectors(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.owners.vectors().remove(&self.vector);
    }
}
