//! Memory slots (`KVM_SET_USER_MEMORY_REGION`).

use super::failed;
use crate::slot::{self, Slot};
use crate::{Error, ErrorKind, Result};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_core::StableMemory;

const STEP: &str = "KVM_SET_USER_MEMORY_REGION";

/// The slots of a virtual machine. Cheap to clone.
#[derive(Clone)]
pub struct Slots {
    of: Arc<Inner>,
}

struct Inner {
    vm: Arc<VmFd>,
    numbers: Mutex<Numbers>,
}

/// Which slots are free: those that came back, and all from `next` on.
#[derive(Debug)]
struct Numbers {
    returned: BTreeSet<u32>,
    next: u32,
    /// How many there are.
    all: u32,
}

impl Numbers {
    fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.returned.pop_first() {
            return Some(number);
        }
        (self.next < self.all).then(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl Slots {
    pub(super) fn new(vm: Arc<VmFd>, all: usize) -> Self {
        let numbers = Mutex::new(Numbers {
            returned: BTreeSet::new(),
            next: 0,
            all: u32::try_from(all).unwrap_or(u32::MAX),
        });
        let of = Arc::new(Inner { vm, numbers });
        Self { of }
    }
}

impl Inner {
    fn numbers(&self) -> std::sync::MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl slot::Slots for Slots {
    fn map(
        &self,
        guest: u64,
        memory: &Arc<dyn StableMemory>,
        part: Range<usize>,
        is_writable: bool,
    ) -> Result<Box<dyn Slot>> {
        let invalid = |why| Error::new(STEP, ErrorKind::Invalid(why));
        if part.is_empty() || part.end > memory.len() {
            return Err(invalid("the part lies outside the memory"));
        }
        let len = u64::try_from(part.len()).map_err(|_too_large| invalid("the part is too large"))?;
        let end = guest.checked_add(len).ok_or_else(|| invalid("addresses overflow"))?;
        let number = self.of.numbers().take();
        let number = number.ok_or_else(|| Error::new(STEP, ErrorKind::Exhausted("memory slot")))?;
        let address = memory.address().wrapping_add(part.start).expose_provenance();
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: if is_writable { 0 } else { KVM_MEM_READONLY },
            guest_phys_addr: guest,
            memory_size: len,
            userspace_addr: u64::try_from(address).unwrap_or(u64::MAX),
        };
        // SAFETY: the part was checked to lie in the memory, which stays mapped while it lives; the slot holds it, and takes the region from the
        // guest before it lets go. Nobody has references to its bytes (`StableMemory`).
        let set = unsafe { self.of.vm.set_user_memory_region(region) };
        if let Err(error) = set {
            self.of.numbers().returned.insert(number);
            return Err(failed(STEP, error));
        }
        Ok(Box::new(Region {
            of: Arc::clone(&self.of),
            memory: Some(Arc::clone(memory)),
            number,
            range: guest..end,
        }))
    }
}

/// A slot in use.
struct Region {
    of: Arc<Inner>,
    /// Until the slot is gone.
    memory: Option<Arc<dyn StableMemory>>,
    number: u32,
    range: Range<u64>,
}

impl Slot for Region {
    fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let region = kvm_userspace_memory_region {
            slot: self.number,
            guest_phys_addr: self.range.start,
            ..kvm_userspace_memory_region::default()
        };
        // SAFETY: a size of 0 deletes the slot; it names no memory.
        let deleted = unsafe { self.of.vm.set_user_memory_region(region) };
        match deleted {
            Ok(()) => {
                self.of.numbers().returned.insert(self.number);
            }
            // The guest may still reach it: it must never be freed.
            Err(error) => {
                tracing::error!(slot = self.number, %error, "KVM keeps a memory slot; its memory is leaked");
                std::mem::forget(self.memory.take());
            }
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("numbers", &self.of.numbers()).finish()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("number", &self.number)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_run_out() {
        let mut numbers = Numbers {
            returned: BTreeSet::new(),
            next: 0,
            all: 2,
        };
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take()],
            [Some(0), Some(1), None]
        );
        numbers.returned.insert(0);
        assert_eq!([numbers.take(), numbers.take()], [Some(0), None]);
    }
}
