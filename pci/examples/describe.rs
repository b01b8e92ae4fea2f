//! Prints what a dump of `lspci -x`, `-xxx` or `-xxxx` says above the dump itself:
//! `cargo run -p pci --example describe < dump.txt`.
//!
//! The output is a dump again, so that a described dump can be described anew; so the files of `tests/fixtures/config` are made.

use std::io::{Error, Read, Write};

fn main() -> Result<(), Error> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let functions = pci::dump::parse(&text).map_err(Error::other)?;
    let mut out = std::io::stdout().lock();
    functions
        .iter()
        .try_for_each(|function| writeln!(out, "{}", function.with_text()))
}
