//! Who reads, and how its figures are had.

use super::peers;
use anyhow::{Context, Result, bail, ensure};
use benches::meter::Meter;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use system_tests::machine::{done, link, physical_function, write};

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
    pub(crate) fn new(program: &str) -> Result<Self> {
        let bench = Self {
            nvme: physical_function("nvme")?,
            program: program.to_owned(),
            absent: BTreeSet::new(),
            missing: BTreeSet::new(),
            last: 10_000.0,
        };
        // For the kernel's driver when it takes the controller the next time; it wants no more of them than there are CPUs.
        let cpus = std::thread::available_parallelism()?.to_string();
        write(Path::new("/sys/module/nvme/parameters/poll_queues"), &cpus)?;
        bench.bind("vfio-pci")?;
        Ok(bench)
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
        self.bind(way.driver())?;
        let figures = match way {
            Way::Poll | Way::Interrupt => {
                let mut command = self.ours(load, end);
                let wait = if way == Way::Poll { "poll" } else { "interrupt" };
                checked(command.args(["--wait", wait, "--threads", &load.threads.to_string()]))
                    .and_then(|said| json(&said))
                    .and_then(|report| Ok((number(&report, "/iops")?, count(&report, "/commands")?)))
            }
            Way::Kernel | Way::KernelPolled => fio(load, end, way == Way::KernelPolled),
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
        while !Path::new(DISK).exists() {
            ensure!(begin.elapsed() < Duration::from_secs(30), "{DISK} does not come");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }
}

const DISK: &str = "/dev/nvme0n1";

fn fio(load: Load, end: End, polls: bool) -> Result<(f64, u64)> {
    let mut command = Command::new("fio");
    command.args([
        "--name=reads",
        "--filename",
        DISK,
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
    let output = command.output().with_context(|| format!("start {program}"))?;
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
