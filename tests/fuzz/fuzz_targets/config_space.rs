//! Configuration space from hostile hands: as an image, and as the text of a dump.
//!
//! The input is taken for both. What is described is a dump again and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pci::dump::{DumpedFunction, parse};
use pci::{ConfigSpace, Describe};

fuzz_target!(|data: &[u8]| {
    let function = DumpedFunction {
        bdf: pci::Bdf::new(pci::Segment(0), pci::RoutingId(0)),
        title: String::new(),
        config: ConfigSpace::new(data.to_vec()),
    };
    check(&function);
    if let Ok(text) = std::str::from_utf8(data) {
        parse(text).iter().flatten().for_each(check);
    }
});

fn check(function: &DumpedFunction) {
    let space = &function.config;
    assert!(space.capabilities().items.len() <= 48);
    assert!(space.extended_capabilities().items.len() <= 960);
    assert!(!space.describe().to_string().is_empty());
    let read = parse(&function.with_text()).expect("a described dump is a dump");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].config, *space);
}
