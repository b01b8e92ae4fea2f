//! How long bringing VFs up takes: by sriovctl, by bare writes to sysfs, and by what others offer, all in one run; and until all have done
//! their first I/O.
//!
//! In the lab: VFs of an NVMe controller, for it can have 127; and those of an 82576, for dpdk-devbind binds no NVMe. Elsewhere those of the PF that
//! its user names, which has none now and has none afterwards.
#![forbid(unsafe_code)]

mod first;

use anyhow::{Context, Result, ensure};
use benches::device::open::{self, Held};
use benches::named::Named;
use benches::peers;
use benches::program::{Case, Common, Program, Turns, in_turns};
use benches::record::Clock;
use clap::Parser;
use first::{First, Opener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use system_tests::machine::{attribute, dir, done, link, physical_function, vfs, write};

/// Measure how long bringing up virtual functions takes
///
/// Of a PF that is named with --device, VFs are made, bound to vfio-pci, opened and taken away again, up to eighty times. It must have none when this
/// begins, nobody may be using it, and it has none afterwards; a network interface on it loses its link meanwhile. Each time is an operation in sriovctl's journal, which keeps the
/// last hundred. Needs root, sriovctl on the path, iommufd. If this is killed: sriovctl vf delete BDF, and 1 into its sriov_drivers_autoprobe.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Only cases that have this in their names
    #[arg(long)]
    filter: Option<String>,
}

/// The same by hand, without a process per VF: what an operator's script does.
const SCRIPT: &str = "echo 0 > sriov_drivers_autoprobe && echo $0 > sriov_numvfs && \
    for vf in virtfn*; do (cd -P $vf && echo vfio-pci > driver_override && echo ${PWD##*/} > /sys/bus/pci/drivers_probe) || exit 1; done";

const DRIVERCTL: &str = "/usr/sbin/driverctl";
const DEVBIND: &str = "dpdk-devbind.py";

/// Who brings VFs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    /// As that; some threads open them.
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
            Self::OursAtOnce => "ours, 16 threads",
            Self::Script => "shell script",
            Self::Bare => "bare writes",
            Self::Driverctl => "driverctl",
            Self::Devbind => "dpdk-devbind",
        }
    }
}

/// A PF whose VFs are made, and what becomes of them.
struct Bench {
    pf: String,
    turns: usize,
    peers: Vec<Way>,
    filter: Option<String>,
    /// Where it is the user's.
    named: Option<Named>,
}

fn main() -> Result<()> {
    let Arguments { common, filter } = Arguments::parse();
    let Common { device, is_quick } = common;
    let versions: [(&str, &[&str]); 2] = [
        ("driverctl", &["dpkg-query", "-W", "-f", "${Version}", "driverctl"]),
        ("dpdk-devbind", &["dpkg-query", "-W", "-f", "${Version}", "dpdk"]),
    ];
    let mut program = Program::on_device("vfs", device, &versions, peers::OF_VFS)?;
    let mut bench = Bench {
        pf: String::new(),
        turns: if is_quick { 1 } else { 3 },
        peers: peers(&mut program, device.is_none())?,
        filter,
        named: device.map(|device| Named::new(device, &[])).transpose()?,
    };
    if let Some(named) = &bench.named {
        bench.pf = named.bdf().to_owned();
        return bench.of_users(&mut program).and_then(|()| program.end());
    }
    bench.pf = physical_function("nvme")?;
    bench.of_nvme(&mut program, is_quick)?;
    bench.pf = physical_function("igb")?;
    bench.of_igb(&mut program)?;
    program.end()
}

impl Bench {
    /// How many VFs the PF can have.
    fn total(&self) -> Result<usize> {
        let total = attribute(&self.pf, "sriov_totalvfs");
        Ok(total.with_context(|| format!("{} is no PF", self.pf))?.parse()?)
    }

    fn with_peers(&self, ways: &[Way]) -> Vec<Way> {
        [ways, self.peers.as_slice()].concat()
    }

    fn of_nvme(&self, program: &mut Program, is_quick: bool) -> Result<()> {
        if self.peers.contains(&Way::Devbind) {
            program.absent(
                "VFs of an NVMe controller",
                Way::Devbind.name(),
                "it binds no NVMe function that it does not know: see the VFs of an 82576",
            )?;
        }
        let total = self.total()?;
        self.warm_up(program)?;
        let of_nvme = |ways| {
            let mut ways = self.with_peers(ways);
            ways.retain(|way| *way != Way::Devbind);
            ways
        };
        let counts = if is_quick { vec![1, 16] } else { vec![1, 8, 16, total] };
        for count in counts {
            let ways = of_nvme(&[Way::Script, Way::Bare, Way::Ours]);
            self.measure(program, &case(count, "created and bound"), &ways, |way| {
                self.create_and_bind(count, way)
            })?;
        }
        let few = 16.min(total);
        self.measure(program, &case(few, "bound"), &of_nvme(&[Way::Ours]), |way| {
            self.bind_only(few, way)
        })?;
        let peers = of_nvme(&[]);
        self.until_first(program, self.turns, few, First::Register, &peers)?;
        self.until_first(program, self.turns, few, First::Block, &peers)?;
        if is_quick {
            return Ok(());
        }
        // Each VF is reset several times on its way, which takes 100 ms each: a turn of all of them takes minutes.
        self.until_first(program, 1, total, First::Block, &peers)
    }

    fn of_igb(&self, program: &mut Program) -> Result<()> {
        let count = self.total()?;
        let of_igb = |what: &str| Case {
            name: format!("{count} VFs of an 82576 {what}"),
            ..case(count, "")
        };
        let ways = self.with_peers(&[Way::Script, Way::Bare, Way::Ours]);
        self.measure(program, &of_igb("created and bound"), &ways, |way| {
            self.create_and_bind(count, way)
        })?;
        let first = First::Mailbox;
        first.prepare(&self.pf)?;
        let ways = self.with_peers(&[Way::Ours, Way::OursAtOnce]);
        let case = of_igb(&format!("created, bound, {}", first.name()));
        self.measure(program, &case, &ways, |way| self.create_and_open(count, first, way))
    }

    /// On a device of which nothing is known but that it makes VFs.
    fn of_users(&self, program: &mut Program) -> Result<()> {
        let total = self.total()?;
        if let Some(named) = &self.named {
            // Nobody shall lose a link or a disk while VFs come and go.
            named.would(&["unbind", &self.pf])?;
            named.would(&["vf", "create", &self.pf, "1", "--driver", "vfio-pci"])?;
        }
        self.warm_up(program)?;
        let mut counts = [1, 8, 16, total].map(|count| count.min(total)).to_vec();
        counts.dedup();
        for count in counts {
            let ways = self.with_peers(&[Way::Script, Way::Bare, Way::Ours]);
            self.measure(program, &case(count, "created and bound"), &ways, |way| {
                self.create_and_bind(count, way)
            })?;
        }
        self.until_first(program, self.turns, total, First::Register, &self.peers)
    }

    fn until_first(
        &self,
        program: &mut Program,
        turns: usize,
        count: usize,
        first: First,
        peers: &[Way],
    ) -> Result<()> {
        first.prepare(&self.pf)?;
        let case = case(count, &format!("created, bound, {}", first.name()));
        let ways = [&[Way::Ours, Way::OursAtOnce], peers].concat();
        self.measure_in(turns, program, &case, &ways, |way| {
            self.create_and_open(count, first, way)
        })
    }

    /// In as many turns as there are.
    fn measure(
        &self,
        program: &mut Program,
        case: &Case,
        ways: &[Way],
        once: impl Fn(Way) -> Result<f64>,
    ) -> Result<()> {
        self.measure_in(self.turns, program, case, ways, once)
    }

    /// Seconds of each way, which each leave the VFs on vfio-pci. A peer that fails is absent.
    fn measure_in(
        &self,
        turns: usize,
        program: &mut Program,
        case: &Case,
        ways: &[Way],
        once: impl Fn(Way) -> Result<f64>,
    ) -> Result<()> {
        if self.filter.as_ref().is_some_and(|text| !case.name.contains(text)) {
            return Ok(());
        }
        let mut seen = Turns::default();
        let mut ways = ways.to_vec();
        for turn in 0..turns {
            for way in in_turns(&ways, turn) {
                if let Some(named) = &self.named {
                    named.go_on()?;
                }
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

    /// Has each way bring up a VF once: the first start of a program brings it into memory, and takes several times as long.
    fn warm_up(&self, program: &mut Program) -> Result<()> {
        for way in self.with_peers(&[Way::Script, Way::Ours]) {
            if let Some(named) = &self.named {
                named.go_on()?;
            }
            // What fails fails again where it is measured.
            if let Err(error) = self.create_and_bind(1, way) {
                program.note(&format!("{}: {error:#}", way.name()))?;
            }
        }
        Ok(())
    }

    /// From none to all on vfio-pci, and none again.
    fn create_and_bind(&self, count: usize, way: Way) -> Result<f64> {
        let seconds = timed(|| bring_up(&self.pf, count, way));
        self.end(count, seconds)
    }

    /// As above, and each has done its first I/O before they go. Closing them is not in it.
    fn create_and_open(&self, count: usize, first: First, way: Way) -> Result<f64> {
        let mut held = Held::new();
        let opener = match way {
            Way::Ours => Opener::OneByOne,
            Way::OursAtOnce => Opener::AtOnce,
            _ => Opener::Theirs,
        };
        let seconds = timed(|| {
            bring_up(&self.pf, count, way)?;
            held = first.of_each(&self.pf, opener)?;
            Ok(())
        });
        open::close(held);
        self.end(count, seconds)
    }

    /// As the first of these, without what creating takes.
    fn bind_only(&self, count: usize, way: Way) -> Result<f64> {
        let pf = self.pf.as_str();
        create(pf, &count.to_string())?;
        let seconds = timed(|| match way {
            Way::Ours => done(&["bind", &format!("pf:{pf}"), "--driver", "vfio-pci"]).map(drop),
            way => bind(pf, way),
        });
        self.end(count, seconds)
    }

    /// Sees that all are as they should be, and takes them away, whatever was.
    fn end(&self, count: usize, seconds: Result<f64>) -> Result<f64> {
        let pf = self.pf.as_str();
        let check = || {
            let vfs = vfs(pf);
            ensure!(vfs.len() == count, "{} VFs, not {count}", vfs.len());
            let other = vfs.iter().find(|vf| link(vf, "driver").as_deref() != Some("vfio-pci"));
            ensure!(other.is_none(), "{} is not on vfio-pci", other.context("a VF")?);
            Ok(())
        };
        let checked = seconds.and_then(|seconds| check().map(|()| seconds));
        let ended = match &self.named {
            // On a machine that others use nothing is taken from who may have it by now.
            Some(named) => named.restore(),
            None => write(dir(pf).join("sriov_numvfs"), "0")
                .and_then(|()| write(dir(pf).join("sriov_drivers_autoprobe"), "1")),
        };
        match (checked, ended) {
            (Err(cause), Err(error)) => Err(cause.context(format!("{error:#}, after"))),
            (checked, ended) => ended.and(checked),
        }
    }
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
fn peers(program: &mut Program, is_own_machine: bool) -> Result<Vec<Way>> {
    let mut peers = Vec::new();
    if Path::new(DRIVERCTL).exists() {
        if is_own_machine {
            // It asks modprobe for the driver, which is there; the lab has no index of modules that would say so.
            std::fs::copy("/bin/true", "/sbin/modprobe")?;
        }
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
