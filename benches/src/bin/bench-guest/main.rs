//! How long it takes until a guest says its first line, and what its VMM needs beside the guest's memory: ours, and QEMU on the same
//! kernel, initial file system, memory, CPU and functions, with nothing else in the machine.
//!
//! And how long it takes from a device's register to the guest's driver that handles its interrupt.
//!
//! `bench-guest [--quick] [--instructions]`. The clock runs from the start of the program to the line's arrival in this one; with
//! `--instructions` it is that of a machine whose clock counts these, waits of devices and guests included.
#![forbid(unsafe_code)]

mod handler;
mod vmm;

use anyhow::{Context, Result};
use benches::program::{Case, Program, Turns, in_turns};
use benches::record::Clock;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;
use system_tests::machine::{done, functions, link, vfs};
use vmm::{CONTROL, LIMIT, Vmm};

/// What the guest says first, from user space.
const LINE: &str = "guest: Linux ";
const MEMORY: &str = "512M";
/// Interrupts are ended by an exit: QEMU's emulated SVM now and then delivers one twice where they are ended through memory.
const CPU: &str = "host,kvm-pv-eoi=off";

/// A VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    /// The machine that has what ours has: PCI Express, with the guest's memory in a memfd as ours has it.
    Q35,
    /// Its smallest machine, with the firmware made to boot fast, and memory as QEMU takes it by itself.
    Microvm,
}

/// What was seen of one start.
struct Start {
    seconds: f64,
    mib: f64,
}

fn main() -> Result<()> {
    let has = |option: &str| std::env::args().any(|argument| argument == option);
    let (is_quick, is_counting) = (has("--quick"), has("--instructions"));
    let mut out = Program::in_lab("guest", &[("QEMU", &["qemu-system-x86_64", "--version"])])?;
    let (counts, turns): (&[usize], usize) = match (is_quick, is_counting) {
        (true, _) => (&[0, 1], 1),
        (false, true) => (&[0, 1], 2),
        (false, false) => (&[0, 1, 4, 16], 3),
    };
    let all = virtual_functions(counts.iter().copied().max().unwrap_or(0))?;
    let mut ways = vec![Way::Ours, Way::Q35, Way::Microvm];
    if is_counting {
        // The first start of each reads its program. One that cannot start at all fails again below.
        for &way in &ways {
            if let Err(error) = start(way, &[]) {
                out.note(&format!("{}: does not start: {error:#}", way.name()))?;
            }
        }
    }
    let (clock, unit, per_second) = if is_counting {
        (Clock::Instructions, "million instructions", 1000.0)
    } else {
        (Clock::Wall, "s", 1.0)
    };
    for &count in counts {
        let case = |what: &str, clock, unit| Case {
            name: format!("{what}, {count} function{}", if count == 1 { "" } else { "s" }),
            given: [].into(),
            clock,
            unit,
        };
        let Some(functions) = all.get(..count) else {
            let why = format!("there are {} VFs", all.len());
            out.absent(&case("first line", clock, unit).name, "ours", &why)?;
            continue;
        };
        let (mut times, mut memory) = (Turns::default(), Turns::default());
        let mut failed: BTreeMap<&str, u32> = ways.iter().map(|way| (way.name(), 0)).collect();
        for turn in 0..turns {
            for way in in_turns(&ways, turn) {
                // On a busy host an emulated guest inside an emulated machine once in a while does not come up at all.
                let mut started = start(way, functions);
                if let Err(error) = &started {
                    out.note(&format!("{}, {count} functions: starts again: {error:#}", way.name()))?;
                    *failed.entry(way.name()).or_default() += 1;
                    started = start(way, functions);
                }
                match started {
                    Ok(start) => {
                        out.note(&format!(
                            "{}, {count} functions: {:.2} s, {:.1} MiB",
                            way.name(),
                            start.seconds,
                            start.mib
                        ))?;
                        times.add(way.name(), start.seconds * per_second);
                        memory.add(way.name(), start.mib);
                    }
                    Err(error) if way != Way::Ours => {
                        let case = case("first line", clock, unit);
                        out.absent(&case.name, way.name(), &format!("{error:#}"))?;
                        ways.retain(|other| *other != way);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        out.say(&case("first line", clock, unit), times)?;
        if !is_counting {
            out.say(&case("memory beside the guest's", Clock::Count, "MiB"), memory)?;
        }
        // They are in none of the figures above.
        let mut repeats = Turns::default();
        for (way, count) in failed {
            repeats.add(way, f64::from(count));
        }
        out.say(
            &case("starts that failed and were repeated", Clock::Count, "starts"),
            repeats,
        )?;
    }
    if is_counting {
        return out.end();
    }
    if let Err(error) = handler::measure(&mut out, turns, all.first()) {
        out.absent("a guest's handler by irqfd", "ours", &format!("{error:#}"))?;
    }
    out.end()
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Q35 => "QEMU q35",
            Self::Microvm => "QEMU microvm",
        }
    }

    /// A guest that does what `append` says, from an initial file system that a variable names.
    fn command(self, functions: &[String], initrd: &str, append: &str) -> Result<Command> {
        let mut command = match self {
            Self::Ours => {
                let mut command = Command::new("sriovctl");
                command
                    .arg("run")
                    .args(functions)
                    .args(["--memory", MEMORY, "--cpus", "1"]);
                if functions.is_empty() {
                    command.args(["--control", CONTROL]);
                }
                command
            }
            Self::Q35 => {
                let mut command = qemu("q35,accel=kvm,memory-backend=ram", functions);
                command.args([
                    "-object",
                    &format!("memory-backend-memfd,id=ram,size={MEMORY},share=on"),
                    "-serial",
                    "stdio",
                ]);
                command
            }
            Self::Microvm => {
                let mut command = qemu("microvm,accel=kvm,pcie=on,rtc=on,isa-serial=off", functions);
                // A serial port that only ACPI tells of has no interrupt for a kernel without 8250_pnp: its user space says nothing there.
                command.args(["-chardev", "stdio,id=console", "-device", "virtio-serial-pci"]);
                command.args(["-device", "virtconsole,chardev=console"]);
                command
            }
        };
        let [kernel, initrd] = ["LAB_KERNEL", initrd].map(|name| std::env::var(name).with_context(|| name.to_owned()));
        command.args([long(self, "kernel"), &kernel?, long(self, "initrd"), &initrd?]);
        let console = if self == Self::Microvm { "hvc0" } else { "ttyS0" };
        let append = format!("console={console} quiet panic=-1 lab.role=guest{append}");
        command.args([long(self, "append"), &append]);
        Ok(command)
    }
}

/// QEMU takes both, but says what it takes with one dash.
fn long(way: Way, name: &'static str) -> &'static str {
    match (way, name) {
        (Way::Ours, "kernel") => "--kernel",
        (Way::Ours, "initrd") => "--initrd",
        (Way::Ours, _) => "--append",
        (_, "kernel") => "-kernel",
        (_, "initrd") => "-initrd",
        _ => "-append",
    }
}

fn qemu(machine: &str, functions: &[String]) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", machine, "-cpu", CPU, "-m", MEMORY, "-smp", "1"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    for (number, function) in functions.iter().enumerate() {
        let port = format!("pcie-root-port,id=port{number},chassis={number},slot={number}");
        command.args(["-device", &port]);
        // What a function brings to boot from is for firmware, and ours has none.
        command.args([
            "-device",
            &format!("vfio-pci,host={function},bus=port{number},rombar=0"),
        ]);
    }
    command
}

/// As many VFs as that on vfio-pci, or all that there can be.
fn virtual_functions(wanted: usize) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for function in functions()? {
        if found.len() < wanted && link(&function, "driver").as_deref() == Some("igb") {
            done(&["vf", "create", &function, "7", "--driver", "vfio-pci"])?;
            found.extend(vfs(&function));
        }
    }
    Ok(found)
}

fn start(way: Way, functions: &[String]) -> Result<Start> {
    let mut command = way.command(functions, "LAB_GUEST_INITRD", "")?;
    let begin = Instant::now();
    let mut vmm = Vmm::start(&mut command)?;
    vmm.wait_for(LINE, begin + LIMIT)?;
    let seconds = begin.elapsed().as_secs_f64();
    let mib = vmm.memory()?;
    vmm.end()?;
    Ok(Start { seconds, mib })
}
