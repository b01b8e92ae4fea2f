//! An address space, the memory that is lent to its devices, and the one way in which it comes back.
//!
//! Memory must stay until no device reaches it. That rests on all of these together, and is decided in this module alone:
//!
//! - Memory goes to the kernel as a [`Lent`], and so does what is copied. Only this module makes one, so no other code can map or copy the
//!   process's memory.
//! - What was mapped is a [`Loan`]. It owns the memory and, dropped, keeps it for good. Only [`Loan::unmap`] lets go of it: once the kernel
//!   has unmapped all of it, or after a ranged unmap ([`Space::unmap`]) that did.
//! - Which of the two it is says the [`registry`], by which nobody's unmap ever meets a later mapping.
//!
//! From outside comes one fact: whether the process is alone with its iommufd ([`Sharing`]). Others who have it may unmap, cut and replace what is
//! mapped here: then memory is leaked rather than let go, and nothing is copied.

mod ioas;
mod registry;
mod type1;

pub(crate) use ioas::{IoasTable, Sharing};
pub(crate) use registry::Shared;
pub(crate) use type1::Type1Table;

use super::Result;
use super::located::Located;
use crate::{Access, Iova, IovaRange, StableMemory};
use registry::{Claim, GuardId, Registry};
use rustix::io::Errno;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// What a call gives to devices: memory, or the place of a mapping to copy.
#[derive(Debug)]
pub(crate) struct Lent<T>(T);

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(all(test, feature = "fake"))]
impl<T> Lent<T> {
    /// To the fake machine, which reaches memory only while it holds it.
    pub(crate) fn to_fake(what: T) -> Self {
        Self(what)
    }
}

#[cfg(all(test, feature = "fake"))]
impl Lent<Located> {
    /// As [`to_fake`](Self::to_fake).
    pub(crate) fn memory_to_fake(memory: &Arc<dyn StableMemory>) -> Self {
        Self(Located::new(Arc::clone(memory)))
    }
}

/// An address space in the kernel.
pub(crate) trait Table {
    /// Returns the IOVA.
    fn map(&self, memory: &Lent<Located>, part: Range<usize>, iova: Option<u64>, access: Access) -> Result<u64>;

    /// Unmaps what lies inside, and returns how many bytes that were.
    fn unmap(&self, range: IovaRange) -> Result<u64>;

    /// Whether a ranged unmap that succeeded with `got` bytes has unmapped all mappings that are known there, which have `want`.
    fn is_all(&self, want: u64, got: u64) -> bool;

    /// What a ranged unmap that failed has left of a mapping inside, if nobody else has the descriptor.
    fn left(&self, failed: Failed, entry: IovaRange) -> Left;

    /// Whether nobody else has the descriptor, nor had it before.
    fn is_alone(&self) -> bool;
}

/// What is left of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    All,
    Nothing,
    /// Nobody can tell.
    Unclear,
}

/// Why something is not unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The range has a part of a mapping, but not all of it. Nothing was tried.
    Cut,
    /// Whether it is there nobody can tell. Nothing was tried.
    Unclear,
    /// Another number of bytes than there are.
    Short { want: u64, got: u64 },
    /// What the kernel said.
    Kernel(Errno),
    /// It is unmapped, but without its dirty bits: what the kernel said to them, if it was asked.
    Bits(Option<Errno>),
}

/// Why something is not mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotLent {
    /// What the kernel said.
    Kernel(Errno),
    /// It is mapped, but elsewhere than asked for or where nothing can be; the memory is leaked.
    Elsewhere(Iova),
}

/// An address space and what this process has mapped there.
#[derive(Debug)]
pub(crate) struct Space<T> {
    table: T,
    registry: Registry,
}

/// What was mapped, with the memory if it is any of the process's. Dropped, it stays mapped and the memory is leaked.
#[must_use = "dropping it leaks the memory"]
pub(crate) struct Loan<T> {
    space: Arc<Space<T>>,
    range: IovaRange,
    guard: GuardId,
    memory: ManuallyDrop<Option<Arc<dyn StableMemory>>>,
}

impl<T: Table> Space<T> {
    pub(crate) fn new(table: T) -> Arc<Self> {
        let registry = Registry::default();
        Arc::new(Self { table, registry })
    }

    /// Maps a part of memory. EINVAL outside it.
    pub(crate) fn map(
        self: &Arc<Self>,
        located: Located,
        part: Range<usize>,
        iova: Option<u64>,
        access: Access,
    ) -> std::result::Result<Loan<T>, NotLent> {
        let len = part.len() as u64;
        let lent = Lent(located);
        let entered = {
            let shared = self.registry.share();
            let mapped = self.table.map(&lent, part, iova, access);
            enter(&shared, mapped, iova, len)
        };
        // With nothing locked: what its drop does is not known here.
        self.lend(entered, Some(lent.0.into_memory()))
    }

    /// Unmaps all mappings that lie inside a range, and returns how many bytes that were. Their loans have nothing left to unmap, and those which may
    /// be gone are never unmapped again.
    pub(crate) fn unmap(&self, range: IovaRange) -> std::result::Result<u64, Failed> {
        self.registry.alone(|entries| {
            let inside = entries.inside(range).ok_or(Failed::Cut)?;
            let want = inside
                .iter()
                .fold(0, |sum: u64, entry| sum.saturating_add(length(*entry)));
            let failed = match self.table.unmap(range) {
                Ok(got) if self.table.is_all(want, got) => {
                    inside.into_iter().for_each(|entry| entries.remove(entry));
                    return Ok(got);
                }
                Ok(got) => Failed::Short { want, got },
                Err(errno) => Failed::Kernel(errno),
            };
            let ask = |entry| (entry, self.table.left(failed, entry));
            let answers: Vec<_> = inside.into_iter().map(ask).collect();
            // Last: somebody who has come meanwhile may have had a hand in any of the answers.
            let alone = self.table.is_alone();
            for (entry, left) in answers {
                match left {
                    Left::All => {}
                    Left::Nothing if alone => entries.remove(entry),
                    Left::Nothing | Left::Unclear => entries.make_unclear(entry),
                }
            }
            Err(failed)
        })
    }

    /// Holds off ranged unmaps.
    pub(crate) fn share(&self) -> Shared<'_> {
        self.registry.share()
    }

    /// Whether a mapping could begin now, and whether a ranged unmap could.
    #[cfg(test)]
    pub(crate) fn is_open_for(&self) -> (bool, bool) {
        self.registry.is_open_for()
    }

    fn lend(
        self: &Arc<Self>,
        entered: std::result::Result<(IovaRange, GuardId), NotLent>,
        memory: Option<Arc<dyn StableMemory>>,
    ) -> std::result::Result<Loan<T>, NotLent> {
        match entered {
            Ok((range, guard)) => Ok(Loan {
                space: Arc::clone(self),
                range,
                guard,
                memory: ManuallyDrop::new(memory),
            }),
            Err(elsewhere @ NotLent::Elsewhere(iova)) => {
                tracing::error!(%iova, "mapped where it cannot be; the memory is leaked");
                std::mem::forget(memory);
                Err(elsewhere)
            }
            Err(not_mapped) => Err(not_mapped),
        }
    }
}

impl<T: Table> Loan<T> {
    pub(crate) fn range(&self) -> IovaRange {
        self.range
    }

    /// The memory; nothing for a file, which the kernel holds itself.
    pub(crate) fn memory(&self) -> Option<&Arc<dyn StableMemory>> {
        self.memory.as_ref()
    }

    /// Whether it is mapped, as far as is known.
    pub(crate) fn is_live(&self) -> bool {
        self.space.registry.share().is_live(self.range.start(), self.guard)
    }

    /// Unmaps it, if no ranged unmap did, and lets go of the memory. With any error it is leaked.
    pub(crate) fn unmap(self) -> std::result::Result<(), Failed> {
        self.end(|loan| loan.check(loan.space.table.unmap(loan.range)))
    }

    /// Lets go of the memory if `unmap` says that it is unmapped. That is not asked if there is nothing to unmap, or nobody can tell.
    fn end(self, unmap: impl FnOnce(&Self) -> std::result::Result<(), Failed>) -> std::result::Result<(), Failed> {
        let unmapped = {
            let shared = self.space.registry.share();
            match shared.claim(self.range.start(), self.guard) {
                Claim::Live => unmap(&self),
                Claim::Gone => Ok(()),
                Claim::Unclear => Err(Failed::Unclear),
            }
        };
        if matches!(unmapped, Ok(()) | Err(Failed::Bits(_))) {
            // With nothing locked, as above.
            drop(ManuallyDrop::into_inner(self.memory));
        }
        unmapped
    }

    /// Whether the kernel's answer means that all of it is unmapped.
    fn check(&self, answer: Result<u64>) -> std::result::Result<(), Failed> {
        let want = length(self.range);
        match answer {
            Ok(got) if got == want => Ok(()),
            Ok(got) => Err(Failed::Short { want, got }),
            Err(errno) => Err(Failed::Kernel(errno)),
        }
    }
}

impl<T> fmt::Debug for Loan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loan({}, {:?})", self.range, *self.memory)
    }
}

/// Enters what the kernel has just mapped, with the registry held since before.
fn enter(
    shared: &Shared<'_>,
    mapped: Result<u64>,
    asked: Option<u64>,
    len: u64,
) -> std::result::Result<(IovaRange, GuardId), NotLent> {
    let iova = mapped.map_err(NotLent::Kernel)?;
    let range = IovaRange::new(Iova(iova), len).filter(|_| asked.is_none_or(|asked| asked == iova));
    let range = range.ok_or(NotLent::Elsewhere(Iova(iova)))?;
    Ok((range, shared.enter(range)))
}

/// Length as iommufd counts it: its word for everything is `u64::MAX`.
pub(crate) fn length(range: IovaRange) -> u64 {
    u64::try_from(range.len_bytes()).unwrap_or(u64::MAX)
}
