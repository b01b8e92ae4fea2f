//! Frames of a virtual function of an 82576 by our driver and by DPDK's testpmd: how many in a second, or what each costs the CPU.
//!
//! `bench-packets rates|costs PROGRAM [--quick] [--device BDF]`, with the path of `vf-pps`; costs are for a machine whose clock counts instructions, where a
//! reading of the time-stamp counter is the number of instructions, too. Frames have 60 bytes and come in bursts of 32 over rings of 512. What was
//! sent is what the device took, as its own counter says; far less arrives where another VF has to take it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use benches::named::Named;
use benches::program::{Arguments, Case, Common, Program, Turns, What, in_turns, is_lab};
use benches::record::Clock;
use clap::Parser;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use system_tests::machine::{dir, done, physical_function, read, run, vfs};

const TESTPMD: &str = "dpdk-testpmd";
/// Where testpmd takes its pages from.
const PAGES: &str = "/run/huge";
/// Those of the two functions, and one that nobody has.
const MACS: [&str; 2] = ["02:00:00:00:00:20", "02:00:00:00:00:21"];
const NOBODY: &str = "02:00:00:00:00:99";
/// Seconds that a sender sends at most: longer than any receiver looks.
const LONG: u64 = 50;

/// Who moves the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    Testpmd,
}

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To nobody.
    Send,
    /// To another VF, on which ours receives.
    Deliver,
    Receive,
}

/// Measure frames of virtual functions of an 82576
///
/// The physical function that is named with --device has no VFs, and its interface is up, has a link and no address that is in use. Two VFs are made of it, and taken away in the
/// end. They send frames as fast as they can: to one another, and to an address that nobody has, so these leave through the port. Needs root, and
/// sriovctl on the path; of testpmd, reserved huge pages. If this is killed: sriovctl vf delete BDF.
#[derive(Debug, Parser)]
struct Asked {
    #[command(flatten)]
    arguments: Arguments,
}

/// Two functions on vfio-pci whose PF is up, and the program.
struct Bench {
    /// The PF, where it is the user's.
    named: Option<Named>,
    program: String,
    functions: [String; 2],
    figure: What,
    seconds: u64,
}

fn main() -> Result<()> {
    let Asked { arguments } = Asked::parse();
    arguments.check()?;
    let Arguments {
        what: figure,
        program,
        common: Common { device, is_quick },
    } = arguments;
    let version: (&str, &[&str]) = ("testpmd", &["dpkg-query", "-W", "-f", "${Version}", "dpdk"]);
    let mut out = Program::on_device("packets", device, &[version], &[])?;
    let turns = match figure {
        What::Rates if !is_quick => 3,
        _ => 1,
    };
    let named = device.map(|device| Named::new(device, &["igb"])).transpose()?;
    let bench = Bench {
        program,
        functions: functions(named.as_ref())?,
        named,
        figure,
        seconds: if is_quick { 2 } else { 4 },
    };
    let mut ways = vec![Way::Ours];
    match Command::new(TESTPMD).arg("--version").output() {
        Ok(_) => ways.push(Way::Testpmd),
        Err(error) => out.absent("", Way::Testpmd.name(), &format!("{TESTPMD}: {error}"))?,
    }
    let mut directions = vec![Direction::Send, Direction::Deliver, Direction::Receive];
    // Instructions are counted on one CPU, and a receiver's would be among them.
    directions.retain(|direction| figure == What::Rates || *direction != Direction::Deliver);
    for direction in directions {
        let case = bench.case(direction);
        let mut seen = Turns::default();
        for turn in 0..turns {
            for way in in_turns(&ways, turn) {
                if let Some(named) = &bench.named {
                    named.go_on()?;
                }
                match bench.once(way, direction) {
                    Ok(figure) => {
                        out.note(&format!("{}: {figure:.0} {}, {}", way.name(), case.unit, case.name))?;
                        seen.add(way.name(), figure);
                    }
                    Err(error) if way == Way::Testpmd => {
                        out.absent(&case.name, way.name(), &format!("{error:#}"))?;
                        ways.retain(|other| *other != way);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        out.say(&case, seen)?;
    }
    bench.named.map_or(Ok(()), Named::end)?;
    out.end()
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Testpmd => "testpmd",
        }
    }
}

impl Bench {
    fn case(&self, direction: Direction) -> Case {
        let (clock, unit) = match self.figure {
            What::Rates => (Clock::Wall, "frames/s"),
            What::Costs => (Clock::Instructions, "instructions/frame"),
        };
        let name = match direction {
            Direction::Send => "a VF sends 60 bytes",
            Direction::Deliver => "a VF sends 60 bytes, what another one gets of it",
            Direction::Receive => "a VF receives 60 bytes",
        };
        Case {
            name: name.to_owned(),
            given: [].into(),
            clock,
            unit,
        }
    }

    fn once(&self, way: Way, direction: Direction) -> Result<f64> {
        let [first, second] = &self.functions;
        let [_, to] = MACS;
        match (way, direction) {
            (Way::Ours, Direction::Send) => {
                let rate = rate(&checked(&mut self.our_sender(NOBODY, self.seconds))?)?;
                Ok(match self.figure {
                    What::Rates => rate,
                    What::Costs => 1e9 / rate,
                })
            }
            (Way::Testpmd, Direction::Send) => {
                let sender = self.testpmd_sender(first, NOBODY, self.seconds)?;
                match self.figure {
                    What::Rates => median_rate(sender, "Tx-pps:"),
                    What::Costs => cycles(sender),
                }
            }
            (Way::Ours, Direction::Deliver) => self.received_from(self.our_sender(to, LONG)),
            (Way::Testpmd, Direction::Deliver) => self.received_from(self.testpmd_sender(first, to, LONG)?),
            (Way::Ours, Direction::Receive) => {
                let _sender = self.send_meanwhile()?;
                let said = checked(self.vf_pps(second, self.seconds).arg("rx"))?;
                match self.figure {
                    What::Rates => rate(&said),
                    What::Costs => word_before(&said, "ns of the driver"),
                }
            }
            (Way::Testpmd, Direction::Receive) => {
                let _sender = self.send_meanwhile()?;
                let receiver = self.testpmd(second, &["--forward-mode=rxonly", "--rxd=512"], self.seconds)?;
                match self.figure {
                    What::Rates => median_rate(receiver, "Rx-pps:"),
                    What::Costs => cycles(receiver),
                }
            }
        }
    }

    /// testpmd writes the headers of every frame, so ours does, too.
    fn our_sender(&self, to: &str, seconds: u64) -> Command {
        let [first, _] = &self.functions;
        let mut command = self.vf_pps(first, seconds);
        command.args(["tx", "--fill", "--to", to]);
        command
    }

    fn testpmd_sender(&self, function: &str, to: &str, seconds: u64) -> Result<Command> {
        let peer = format!("--eth-peer=0,{to}");
        let mode = ["--forward-mode=txonly", "--txpkts=60", "--txd=512", &peer];
        self.testpmd(function, &mode, seconds)
    }

    /// Frames that the second function gets of a sender in a second.
    fn received_from(&self, mut sender: Command) -> Result<f64> {
        let [_, second] = &self.functions;
        let _sender = Sender::start(&mut sender)?;
        rate(&checked(self.vf_pps(second, self.seconds).arg("rx"))?)
    }

    fn vf_pps(&self, function: &str, seconds: u64) -> Command {
        let mut command = Command::new("timeout");
        command.args(["90", &self.program, function, "--seconds", &seconds.to_string()]);
        command
    }

    /// Our sender, for longer than any receiver looks. A clock that counts instructions belongs to one CPU, which it leaves now and then.
    fn send_meanwhile(&self) -> Result<Sender> {
        let [first, _] = &self.functions;
        let [_, to] = MACS;
        let mut command = self.vf_pps(first, LONG);
        command.args(["tx", "--to", to]);
        if self.figure == What::Costs {
            command.arg("--nap");
        }
        Sender::start(&mut command)
    }

    /// It shows its rates each second.
    fn testpmd(&self, function: &str, mode: &[&str], seconds: u64) -> Result<Command> {
        let cpus = std::thread::available_parallelism()?.get();
        let cores: &[&str] = if cpus == 1 {
            &["--lcores", "0@0,1@0"]
        } else {
            &["-l", "0,1"]
        };
        // It takes three seconds to come up, on a busy host ten, and the first second counts half.
        let limit = (seconds + 12).to_string();
        let mut command = Command::new("timeout");
        command
            .args(["-s", "INT", "-k", "30", &limit, TESTPMD, "-n", "1"])
            .args(cores);
        // Elsewhere it takes pages without a place in the file system, so that none has to be made.
        let pages: &[&str] = if is_lab() {
            &["--huge-dir", PAGES]
        } else {
            &["--in-memory"]
        };
        command.args(["--no-telemetry", "-m", "64", "-a", function]);
        command.args(pages).arg("--");
        command.args(mode);
        command.args([
            "--burst=32",
            "--total-num-mbufs=4096",
            "--stats-period",
            "1",
            "--record-core-cycles",
        ]);
        Ok(command)
    }
}

/// testpmd's instructions for a frame, in the bursts that had any.
fn cycles(mut testpmd: Command) -> Result<f64> {
    let ran = run(&mut testpmd)?;
    let mut said = after(&ran.stdout, "CPU cycles/packet=");
    said.next()
        .with_context(|| format!("testpmd said no CPU cycles/packet: {}", tail(&ran.stdout, &ran.stderr)))
}

/// The median of the rates that testpmd shows each second behind these words: what the device has counted.
fn median_rate(mut testpmd: Command, words: &str) -> Result<f64> {
    let ran = run(&mut testpmd)?;
    let seen: Vec<f64> = after(&ran.stdout, words).filter(|rate| *rate > 1000.0).collect();
    let whole = seen.get(1..).unwrap_or_default();
    ensure!(
        !whole.is_empty(),
        "testpmd said no {words} {}",
        tail(&ran.stdout, &ran.stderr)
    );
    Ok(benches::report::compare::median(whole))
}

/// Ends when it is dropped.
struct Sender(Child);

impl Sender {
    fn start(command: &mut Command) -> Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(quiet.spawn().context("start the sender")?))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // It ends with `timeout`, which ends with the function closed, and both may have ended.
        let number = self.0.id().to_string();
        drop(run(Command::new("kill").arg(&number)));
        drop(self.0.wait());
    }
}

/// Two VFs with addresses, and their PF up.
fn functions(named: Option<&Named>) -> Result<[String; 2]> {
    let pf = match named {
        Some(named) => named.bdf().to_owned(),
        None => physical_function("igb")?,
    };
    let names = std::fs::read_dir(dir(&pf).join("net"));
    let names = names.with_context(|| {
        format!("{pf}: look for its interface: it is not on its network driver: sriovctl release {pf}")
    });
    let mut names = names?.flatten();
    let name = names.next().context("the PF has no interface")?.file_name();
    let name = name.to_str().context("an interface's name")?;
    let ip = |words: &[&str]| checked(Command::new("ip").args(words)).map(drop);
    if let Some(named) = named {
        // Its link goes down when VFs are made: what somebody uses is left alone.
        named.would(&["unbind", &pf])?;
        let is_up = read(dir(&pf).join("net").join(name).join("carrier")).is_ok_and(|carrier| carrier == "1");
        ensure!(
            is_up,
            "{pf}: look at {name}: it has no link, or is not up: ip link set {name} up"
        );
    } else {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["addr", "add", "10.0.2.15/24", "dev", name])?;
        std::fs::create_dir_all(PAGES)?;
        checked(Command::new("mount").args(["-t", "hugetlbfs", "none", PAGES]))?;
    }
    done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
    for (number, mac) in MACS.iter().enumerate() {
        ip(&["link", "set", name, "vf", &number.to_string(), "mac", mac])?;
    }
    wait_for_carrier(&pf)?;
    let functions = vfs(&pf);
    functions.try_into().ok().context("not two VFs")
}

/// VFs have no link before their PF has one.
fn wait_for_carrier(pf: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let interface = std::fs::read_dir(dir(pf).join("net"))?.flatten().next();
        let carrier = interface.context("the PF's interface is gone")?.path().join("carrier");
        if read(carrier).is_ok_and(|carrier| carrier == "1") {
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_secs(30), "the PF has no link");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// What a command says on both outputs, which must succeed.
fn checked(command: &mut Command) -> Result<String> {
    let ran = run(command)?;
    ensure!(
        ran.code == 0,
        "{command:?} exits {}: {}",
        ran.code,
        tail(&ran.stdout, &ran.stderr)
    );
    Ok(ran.stdout + &ran.stderr)
}

/// `…: 12345 per second` of `vf-pps`.
fn rate(said: &str) -> Result<f64> {
    word_before(said, "per second")
}

fn word_before(said: &str, words: &str) -> Result<f64> {
    let before = said.split_once(words).map(|(before, _)| before);
    let word = before.and_then(|before| before.split_whitespace().next_back());
    let number = word.and_then(|word| word.parse().ok());
    number.with_context(|| format!("no number before {words:?} in {said}"))
}

/// The numbers behind a word.
fn after<'a>(said: &'a str, word: &'a str) -> impl Iterator<Item = f64> + 'a {
    let behind = said.split(word).skip(1);
    behind.filter_map(|text| {
        let text = text.trim_start();
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        text.get(..end.unwrap_or(text.len()))?.parse().ok()
    })
}

/// The last lines, for an error.
fn tail(stdout: &str, stderr: &str) -> String {
    let mut lines: Vec<&str> = stdout
        .lines()
        .chain(stderr.lines())
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines.split_off(lines.len().saturating_sub(3));
    last.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_programs_say() {
        let ours = "tx: 481632 frames in 5.000 s: 96326 per second\n";
        assert!((rate(ours).unwrap() - 96_326.0).abs() < 1e-9);
        assert!(
            (word_before("02:00\n151 ns of the driver for a frame", "ns of the driver").unwrap() - 151.0).abs() < 1e-9
        );
        assert!(rate("nothing").is_err());
        let testpmd = "  Tx-pps:            0          Tx-bps:  0\n  Tx-pps:        81234          Tx-bps:   1\n\
            CPU cycles/packet=312.50 (total cycles=1 / total TX packets=2) at 1000 MHz Clock";
        assert_eq!(after(testpmd, "Tx-pps:").collect::<Vec<_>>(), [0.0, 81_234.0]);
        assert_eq!(after(testpmd, "CPU cycles/packet=").collect::<Vec<_>>(), [312.5]);
    }
}
