//! Any calls of the NVMe driver against a controller that goes wrong in any way. The fuzz target of the same name runs the same, for longer.
#![cfg(test)]

#[path = "two_sided/mod.rs"]
mod two_sided;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_whatever_both_sides_do(data in prop::collection::vec(any::<u8>(), 0..600)) {
        two_sided::run(&data);
    }
}
