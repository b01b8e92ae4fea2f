//! Checks that an NVMe controller's data is what was written: random reads, writes, compares and zeroes of 512 bytes to 4 MiB, at any place of
//! memory that the controller takes, by several queues at a time; every block is checked.
//!
//! `nvme-check 0000:01:00.0 --destroy-data --count 100000 --queues 4 --versions /tmp/versions`; the function is bound to vfio-pci. What it leaves
//! is in the file: the seed, then for each block the version that it holds, so that others can look at the same blocks (`pattern.rs`). A file
//! that is there already says what the blocks hold before; without one they are zeroed first. Exits with 1 at the first block that is wrong.
#![expect(clippy::print_stdout, reason = "this is a program")]

#[path = "../common/mod.rs"]
mod common;
mod operation;
mod pattern;
mod state;
mod work;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use drivers::nvme::spec::identify::NvmCommands;
use drivers::nvme::{Controller, DataForm, Interrupt, Options, QueueOptions, Registered};
use drivers::{Backing, VfioBacking, Woken};
use operation::Tally;
use state::State;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::{Access, EventFd, Memory, MemoryOptions};
use work::{Plan, Worker};

/// Checks that an NVMe controller's data is what was written
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    function: common::Function,
    /// What the namespace holds is lost
    #[arg(long, required = true)]
    destroy_data: bool,
    /// Namespace
    #[arg(long, default_value_t = 1)]
    namespace: u32,
    /// Operations of all queues together
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Queue pairs, each of a thread and with blocks of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Operations that a queue has under way
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    depth: u16,
    /// How a thread hears of completions
    #[arg(long, value_enum, default_value_t = Wait::Poll)]
    wait: Wait,
    /// How commands say where their data is
    #[arg(long, value_enum, default_value_t = Form::Shortest)]
    form: Form,
    /// Keep submission queues in the controller memory buffer
    #[arg(long)]
    cmb: bool,
    /// Reset the controller so often, in milliseconds; queues recover and submit again what was lost
    #[arg(long)]
    reset_every: Option<u64>,
    /// Bytes of the namespace to use, from its start [default: all]
    #[arg(long)]
    range: Option<u64>,
    /// Which blocks, lengths and places in memory
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What blocks hold before, if it is there, and afterwards
    #[arg(long)]
    versions: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    Poll,
    Interrupt,
    Adaptive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Shortest,
    Prp,
    Sgl,
}

/// Longest operation.
const LONGEST: u64 = 4 << 20;
/// Most commands that an operation is divided into.
const MOST_COMMANDS: u64 = 256;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let queues = usize::from(arguments.queues);
    let options = Options {
        queues: arguments.queues,
        vectors: if arguments.wait == Wait::Poll { 0 } else { queues + 1 },
        ..Options::default()
    };
    let controller = Controller::new(arguments.function.open()?, &options)?;
    let namespace = controller.namespace(arguments.namespace)?;
    let lba = u64::from(namespace.lba_bytes);
    ensure!(namespace.metadata_bytes == 0, "blocks with metadata are not checked");
    let commands = controller.identity().nvm_commands();
    ensure!(
        commands.contains(NvmCommands::WRITE_ZEROES),
        "the controller has no Write Zeroes"
    );
    let blocks = arguments.range.unwrap_or(u64::MAX).min(namespace.capacity()) / lba;
    let share = usize::try_from(blocks / u64::from(arguments.queues))?;

    let longest = LONGEST.min(controller.max_transfer().saturating_mul(MOST_COMMANDS));
    ensure!(
        share as u64 * lba >= longest,
        "{blocks} blocks are too few for {queues} queues"
    );
    let slot = usize::try_from(longest)? + work::ROOM;
    let memory = Arc::new(Memory::new(
        slot * usize::from(arguments.depth) * queues,
        MemoryOptions::default(),
    )?);
    memory.populate(0..memory.len())?;
    let registered = Registered::new(
        controller.backing().space(),
        Arc::clone(&memory) as _,
        Access::READ | Access::WRITE,
    )?;

    let (mut state, is_known) = State::load(arguments.versions.as_deref(), arguments.seed, share * queues)?;
    let is_byte_aligned = controller.identity().sgl() == Some(drivers::nvme::spec::identify::SglAlignment::Byte);
    let mut workers = Vec::new();
    let shares = state.versions.chunks_mut(share);
    for (index, versions) in (0_u16..).zip(shares).take(queues) {
        let queue = controller.queue_pair(QueueOptions {
            depth: u16::try_from(
                u64::from(arguments.depth) * longest.div_ceil(controller.max_transfer().min(longest)),
            )?,
            transfer_bytes: longest,
            interrupt: arguments.interrupt(index, controller.vectors())?,
            form: match arguments.form {
                Form::Shortest => DataForm::Shortest,
                Form::Prp => DataForm::Prp,
                Form::Sgl => DataForm::Sgl,
            },
            can_replay: arguments.reset_every.is_some(),
            submission_in_buffer: arguments.cmb,
            ..QueueOptions::default()
        })?;
        let plan = Plan {
            namespace: namespace.clone(),
            first: share as u64 * u64::from(index),
            longest,
            count: arguments.count / u64::from(arguments.queues),
            seed: state.seed,
            random: mixed(arguments.seed, index),
            is_known,
            polls: arguments.wait == Wait::Poll,
            recovers: arguments.reset_every.is_some(),
            can_compare: commands.contains(NvmCommands::COMPARE),
            alignment: if is_byte_aligned && arguments.form == Form::Sgl {
                1
            } else {
                4
            },
        };
        let start = slot * usize::from(arguments.depth) * usize::from(index);
        let starts = (0..arguments.depth)
            .map(|place| start + slot * usize::from(place))
            .collect();
        workers.push(Worker::new(
            queue,
            registered.clone(),
            Arc::clone(&memory),
            plan,
            starts,
            versions,
        )?);
    }
    let (tally, resets) = run(&controller, workers, arguments.reset_every.map(Duration::from_millis))?;
    println!("{tally}, {resets} resets; every block was as it should be");
    controller.shut_down()?;
    state.save(arguments.versions.as_deref())
}

/// Lets all of them work, and resets the controller meanwhile if that is asked for.
fn run(
    controller: &Controller<VfioBacking>,
    workers: Vec<Worker<'_, VfioBacking>>,
    reset_every: Option<Duration>,
) -> Result<(Tally, u32)> {
    let (ended, mut resets) = (EventFd::new()?, 0);
    let work = |worker: Worker<'_, VfioBacking>| {
        let outcome = worker.run();
        ended.signal()?;
        outcome
    };
    let outcomes = std::thread::scope(|scope| {
        let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(|| work(worker))).collect();
        let mut reset = Ok(());
        while reset_every.is_some() && reset.is_ok() && threads.iter().any(|thread| !thread.is_finished()) {
            if controller.backing().wait(&ended, reset_every)? == Woken::TimedOut {
                reset = controller.reset();
                resets += 1;
            }
        }
        let joined = threads.into_iter().map(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|_panic| bail!("a thread has panicked"))
        });
        let joined: Vec<_> = joined.collect();
        reset.map(|()| joined)
    })?;
    let mut sum = Tally::default();
    for outcome in outcomes {
        sum.add(&outcome?);
    }
    Ok((sum, resets))
}

/// A beginning of random numbers for each queue.
fn mixed(seed: u64, index: u16) -> u64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(index + 1).wrapping_mul(0xd134_2543_de82_ef95)) | 1
}

impl Arguments {
    fn interrupt(&self, index: u16, vectors: usize) -> Result<Interrupt> {
        // Vector 0 is the admin queue's where there are others.
        let vector = match u16::try_from(vectors).context("more vectors than queues")? {
            0 | 1 => 0,
            there => 1 + index % (there - 1),
        };
        Ok(match self.wait {
            Wait::Poll => Interrupt::Off,
            Wait::Interrupt => Interrupt::Vector(vector),
            Wait::Adaptive => Interrupt::Adaptive {
                vector,
                poll: Duration::from_micros(50),
            },
        })
    }
}
