//! Registers of a function.

use super::Inner;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;
use vfio_core::RegionMap;
use vfio_core::mmio::{HoldsMmio, Mmio};

/// A mapped part of a BAR. Holds the function; unmapped when dropped.
pub struct Registers {
    // Unmapped before the function can go.
    map: RegionMap,
    _function: Arc<Inner>,
}

impl Registers {
    pub(super) fn new(map: RegionMap, function: Arc<Inner>) -> Self {
        Self {
            map,
            _function: function,
        }
    }

    /// Which bytes of the BAR they are.
    #[must_use]
    pub fn part(&self) -> Range<u64> {
        self.map.part()
    }
}

impl Deref for Registers {
    type Target = Mmio;

    #[inline]
    fn deref(&self) -> &Mmio {
        &self.map
    }
}

impl HoldsMmio for Registers {
    #[inline]
    fn mmio(&self) -> &Mmio {
        &self.map
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers")
            .field("part", &self.part())
            .finish_non_exhaustive()
    }
}
