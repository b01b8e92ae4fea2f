//! What a disk takes (virtio 1.3 §5.2.4).

use crate::virtio::spec::BlockFeatures;
use crate::virtio::spec::block::{self, SECTOR};
use crate::virtio::transport::Function;
use crate::{Backing, Result};

/// What a disk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sectors of 512 bytes; its bytes can be counted in 64 bits.
    pub capacity: u64,
    /// Bytes of a block, a power of two: what is best aligned to it.
    pub block_size: u32,
    /// Pieces of a request's data.
    pub pieces: u16,
    /// Bytes of a piece.
    pub piece_len: u32,
    /// It cannot be written.
    pub is_read_only: bool,
    /// It has a cache: what was written lasts after [`Request::Flush`](super::Request::Flush) only.
    pub has_cache: bool,
    /// Sectors of a [`Request::Discard`](super::Request::Discard); 0 if it has none.
    pub discard: u32,
    /// Sectors of a [`Request::WriteZeroes`](super::Request::WriteZeroes); 0 if it has none.
    pub write_zeroes: u32,
}

impl Limits {
    pub(super) fn read<B: Backing>(function: &Function<B>, pieces: u16) -> Result<Self> {
        let limits = function.config(|function| Self::said(function, pieces))?;
        let wrong = if limits.capacity > u64::MAX / SECTOR {
            "more bytes than can be counted"
        } else if limits.block_size < 512 || !limits.block_size.is_power_of_two() {
            "a block size that is none"
        } else {
            return Ok(limits);
        };
        Err(function.broken("read the configuration", wrong))
    }

    /// What the device says; `None` if it lacks something.
    fn said<B: Backing>(function: &Function<B>, pieces: u16) -> Option<Self> {
        let has = |feature: BlockFeatures| function.features() & feature.bits() != 0;
        let of = |feature, offset, otherwise| {
            if has(feature) {
                function.config_u32(offset)
            } else {
                Some(otherwise)
            }
        };
        let (low, high) = (
            function.config_u32(block::CAPACITY)?,
            function.config_u32(block::CAPACITY + 4)?,
        );
        let most = of(BlockFeatures::SEG_MAX, block::SEG_MAX, u32::from(u16::MAX))?.clamp(1, 0xfff0);
        Some(Self {
            capacity: u64::from(high) << 32 | u64::from(low),
            block_size: of(BlockFeatures::BLK_SIZE, block::BLK_SIZE, 512)?,
            pieces: pieces.max(1).min(u16::try_from(most).unwrap_or(1)),
            piece_len: of(BlockFeatures::SIZE_MAX, block::SIZE_MAX, u32::MAX)?,
            is_read_only: has(BlockFeatures::RO),
            has_cache: has(BlockFeatures::FLUSH),
            discard: of(BlockFeatures::DISCARD, block::MAX_DISCARD, 0)?,
            write_zeroes: of(BlockFeatures::WRITE_ZEROES, block::MAX_WRITE_ZEROES, 0)?,
        })
    }

    /// Whether so many sectors are on the disk.
    pub(super) fn holds(&self, sector: u64, sectors: u64) -> bool {
        sectors != 0 && sector.checked_add(sectors).is_some_and(|end| end <= self.capacity)
    }
}
