//! Measures an NVMe controller: `nvme-perf BDF`, with the function bound to vfio-pci.
//!
//! Each thread has a queue pair of its own and keeps its depth of commands outstanding. Polled, no thread makes a system call between its first and
//! its last command; `strace -f` shows it between the lines "I/O begins" and "I/O has ended".
//!
//! ```text
//! nvme-perf 0000:01:00.0 --depth 32 --threads 2 --time 5
//! nvme-perf 0000:01:00.0 --workload mix --reads 70 --destroy-data --count 1000000 --json
//! nvme-perf 0000:01:00.0 --cost --depth 8
//! ```

#![expect(clippy::print_stderr, reason = "this is a program")]

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod report;
mod work;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use drivers::Backing;
use drivers::nvme::{Controller, DataForm, Interrupt, Options, QueueOptions, Registered};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use vfio_core::{Access, Memory, MemoryOptions, PageSize};

/// Measures an NVMe controller from this process
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: common::Function,
    /// Namespace
    #[arg(long, default_value_t = 1)]
    namespace: u32,
    /// Which blocks
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    pattern: Pattern,
    /// What to do with them
    #[arg(long, value_enum, default_value_t = Workload::Read)]
    workload: Workload,
    /// Percentage of reads of a mix
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// Write: what the namespace holds is lost
    #[arg(long)]
    destroy_data: bool,
    /// Commands that each thread keeps outstanding
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4095))]
    depth: u16,
    /// Bytes of a command
    #[arg(long, default_value_t = 4096)]
    bytes: u32,
    /// Threads, each with a queue pair
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// How a thread hears of completions
    #[arg(long, value_enum, default_value_t = Wait::Poll)]
    wait: Wait,
    /// How long an adaptive thread looks before it waits for an interrupt, in microseconds
    #[arg(long, default_value_t = 50)]
    poll_us: u64,
    /// Seconds to run
    #[arg(long, default_value_t = 5.0)]
    time: f64,
    /// Commands of each thread after which it ends before its time
    #[arg(long)]
    count: Option<u64>,
    /// Use this many bytes from the namespace's start [default: all]
    #[arg(long)]
    range: Option<u64>,
    /// How commands say where their data is
    #[arg(long, value_enum, default_value_t = Form::Shortest)]
    form: Form,
    /// Ring doorbells by registers even where the controller has them in memory
    #[arg(long)]
    no_shadow_doorbells: bool,
    /// Keep submission queues in the controller memory buffer
    #[arg(long)]
    cmb: bool,
    /// Seed of the random blocks
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure what the driver itself costs: submit as many commands as the depth, nap until they are done, take them, and count only the time of the
    /// first and the last
    #[arg(long, conflicts_with = "threads")]
    cost: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pattern {
    Random,
    Sequential,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Read,
    Write,
    Mix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// It looks: no system calls
    Poll,
    /// It blocks until the controller interrupts
    Interrupt,
    /// It looks for a while, then blocks
    Adaptive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Shortest,
    Prp,
    Sgl,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.workload != Workload::Read && !arguments.destroy_data {
        bail!("writing destroys what the namespace holds; say --destroy-data");
    }
    let backing = arguments.device.open()?;
    let options = Options {
        queues: arguments.threads,
        vectors: match arguments.wait {
            Wait::Poll => 0,
            _ => usize::from(arguments.threads) + 1,
        },
        shadow_doorbells: !arguments.no_shadow_doorbells,
        ..Options::default()
    };
    let controller = Controller::new(backing.clone(), &options)?;
    let namespace = controller.namespace(arguments.namespace)?;
    let region = Region::new(&arguments, namespace.lba_bytes, namespace.capacity())?;

    // One piece of memory for all, so that the IOMMU needs few translations.
    let depth = usize::from(arguments.depth);
    let bytes = usize::try_from(arguments.bytes)?;
    let len = depth * bytes * usize::from(arguments.threads);
    let memory = MemoryOptions {
        pages: PageSize::Transparent,
        ..MemoryOptions::default()
    };
    let memory = Memory::new(len, memory).or_else(|_no_such_pages| Memory::new(len, MemoryOptions::default()))?;
    memory.populate(0..len)?;
    let registered = Registered::new(backing.space(), Arc::new(memory), Access::READ | Access::WRITE)?;

    let mut workers = Vec::new();
    for thread in 0..arguments.threads {
        let queue = controller.queue_pair(QueueOptions {
            depth: arguments.depth,
            transfer_bytes: arguments.bytes.into(),
            interrupt: arguments.interrupt(thread, controller.vectors()),
            form: match arguments.form {
                Form::Shortest => DataForm::Shortest,
                Form::Prp => DataForm::Prp,
                Form::Sgl => DataForm::Sgl,
            },
            submission_in_buffer: arguments.cmb,
            ..QueueOptions::default()
        })?;
        let start = usize::from(thread) * depth * bytes;
        let parts = (0..depth).map(|place| {
            let start = start + place * bytes;
            registered
                .part(start..start + bytes)
                .context("a part outside the memory")
        });
        let parts = parts.collect::<anyhow::Result<Vec<_>>>()?;
        let plan = work::Plan {
            namespace: namespace.clone(),
            blocks: region.blocks,
            slots: region.slots,
            is_random: arguments.pattern == Pattern::Random,
            reads: match arguments.workload {
                Workload::Read => 100,
                Workload::Write => 0,
                Workload::Mix => arguments.reads,
            },
            polls: arguments.wait == Wait::Poll,
            time: Duration::from_secs_f64(arguments.time),
            count: arguments.count.unwrap_or(u64::MAX),
            // Threads that read sequentially begin at different places.
            first: region.slots / u64::from(arguments.threads) * u64::from(thread),
            seed: arguments.seed.wrapping_add(u64::from(thread)),
        };
        workers.push(work::Worker::new(queue, parts, plan)?);
    }
    if let (true, Some(worker)) = (arguments.cost, workers.first_mut()) {
        return report::print_cost(&arguments, &cost::measure(worker)?);
    }
    let results = run(workers);
    report::print(&arguments, results)
}

/// Lets all of them work at the same time; the last one on this thread, so that one alone needs no other. Queues are deleted afterwards.
fn run<B: Backing>(mut workers: Vec<work::Worker<B>>) -> Vec<anyhow::Result<work::Outcome>> {
    let Some((last, others)) = workers.split_last_mut() else {
        return Vec::new();
    };
    let barrier = Barrier::new(others.len() + 1);
    std::thread::scope(|scope| {
        let start = |worker: &mut work::Worker<B>| {
            barrier.wait();
            worker.run()
        };
        let threads: Vec<_> = others
            .iter_mut()
            .map(|worker| scope.spawn(move || start(worker)))
            .collect();
        barrier.wait();
        eprintln!("I/O begins");
        let last = last.run();
        let joined = threads.into_iter().map(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|_panic| Err(anyhow::anyhow!("a thread has panicked")))
        });
        let outcomes = joined.chain([last]).collect();
        eprintln!("I/O has ended");
        outcomes
    })
}

/// The part of the namespace that is used.
struct Region {
    /// Blocks of a command.
    blocks: u32,
    /// Commands that it holds, one after the other.
    slots: u64,
}

impl Region {
    fn new(arguments: &Arguments, lba_bytes: u32, capacity: u64) -> anyhow::Result<Self> {
        if arguments.bytes == 0 || !arguments.bytes.is_multiple_of(lba_bytes) {
            bail!("{} bytes are not a number of blocks of {lba_bytes}", arguments.bytes);
        }
        let slots = arguments.range.unwrap_or(capacity).min(capacity) / u64::from(arguments.bytes);
        if slots == 0 {
            bail!("no command fits into {capacity} bytes");
        }
        Ok(Self {
            blocks: arguments.bytes / lba_bytes,
            slots,
        })
    }
}

impl Arguments {
    /// Vector 0 is the admin queue's where there are others.
    fn interrupt(&self, thread: u16, vectors: usize) -> Interrupt {
        let there = u16::try_from(vectors).unwrap_or(u16::MAX);
        let vector = if there > 1 { 1 + thread % (there - 1) } else { 0 };
        match self.wait {
            Wait::Poll => Interrupt::Off,
            Wait::Interrupt => Interrupt::Vector(vector),
            Wait::Adaptive => Interrupt::Adaptive {
                vector,
                poll: Duration::from_micros(self.poll_us),
            },
        }
    }
}
