//! Guests that do anything with functions that claim anything. The same are fuzz targets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that is surprised fails"
)]

mod hostile;
mod script;
mod whole;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_guest_does_the_promises_hold(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        hostile::run(&data);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_guest_and_its_host_do_the_machine_stands(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        whole::run(&data);
    }
}
