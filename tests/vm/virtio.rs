//! The virtio drivers on the lab's devices, through both of the kernel's interfaces, with interrupts and polled.

use crate::dma::example;
use crate::drivers::{Interface, on_both};
use crate::machine::{attribute, done, functions, physical_function, vfs};
use anyhow::{Result, anyhow, ensure};
use lab::case::Case;
use lab::{Device, Machine};

pub(crate) fn cases() -> Vec<Case> {
    let machine = Machine {
        devices: vec![Device::VirtioBlk, Device::VirtioRngConsole],
        ..Machine::default()
    };
    let cases = on_both!["virtio_functions_are_driven", 300, driven;];
    let networked = Machine {
        devices: vec![Device::VirtioNet],
        ..Machine::default()
    };
    let between = on_both!["virtio_vfs_send_each_other_frames", 180, frames;];
    let on = |machine: Machine| {
        move |case| Case {
            machine: machine.clone(),
            ..case
        }
    };
    cases
        .into_iter()
        .map(on(machine))
        .chain(between.into_iter().map(on(networked)))
        .collect()
}

/// Device ids (virtio 1.3 §4.1.2.1), and what the program says once all was as it should be.
const KINDS: [(&str, &str); 3] = [
    ("0x1042", "block device: all right"),
    ("0x1043", "console: all right"),
    ("0x1044", "entropy source: all right"),
];

fn driven(interface: &str) -> Result<()> {
    for (id, right) in KINDS {
        let mut tried = 0;
        for function in functions()? {
            if attribute(&function, "vendor")? != "0x1af4" || attribute(&function, "device")? != id {
                continue;
            }
            done(&["bind", &function, "--driver", "vfio-pci"])?;
            let outcome = tries(&[&function], interface, right);
            let released = done(&["release", &function]);
            outcome?;
            released?;
            tried += 1;
        }
        ensure!(tried > 0, "no function 1af4:{id}");
    }
    Ok(())
}

/// Two VFs drive each other's frames; then the PF does, alone.
fn frames(interface: &str) -> Result<()> {
    let pf = physical_function("virtio-pci")?;
    done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
    let outcome = match vfs(&pf).as_slice() {
        [one, other] => tries(&[one, "--peer", other], interface, "100 frames each way"),
        vfs => Err(anyhow!("two VFs are {vfs:?}")),
    };
    done(&["vf", "delete", &pf])?;
    outcome?;
    done(&["bind", &pf, "--driver", "vfio-pci"])?;
    let outcome = tries(&[&pf], interface, "network card: all right");
    done(&["release", &pf])?;
    outcome
}

fn tries(functions: &[&str], interface: &str, right: &str) -> Result<()> {
    for more in [&[][..], &["--poll"]] {
        let usual = ["--interface", interface];
        let said = example("virtio-try", &[functions, &usual, more].concat())?.stdout;
        ensure!(said.contains(right), "{said}");
    }
    Ok(())
}
