//! Tests that need more than one crate, or the lab.
#![forbid(unsafe_code)]
