//! Prints how many times faster `sriovctl list` is than `lspci -nnk`: a table, and lines for the report.
//!
//! `list-ratio [--quick] [SRIOVCTL]`; without the program's path it is built.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::Machine;
use benches::list::{Comparison, lspci_is_missing};
use benches::program::Program;
use std::path::PathBuf;

fn main() -> Result<()> {
    let (mut rounds, mut sriovctl) = (21, None);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => rounds = 7,
            path => sriovctl = Some(PathBuf::from(path)),
        }
    }
    let mut out = Program::on_host("list", &[("lspci -nnk", &["lspci", "--version"])])?;
    if let Some(reason) = lspci_is_missing() {
        out.absent("", "lspci -nnk", &reason)?;
        return out.end();
    }
    for functions in [16, 256, 4096] {
        let comparison = Comparison::run(&Machine::of(functions)?, rounds, sriovctl.clone())?;
        out.note(&comparison.to_string())?;
        let (case, turns) = comparison.figures();
        out.say(&case, turns)?;
    }
    out.end()
}
