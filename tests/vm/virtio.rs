//! The virtio drivers on the lab's devices, through both of the kernel's interfaces, with interrupts and polled.

use crate::dma::example;
use crate::drivers::{Interface, on_both};
use crate::machine::{attribute, done, functions};
use anyhow::{Result, ensure};
use lab::case::Case;
use lab::{Device, Machine};

pub(crate) fn cases() -> Vec<Case> {
    let machine = Machine {
        devices: vec![Device::VirtioBlk, Device::VirtioRngConsole],
        ..Machine::default()
    };
    let cases = on_both!["virtio_functions_are_driven", 300, driven;];
    let on_machine = |case| Case {
        machine: machine.clone(),
        ..case
    };
    cases.into_iter().map(on_machine).collect()
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
            let outcome = tries(&function, interface, right);
            let released = done(&["release", &function]);
            outcome?;
            released?;
            tried += 1;
        }
        ensure!(tried > 0, "no function 1af4:{id}");
    }
    Ok(())
}

fn tries(function: &str, interface: &str, right: &str) -> Result<()> {
    for more in [&[][..], &["--poll"]] {
        let usual = [function, "--interface", interface];
        let said = example("virtio-try", &[&usual, more].concat())?.stdout;
        ensure!(said.contains(right), "{said}");
    }
    Ok(())
}
