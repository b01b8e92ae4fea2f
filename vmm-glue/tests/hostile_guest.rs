//! Guests that do anything with functions that claim anything. The same is a fuzz target.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that is surprised fails"
)]

mod hostile;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_guest_does_the_promises_hold(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        hostile::run(&data);
    }
}
