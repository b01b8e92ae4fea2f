//! Making pages present with several threads.
//!
//! Most of the time that mapping fresh memory takes goes into zeroing it, one page after the other, inside the kernel's call that maps.
//! Pages that are present already are only pinned. [`populate`] lets several threads zero them first, a huge page or 2 MiB at a time.

use crate::{Error, Result};
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use vfio_core::{Memory, StableMemory};

/// The smallest piece of work for a thread: what the kernel can give as one page.
const PIECE: usize = 2 << 20;

/// Makes the pages of a part of `memory` present and zeroed, with as many as `threads` threads. `progress` is told the bytes done and the
/// bytes in all, on this thread, after each piece. [`MapOptions::prefault`](crate::space::MapOptions::prefault) does it as a part of mapping.
///
/// What was populated before a failure stays so.
///
/// ```
/// use vfio_core::{Memory, MemoryOptions};
///
/// let memory = Memory::new(8 << 20, MemoryOptions::default())?;
/// let threads = std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN);
/// let mut last = 0;
/// iommu::prefault::populate(&memory, 0..memory.len(), threads, |done, _| last = done)?;
/// assert_eq!(last, memory.len());
/// # Ok::<(), iommu::Error>(())
/// ```
///
/// # Errors
///
/// The first one that a thread met: ENOMEM or EFAULT when there are no pages left. [`Error::Invalid`] for a part that lies outside the
/// memory.
pub fn populate(
    memory: &Memory,
    part: Range<usize>,
    threads: NonZeroUsize,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    populate_watched(memory, part, threads, |done, total| {
        progress(done, total);
        ControlFlow::Continue(())
    })
}

/// As [`populate`], until `progress` breaks it off, which is [`Error::Cancelled`].
pub(crate) fn populate_watched(
    memory: &Memory,
    part: Range<usize>,
    threads: NonZeroUsize,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<()> {
    if part.start > part.end || part.end > memory.len() {
        return Err(Error::Invalid("part lies outside the memory"));
    }
    let piece = PIECE.max(memory.options().pages.bytes());
    let address = memory.address().addr();
    in_pieces(address, part, piece, threads, progress, |piece| {
        Ok(memory.populate(piece)?)
    })
}

/// Cuts `part` where the process's addresses are multiples of `piece`, and lets threads work on what results.
fn in_pieces(
    address: usize,
    part: Range<usize>,
    piece: usize,
    threads: NonZeroUsize,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    work: impl Fn(Range<usize>) -> Result<()> + Sync,
) -> Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    let total = part.len();
    let before = (address + part.start) % piece;
    let pieces = (before + total).div_ceil(piece);
    let bounds = |index: usize| {
        let start = (index * piece).saturating_sub(before);
        let end = ((index + 1) * piece - before).min(total);
        part.start + start..part.start + end
    };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (report, reports) = mpsc::channel();
    thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..threads.get().min(pieces) {
            let (next, failed, work, bounds, report) = (&next, &failed, &work, &bounds, report.clone());
            let worker = move || {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= pieces {
                        break;
                    }
                    let range = bounds(index);
                    let result = work(range.clone()).map(|()| range.len());
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    if report.send(result).is_err() {
                        break;
                    }
                }
            };
            // Fewer threads than were asked for do the same work.
            match thread::Builder::new()
                .name("prefault".to_owned())
                .spawn_scoped(scope, worker)
            {
                Ok(_) => started += 1,
                Err(error) => tracing::debug!(%error, "a thread could not be started"),
            }
        }
        drop(report);
        if started == 0 {
            return one_after_the_other(&bounds, pieces, total, &mut progress, &work);
        }
        let mut done = 0;
        let mut first_error = Ok(());
        for result in reports {
            match result {
                Ok(len) => {
                    done += len;
                    if first_error.is_ok() && progress(done, total).is_break() {
                        failed.store(true, Ordering::Relaxed);
                        first_error = Err(Error::Cancelled);
                    }
                }
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error
    })
}

fn one_after_the_other(
    bounds: &impl Fn(usize) -> Range<usize>,
    pieces: usize,
    total: usize,
    progress: &mut impl FnMut(usize, usize) -> ControlFlow<()>,
    work: &impl Fn(Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    for range in (0..pieces).map(bounds) {
        let len = range.len();
        work(range)?;
        done += len;
        if progress(done, total).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use vfio_core::MemoryOptions;

    const THREADS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

    proptest! {
        #[test]
        fn every_byte_belongs_to_exactly_one_piece(
            address in 0_usize..4096, start in 0_usize..500, len in 0_usize..5000, piece in 1_usize..700, threads in 1_usize..6,
        ) {
            let seen = Mutex::new(Vec::new());
            let mut reported = Vec::new();
            let threads = NonZeroUsize::new(threads).unwrap();
            in_pieces(address, start..start + len, piece, threads, |done, total| {
                reported.push((done, total));
                ControlFlow::Continue(())
            }, |range| {
                seen.lock().unwrap().push(range);
                Ok(())
            }).unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort_by_key(|range| range.start);
            let mut next = start;
            for range in &seen {
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty() && (address + range.start) / piece == (address + range.end - 1) / piece);
                next = range.end;
            }
            prop_assert_eq!(next, start + len);
            prop_assert!(reported.is_sorted() && reported.len() == seen.len());
            prop_assert_eq!(reported.last().map_or(0, |last| last.0), len);
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let calls = AtomicUsize::new(0);
        let result = in_pieces(
            0,
            0..1_000_000,
            1,
            THREADS,
            |_, _| ControlFlow::Continue(()),
            |range| {
                calls.fetch_add(1, Ordering::Relaxed);
                if range.start >= 10 {
                    Err(Error::Invalid("no pages left"))
                } else {
                    Ok(())
                }
            },
        );
        assert!(matches!(result, Err(Error::Invalid("no pages left"))));
        assert!(calls.into_inner() <= 10 + 2 * THREADS.get());
    }

    #[test]
    fn who_watches_ends_the_work() {
        let mut told = 0;
        let stop = |_: usize, _: usize| {
            told += 1;
            if told < 3 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let result = in_pieces(0, 0..1_000, 1, THREADS, stop, |_| Ok(()));
        assert!(matches!(result, Err(Error::Cancelled)));
        assert_eq!(told, 3, "and is told no more");
    }

    #[test]
    fn memory_is_populated_and_zero() {
        let memory = Memory::new(5 << 20, MemoryOptions::default()).unwrap();
        populate(&memory, 4096..memory.len(), THREADS, |_, _| ()).unwrap();
        assert_eq!(memory.read_value::<u64>(memory.len() - 8), Some(0));
        assert!(populate(&memory, 0..memory.len() + 1, THREADS, |_, _| ()).is_err());
        populate(&memory, 0..0, THREADS, |_, _| ()).unwrap();
    }
}
