//! Prints how many times faster `sriovctl list` is than `lspci -nnk`, as tables and as records.
#![forbid(unsafe_code)]

use benches::Machine;
use benches::list::{Comparison, lspci_is_missing};
use benches::record::{Environment, Line, Lines};
use std::io::stdout;

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() -> anyhow::Result<()> {
    if let Some(reason) = lspci_is_missing() {
        println!("lab-skip: {reason}");
        return Ok(());
    }
    let mut lines = Lines::new(stdout());
    lines.say(&Line::Environment(Environment {
        name: "software, wall clock".to_owned(),
        ..Environment::default()
    }))?;
    for functions in [16, 256, 4096] {
        let comparison = Comparison::run(&Machine::of(functions)?, 21)?;
        println!("{comparison}");
        for record in comparison.records() {
            lines.say(&Line::Record(record))?;
        }
    }
    Ok(lines.end()?)
}
