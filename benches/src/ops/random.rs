//! Numbers that look like chance and are the same every time.

/// A linear congruential generator modulo 2^64 (Knuth, TAOCP 2 §3.3.4, line 26), of which the high half is used.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `end`, which is not 0 and at most 2^32.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 32) * end) >> 32
    }
}
