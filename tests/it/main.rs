//! Tests without privileges and without the lab.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what prepares a test may fail it"
)]

mod architecture;
mod tool;
mod topology;
