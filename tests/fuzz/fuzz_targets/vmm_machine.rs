//! Any accesses of a guest to all of its machine, with functions on a fake kernel that fail, are wanted back, come and go.
//!
//! The input says both sides; what must hold whatever it says is in the module, which `vmm-glue` runs as a test, too.
#![no_main]

#[path = "../../../vmm-glue/tests/script/mod.rs"]
mod script;
#[path = "../../../vmm-glue/tests/whole/mod.rs"]
mod whole;

libfuzzer_sys::fuzz_target!(|data: &[u8]| whole::run(data));
