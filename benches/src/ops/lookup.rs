//! From an address of the process to an IOVA.

use super::random::Random;
use super::{OURS, Operation, Subject, metered};
use crate::baseline::{SkipList, TwoLevel};
use crate::record::Clock;
use anyhow::{Result, anyhow, ensure};
use iommu::Iova;
use iommu::lookup::Translator;
use std::hint::black_box;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

/// Where the mappings are, each a page from the next, so that no neighbour answers for another.
const FIRST: u64 = 0x7f00_0000_0000;
const IOVA: u64 = 1 << 40;
const LOOKUPS: u32 = 1 << 10;
/// In each thread; threads that are started for less would be all that is measured.
const OF_THREAD: u32 = 1 << 18;

/// Something that knows mappings of one size.
trait Lookup: Send + Sync {
    fn of(page_bits: u32) -> Self
    where
        Self: Sized;

    fn insert(&mut self, address: u64, len: u64, iova: u64) -> Result<()>;

    fn lookup(&self, address: u64) -> Option<u64>;
}

/// A lock that all readers share.
type LockedList = RwLock<SkipList>;

/// By name, page bits, whether there is something to be found, and threads.
type Prepare = fn(u32, u64, bool, u32) -> Result<Subject>;

const WAYS: [(&str, Prepare); 3] = [
    (OURS, subject::<Translator>),
    ("skip list under a lock", subject::<LockedList>),
    ("two-level table", subject::<TwoLevel>),
];

/// Case, page bits, whether there is something to be found, and threads.
const CASES: [(&str, u32, bool, u32); 5] = [
    ("2 MiB each", 21, true, 1),
    ("4 KiB each", 12, true, 1),
    ("nothing there, 4 KiB each", 12, false, 1),
    ("2 MiB each, 2 threads", 21, true, 2),
    ("4 KiB each, 2 threads", 12, true, 2),
];

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = Vec::new();
    for (case, page_bits, is_there, threads) in CASES {
        for (way, prepare) in WAYS {
            for count in [16, 256, 4096] {
                let per_cycle = if threads == 1 { LOOKUPS } else { OF_THREAD * threads };
                let prepare = move || prepare(page_bits, count, is_there, threads);
                let operation = Operation::new("lookup", case, way, per_cycle, prepare).at(count, "mappings");
                operations.push(match threads {
                    1 => operation,
                    _ => operation.by(&[Clock::Wall]),
                });
            }
        }
    }
    operations
}

fn subject<L: Lookup + 'static>(page_bits: u32, count: u64, is_there: bool, threads: u32) -> Result<Subject> {
    let page = 1 << page_bits;
    let mut table = L::of(page_bits);
    let address = |number| FIRST + 2 * page * number;
    for number in 0..count {
        table.insert(address(number), page, IOVA + 4 * page * number)?;
    }
    let mut random = Random::new(count);
    let trace = (0..LOOKUPS).map(|_| {
        let number = random.below(count);
        let offset = random.below(page) + if is_there { 0 } else { page };
        let answer = is_there.then(|| IOVA + 4 * page * number + offset);
        (address(number) + offset, answer)
    });
    let trace: Vec<_> = trace.collect();
    for (address, answer) in &trace {
        let found = table.lookup(*address);
        ensure!(found == *answer, "{found:x?} for {address:#x}");
    }
    let trace: Arc<[u64]> = trace.into_iter().map(|(address, _)| address).collect();
    if threads == 1 {
        return Ok(Subject::new(move || {
            metered(|| look_up(&table, &trace, 1));
            Ok(())
        }));
    }
    let table = Arc::new(table);
    Ok(Subject::new(move || {
        let threads = (0..threads).map(|_| {
            let (table, trace) = (Arc::clone(&table), Arc::clone(&trace));
            thread::spawn(move || look_up(&*table, &trace, OF_THREAD / LOOKUPS))
        });
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            thread.join().map_err(|_panic| anyhow!("a look-up panicked"))?;
        }
        Ok(())
    }))
}

fn look_up<L: Lookup>(table: &L, trace: &[u64], rounds: u32) {
    for _ in 0..rounds {
        for address in trace {
            black_box(table.lookup(black_box(*address)));
        }
    }
}

impl Lookup for Translator {
    fn of(_: u32) -> Self {
        Self::new()
    }

    fn insert(&mut self, address: u64, len: u64, iova: u64) -> Result<()> {
        Ok(Self::insert(self, address.try_into()?, len.try_into()?, Iova(iova))?)
    }

    #[inline]
    fn lookup(&self, address: u64) -> Option<u64> {
        let address = usize::try_from(address).ok()?;
        Self::lookup(self, address, 1).map(|iova| iova.0)
    }
}

impl Lookup for LockedList {
    fn of(_: u32) -> Self {
        Self::default()
    }

    fn insert(&mut self, address: u64, len: u64, iova: u64) -> Result<()> {
        let list = self.get_mut().unwrap_or_else(PoisonError::into_inner);
        list.insert(address, len, iova);
        Ok(())
    }

    #[inline]
    fn lookup(&self, address: u64) -> Option<u64> {
        self.read().unwrap_or_else(PoisonError::into_inner).lookup(address)
    }
}

impl Lookup for TwoLevel {
    fn of(page_bits: u32) -> Self {
        Self::new(page_bits)
    }

    fn insert(&mut self, address: u64, _: u64, iova: u64) -> Result<()> {
        Self::insert(self, address, iova);
        Ok(())
    }

    #[inline]
    fn lookup(&self, address: u64) -> Option<u64> {
        Self::lookup(self, address)
    }
}
