//! Create, bind and hand out SR-IOV virtual functions.
#![forbid(unsafe_code)]
fn main() {}
