//! `cargo lab bench`: figures of the device path, measured part by part, and one report of all of them.
//!
//! What is timed is built with full optimisation. A part that fails is said in the report, and the others go on.

mod host;
mod lines;
mod plan;

use super::{boot, exec, say};
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use lab::{
    Cache, Flavour, Kernel, Machine, Output, Qemu, Setup, Vm, build_guest_driver, build_release_example,
    build_release_programs, cargo,
};
use lines::Lines;
pub(crate) use plan::Part;
use plan::{Place, Step};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What to measure, and how.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Options {
    /// What to measure [default: all]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Kernel to boot, but for runs that need Debian's, which are those of nvme and one of map [default: full, which is built if it is missing]
    #[arg(long, value_enum)]
    kernel: Option<Flavour>,
    /// Fewer cases and turns: a quarter of an hour instead of fifty minutes
    #[arg(long)]
    quick: bool,
    /// Refuse to begin when a program that is compared with is missing, instead of leaving it out
    #[arg(long)]
    peers: bool,
    /// Only runs whose name contains this; --list names them
    #[arg(long)]
    filter: Option<String>,
    /// Fail when one of our figures takes more instructions than `benches/lab-baselines.json` says: by more than 1 % or, of what varies, 5 %
    #[arg(long, conflicts_with_all = ["save", "quick"])]
    check: bool,
    /// Write these runs' figures to that file
    #[arg(long, conflicts_with = "quick")]
    save: bool,
    /// Say which runs there are, and how long they take
    #[arg(long)]
    list: bool,
    /// Where the report goes [default: bench in cargo's target directory]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Make the report benches/BENCHMARKS.md, too, when all of it ran
    #[arg(long, conflicts_with_all = ["parts", "filter", "quick"])]
    write: bool,
}

pub(crate) fn run(options: &Options, offline: bool) -> Result<ExitCode> {
    let steps = plan::steps(&options.parts, options.filter.as_deref(), options.quick);
    if options.list {
        list(&steps);
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!steps.is_empty(), "no run of that name: see cargo lab bench --list");
    let setup = Setup::new(Cache::of_user()?, offline, false)?;
    if let Err(error) = setup.bench_tools() {
        if options.peers {
            return Err(error);
        }
        // They are only compared with: what is missing is left out, and said.
        say(&format!("lab: {error:#}"));
    }
    let out = match &options.out {
        Some(out) => std::path::absolute(out)?,
        None => lab::target_dir()?.join("bench"),
    };
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let stage = Stage {
        qemu: setup.qemu()?,
        programs: build_release_programs()?,
        quick: options.quick,
        out,
        bar: bar(steps.len()),
    };
    for flavour in steps.iter().filter_map(|step| step.kernel(options.kernel)) {
        // Nothing is built between runs.
        setup.kernel(flavour)?;
    }
    let begin = Instant::now();
    let minutes: f64 = steps.iter().map(|step| step.minutes).sum();
    stage.say(&format!("lab: {} runs, about {minutes:.0} minutes", steps.len()));
    let (mut files, mut whole, mut failures, mut of_criterion) = (Vec::new(), Vec::new(), 0, None);
    for (position, step) in steps.iter().enumerate() {
        let so_far = begin.elapsed().as_secs_f64() / 60.0;
        stage.say(&format!(
            "lab: {} of {}: {} (about {:.0} min; {so_far:.0} min so far)",
            position + 1,
            steps.len(),
            step.name,
            step.minutes.ceil()
        ));
        let mut lines = Lines::new(step.part.suite());
        let mut facts = host::facts();
        let measured = stage.measure(&setup, options.kernel, step, &mut lines, &mut facts);
        if let Err(error) = &measured {
            failures += 1;
            stage.say(&format!("lab: {}: {error:#}", step.name));
            lines.fail(&format!("the run failed: {error:#}"));
        }
        let file = stage.out.join(format!("{}.txt", step.name.replace([' ', ','], "-")));
        lines.write(&file, &step.name, &facts)?;
        // Files of a run before this one, or of half a run, are no figures of this one.
        if step.program == plan::CARGO && measured.is_ok() {
            of_criterion = Some(file.clone());
        }
        if measured.is_ok() {
            whole.push(file.clone());
        }
        files.push(file);
        stage.bar.inc(1);
    }
    stage.bar.finish_and_clear();
    stage.report(&files, of_criterion.as_deref(), options.write && failures == 0)?;
    say(&format!("lab: {:.0} minutes", begin.elapsed().as_secs_f64() / 60.0));
    let is_as_before = !(options.check || options.save) || stage.compare(&whole, options.save)?;
    Ok(if failures == 0 && is_as_before {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn list(steps: &[Step]) {
    for step in steps {
        println!("{:40} about {:>4.1} min", step.name, step.minutes);
    }
}

/// What the programs run on.
struct Stage {
    qemu: Qemu,
    /// Where our programs are.
    programs: PathBuf,
    quick: bool,
    out: PathBuf,
    bar: ProgressBar,
}

impl Stage {
    /// Does one run, and says what the host knows of it.
    fn measure(
        &self,
        setup: &Setup,
        kernel: Option<Flavour>,
        step: &Step,
        lines: &mut Lines,
        facts: &mut BTreeMap<String, String>,
    ) -> Result<()> {
        facts.insert("load of the host before".to_owned(), host::load());
        match &step.place {
            Place::Host => self.on_host(step, lines)?,
            Place::Lab(machine, _) => {
                let kernel = setup.kernel(step.kernel(kernel).context("no kernel")?)?;
                facts.extend(host::machine(machine, &kernel, &self.qemu)?);
                self.in_lab(machine, &kernel, step, lines)?;
            }
        }
        facts.insert("load of the host after".to_owned(), host::load());
        lines.finish()
    }

    fn in_lab(&self, machine: &Machine, kernel: &Kernel, step: &Step, lines: &mut Lines) -> Result<()> {
        let argv = self.argv(step)?;
        let mut vm = boot(&self.qemu, kernel, machine)?;
        let mut exec = exec(&self.qemu, kernel, &self.programs, argv);
        if step.part == Part::Guest {
            let with_driver = self.out.join("guest.cpio");
            lab::add_program(&vm.guest_initrd(), &build_guest_driver()?, "no_iommu", &with_driver)?;
            exec.env
                .push(("LAB_GUEST_EDU_INITRD".to_owned(), with_driver.display().to_string()));
        }
        let finished = run_until(&mut vm, &exec, step.limit, |output| match output {
            Output::Stdout(bytes) => lines.take(bytes, |line| self.note(line)),
            Output::Stderr(bytes) => self.note(String::from_utf8_lossy(bytes).trim_end()),
        });
        lines.flush(|line| self.note(line));
        let status = finished?;
        vm.power_off();
        ensure!(status == 0, "{} exits {status}", step.program);
        Ok(())
    }

    /// Runs a program here. Its time is not limited: it changes nothing, and is the user's to stop.
    fn on_host(&self, step: &Step, lines: &mut Lines) -> Result<()> {
        let argv = self.argv(step)?;
        let Some((program, arguments)) = argv.split_first() else {
            bail!("no program");
        };
        let mut command = if step.program == plan::CARGO {
            cargo()
        } else {
            Command::new(program)
        };
        command.args(arguments).env("CRITERION_HOME", self.criterion());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        if let Some(said) = child.stdout.take() {
            let mut said = BufReader::new(said);
            let mut bytes = Vec::new();
            while said.read_until(b'\n', &mut bytes)? > 0 {
                lines.take(&bytes, |line| self.note(line));
                bytes.clear();
            }
        }
        lines.flush(|line| self.note(line));
        let status = child.wait()?;
        ensure!(status.success(), "{}: {status}", step.program);
        Ok(())
    }

    /// The program of a step, with its arguments.
    fn argv(&self, step: &Step) -> Result<Vec<String>> {
        let program = match step.program {
            plan::CARGO => plan::CARGO.to_owned(),
            program => self.programs.join(program).display().to_string(),
        };
        let mut argv = vec![program];
        for argument in &step.arguments {
            argv.push(match argument.split_once(':') {
                Some(("example", example)) => build_release_example("drivers", example)?.display().to_string(),
                Some(("program", program)) => self.programs.join(program).display().to_string(),
                _ => argument.clone(),
            });
        }
        if self.quick {
            argv.extend(step.quick.iter().map(|&argument| argument.to_owned()));
        }
        Ok(argv)
    }

    fn criterion(&self) -> PathBuf {
        self.out.join("criterion")
    }

    /// Makes the report of what was collected, with criterion's figures when there is a file of what they were measured on.
    fn report(&self, files: &[PathBuf], of_criterion: Option<&Path>, write: bool) -> Result<()> {
        let mut command = Command::new(self.programs.join("report"));
        command.arg("--out").arg(&self.out).args(files);
        if let Some(lines) = of_criterion {
            command.arg("--criterion").arg(self.criterion());
            command.arg("--criterion-on").arg(lines);
        }
        let status = command.status().context("start the report")?;
        ensure!(status.success(), "the report: {status}");
        say(&format!(
            "lab: the report is {}",
            self.out.join("report.html").display()
        ));
        if write {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/BENCHMARKS.md");
            std::fs::copy(self.out.join("report.md"), &target)
                .with_context(|| format!("write {}", target.display()))?;
        }
        Ok(())
    }

    /// Compares what was counted with the baselines, or makes it these; whether none of it has grown.
    fn compare(&self, files: &[PathBuf], save: bool) -> Result<bool> {
        if files.is_empty() {
            return Ok(true);
        }
        let mut command = Command::new(self.programs.join("counts"));
        command.arg(if save { "--save" } else { "--check" });
        let status = command.arg("--lab").args(files).status();
        Ok(status.context("start the comparison")?.success())
    }

    /// Says what a program said: on a terminal beside the bar, else as it is.
    fn note(&self, line: &str) {
        if self.bar.is_hidden() {
            say(line);
        } else {
            self.bar.set_message(line.chars().take(90).collect::<String>());
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }
}

fn bar(steps: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
    let style = ProgressStyle::with_template("  {spinner} [{bar:24}] {pos}/{len} {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Runs a command in the machine; returns its exit status.
fn run_until(vm: &mut Vm, exec: &lab_init::Exec, limit: Duration, output: impl FnMut(&Output<'_>)) -> Result<i32> {
    Ok(vm.run(exec, limit, output)?.status())
}
