//! Who reads, and how its figures are had.

use super::peers;
use anyhow::{Context, Result, bail, ensure};
use benches::meter::Meter;
use benches::named::Named;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use system_tests::machine::{dir, done, link, physical_function, read, write};

/// A way to the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Ours, looking for completions.
    Poll,
    /// Ours, waiting for interrupts.
    Interrupt,
    /// The kernel's block layer through `io_uring`, by fio.
    Kernel,
    /// As above, with queues that the kernel polls.
    KernelPolled,
    /// QEMU's own driver in user space, by `qemu-img bench`.
    Qemu,
    /// SPDK's `spdk_nvme_perf`.
    Spdk,
    /// libvfn's `perf`.
    Libvfn,
}

/// Random reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) bytes: u32,
    pub(crate) depth: u16,
    pub(crate) threads: u16,
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Time(Duration),
    /// After so many reads.
    Count(u64),
}

/// The controller, and who can read from it.
pub(crate) struct Bench {
    nvme: String,
    /// Where it is the user's.
    named: Option<Named>,
    /// Path of `nvme-perf`.
    program: String,
    /// Why peers have no figures for some loads.
    absent: BTreeSet<(Way, String)>,
    /// Peers that are not on this machine.
    missing: BTreeSet<Way>,
    /// The rate that was seen last, for programs that want to be told how many reads to do.
    last: f64,
}

const TIME: Duration = Duration::from_millis(500);
/// Reads of two runs, whose difference is without what beginning and ending cost.
const FEW: u64 = 2000;
const MANY: u64 = 8000;
/// Reads of which the driver's own cost is the mean.
const OWN: u64 = 2560;

impl Way {
    pub(crate) const ALL: [Self; 7] = [
        Self::Poll,
        Self::Interrupt,
        Self::Kernel,
        Self::KernelPolled,
        Self::Qemu,
        Self::Spdk,
        Self::Libvfn,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Poll => "ours polled",
            Self::Interrupt => "ours interrupt",
            // What `aims` calls the kernel's.
            Self::Kernel => "fio io_uring",
            Self::KernelPolled => "fio iopoll",
            Self::Qemu => "qemu-img (strided)",
            Self::Spdk => "SPDK",
            Self::Libvfn => "libvfn",
        }
    }

    fn driver(self) -> &'static str {
        match self {
            Self::Kernel | Self::KernelPolled => "nvme",
            Self::Poll | Self::Interrupt | Self::Qemu | Self::Spdk | Self::Libvfn => "vfio-pci",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Poll | Self::Interrupt)
    }
}

impl Bench {
    /// `named` is the user's controller, if it is to be that.
    pub(crate) fn new(program: &str, named: Option<Named>) -> Result<Self> {
        let mut bench = Self {
            nvme: match &named {
                Some(named) => named.bdf().to_owned(),
                None => physical_function("nvme")?,
            },
            named,
            program: program.to_owned(),
            absent: BTreeSet::new(),
            missing: BTreeSet::new(),
            last: 10_000.0,
        };
        let queues = Path::new("/sys/module/nvme/parameters/poll_queues");
        if bench.named.is_none() {
            // For the kernel's driver when it takes the controller the next time; it wants no more of them than there are CPUs.
            write(queues, &std::thread::available_parallelism()?.to_string())?;
        } else if read(queues).is_ok_and(|count| count == "0") {
            let why = "the kernel's driver has no queues that it polls: nvme.poll_queues on the kernel's command line";
            bench.missing.insert(Way::KernelPolled);
            bench.absent.insert((Way::KernelPolled, why.to_owned()));
        }
        bench.bind("vfio-pci")?;
        Ok(bench)
    }

    /// Gives the controller back.
    pub(crate) fn end(self) -> Result<()> {
        self.named.map_or(Ok(()), Named::end)
    }

    /// Reads per second; `None` of a peer that cannot do this.
    pub(crate) fn rate(&mut self, way: Way, load: Load) -> Result<Option<f64>> {
        let end = match way {
            Way::Qemu => End::Count(reads(self.last)),
            _ => End::Time(TIME),
        };
        let figures = self.figures(way, load, end)?;
        if let Some((rate, _)) = figures {
            self.last = rate;
        }
        Ok(figures.map(|(rate, _)| rate))
    }

    /// Instructions per read; `None` as above.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
    pub(crate) fn cost(&mut self, meter: &Meter, way: Way, load: Load) -> Result<Option<f64>> {
        let mut costs = Vec::new();
        // The first run binds the controller, and brings files into memory.
        for count in [u64::from(load.depth), FEW, MANY] {
            let (cost, figures) = meter.measure(|| self.figures(way, load, End::Count(count)))?;
            let Some((_, reads)) = figures else { return Ok(None) };
            costs.push((cost, reads as f64));
        }
        let [_, (few, few_reads), (many, many_reads)] = costs.as_slice() else {
            bail!("not three runs");
        };
        Ok(Some((many - few) / (many_reads - few_reads)))
    }

    /// Nanoseconds that our driver spends on a read.
    pub(crate) fn own_cost(&self, load: Load) -> Result<f64> {
        self.bind("vfio-pci")?;
        let mut command = self.ours(load, End::Count(OWN));
        let report = json(&checked(command.arg("--cost"))?)?;
        Ok(number(&report, "/submission_ns")? + number(&report, "/completion_ns")?)
    }

    /// Why figures of ways are missing.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (Way, &str)> {
        self.absent.iter().map(|(way, why)| (*way, why.as_str()))
    }

    /// The rate, and how many reads it was.
    fn figures(&mut self, way: Way, load: Load, end: End) -> Result<Option<(f64, u64)>> {
        if self.missing.contains(&way) {
            return Ok(None);
        }
        if let Some(named) = &self.named {
            named.go_on()?;
        }
        self.bind(way.driver())?;
        let figures = match way {
            Way::Poll | Way::Interrupt => {
                let mut command = self.ours(load, end);
                let wait = if way == Way::Poll { "poll" } else { "interrupt" };
                checked(command.args(["--wait", wait, "--threads", &load.threads.to_string()]))
                    .and_then(|said| json(&said))
                    .and_then(|report| Ok((number(&report, "/iops")?, count(&report, "/commands")?)))
            }
            Way::Kernel | Way::KernelPolled => {
                let disk = self.disk().context("the kernel has no disk of it")?;
                fio(&disk, load, end, way == Way::KernelPolled)
            }
            Way::Qemu => self.qemu(load, end),
            Way::Spdk => peers::spdk(&self.nvme, load),
            Way::Libvfn => peers::libvfn(&self.nvme, load),
        };
        match figures {
            Ok(figures) => Ok(Some(figures)),
            Err(error) if !way.is_ours() => {
                // A program that cannot be started need not be tried again.
                if error.downcast_ref::<std::io::Error>().is_some() {
                    self.missing.insert(way);
                }
                self.absent.insert((way, format!("{error:#}")));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn ours(&self, load: Load, end: End) -> Command {
        let mut command = Command::new(&self.program);
        let (time, count) = match end {
            End::Time(time) => (time.as_secs_f64(), u64::MAX),
            End::Count(count) => (1000.0, count),
        };
        command.args([&self.nvme, "--json", "--bytes", &load.bytes.to_string()]);
        command.args(["--depth", &load.depth.to_string(), "--time", &time.to_string()]);
        command.args(["--count", &count.to_string()]);
        command
    }

    /// It reads at a fixed distance, and with one queue.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
    fn qemu(&self, load: Load, end: End) -> Result<(f64, u64)> {
        ensure!(load.threads == 1, "it has one queue");
        let End::Count(count) = end else {
            bail!("it wants to be told how many reads to do");
        };
        let mut command = Command::new("qemu-img");
        command.args(["bench", "-f", "raw", "-S", &(257 * 4096).to_string()]);
        command.args([
            "-c",
            &count.to_string(),
            "-d",
            &load.depth.to_string(),
            "-s",
            &load.bytes.to_string(),
        ]);
        let said = checked(command.arg(format!("nvme://{}/1", self.nvme)))?;
        let seconds = said
            .split_whitespace()
            .rev()
            .nth(1)
            .and_then(|word| word.parse::<f64>().ok());
        let seconds = seconds.with_context(|| format!("qemu-img said {said}"))?;
        Ok((count as f64 / seconds, count))
    }

    /// Gives the controller to a driver, and waits for the kernel's disk.
    fn bind(&self, driver: &str) -> Result<()> {
        if link(&self.nvme, "driver").as_deref() == Some(driver) {
            return Ok(());
        }
        if driver == "vfio-pci" {
            done(&["bind", &self.nvme, "--driver", driver])?;
            return Ok(());
        }
        done(&["release", &self.nvme])?;
        let begin = Instant::now();
        while !self.disk().is_some_and(|disk| disk.exists()) {
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "{}: wait for the kernel's disk: none comes",
                self.nvme
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The file of the controller's first namespace, while the kernel has it.
    fn disk(&self) -> Option<PathBuf> {
        let controllers = std::fs::read_dir(dir(&self.nvme).join("nvme")).ok()?;
        let controller = controllers.flatten().next()?.path();
        let entries = std::fs::read_dir(controller).ok()?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| first_disk(&name)).next()
    }
}

/// `nvme0n1`, and of a namespace with several paths `nvme0c1n1`, whose disk is that of all of them.
fn first_disk(name: &str) -> Option<PathBuf> {
    let (head, number) = name.strip_prefix("nvme")?.rsplit_once('n')?;
    let subsystem = head.split_once('c').map_or(head, |(subsystem, _path)| subsystem);
    let is_number = !subsystem.is_empty() && subsystem.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && number == "1").then(|| PathBuf::from(format!("/dev/nvme{subsystem}n1")))
}

fn fio(disk: &Path, load: Load, end: End, polls: bool) -> Result<(f64, u64)> {
    let mut command = Command::new("fio");
    command.args(["--name=reads", "--filename"]).arg(disk);
    command.args([
        // Refuses to write, whatever else it is told.
        "--readonly",
        "--allow_file_create=0",
        "--direct=1",
        "--rw=randread",
    ]);
    command.args([
        "--norandommap",
        "--ioengine=io_uring",
        "--fixedbufs",
        "--registerfiles",
        "--thread",
    ]);
    command.args(["--group_reporting", "--output-format=json"]);
    command.arg(format!("--bs={}", load.bytes));
    command.arg(format!("--iodepth={}", load.depth));
    command.arg(format!("--numjobs={}", load.threads));
    match end {
        End::Time(time) => command.args(["--time_based", &format!("--runtime={}ms", time.as_millis())]),
        End::Count(count) => command.arg(format!("--io_size={}", count * u64::from(load.bytes))),
    };
    if polls {
        command.arg("--hipri");
    }
    let said = checked(&mut command)?;
    // Notes may come before it.
    let report = json(said.get(said.find('{').unwrap_or(0)..).unwrap_or_default())?;
    Ok((
        number(&report, "/jobs/0/read/iops")?,
        count(&report, "/jobs/0/read/total_ios")?,
    ))
}

/// What a command prints, which must succeed.
pub(crate) fn checked(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => std::io::Error::new(error.kind(), format!("{program} is not on the path")),
        _ => error,
    });
    let output = output.with_context(|| format!("start {program}"))?;
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let why = stderr.lines().chain(stdout.lines()).next();
    ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        why.unwrap_or("without a word")
    );
    Ok(stdout)
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    let number = report.pointer(pointer).and_then(Value::as_f64);
    number.with_context(|| format!("no {pointer} in {report}"))
}

fn count(report: &Value, pointer: &str) -> Result<u64> {
    let count = report.pointer(pointer).and_then(Value::as_u64);
    count.with_context(|| format!("no {pointer} in {report}"))
}

/// As many as take about as long as the others' runs.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate, times less than a second"
)]
fn reads(rate: f64) -> u64 {
    (rate * TIME.as_secs_f64()) as u64 + 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_that_of_the_first_namespace() {
        let disk = |name: &str| first_disk(name).map(|disk| disk.display().to_string());
        assert_eq!(disk("nvme0n1").as_deref(), Some("/dev/nvme0n1"));
        assert_eq!(disk("nvme3c12n1").as_deref(), Some("/dev/nvme3n1"));
        for other in ["nvme0n2", "nvme0", "ng0n1", "nvmen1", "hwmon1", "power"] {
            assert_eq!(disk(other), None, "{other}");
        }
    }
}
