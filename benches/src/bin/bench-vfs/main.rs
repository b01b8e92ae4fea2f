//! How long bringing VFs up takes: by sriovctl, by bare writes to sysfs, and by what others offer, all in one run; and until all are open.
//!
//! VFs of an NVMe controller, for it can have 127; and those of an 82576, for dpdk-devbind binds no NVMe.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use benches::device::open;
use benches::program::{Case, Program, Turns, in_turns};
use benches::record::Clock;
use pci::Bdf;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use system_tests::machine::{attribute, dir, done, link, physical_function, vfs, write};

/// The same by hand, without a process per VF: what an operator's script does.
const SCRIPT: &str = "echo 0 > sriov_drivers_autoprobe && echo $0 > sriov_numvfs && \
    for vf in virtfn*; do (cd -P $vf && echo vfio-pci > driver_override && echo ${PWD##*/} > /sys/bus/pci/drivers_probe) || exit 1; done";

const DRIVERCTL: &str = "/usr/sbin/driverctl";
const DEVBIND: &str = "dpdk-devbind.py";

/// Who brings VFs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    /// As that; a thread for each VF opens it.
    OursAtOnce,
    /// A shell's loop over files of sysfs.
    Script,
    /// The same writes by one process, with no care for anything.
    Bare,
    /// A process for each VF.
    Driverctl,
    /// One process for all.
    Devbind,
}

impl Way {
    fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursAtOnce)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursAtOnce => "ours, opened at once",
            Self::Script => "shell script",
            Self::Bare => "bare writes",
            Self::Driverctl => "driverctl",
            Self::Devbind => "dpdk-devbind",
        }
    }
}

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let versions: [(&str, &[&str]); 2] = [
        ("driverctl", &["dpkg-query", "-W", "-f", "${Version}", "driverctl"]),
        ("dpdk-devbind", &["dpkg-query", "-W", "-f", "${Version}", "dpdk"]),
    ];
    let mut program = Program::in_lab("vfs", &versions)?;
    let peers = peers(&mut program)?;
    let pf = physical_function("nvme")?;
    if peers.contains(&Way::Devbind) {
        program.absent(
            "VFs of an NVMe controller",
            Way::Devbind.name(),
            "it binds no NVMe function that it does not know: see the VFs of an 82576",
        )?;
    }
    let total: usize = attribute(&pf, "sriov_totalvfs")?.parse()?;
    let turns = if is_quick { 1 } else { 3 };
    let of_nvme = |ways: &[Way]| {
        let peers = peers.iter().copied().filter(|way| *way != Way::Devbind);
        ways.iter().copied().chain(peers).collect::<Vec<Way>>()
    };

    let counts = if is_quick { vec![1, 16] } else { vec![1, 8, 16, total] };
    for count in counts {
        let ways = of_nvme(&[Way::Script, Way::Bare, Way::Ours]);
        measure(&mut program, turns, &case(count, "created and bound"), &ways, |way| {
            create_and_bind(&pf, count, way)
        })?;
    }
    let few = 16.min(total);
    measure(
        &mut program,
        turns,
        &case(few, "bound"),
        &of_nvme(&[Way::Ours]),
        |way| bind_only(&pf, few, way),
    )?;
    let many = if is_quick { few } else { total };
    let to_the_end = case(many, "created, bound, opened and a register read of each");
    let ways = of_nvme(&[Way::Ours, Way::OursAtOnce]);
    measure(&mut program, turns, &to_the_end, &ways, |way| {
        create_and_open(&pf, many, way)
    })?;

    let pf = physical_function("igb")?;
    let count: usize = attribute(&pf, "sriov_totalvfs")?.parse()?;
    let of_igb = Case {
        name: format!("{count} VFs of an 82576 created and bound"),
        ..case(count, "")
    };
    let ways = [&[Way::Script, Way::Bare, Way::Ours], peers.as_slice()].concat();
    measure(&mut program, turns, &of_igb, &ways, |way| {
        create_and_bind(&pf, count, way)
    })?;
    program.end()
}

fn case(count: usize, what: &str) -> Case {
    let plural = if count == 1 { "" } else { "s" };
    Case {
        name: format!("{count} VF{plural} {what}"),
        given: [].into(),
        clock: Clock::Wall,
        unit: "s",
    }
}

/// Those that are there.
fn peers(program: &mut Program) -> Result<Vec<Way>> {
    let mut peers = Vec::new();
    if Path::new(DRIVERCTL).exists() {
        // It asks modprobe for the driver, which is there; the lab has no index of modules that would say so.
        std::fs::copy("/bin/true", "/sbin/modprobe")?;
        peers.push(Way::Driverctl);
    } else {
        program.absent("", Way::Driverctl.name(), "not installed")?;
    }
    let status = Command::new(DEVBIND).arg("--help").stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => peers.push(Way::Devbind),
        Ok(status) => program.absent("", Way::Devbind.name(), &status.to_string())?,
        Err(error) => program.absent("", Way::Devbind.name(), &error.to_string())?,
    }
    Ok(peers)
}

/// Seconds of each way, which each leave the VFs on vfio-pci. A peer that fails is absent.
fn measure(
    program: &mut Program,
    turns: usize,
    case: &Case,
    ways: &[Way],
    once: impl Fn(Way) -> Result<f64>,
) -> Result<()> {
    let mut seen = Turns::default();
    let mut ways = ways.to_vec();
    for turn in 0..turns {
        for way in in_turns(&ways, turn) {
            match once(way) {
                Ok(seconds) => {
                    program.note(&format!("{}: {} in {seconds:.3} s", way.name(), case.name))?;
                    seen.add(way.name(), seconds);
                }
                Err(error) if !way.is_ours() => {
                    program.absent(&case.name, way.name(), &format!("{error:#}"))?;
                    ways.retain(|other| *other != way);
                }
                Err(error) => return Err(error),
            }
        }
    }
    program.say(case, seen)
}

/// From none to all on vfio-pci, and none again.
fn create_and_bind(pf: &str, count: usize, way: Way) -> Result<f64> {
    let seconds = timed(|| bring_up(pf, count, way));
    end(pf, count, seconds)
}

/// As above, and each has answered a read of its registers before they go. Closing them is not in it.
fn create_and_open(pf: &str, count: usize, way: Way) -> Result<f64> {
    let mut held = None;
    let seconds = timed(|| {
        bring_up(pf, count, way)?;
        let functions: Vec<Bdf> = vfs(pf).iter().map(|vf| vf.parse()).collect::<Result<_, _>>()?;
        held = Some(match way {
            Way::Ours => open::one_by_one(&functions)?,
            Way::OursAtOnce => open::all_at_once(&functions)?,
            _ => open::theirs(&functions)?,
        });
        Ok(())
    });
    drop(held);
    end(pf, count, seconds)
}

fn bring_up(pf: &str, count: usize, way: Way) -> Result<()> {
    let number = count.to_string();
    match way {
        Way::Ours | Way::OursAtOnce => done(&["vf", "create", pf, &number, "--driver", "vfio-pci"]).map(drop),
        Way::Script => {
            let script = format!("cd {} && {SCRIPT}", dir(pf).display());
            command(Command::new("sh").args(["-c", &script, &number]))
        }
        Way::Bare | Way::Driverctl | Way::Devbind => {
            create(pf, &number)?;
            bind(pf, way)
        }
    }
}

/// As above, without what creating takes.
fn bind_only(pf: &str, count: usize, way: Way) -> Result<f64> {
    create(pf, &count.to_string())?;
    let seconds = timed(|| match way {
        Way::Ours => done(&["bind", &format!("pf:{pf}"), "--driver", "vfio-pci"]).map(drop),
        way => bind(pf, way),
    });
    end(pf, count, seconds)
}

fn bind(pf: &str, way: Way) -> Result<()> {
    match way {
        Way::Devbind => command(Command::new(DEVBIND).args(["-b", "vfio-pci"]).args(vfs(pf))),
        Way::Driverctl => vfs(pf)
            .iter()
            .try_for_each(|vf| command(Command::new(DRIVERCTL).args(["--nosave", "set-override", vf, "vfio-pci"]))),
        _ => vfs(pf).iter().try_for_each(|vf| {
            write(dir(vf).join("driver_override"), "vfio-pci")?;
            write("/sys/bus/pci/drivers_probe", vf)
        }),
    }
}

fn create(pf: &str, count: &str) -> Result<()> {
    write(dir(pf).join("sriov_drivers_autoprobe"), "0")?;
    write(dir(pf).join("sriov_numvfs"), count)
}

/// Sees that all are as they should be, and takes them away, whatever was.
fn end(pf: &str, count: usize, seconds: Result<f64>) -> Result<f64> {
    let check = || {
        let vfs = vfs(pf);
        ensure!(vfs.len() == count, "{} VFs, not {count}", vfs.len());
        let other = vfs.iter().find(|vf| link(vf, "driver").as_deref() != Some("vfio-pci"));
        ensure!(other.is_none(), "{} is not on vfio-pci", other.context("a VF")?);
        Ok(())
    };
    let checked = seconds.and_then(|seconds| check().map(|()| seconds));
    write(dir(pf).join("sriov_numvfs"), "0")?;
    write(dir(pf).join("sriov_drivers_autoprobe"), "1")?;
    checked
}

fn command(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        why.lines().next_back().unwrap_or("without a word")
    );
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}
