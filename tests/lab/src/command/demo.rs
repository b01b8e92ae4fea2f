//! `cargo lab demo`: the project's main job from end to end, every step checked.

use super::{boot, exec, parts};
use anyhow::{Context, Result, bail, ensure};
use lab::{Device, Flavour, Kernel, Machine, Output, Qemu, Vm, build_programs};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What boots the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Vmm {
    /// sriovctl itself
    Own,
    /// QEMU
    Qemu,
}

/// What the lab's machine is asked to do, and what each answer must hold.
pub(crate) fn run(
    machine: &Machine,
    kernel: Option<Flavour>,
    vmm: Vmm,
    offline: bool,
    limit: Duration,
) -> Result<ExitCode> {
    let start = Instant::now();
    check(&machine.devices)?;
    let (qemu, kernel) = parts(kernel, offline)?;
    let programs = build_programs()?;
    let mut demo = Demo {
        vm: boot(&qemu, &kernel, machine)?,
        qemu,
        kernel,
        programs,
        deadline: Instant::now() + limit,
    };

    // Building and booting, less what the machine itself took to come up.
    let prepared = start.elapsed().saturating_sub(demo.vm.booted_in());

    say("\n== The machine");
    demo.show(&["tree"])?;
    let (nic, nvme) = (demo.physical_function("igb")?, demo.physical_function("nvme")?);

    say("\n== Virtual functions: created and bound to vfio-pci");
    let nic_took = demo
        .show(&["vf", "create", &nic.bdf, &nic.total, "--driver", "vfio-pci"])?
        .took;
    let nvme_took = demo
        .show(&["vf", "create", &nvme.bdf, &nvme.total, "--driver", "vfio-pci"])?
        .took;
    demo.show(&["list", "--filter", "driver=vfio-pci"])?;
    let bound = demo.functions_on("vfio-pci")?;
    let wanted = nic.total.parse::<usize>()? + nvme.total.parse::<usize>()?;
    ensure!(
        bound.len() == wanted,
        "{} functions are on vfio-pci, not {wanted}",
        bound.len()
    );

    say("\n== A guest that drives one of them");
    let vf = demo.first_vf(&nic.bdf)?;
    let (image, initrd) = (
        demo.kernel.image.display().to_string(),
        demo.vm.guest_initrd().display().to_string(),
    );
    let arguments = guest_of(vmm, &vf, &image, &initrd);
    let guest = match demo.show(&arguments) {
        Ok(guest) => guest,
        // On a busy host an emulated guest inside an emulated machine may take longer than that, or not come up at all.
        Err(error) => {
            say(&format!("the guest failed, once more: {error:#}"));
            demo.show(&arguments)?
        }
    };
    let took_it = guest
        .stdout
        .lines()
        .any(|line| line.starts_with("guest: igbvf took the function"));
    let answered = guest
        .stdout
        .lines()
        .any(|line| line.starts_with("guest: ping ") && line.contains(": answered"));
    ensure!(took_it, "the guest's igbvf driver did not take {vf}");
    ensure!(answered, "the guest's ping over {vf} was not answered");

    say("\n== Everything is given back");
    demo.show(&["vf", "delete", &nic.bdf])?;
    demo.show(&["vf", "delete", &nvme.bdf])?;
    demo.show(&["tree"])?;
    let left = demo.functions_on("vfio-pci")?;
    ensure!(left.is_empty(), "still on vfio-pci: {}", left.join(", "));

    let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
    say(&format!(
        "\ndemo: done in {} (set up and built in {}, machine up in {}; {} VFs of {} in {}, {} VFs of {} in {}; guest up, pinged and gone in {})",
        seconds(start.elapsed()),
        seconds(prepared),
        seconds(demo.vm.booted_in()),
        nic.total,
        nic.bdf,
        seconds(nic_took),
        nvme.total,
        nvme.bdf,
        seconds(nvme_took),
        seconds(guest.took),
    ));
    demo.vm.power_off();
    Ok(ExitCode::SUCCESS)
}

/// Refuses a machine on which the demo would only fail later.
fn check(devices: &[Device]) -> Result<()> {
    let has = |wanted: [Device; 2]| devices.iter().any(|device| wanted.contains(device));
    let nic = has([Device::Igb, Device::SwitchIgb]);
    let drive = has([Device::Nvme, Device::Nvme127]);
    let missing = match (nic, drive) {
        (true, true) => return Ok(()),
        (false, true) => "igb",
        (true, false) => "nvme",
        (false, false) => "igb,nvme",
    };
    bail!(
        "the demo takes VFs of a NIC and of an NVMe, and this machine would lack one\n  fix      add {missing} to --devices, or leave --devices out"
    )
}

/// How the guest with the VF is booted.
fn guest_of<'a>(vmm: Vmm, vf: &'a str, image: &'a str, initrd: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["run", vf, "--kernel", image, "--initrd", initrd];
    let append = "console=ttyS0 quiet panic=-1 lab.role=guest";
    arguments.extend(["--append", append, "--timeout", "90"]);
    if vmm == Vmm::Qemu {
        arguments.extend(["--vmm", "qemu"]);
    }
    arguments
}

/// The story goes where the commands' output goes, so that both can be read together.
fn say(line: &str) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

struct Demo {
    vm: Vm,
    qemu: Qemu,
    kernel: Kernel,
    programs: PathBuf,
    deadline: Instant,
}

struct Shown {
    stdout: String,
    took: Duration,
}

struct PhysicalFunction {
    bdf: String,
    total: String,
}

impl Demo {
    /// Runs sriovctl, showing the command and what it prints.
    fn show(&mut self, arguments: &[&str]) -> Result<Shown> {
        let words: Vec<String> = arguments
            .iter()
            .map(|word| {
                if word.contains(' ') {
                    format!("'{word}'")
                } else {
                    (*word).to_owned()
                }
            })
            .collect();
        say(&format!("$ sriovctl {}", words.join(" ")));
        self.sriovctl(arguments, true)
    }

    fn sriovctl(&mut self, arguments: &[&str], shown: bool) -> Result<Shown> {
        let argv: Vec<String> = std::iter::once("sriovctl")
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect();
        let start = Instant::now();
        let mut stdout = Vec::new();
        let limit = self.deadline.saturating_duration_since(start);
        let command = exec(&self.qemu, &self.kernel, &self.programs, argv.clone());
        let finished = self.vm.run(&command, limit, |output| {
            if let Output::Stdout(bytes) = output {
                stdout.extend_from_slice(bytes);
            }
            if shown {
                super::run::pass_on(output);
            }
        })?;
        if let Some((_, record)) = finished.troubles().next() {
            bail!("{}: the kernel complained: {}", argv.join(" "), record.text);
        }
        ensure!(finished.status() == 0, "{} failed: {:?}", argv.join(" "), finished.exit);
        Ok(Shown {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            took: start.elapsed(),
        })
    }

    fn functions(&mut self) -> Result<Vec<Value>> {
        let text = self
            .sriovctl(&["list", "--json", "-o", "bdf,driver,pf,vf,total_vfs"], false)?
            .stdout;
        let document: Value = serde_json::from_str(&text).context("sriovctl list --json")?;
        document
            .get("functions")
            .and_then(Value::as_array)
            .cloned()
            .context("no functions in sriovctl list --json")
    }

    fn functions_on(&mut self, driver: &str) -> Result<Vec<String>> {
        let functions = self.functions()?;
        let on = functions
            .iter()
            .filter(|function| function.get("driver").and_then(Value::as_str) == Some(driver));
        Ok(on
            .filter_map(|function| Some(function.get("bdf")?.as_str()?.to_owned()))
            .collect())
    }

    fn physical_function(&mut self, driver: &str) -> Result<PhysicalFunction> {
        let functions = self.functions()?;
        let find = functions.iter().find_map(|function| {
            let total = function.get("total_vfs")?.as_u64().filter(|total| *total > 0)?;
            let is_it = function.get("driver")?.as_str() == Some(driver);
            is_it.then_some(PhysicalFunction {
                bdf: function.get("bdf")?.as_str()?.to_owned(),
                total: total.to_string(),
            })
        });
        find.with_context(|| format!("no SR-IOV function on {driver}: the demo needs the devices igb and nvme"))
    }

    fn first_vf(&mut self, pf: &str) -> Result<String> {
        let functions = self.functions()?;
        let is_first = |function: &&Value| {
            function.get("pf").and_then(Value::as_str) == Some(pf)
                && function.get("vf").and_then(Value::as_u64) == Some(0)
        };
        let vf = functions
            .iter()
            .find(is_first)
            .and_then(|function| function.get("bdf")?.as_str());
        Ok(vf.with_context(|| format!("{pf} has no VF 0"))?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_the_tools_own_unless_it_is_to_be_qemus() {
        let words = |vmm| guest_of(vmm, "0000:01:10.0", "bzImage", "guest.cpio").join(" ");
        assert!(!words(Vmm::Own).contains("--vmm"), "the tool's own is its default");
        assert_eq!(words(Vmm::Qemu), format!("{} --vmm qemu", words(Vmm::Own)));
    }

    #[test]
    fn a_machine_without_the_devices_of_the_demo_is_refused_with_what_is_missing() {
        let refused = |devices: &[Device]| check(devices).map_err(|error| error.to_string());
        assert_eq!(refused(&Machine::default().devices), Ok(()));
        assert_eq!(refused(&[Device::Nvme127, Device::SwitchIgb]), Ok(()));
        for (devices, missing) in [
            (&[Device::Igb, Device::Edu][..], "add nvme to"),
            (&[Device::Nvme], "add igb to"),
            (&[], "add igb,nvme to"),
        ] {
            let error = refused(devices).unwrap_err();
            assert!(error.contains(missing), "{error}");
        }
    }
}
