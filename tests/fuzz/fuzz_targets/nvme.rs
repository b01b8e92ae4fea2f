//! Any calls of the NVMe driver against a controller that goes wrong in any way.
//!
//! The input says both sides; what must hold whatever it says is in the module, which `drivers` runs as a test, too.
#![no_main]

#[path = "../../../drivers/tests/two_sided/mod.rs"]
mod two_sided;

libfuzzer_sys::fuzz_target!(|data: &[u8]| two_sided::run(data));
