//! Commands of the NVM command set (NVM §3).

use super::Namespace;
use super::spec::{DataPointer, Opcode, Sqe};

/// What a queue is asked to do: an entry without its identifier and its data pointer. Made once, and used as often as is liked.
///
/// Numbers of blocks are 1 to 65536. What a namespace does not have is for the controller to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it does nothing before it is submitted"]
pub struct Command {
    pub(crate) sqe: Sqe,
    /// Bytes of data; [`IMPOSSIBLE`] if it cannot be expressed.
    pub(crate) bytes: u64,
    /// What the namespace was when this was made; `None` if that does not matter.
    pub(crate) changes: Option<u32>,
    /// Bytes of metadata that the payload has apart from the data.
    pub(crate) metadata_bytes: u64,
}

/// More than any controller transfers.
const IMPOSSIBLE: u64 = u64::MAX;
/// Most blocks of a command: a number of 16 bits that counts from 0.
const MOST_BLOCKS: u32 = 1 << 16;
/// Most ranges of a Dataset Management command: a number of 8 bits that counts from 0.
const MOST_RANGES: u32 = 1 << 8;

/// Bits of CDW12.
const LIMITED_RETRY: u32 = 1 << 31;
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;
/// Bit of CDW11 of Dataset Management.
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;

impl Command {
    /// Reads blocks (NVM §3.3.4).
    #[inline]
    pub fn read(namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        Self::transfer(Opcode::READ, namespace, lba, blocks)
    }

    /// Writes blocks (NVM §3.3.6).
    #[inline]
    pub fn write(namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        Self::transfer(Opcode::WRITE, namespace, lba, blocks)
    }

    /// Compares blocks with data (NVM §3.3.1): [`COMPARE_FAILURE`](super::spec::Status::COMPARE_FAILURE) if they differ.
    #[inline]
    pub fn compare(namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        Self::transfer(Opcode::COMPARE, namespace, lba, blocks)
    }

    /// Makes blocks read as zeros (NVM §3.3.8).
    pub fn write_zeroes(namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        Self::range(Opcode::WRITE_ZEROES, namespace, lba, blocks)
    }

    /// Reads blocks inside the controller, to see whether they can be (NVM §3.3.5).
    pub fn verify(namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        Self::range(Opcode::VERIFY, namespace, lba, blocks)
    }

    /// Makes blocks unreadable until they are written again (NVM §3.3.7).
    pub fn write_uncorrectable(namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        Self::range(Opcode::WRITE_UNCORRECTABLE, namespace, lba, blocks)
    }

    /// Makes durable what was written before (Base §7.2).
    #[inline]
    pub fn flush(namespace: &Namespace) -> Self {
        Self {
            changes: Some(namespace.changes),
            ..Self::raw(Sqe::new(Opcode::FLUSH, namespace.id), 0)
        }
    }

    /// Says that nobody needs what ranges of blocks hold (NVM §3.3.3). Its data are 1 to 256 [`BlockRange`](super::spec::BlockRange)s.
    pub fn deallocate(namespace: &Namespace, ranges: u32) -> Self {
        let sqe = Sqe::new(Opcode::DATASET_MANAGEMENT, namespace.id)
            .with_cdw10(ranges.wrapping_sub(1))
            .with_cdw11(ATTRIBUTE_DEALLOCATE);
        let bytes = if ranges.wrapping_sub(1) < MOST_RANGES {
            u64::from(ranges) * size_of::<super::spec::BlockRange>() as u64
        } else {
            IMPOSSIBLE
        };
        Self {
            changes: Some(namespace.changes),
            ..Self::raw(sqe, bytes)
        }
    }

    /// Any command, with so many bytes of data. The controller does what it says to any namespace; the data still goes only where it may:
    /// pointers come from the payload alone, and so do not stay, nor does FUSE, which is for
    /// [`submit_fused`](super::QueuePair::submit_fused).
    #[inline]
    pub const fn raw(sqe: Sqe, bytes: u64) -> Self {
        Self {
            sqe: sqe.without_fuse().with_data(DataPointer::Prp, 0, 0).with_metadata(0),
            bytes,
            changes: None,
            metadata_bytes: 0,
        }
    }

    /// It is not complete before the data is on the medium (FUA).
    pub const fn force_unit_access(self) -> Self {
        self.with_cdw12_bit(FORCE_UNIT_ACCESS)
    }

    /// The controller does not try as hard as it can (LR).
    pub const fn limited_retry(self) -> Self {
        self.with_cdw12_bit(LIMITED_RETRY)
    }

    /// The blocks may be deallocated as well (DEAC, of [`write_zeroes`](Self::write_zeroes)).
    pub const fn and_deallocate(self) -> Self {
        self.with_cdw12_bit(DEALLOCATE)
    }

    /// Bytes of data that it transfers, which its payload has at least.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry, without an identifier and a data pointer.
    #[must_use]
    pub const fn sqe(&self) -> &Sqe {
        &self.sqe
    }

    const fn with_cdw12_bit(mut self, bit: u32) -> Self {
        self.sqe = self.sqe.with_cdw12(self.sqe.cdw12() | bit);
        self
    }

    #[inline]
    fn transfer(opcode: Opcode, namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        let command = Self::range(opcode, namespace, lba, blocks);
        Self {
            // At most 2^16 blocks of less than 2^33 bytes.
            bytes: command.bytes | (u64::from(blocks) * namespace.block_bytes()),
            metadata_bytes: u64::from(blocks) * namespace.separate_bytes(),
            ..command
        }
    }

    #[inline]
    fn range(opcode: Opcode, namespace: &Namespace, lba: u64, blocks: u32) -> Self {
        let count = blocks.wrapping_sub(1);
        let sqe = Sqe::new(opcode, namespace.id).with_cdw10_11(lba).with_cdw12(count);
        Self {
            sqe,
            bytes: if count < MOST_BLOCKS { 0 } else { IMPOSSIBLE },
            changes: Some(namespace.changes),
            metadata_bytes: 0,
        }
    }
}
