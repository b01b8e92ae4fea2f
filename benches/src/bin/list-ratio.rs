//! Prints how many times faster `sriovctl list` is than `lspci -nnk`.
#![forbid(unsafe_code)]

use benches::Machine;
use benches::list::{Comparison, lspci_is_missing};

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() -> anyhow::Result<()> {
    if let Some(reason) = lspci_is_missing() {
        println!("lab-skip: {reason}");
        return Ok(());
    }
    let comparison = Comparison::run(&Machine::of(4096)?, 21)?;
    println!("{comparison}");
    Ok(())
}
