//! How long it takes until a guest says its first line, and what its VMM needs beside the guest's memory: ours, and QEMU on the same
//! kernel, initial file system, memory, CPU and functions, with nothing else in the machine.
//!
//! `bench-guest [--quick]`. The clock runs from the start of the program to the line's arrival in this one.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use benches::program::{Case, Program, Turns, in_turns};
use benches::record::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use system_tests::machine::{done, functions, link, read, vfs};

/// What the guest says first, from user space.
const LINE: &str = "guest: Linux ";
const MEMORY: &str = "512M";
/// A guest inside an emulated machine takes some ten seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Mappings as large as this are the guest's memory: it has 512 MiB, in one piece.
const RAM: u64 = 256 << 20;
/// Interrupts are ended by an exit: QEMU's emulated SVM now and then delivers one twice where they are ended through memory.
const CPU: &str = "host,kvm-pv-eoi=off";
const CONTROL: &str = "/tmp/bench-control";

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
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let mut out = Program::in_lab("guest", &[("QEMU", &["qemu-system-x86_64", "--version"])])?;
    let (counts, turns): (&[usize], usize) = if is_quick { (&[0, 1], 1) } else { (&[0, 1, 4, 16], 3) };
    let all = virtual_functions(counts.iter().copied().max().unwrap_or(0))?;
    let mut ways = vec![Way::Ours, Way::Q35, Way::Microvm];
    for &count in counts {
        let case = |what: &str, clock, unit| Case {
            name: format!("{what}, {count} function{}", if count == 1 { "" } else { "s" }),
            given: [].into(),
            clock,
            unit,
        };
        let Some(functions) = all.get(..count) else {
            let why = format!("there are {} VFs", all.len());
            out.absent(&case("first line", Clock::Wall, "s").name, "ours", &why)?;
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
                        times.add(way.name(), start.seconds);
                        memory.add(way.name(), start.mib);
                    }
                    Err(error) if way != Way::Ours => {
                        let case = case("first line", Clock::Wall, "s");
                        out.absent(&case.name, way.name(), &format!("{error:#}"))?;
                        ways.retain(|other| *other != way);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        out.say(&case("first line", Clock::Wall, "s"), times)?;
        out.say(&case("memory beside the guest's", Clock::Count, "MiB"), memory)?;
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

    fn command(self, functions: &[String]) -> Result<Command> {
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
                ]);
                command
            }
            Self::Microvm => qemu("microvm,accel=kvm,pcie=on,rtc=on,isa-serial=on", functions),
        };
        let [kernel, initrd] = ["LAB_KERNEL", "LAB_GUEST_INITRD"].map(|name| std::env::var(name).context(name));
        command.args([long(self, "kernel"), &kernel?, long(self, "initrd"), &initrd?]);
        command.args([long(self, "append"), "console=ttyS0 quiet panic=-1 lab.role=guest"]);
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
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]);
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
    let mut command = way.command(functions)?;
    let begin = Instant::now();
    let mut vmm = Vmm::start(&mut command)?;
    vmm.wait_for(LINE, begin + LIMIT)?;
    let seconds = begin.elapsed().as_secs_f64();
    let mib = vmm.memory()?;
    vmm.end()?;
    Ok(Start { seconds, mib })
}

/// A VMM that runs.
struct Vmm {
    child: Child,
    lines: Receiver<String>,
    /// What it said so far.
    said: String,
}

impl Vmm {
    fn start(command: &mut Command) -> Result<Self> {
        // One that was killed leaves it behind.
        drop(std::fs::remove_file(CONTROL));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let stdout = child.stdout.take().context("no output")?;
        let (to, lines) = channel();
        std::thread::spawn(move || pass(stdout, |line| to.send(line).is_ok()));
        Ok(Self {
            child,
            lines,
            said: String::new(),
        })
    }

    fn wait_for(&mut self, text: &str, deadline: Instant) -> Result<()> {
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(line) => self.said += &line,
                Err(RecvTimeoutError::Timeout) => anyhow::bail!("no {text:?} in {} s: {}", LIMIT.as_secs(), self.said),
                Err(RecvTimeoutError::Disconnected) => {
                    let mut why = String::new();
                    if let Some(mut stderr) = self.child.stderr.take() {
                        stderr.read_to_string(&mut why)?;
                    }
                    anyhow::bail!("it ended: {}{why}", self.said)
                }
            }
        }
    }

    /// MiB of its processes, shared pages in parts, without the guest's memory.
    fn memory(&self) -> Result<f64> {
        let mut kib = 0;
        for process in family(self.child.id())? {
            kib += beside(&read(format!("/proc/{process}/smaps"))?);
        }
        Ok(f64::from(u32::try_from(kib)?) / 1024.0)
    }

    /// Kills it, and waits until nothing of it is there: its output is at its end when the last process has closed it.
    fn end(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let deadline = Instant::now() + LIMIT;
        while self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
        {}
        ensure!(Instant::now() < deadline, "it does not end");
        Ok(())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn pass(stdout: ChildStdout, mut to: impl FnMut(String) -> bool) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    while stdout.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if !to(String::from_utf8_lossy(&line).into_owned()) {
            return;
        }
        line.clear();
    }
}

/// A process, and those that it started.
fn family(process: u32) -> Result<BTreeSet<u32>> {
    let mut family = BTreeSet::from([process]);
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = read(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            Some((number, parent.trim().parse().ok()?))
        })
        .collect();
    loop {
        let children = parents
            .iter()
            .filter(|(_, parent)| family.contains(parent))
            .map(|(number, _)| *number);
        let children: Vec<u32> = children.filter(|number| !family.contains(number)).collect();
        if children.is_empty() {
            return Ok(family);
        }
        family.extend(children);
    }
}

/// KiB of a process that are in memory, each page by the part that it has in it, without mappings as large as the guest's memory.
fn beside(smaps: &str) -> u64 {
    let (mut sum, mut size) = (0, 0);
    let kib = |text: &str| {
        text.split_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0)
    };
    for line in smaps.lines() {
        if let Some(text) = line.strip_prefix("Size:") {
            size = kib(text);
        } else if let Some(text) = line.strip_prefix("Pss:")
            && size << 10 < RAM
        {
            sum += kib(text);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "7f00-7f01 rw-p 0 0:0 0 [heap]\nSize:    132 kB\nRss:  99 kB\nPss:      12 kB\nPss_Dirty:  3 kB\n\
            7e00-7f00 rw-s 0 0:0 0 /memfd:guest (deleted)\nSize: 524288 kB\nPss:   200000 kB\n\
            7d00-7e00 r-xp 0 0:0 0 /bin/vmm\nSize:  4096 kB\nPss:    1000 kB\n";
        assert_eq!(beside(smaps), 1012);
    }
}
