//! Invalidating what an IOMMU has cached for a guest, in batches that may stop half-way.

use super::Object;
use super::command;
use crate::Error;

/// Entries to invalidate, all of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidation<'a> {
    /// Intel VT-d, first stage; for a nested [`Hwpt`](super::Hwpt).
    VtdS1(&'a [VtdS1Invalidation]),
    /// Arm SMMUv3 commands of two words each; for a [`Viommu`](super::Viommu).
    SmmuV3(&'a [[u64; 2]]),
    /// Another kind, as the kernel lays it out.
    Raw {
        /// `enum iommu_hwpt_invalidate_data_type`.
        kind: u32,
        /// Bytes of one entry, at most a page.
        entry_len: u32,
        /// The entries, whole ones, at most 2^19.
        entries: &'a [u8],
    },
}

/// `struct iommu_hwpt_vtd_s1_invalidate`: pages of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VtdS1Invalidation {
    /// Where to begin, a multiple of 4096.
    pub address: u64,
    /// How many pages; `u64::MAX` from address 0 is everything.
    pub pages: u64,
    /// Whether only leaf entries changed.
    pub leaf: bool,
}

/// An invalidation that stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}, after {handled} entries")]
pub struct InvalidateError {
    /// Entries that were handled; the next one failed.
    pub handled: u32,
    /// What happened.
    #[source]
    pub error: Error,
}

impl From<InvalidateError> for Error {
    fn from(stopped: InvalidateError) -> Self {
        stopped.error
    }
}

pub(super) fn run(object: &Object, entries: Invalidation<'_>) -> Result<u32, InvalidateError> {
    let (kind, entry_len, entries) = entries.encode();
    let refuse = |why| InvalidateError {
        handled: 0,
        error: command::HWPT_INVALIDATE.invalid(why),
    };
    let entry_bytes = entry_len as usize;
    if entry_bytes == 0 || !entries.len().is_multiple_of(entry_bytes) {
        return Err(refuse("not a whole number of entries"));
    }
    let (handled, result) = object
        .iommufd()
        .calls()
        .hwpt_invalidate(object.id().0, kind, entry_len, &entries);
    match result {
        Ok(()) => Ok(handled),
        Err(errno) => Err(InvalidateError {
            handled,
            error: command::HWPT_INVALIDATE.error(errno),
        }),
    }
}

impl Invalidation<'_> {
    fn encode(&self) -> (u32, u32, Vec<u8>) {
        match self {
            Self::VtdS1(entries) => {
                let words = entries.iter().flat_map(|entry| {
                    let [a, b, c, d] = u32::from(entry.leaf).to_ne_bytes();
                    [entry.address, entry.pages, u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])]
                });
                (0, 24, words.flat_map(u64::to_ne_bytes).collect())
            }
            Self::SmmuV3(commands) => (
                1,
                16,
                commands.iter().flatten().flat_map(|word| word.to_le_bytes()).collect(),
            ),
            Self::Raw {
                kind,
                entry_len,
                entries,
            } => (*kind, *entry_len, entries.to_vec()),
        }
    }
}
