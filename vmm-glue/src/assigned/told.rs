//! What is said once of a function, though its guest can bring it about as often as it likes.

use ::pci::Bdf;
use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

/// Something that a guest can let go wrong.
#[derive(Debug)]
pub(super) struct Matter {
    bit: u32,
    what: &'static str,
}

impl Matter {
    pub(super) const EFFECT: Self = Self::new(0, "what a guest asks of its function is not done");
    pub(super) const VECTOR: Self = Self::new(1, "a vector of a guest's function does not interrupt it");
    pub(super) const BAR: Self = Self::new(2, "a guest does not find a BAR of its function");
    pub(super) const SLOT: Self = Self::new(3, "a part of a BAR has no memory slot, and so is slow");
    pub(super) const PEER: Self = Self::new(4, "other functions do not reach a BAR any more");

    const fn new(number: u32, what: &'static str) -> Self {
        Self { bit: 1 << number, what }
    }
}

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicU32);

impl Told {
    /// Says it the first time, and later only to whoever looks for mistakes.
    pub(super) fn tell(&self, matter: &Matter, device: Option<Bdf>, error: &dyn Display) {
        let what = matter.what;
        if self.0.fetch_or(matter.bit, Ordering::Relaxed) & matter.bit == 0 {
            tracing::warn!(%error, ?device, "{what}; this is said once");
        } else {
            tracing::debug!(%error, ?device, "{what}");
        }
    }
}
