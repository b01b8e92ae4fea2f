//! Conformance: what the kernel's own suites assert of VFIO and iommufd, asserted through this workspace's crates.
//!
//! A file here stands for a program of `tools/testing/selftests/{vfio,iommu}` of Linux 7.3, a case for one of its cases, with the
//! same name behind `conf_vfio_` or `conf_iommufd_`. `lab::conformance` runs both and compares. Every case runs in a process of its own,
//! on a machine that was prepared for its file and is afterwards as it was.
#![forbid(unsafe_code)]

mod complaints;
mod context;
mod harness;
mod igb;
mod iommufd;
mod stage;
mod vfio;

use anyhow::{Context, Result, bail};
use harness::File;
use lab::case::Outcome;
use std::process::ExitCode;
use system_tests::machine;

/// A case that holds.
const PASSED: Result<Outcome> = Ok(Outcome::Passed);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => harness::say_error(&error),
    }
}

fn run(arguments: &[&str]) -> Result<ExitCode> {
    let flavour = std::env::var("LAB")
        .context("these tests change the machine they run on: cargo lab conformance runs them in the lab")?;
    let files = files(&flavour);
    let find = |name: &str| {
        files
            .iter()
            .find(|file| file.name == name)
            .with_context(|| format!("no file {name}"))
    };
    match arguments {
        ["list"] => harness::list(&files),
        ["ours", name, filter @ ..] => harness::ours(find(name)?, filter.first().copied()),
        ["theirs", name, program, arguments @ ..] => harness::theirs(find(name)?, program, arguments),
        ["helper", what, argument] => iommufd::helper(what, argument).map(|()| ExitCode::SUCCESS),
        ["case", name, case] => harness::case(find(name)?, case),
        _ => bail!("usage: list | ours FILE [FILTER] | theirs FILE PROGRAM [ARGUMENT…]"),
    }
}

/// The files with cases for a kernel.
fn files(flavour: &str) -> Vec<File> {
    let has_iommufd = flavour == "full";
    let mut files = vfio::files(has_iommufd);
    if has_iommufd {
        files.extend(iommufd::files());
    }
    files.retain(|file| !file.cases.is_empty());
    files
}
