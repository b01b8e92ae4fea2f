//! Taking IOVAs and giving them back while many are live.
//!
//! Every allocator gets the same requests in the same order. A cycle gives back some ranges, and takes one for each.

use super::random::Random;
use super::{OURS, Operation, Subject, metered};
use crate::baseline::{BestFit, FirstFit};
use crate::record::{Absence, Clock};
use anyhow::{Context, Result};
use iommu::allocator::{IovaAllocator, Request};
use iommu::{Iova, IovaRange};
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

const PAGE: u64 = 4096;
/// Where all ranges are.
const SPACE: u64 = 1 << 47;
const LIVE: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// The whole trace: few of its steps search, so that parts of it differ, and what was just touched is quick.
const STEPS: u32 = 16_384;
/// Of what takes microseconds each.
const FEW: u32 = 64;
/// Steps until holes come and go in equal measure.
const SETTLING: u32 = 4096;
/// Steps until the same requests come again.
const TRACE: u64 = 1 << 14;

/// Something that hands out ranges.
trait Allocator {
    fn empty() -> Result<Self>
    where
        Self: Sized;

    /// The beginning of a range of `len` bytes, at a multiple of `alignment`.
    fn allocate(&mut self, len: u64, alignment: u64) -> Result<u64>;

    fn release(&mut self, start: u64, len: u64) -> Result<()>;

    /// As [`allocate`](Self::allocate), in a way that may be quicker while nothing was given back yet.
    fn fill(&mut self, len: u64, alignment: u64) -> Result<u64> {
        self.allocate(len, alignment)
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Mix {
    name: &'static str,
    /// Pages of the n-th range.
    pages: fn(u64, &mut Random) -> u64,
    /// The oldest range goes first; else any.
    is_ring: bool,
    /// Between the ranges are holes from the beginning. Without, each is at a multiple of its length, up to the next power of two.
    has_holes: bool,
    /// Many holes come, through which an allocator may have to search.
    scatters: bool,
}

const MIXES: [Mix; 4] = [
    Mix {
        name: "one size",
        pages: |_, _| 1,
        is_ring: false,
        has_holes: false,
        scatters: false,
    },
    Mix {
        name: "rings",
        pages: |number, _| 1 << (2 * (number % 4)),
        is_ring: true,
        has_holes: false,
        scatters: false,
    },
    Mix {
        name: "random sizes",
        pages: |_, random| 1 + random.below(64),
        is_ring: false,
        has_holes: false,
        scatters: true,
    },
    Mix {
        name: "fragmented",
        pages: |_, random| 1 + random.below(64),
        is_ring: false,
        has_holes: true,
        scatters: true,
    },
];

/// An allocator by its name; how many live ranges it can have before a figure takes minutes, in mixes that do not scatter and in those that do; and its
/// steps in a cycle.
type Way = (
    &'static str,
    fn(Mix, u64, u32) -> Result<Subject>,
    [u64; 2],
    u32,
    &'static [Clock],
);

const WAYS: [Way; 4] = [
    (
        OURS,
        subject::<IovaAllocator>,
        [1_000_000; 2],
        STEPS,
        &[Clock::Wall, Clock::Instructions],
    ),
    (
        "first fit by address",
        subject::<FirstFit>,
        [1_000_000, 10_000],
        STEPS,
        &[Clock::Wall],
    ),
    (
        "best fit in a list",
        subject::<BestFit>,
        [100_000, 10_000],
        STEPS,
        &[Clock::Wall],
    ),
    (
        "vm-allocator",
        subject::<AddressAllocator>,
        [10_000; 2],
        FEW,
        &[Clock::Wall],
    ),
];

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = Vec::new();
    for mix in MIXES {
        for (way, subject, most, steps, clocks) in WAYS {
            for live in LIVE.into_iter().filter(|live| *live <= mix.most(most)) {
                let prepare = move || subject(mix, live, steps);
                operations.push(
                    Operation::new("iova", mix.name, way, steps, prepare)
                        .at(live, "live")
                        .by(clocks),
                );
            }
        }
    }
    operations
}

pub(super) fn absences() -> Vec<Absence> {
    let mut absences = Vec::new();
    for mix in MIXES {
        for (way, _, most, _, _) in WAYS {
            let most = mix.most(most);
            absences.extend(LIVE.into_iter().filter(|live| *live > most).map(|live| Absence {
                suite: "iova".to_owned(),
                case: format!("{}, {live} live", mix.name),
                way: way.to_owned(),
                reason: format!("stopped at {most}: it walks all ranges"),
            }));
        }
    }
    absences
}

impl Mix {
    const fn most(self, [calm, scattering]: [u64; 2]) -> u64 {
        if self.scatters { scattering } else { calm }
    }

    fn alignment(self, len: u64) -> u64 {
        if self.has_holes { PAGE } else { len.next_power_of_two() }
    }
}

fn subject<A: Allocator + 'static>(mix: Mix, count: u64, steps: u32) -> Result<Subject> {
    let mut random = Random::new(count);
    let mut allocator = A::empty()?;
    let mut live = Vec::new();
    let mut holes = Vec::new();
    for number in 0..count {
        let len = (mix.pages)(number, &mut random) * PAGE;
        live.push((allocator.fill(len, mix.alignment(len))?, len));
        if mix.has_holes {
            let len = (mix.pages)(number, &mut random) * PAGE;
            holes.push((allocator.fill(len, mix.alignment(len))?, len));
        }
    }
    for (start, len) in holes {
        allocator.release(start, len)?;
    }
    // In a ring the new range is as long as the old one.
    let trace = (0..count.max(TRACE)).map(|number| match mix.is_ring {
        true => (number % count, (mix.pages)(number % count, &mut random) * PAGE),
        false => (random.below(count), (mix.pages)(number, &mut random) * PAGE),
    });
    let trace: Vec<(u64, u64)> = trace.collect();
    let mut at = 0;
    let mut churn = move |steps: u32| {
        for _ in 0..steps {
            let &(victim, len) = trace.get(at).context("the trace is not empty")?;
            at = if at + 1 == trace.len() { 0 } else { at + 1 };
            let range = live.get_mut(usize::try_from(victim)?).context("a live range")?;
            metered(|| -> Result<()> {
                allocator.release(range.0, range.1)?;
                range.0 = allocator.allocate(len, mix.alignment(len))?;
                Ok(())
            })?;
            range.1 = len;
        }
        Ok(())
    };
    churn(SETTLING)?;
    Ok(Subject::new(move || churn(steps)))
}

impl Allocator for IovaAllocator {
    fn empty() -> Result<Self> {
        let all = IovaRange::new(Iova(0), SPACE).context("no range")?;
        Ok(Self::new(&[all], PAGE)?)
    }

    #[inline]
    fn allocate(&mut self, len: u64, alignment: u64) -> Result<u64> {
        let range = Self::allocate(self, Request::new(len).aligned_to(alignment))?;
        Ok(range.start().0)
    }

    #[inline]
    fn release(&mut self, start: u64, len: u64) -> Result<()> {
        let range = IovaRange::new(Iova(start), len).context("no range")?;
        Ok(Self::release(self, range)?)
    }
}

impl Allocator for FirstFit {
    fn empty() -> Result<Self> {
        Ok(Self::new(PAGE, SPACE))
    }

    fn allocate(&mut self, len: u64, alignment: u64) -> Result<u64> {
        Self::allocate(self, len, alignment).context("no space")
    }

    fn release(&mut self, start: u64, len: u64) -> Result<()> {
        Self::release(self, start, len);
        Ok(())
    }
}

impl Allocator for BestFit {
    fn empty() -> Result<Self> {
        Ok(Self::new(PAGE, SPACE))
    }

    fn allocate(&mut self, len: u64, alignment: u64) -> Result<u64> {
        Self::allocate(self, len, alignment).context("no space")
    }

    fn release(&mut self, start: u64, len: u64) -> Result<()> {
        Self::release(self, start, len);
        Ok(())
    }
}

/// The crate of the rust-vmm project.
impl Allocator for AddressAllocator {
    fn empty() -> Result<Self> {
        Ok(Self::new(PAGE, SPACE - PAGE)?)
    }

    fn allocate(&mut self, len: u64, alignment: u64) -> Result<u64> {
        Ok(Self::allocate(self, len, alignment, AllocPolicy::FirstMatch)?.start())
    }

    fn release(&mut self, start: u64, len: u64) -> Result<()> {
        Ok(self.free(&RangeInclusive::new(start, start + (len - 1))?)?)
    }
}
