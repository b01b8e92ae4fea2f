//! The last leg: a Linux guest drives a VF.

use crate::PASSED;
use crate::background::{Background, LONG};
use crate::dma::{has_iommufd, on_edu, program};
use crate::machine::{done, json, physical_function, read, refused, run, sriovctl, vfs, write};
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use lab::host_tests::SKIP_MARK;
use rustix::process::Signal;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What QEMU is to be told of the processor of a guest inside the lab. QEMU's emulated SVM now and then delivers an interrupt twice, the second time while
/// the guest holds its locks: `helper_vmrun` leaves it in `exception_index`, where it is found again when another thread of QEMU interrupts the
/// processor's before the guest's next exit. Without EOIs through memory that exit comes early in a handler, and mostly before it has locked anything.
pub(crate) const QEMU_CPU: &str = "host,kvm-pv-eoi=off";

/// Guests that said nothing any more, in this process.
static STALLED: AtomicUsize = AtomicUsize::new(0);

/// One more guest stalled, and is started again.
pub(crate) fn stalled() {
    STALLED.fetch_add(1, Ordering::Relaxed);
}

/// Of a case that holds.
pub(crate) fn passed() -> Result<Outcome> {
    Ok(match STALLED.load(Ordering::Relaxed) {
        0 => Outcome::Passed,
        1 => Outcome::Retried("1 guest stalled and was started again".to_owned()),
        guests => Outcome::Retried(format!("{guests} guests stalled and were started again")),
    })
}

/// Of 2 MiB, for a guest of 512 MiB.
const GUEST_HUGE_PAGES: u32 = 256;

/// Reserved pages of 2 MiB, given back with this.
struct HugePages;

impl HugePages {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn reserve(count: u32) -> Result<Self> {
        write(Self::FILE, &count.to_string())?;
        let reserved = Self;
        let found = read(Self::FILE)?;
        ensure!(found == count.to_string(), "{found} huge pages instead of {count}");
        Ok(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Who runs without them says so.
        drop(write(Self::FILE, "0"));
    }
}

pub(crate) fn drives_a_vf() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    // Nothing here pages on demand.
    let on_demand = ["run", &vf, "--kernel", &kernel, "--timeout", "60", "--pin", "none"];
    let why = ["page requests", "without which all guest memory is pinned"];
    for interface in ["auto", "type1"] {
        refused(&[&on_demand[..], &["--interface", interface]].concat(), 1, &why)?;
    }
    let huge = HugePages::reserve(GUEST_HUGE_PAGES)?;
    // What the kernel prefers, then the older interface by name: on a kernel without iommufd both are the older one. In the tool's own VMM, and in QEMU.
    let cpu = ["--", "-cpu", QEMU_CPU];
    for (interface, rest) in [
        (&["--cpus", "2", "--hugepages", "2M"][..], &[][..]),
        (&["--interface", "type1"], &[]),
        (&["--vmm", "qemu"], &cpu),
        (&["--vmm", "qemu", "--interface", "type1"], &cpu),
    ] {
        let append = "console=ttyS0 quiet panic=-1 lab.role=guest";
        let guest = [
            "--kernel", &kernel, "--initrd", &initrd, "--append", append, "--memory", "512M",
        ];
        let said = boot(&[&["run", &vf, "--timeout", "90"], guest.as_slice(), interface, rest].concat())?;
        for (beginning, end) in [("guest: igbvf took the function", ""), ("guest: ping ", "answered")] {
            ensure!(
                said.lines()
                    .any(|line| line.starts_with(beginning) && line.contains(end)),
                "no line `{beginning}…{end}`: {said}"
            );
        }
        let processors = if interface.contains(&"--cpus") { "0-1" } else { "0" };
        let line = format!("guest: processors {processors}");
        ensure!(said.lines().any(|said| said == line), "no line {line:?}: {said}");
    }
    drop(huge);
    let pages = ["--timeout", "60", "--memory", "512M", "--hugepages", "2M"];
    refused(
        &[&["run", &vf, "--kernel", &kernel], pages.as_slice()].concat(),
        1,
        &["no reserved huge page"],
    )?;
    done(&["vf", "delete", &pf])?;
    // What is not on vfio-pci is not handed out.
    refused(&["run", &pf, "--kernel", &kernel], 1, &["vfio-pci"])?;
    // There is no firmware to stay in.
    refused(&["run", &pf], 2, &["--kernel"])?;
    passed()
}

/// A driver in the guest sees edu's interrupts, by MSI and by INTx, of which the device raises four each.
pub(crate) fn drives_an_edu() -> Result<Outcome> {
    // As the lab's machine, so its guests: the kernel is the same.
    if !has_iommufd() {
        return Ok(Outcome::Skipped("the guest's kernel has no VFIO built in".to_owned()));
    }
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    let directory = tempfile::tempdir()?;
    let initrd = with_driver(&initrd, directory.path())?;
    on_edu(|edu| {
        for interface in ["iommufd", "type1"] {
            let append = "console=ttyS0 quiet panic=-1 lab.role=guest lab.edu";
            let said = boot(&[
                "run",
                edu,
                "--timeout",
                "120",
                "--memory",
                "512M",
                "--kernel",
                &kernel,
                "--initrd",
                &initrd,
                "--append",
                append,
                "--interface",
                interface,
            ])?;
            for kind in ["MSI", "INTx"] {
                let line = format!("guest: edu: {kind}: 4 interrupts, 10! = 3628800");
                ensure!(said.contains(&line), "no {line:?} by {interface}: {said}");
            }
        }
        Ok(())
    })?;
    PASSED
}

/// A guest's initial RAM disk with a driver for edu beside what it has, made in a directory.
fn with_driver(initrd: &str, directory: &Path) -> Result<String> {
    let made = directory.join("guest.cpio");
    lab::add_program(Path::new(initrd), &program("no_iommu-static")?, "no_iommu", &made)?;
    Ok(made.to_str().context("a path")?.to_owned())
}

/// A driver in the guest lets an edu read and write registers of another function, where the guest's processors find them.
pub(crate) fn functions_reach_one_another() -> Result<Outcome> {
    if !has_iommufd() {
        return Ok(Outcome::Skipped("the guest's kernel has no VFIO built in".to_owned()));
    }
    let (kernel, initrd) = (std::env::var("LAB_KERNEL")?, std::env::var("LAB_GUEST_INITRD")?);
    let directory = tempfile::tempdir()?;
    let initrd = with_driver(&initrd, directory.path())?;
    let nvme = physical_function("nvme")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    let outcome = on_edu(|edu| {
        for interface in ["iommufd", "type1"] {
            let append = "console=ttyS0 quiet panic=-1 lab.role=guest lab.peer initcall_blacklist=nvme_init";
            let guest = [
                "--memory", "512M", "--kernel", &kernel, "--initrd", &initrd, "--append", append,
            ];
            let said = boot(
                &[
                    &["run", edu, &nvme, "--timeout", "120", "--interface", interface],
                    &guest[..],
                ]
                .concat(),
            )?;
            let wrote = said.split_once("wrote ").and_then(|(_, rest)| rest.split_once(" at "));
            let both = wrote.and_then(|(values, _)| values.split_once(" of "));
            let is_written = both.is_some_and(|(found, wanted)| found == wanted && found != "0x0");
            ensure!(
                is_written,
                "edu has not written what it has read, by {interface}: {said}"
            );
        }
        Ok(())
    });
    done(&["release", &nvme])?;
    outcome?;
    passed()
}

/// A guest resets a slot: an NVMe controller is reset with its bus and goes on afterwards; of an edu, which nothing resets, it is said.
pub(crate) fn resets_its_slots() -> Result<Outcome> {
    const NOTHING_RESETS: &str = "without a reset of its own";
    const WITH_ITS_BUS: &str = "the bus was reset";
    let (kernel, initrd) = (std::env::var("LAB_KERNEL")?, std::env::var("LAB_GUEST_INITRD")?);
    let append = "console=ttyS0 quiet panic=-1 lab.role=guest lab.reset";
    let run = |function: &str, interface: &str| -> Result<String> {
        let guest = [
            "--memory", "512M", "--kernel", &kernel, "--initrd", &initrd, "--append", append,
        ];
        let run = sriovctl(
            &[
                &[
                    "--verbose",
                    "run",
                    function,
                    "--timeout",
                    "120",
                    "--interface",
                    interface,
                ],
                &guest[..],
            ]
            .concat(),
        )?;
        let said = format!("{}{}", run.stdout, run.stderr);
        ensure!(
            said.contains("was reset by its bus and is as before"),
            "{interface}: {said}"
        );
        Ok(run.stderr)
    };
    let nvme = physical_function("nvme")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    let interfaces: &[&str] = if has_iommufd() {
        &["iommufd", "type1"]
    } else {
        &["type1"]
    };
    let reset = interfaces.iter().try_for_each(|interface| {
        let said = run(&nvme, interface)?;
        let is_reset = said.contains(WITH_ITS_BUS) && !said.contains(NOTHING_RESETS);
        ensure!(is_reset, "{interface}: {said}");
        Ok(())
    });
    done(&["release", &nvme])?;
    reset?;
    on_edu(|edu| {
        let said = run(edu, "type1")?;
        ensure!(
            said.contains(NOTHING_RESETS),
            "nobody says that it was not reset: {said}"
        );
        Ok(())
    })?;
    passed()
}

/// The tests of the library's machines, which have no KVM elsewhere.
pub(crate) fn few_instructions() -> Result<Outcome> {
    let tests = run(Command::new(program("vmm-glue-machine")?).arg("--show-output"))?;
    ensure!(tests.code == 0, "{}{}", tests.stdout, tests.stderr);
    // Here is KVM: what says that it could not run has failed.
    let has_run = !tests.stdout.contains(SKIP_MARK) && !tests.stdout.contains("ok. 0 passed");
    ensure!(has_run, "{}", tests.stdout);
    PASSED
}

/// Guests that stay until somebody ends them: in QEMU without a kernel, in its firmware.
pub(crate) fn ends_with_a_killed_run() -> Result<Outcome> {
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    let append = "quiet panic=-1 lab.role=guest lab.hotplug";
    killed(&["--vmm", "qemu", "--memory", "256M"])?;
    killed(&[
        "--memory", "512M", "--kernel", &kernel, "--initrd", &initrd, "--append", append,
    ])
}

/// A guest that is asked to end gives its function back before it does, and has had no file that it was not meant to have.
pub(crate) fn ends_in_order() -> Result<Outcome> {
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    // What the shell has open the program is started with.
    let script = r#"exec 7</etc/os-release; exec sriovctl run "$@""#;
    let append = "console=ttyS0 quiet panic=-1 lab.role=guest lab.hotplug";
    let mut run = Command::new("sh");
    run.args(["-c", script, "sh", &vf, "--memory", "512M"]);
    run.args(["--kernel", &kernel, "--initrd", &initrd, "--append", append]);
    let mut guest = Background::start(&mut run)?;
    guest.wait_for("guest: waits for functions", Duration::from_secs(180))?;
    let shown = json(&["show", &vf])?;
    let holder = shown
        .pointer("/functions/0/held_by/0/pid")
        .and_then(serde_json::Value::as_u64)
        .context("nobody holds it")?;
    for entry in std::fs::read_dir(format!("/proc/{holder}/fd"))? {
        let target = std::fs::read_link(entry?.path())?;
        ensure!(
            !target.ends_with("os-release"),
            "the guest's process has {}",
            target.display()
        );
    }
    guest.signal(Signal::TERM)?;
    let ended = guest.end(LONG)?;
    let in_order = ended.code == Some(143) && ended.said.contains("the guest was ended");
    ensure!(in_order, "{:?}: {}", ended.code, ended.said);
    done(&["vf", "delete", &pf])?;
    PASSED
}

fn killed(guest: &[&str]) -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    let is_held = || -> Result<bool> {
        let shown = json(&["show", &vf])?;
        let holders = shown
            .pointer("/functions/0/held_by")
            .and_then(|held_by| held_by.as_array());
        Ok(!holders.context("no held_by")?.is_empty())
    };
    let mut run = Command::new("sriovctl")
        .args(["run", &vf])
        .args(guest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut console = run.stdout.take().context("no output")?;
    let deadline = Instant::now() + Duration::from_secs(90);
    while !is_held()? {
        ensure!(run.try_wait()?.is_none(), "the guest has ended by itself");
        ensure!(Instant::now() < deadline, "the guest does not open its function");
    }
    run.kill()?;
    run.wait()?;
    // At its end when the last process that writes to it is gone.
    console.read_to_end(&mut Vec::new())?;
    // Another guest can have it at once: what the kernel still does with it is waited for.
    let next = sriovctl(&[&["run", &vf, "--timeout", "10"], guest].concat())?;
    ensure!(next.stderr.contains("did not end within"), "{}", next.stderr);
    // The kernel closes the other files of a process that ends after that, and in nobody's sight.
    loop {
        let delete = sriovctl(&["vf", "delete", &pf])?;
        if delete.code == 0 {
            return PASSED;
        }
        ensure!(delete.code == 16 && Instant::now() < deadline, "{}", delete.stderr);
    }
}

/// Boots a guest. An emulated guest inside an emulated machine may not come up at all, whatever it was given (see [`QEMU_CPU`]), which the report says;
/// one that came up must do all it is there for, and one that was refused, or ended by itself, is not tried again.
#[expect(clippy::print_stdout, reason = "the report has what the guest that stalled said")]
pub(crate) fn boot(arguments: &[&str]) -> Result<String> {
    for _ in 0..2 {
        let run = sriovctl(arguments)?;
        if run.code == 0 {
            return Ok(run.stdout);
        }
        let is_silent = !run.stdout.contains("guest: ") && run.stderr.contains("did not end within");
        ensure!(is_silent, "{}{}", run.stdout, run.stderr);
        println!("a guest stalled: {}{}", run.stdout, run.stderr);
        stalled();
    }
    done(arguments)
}
