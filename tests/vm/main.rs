//! vm
fn main() {}
