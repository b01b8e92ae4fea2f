//! Benchmarks of the device path.
#![forbid(unsafe_code)]
