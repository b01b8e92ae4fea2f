//! Memory that the guest's processors reach without an exit.

use crate::Result;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::StableMemory;

/// Gives memory of this process guest-physical addresses (`KVM_SET_USER_MEMORY_REGION`).
pub trait Slots: fmt::Debug + Send + Sync {
    /// Lets the guest reach a part of `memory` at guest-physical address `guest`, until the slot is dropped. Address and part are aligned to
    /// pages of 4 KiB; a part of whole huge pages at an address that is congruent to it is mapped by huge pages.
    ///
    /// # Errors
    ///
    /// An address that is in use (`EEXIST`), or no slot that is free; KVM's own.
    fn map(
        &self,
        guest: u64,
        memory: &Arc<dyn StableMemory>,
        part: Range<usize>,
        is_writable: bool,
    ) -> Result<Box<dyn Slot>>;
}

/// A part of the guest's memory. When it is dropped the guest cannot reach it any more.
pub trait Slot: fmt::Debug + Send + Sync {
    /// The guest-physical addresses.
    fn range(&self) -> Range<u64>;
}
