//! Beside `tools/testing/selftests/vfio`: devices and address spaces of VFIO, in all five ways.

mod device;
mod driver;
mod mapping;
mod mmio;
mod perf;
mod setup;
mod sriov;

use crate::context::Mode;
use crate::harness::{Case, File};
use crate::stage::{Stage, Staged};
use anyhow::Result;
use lab::case::Outcome;
use lab::{Device, Machine};

/// The machine of all these files: memory for the cases that want a huge page of 1 GiB.
fn machine() -> Machine {
    Machine {
        devices: vec![Device::Igb, Device::Nvme],
        memory_mib: 4608,
        gigantic_pages: 1,
        ..Machine::default()
    }
}

fn file(name: &'static str, stage: Stage, limit_s: u64, cases: Vec<Case>) -> File {
    File {
        name,
        machine: machine(),
        stage,
        cases,
        limit_s,
        short: &[],
    }
}

/// The files of this suite, for a kernel with or without iommufd.
pub(crate) fn files(has_iommufd: bool) -> Vec<File> {
    let modes = Mode::all(has_iommufd);
    vec![
        file("vfio_dma_mapping_test", Stage::Function, 180, mapping::cases(modes)),
        file("vfio_dma_mapping_mmio_test", Stage::Function, 120, mmio::cases(modes)),
        file(
            "vfio_iommufd_setup_test",
            Stage::Function,
            60,
            if has_iommufd { setup::cases() } else { Vec::new() },
        ),
        file("vfio_pci_device_test", Stage::Function, 60, device::cases(modes)),
        file(
            "vfio_pci_device_init_perf_test",
            Stage::TwoFunctions,
            60,
            perf::cases(modes),
        ),
        File {
            // 7 cases of each way, which differ in nothing that the driver sees; half a minute each in emulation.
            short: &["-v", "iommufd"],
            ..file("vfio_pci_driver_test", Stage::Function, 420, driver::cases(modes))
        },
        file(
            "vfio_pci_sriov_uapi_test",
            Stage::FunctionWithVf,
            180,
            sriov::cases(modes),
        ),
    ]
}

/// A test in one way.
type Test = (&'static str, fn(&Staged, Mode) -> Result<Outcome>);

/// Every test in every way: `conf_vfio_FIXTURE.MODE.TEST`.
fn in_all_modes(fixture: &str, modes: &[Mode], tests: &[Test]) -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in modes {
        for (test, run) in tests {
            let (mode, run) = (*mode, *run);
            let name = format!("conf_vfio_{fixture}.{}.{test}", mode.name());
            cases.push(Case::new(name, move |staged| run(staged, mode)));
        }
    }
    cases
}
