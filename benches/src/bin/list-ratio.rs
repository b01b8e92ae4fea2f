//! Prints how many times faster `sriovctl list` is than `lspci -nnk`: a table, and lines for the report.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::Machine;
use benches::list::{Comparison, lspci_is_missing};
use benches::program::Program;

fn main() -> Result<()> {
    let rounds = if std::env::args().any(|argument| argument == "--quick") {
        7
    } else {
        21
    };
    let mut out = Program::on_host("list", &[("lspci -nnk", &["lspci", "--version"])])?;
    if let Some(reason) = lspci_is_missing() {
        out.absent("", "lspci -nnk", &reason)?;
        return out.end();
    }
    let comparison = Comparison::run(&Machine::of(4096)?, rounds)?;
    out.note(&comparison.to_string())?;
    let (case, turns) = comparison.figures();
    out.say(&case, turns)?;
    out.end()
}
