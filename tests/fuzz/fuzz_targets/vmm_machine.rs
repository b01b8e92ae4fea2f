//! Any accesses of a guest to all of its machine, with functions on a fake kernel that fail, are wanted back, come and go.
//!
//! The input says both sides; what must hold whatever it says is in the module, which `vmm-glue` runs as a test, too. One run is 200 deeds and takes
//! milliseconds: begin with long inputs (`-max_len=2000 -len_control=0`). Memory that the kernel was made not to unmap is leaked, as it must be: a run of
//! hours wants `-rss_limit_mb=0`.
#![no_main]

#[path = "../../../vmm-glue/tests/script/mod.rs"]
mod script;
#[path = "../../../vmm-glue/tests/whole/mod.rs"]
mod whole;

libfuzzer_sys::fuzz_target!(|data: &[u8]| whole::run(data));
