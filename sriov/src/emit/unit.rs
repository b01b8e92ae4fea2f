//! A systemd unit that makes the functions again as they are now: VFs do not outlive a boot, nor do bindings.
//!
//! Form: `systemd.unit(5)`, `systemd.service(5)`, `systemd.exec(5)`; names of device units as `systemd-escape --path` makes them.

use super::{Emitted, Form, Handout, Pf, sysfs_path};
use crate::Error;
use pci::Bdf;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is done when the unit starts and, in reverse, when it stops.
#[derive(Default)]
struct Work {
    /// By PF, in order of address.
    create: BTreeMap<Bdf, Pf>,
    /// Driver and functions to bind, in order of name.
    bind: BTreeMap<String, Vec<Bdf>>,
}

pub(super) fn emit(functions: &[Handout]) -> Result<Emitted, Error> {
    let mut work = Work::default();
    for function in functions {
        work.add(function)?;
    }
    let mut notes = vec![
        "a file for /etc/systemd/system, such as sriovctl.service; then systemctl enable it".to_owned(),
        "systemd must find sriovctl: install it into /usr/local/bin or /usr/bin, not only into ~/.cargo/bin".to_owned(),
        "addresses of VFs hold as long as cards stay in their slots and the PF has as many VFs".to_owned(),
    ];
    if functions
        .iter()
        .any(|function| function.index.is_none() && function.is_on_vfio)
    {
        notes.push("a function that the machine uses itself is not taken away from it: the unit fails then".to_owned());
    }
    Ok(Emitted {
        functions: functions.iter().map(|function| function.bdf).collect(),
        backend: None,
        text: work.text(),
        notes,
    })
}

impl Work {
    fn add(&mut self, function: &Handout) -> Result<(), Error> {
        let pf = function.pf.as_ref().filter(|pf| pf.vfs > 0);
        if let Some(pf) = pf {
            self.create.entry(pf.bdf).or_insert_with(|| pf.clone());
        }
        let is_made_so = function.index.is_some() && pf.is_some_and(|pf| pf.vf_driver.is_some());
        if let Some(driver) = function.driver.as_ref().filter(|_| function.is_on_vfio && !is_made_so) {
            self.bind.entry(driver.clone()).or_default().push(function.bdf);
        } else if pf.is_none() {
            let why = "it has no VFs and is not on a VFIO driver: there is nothing to do when the machine boots";
            return Err(Form::Systemd.refuse(function.bdf, why, "make it as it shall be, then emit it"));
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut modules: Vec<&str> = self.bind.keys().map(String::as_str).collect();
        modules.extend(self.create.values().filter_map(|pf| pf.vf_driver.as_deref()));
        modules.sort_unstable();
        modules.dedup();
        let modules = modules
            .iter()
            .map(|driver| format!("modprobe@{}.service", driver.replace('-', "_")));
        // The PF's driver must be there, and its network interface is a sign of it.
        let interfaces = self.create.values().filter_map(|pf| pf.interface.as_deref());
        let interfaces = interfaces.map(|name| format!("sys-subsystem-net-devices-{}.device", escape(name)));
        let wants: Vec<String> = modules.chain(interfaces).collect();

        let all = self.create.keys().chain(self.bind.values().flatten());
        let names: Vec<String> = all.map(ToString::to_string).collect();
        let mut text = format!("[Unit]\nDescription=PCI functions for guests: {}\n", names.join(" "));
        text += "Documentation=man:sriovctl(1)\n";
        for pf in self.create.keys() {
            line(&mut text, "ConditionPathExists", &sysfs_path(*pf));
        }
        if !wants.is_empty() {
            line(&mut text, "Wants", &wants.join(" "));
            line(&mut text, "After", &wants.join(" "));
        }
        text += "Before=libvirtd.service virtqemud.service kubelet.service\n";
        text += "\n[Service]\nType=oneshot\nRemainAfterExit=yes\n";
        for pf in self.create.values() {
            let driver = pf.vf_driver.as_ref();
            let driver = driver.map_or_else(String::new, |driver| format!(" --driver {driver}"));
            let command = format!("sriovctl vf create {} {}{driver}", pf.bdf, pf.vfs);
            line(&mut text, "ExecStart", &command);
        }
        for (driver, functions) in &self.bind {
            let command = format!("sriovctl bind {} --driver {driver}", join(functions));
            line(&mut text, "ExecStart", &command);
        }
        for functions in self.bind.values() {
            line(&mut text, "ExecStop", &format!("sriovctl release {}", join(functions)));
        }
        for pf in self.create.keys() {
            line(&mut text, "ExecStop", &format!("sriovctl vf delete {pf}"));
        }
        text += "\n[Install]\nWantedBy=multi-user.target";
        text
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // A specifier begins with a percent sign.
    let written = writeln!(text, "{key}={}", value.replace('%', "%%"));
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}

fn join(functions: &[Bdf]) -> String {
    let names: Vec<String> = functions.iter().map(ToString::to_string).collect();
    names.join(" ")
}

/// A name as a part of a unit's name.
pub(super) fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b":_.".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let written = write!(escaped, "\\x{byte:02x}");
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
    }
    escaped
}
