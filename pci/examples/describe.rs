//! Prints what a dump of `lspci -x`, `-xxx` or `-xxxx` says: `cargo run -p pci --example describe < dump.txt`.

use std::io::{Error, Read, Write};

fn main() -> Result<(), Error> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut out = std::io::stdout().lock();
    for function in pci::dump::parse(&text).map_err(Error::other)? {
        writeln!(out, "{} {}", function.bdf, function.title)?;
        for line in function.config.lines(100) {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
