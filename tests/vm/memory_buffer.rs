//! Submission queues in the memory of an NVMe controller that has some, beside one that has none; and its namespace, whose blocks are larger.

use crate::dma::{example, program};
use crate::drivers::{Held, Interface, on_both, on_nvme, on_vfio};
use crate::machine::{dir, functions, link, run};
use anyhow::{Context, Result, ensure};
use lab::case::Case;
use lab::{Device, Machine};
use std::process::Command;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = on_both![
        "nvme_commands_lie_in_the_controller", 300, commands_in_the_controller;
        "a_controller_without_memory_says_so", 60, no_memory;
        "nvme_data_of_blocks_of_4096_bytes_is_what_was_written", 240, large_blocks;
    ];
    for case in &mut cases {
        case.machine = Machine {
            devices: vec![Device::Nvme, Device::NvmeCmb],
            ..Machine::default()
        };
    }
    cases
}

/// The controller that has no VFs.
fn controller() -> Result<String> {
    let found = functions()?
        .into_iter()
        .find(|bdf| !dir(bdf).join("sriov_totalvfs").exists() && link(bdf, "driver").as_deref() == Some("nvme"));
    found.context("no NVMe controller without VFs")
}

fn commands_in_the_controller(interface: &str) -> Result<()> {
    let nvme = controller()?;
    let held = Held::written_by_kernel(&nvme)?;
    for arguments in [
        "--cmb --count 1000 --queues 2 --wait poll --seed 31",
        "--cmb --count 1000 --queues 4 --wait interrupt --depth 8 --seed 32",
        "--cmb --count 2000 --queues 3 --wait interrupt --reset-every 1000 --seed 33",
        // What was in use does not go on.
        "--count 500 --queues 2 --wait poll --seed 34",
    ] {
        held.check(interface, arguments).context(arguments)?;
    }
    on_vfio(&nvme, || {
        let arguments = ["--interface", interface, "--cmb", "--count", "20000", "--time", "20"];
        let said = example("nvme-perf", &[&[nvme.as_str()][..], &arguments].concat())?.stdout;
        ensure!(said.contains("20000 commands"), "{said}");
        Ok(())
    })
}

fn large_blocks(interface: &str) -> Result<()> {
    let nvme = controller()?;
    let held = Held::written_by_kernel(&nvme)?;
    ensure!(held.lba == 4096, "the kernel has blocks of {} bytes", held.lba);
    for arguments in [
        "--count 1000 --queues 1 --wait poll --form prp --seed 41",
        "--count 1000 --queues 4 --wait interrupt --form sgl --seed 42",
    ] {
        held.check(interface, arguments).context(arguments)?;
    }
    Ok(())
}

fn no_memory(interface: &str) -> Result<()> {
    on_nvme(|nvme| {
        let arguments = [nvme, "--interface", interface, "--cmb"];
        let run = run(Command::new(program("nvme-perf")?).args(arguments))?;
        ensure!(run.code != 0 && run.stderr.contains("CAP.CMBS"), "{run:?}");
        Ok(())
    })
}
