//! `cargo lab setup`

use super::say;
use anyhow::Result;
use lab::{Cache, Flavour, Setup};
use std::process::ExitCode;

pub(crate) fn run(kernels: &[Flavour], offline: bool, update: bool) -> Result<ExitCode> {
    let setup = Setup::new(Cache::of_user()?, offline, update)?;
    let qemu = setup.qemu()?;
    say(&format!("QEMU {} at {}", qemu.version, qemu.program.display()));
    for flavour in kernels {
        let kernel = setup.kernel(*flavour)?;
        say(&format!("{} kernel at {}", kernel.flavour, kernel.image.display()));
        if *flavour == Flavour::Full {
            say(&format!(
                "the kernel's own test suites at {}",
                setup.suites()?.display()
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}
