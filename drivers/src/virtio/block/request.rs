//! What is asked of a disk (virtio 1.3 §5.2.6).

use crate::virtio::spec::block::{self, Header, Range};
use vfio_core::Access;

/// What is asked of a disk. Positions and counts are in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Reads into all of the data.
    Read {
        /// The first one.
        sector: u64,
    },
    /// Writes all of the data.
    Write {
        /// The first one.
        sector: u64,
    },
    /// Makes everything last that was written before this was submitted. Without data.
    Flush,
    /// What is there does not matter any more. Without data.
    Discard {
        /// The first one.
        sector: u64,
        /// How many.
        sectors: u32,
    },
    /// Writes zeroes. Without data.
    WriteZeroes {
        /// The first one.
        sector: u64,
        /// How many.
        sectors: u32,
        /// The device may free what it was kept in.
        unmap: bool,
    },
    /// Reads the disk's name into the data, which has 20 bytes: ASCII, with zeroes behind it.
    Identify,
}

impl Request {
    /// Its number, and what the device does with its data: `None` if it has none.
    pub(super) fn kind(self) -> (u32, Option<Access>) {
        match self {
            Self::Read { .. } => (block::IN, Some(Access::WRITE)),
            Self::Write { .. } => (block::OUT, Some(Access::READ)),
            Self::Flush => (block::FLUSH, None),
            Self::Discard { .. } => (block::DISCARD, None),
            Self::WriteZeroes { .. } => (block::WRITE_ZEROES, None),
            Self::Identify => (block::GET_ID, Some(Access::WRITE)),
        }
    }

    pub(super) fn header(self) -> Header {
        let sector = match self {
            Self::Read { sector } | Self::Write { sector } => sector,
            _ => 0,
        };
        Header {
            kind: self.kind().0.into(),
            reserved: 0.into(),
            sector: sector.into(),
        }
    }

    /// What goes with a request that has no data, but is for sectors.
    pub(super) fn range(self) -> Option<Range> {
        let (sector, sectors, flags) = match self {
            Self::Discard { sector, sectors } => (sector, sectors, 0),
            Self::WriteZeroes { sector, sectors, unmap } => (sector, sectors, u32::from(unmap) * block::UNMAP),
            _ => return None,
        };
        Some(Range {
            sector: sector.into(),
            sectors: sectors.into(),
            flags: flags.into(),
        })
    }
}
