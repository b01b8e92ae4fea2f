//! Data of Dataset Management (NVM §3.3.3).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A range of blocks that a host does not need any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockRange {
    /// Context attributes: hints, 0 for none.
    pub attributes: U32,
    /// How many blocks.
    pub blocks: U32,
    /// The first of them.
    pub lba: U64,
}

const _: () = assert!(size_of::<BlockRange>() == 16);

impl BlockRange {
    /// Without hints.
    #[must_use]
    pub const fn new(lba: u64, blocks: u32) -> Self {
        Self {
            attributes: U32::new(0),
            blocks: U32::new(blocks),
            lba: U64::new(lba),
        }
    }
}
