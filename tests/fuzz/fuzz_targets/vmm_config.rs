//! Any accesses of a guest to the PCI hierarchy that it sees, with functions that claim anything, and slots that are filled and emptied.
//!
//! The input says both sides; what must hold whatever it says is in the module, which `vmm-glue` runs as a test, too.
#![no_main]

#[path = "../../../vmm-glue/tests/hostile/mod.rs"]
mod hostile;
#[path = "../../../vmm-glue/tests/script/mod.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::run(data));
