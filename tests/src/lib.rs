//! Tests that need more than one crate, or the lab, and what they share.
#![forbid(unsafe_code)]

pub mod machine;
pub mod tree;
