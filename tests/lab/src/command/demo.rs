//! `cargo lab demo`
use anyhow::{Result, bail};
use lab::{Flavour, Machine};
use std::process::ExitCode;
use std::time::Duration;
pub(crate) fn run(_machine: &Machine, _kernel: Option<Flavour>, _offline: bool, _limit: Duration) -> Result<ExitCode> {
    bail!("later")
}
