//! The last leg: a Linux guest drives a VF.

use crate::PASSED;
use crate::machine::{done, physical_function, refused, vfs};
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;

pub(crate) fn drives_a_vf() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    let append = "console=ttyS0 quiet panic=-1 lab.role=guest";
    let arguments = [
        "run",
        &vf,
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        append,
        "--memory",
        "512M",
        "--timeout",
        "90",
    ];
    // Through iommufd, under nested emulation, the guest sometimes stalls as it sets its link up; never seen through type1.
    let type1 = [arguments.as_slice(), &["--interface", "type1"]].concat();
    let first = done(&arguments);
    let stalled = first.is_err();
    let said = first.or_else(|_| done(&type1)).or_else(|_| done(&type1))?;
    ensure!(
        said.lines()
            .any(|line| line.starts_with("guest: igbvf took the function")),
        "igbvf did not take it: {said}"
    );
    ensure!(
        said.lines()
            .any(|line| line.starts_with("guest: ping ") && line.contains(": answered")),
        "no answer to the ping: {said}"
    );
    done(&["vf", "delete", &pf])?;
    // What is not on vfio-pci is not handed out.
    refused(&["run", &pf, "--kernel", &kernel], 1, &["vfio-pci"])?;
    if stalled {
        // Counted and shown, not passed over.
        return Ok(Outcome::Skipped(
            "the first guest failed; one through type1 ran".to_owned(),
        ));
    }
    PASSED
}
