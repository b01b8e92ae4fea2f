//! Whole programs that list the functions of a machine: `sriovctl list` against `lspci -nnk`.
#![forbid(unsafe_code)]

use benches::Machine;
use benches::list::{Comparison, lspci_is_missing};

#[expect(clippy::print_stdout, reason = "where results go")]
fn main() -> anyhow::Result<()> {
    // Those of criterion's benchmarks may be for others, and as a test nothing is measured.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_chosen = |argument: &String| argument.starts_with("--") || "list lspci".contains(argument.as_str());
    if !arguments.iter().all(is_chosen) || !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    if let Some(reason) = lspci_is_missing() {
        println!("lab-skip: {reason}");
        return Ok(());
    }
    for functions in [16, 256, 4096] {
        println!("{}\n", Comparison::run(&Machine::of(functions)?, 21)?);
    }
    Ok(())
}
