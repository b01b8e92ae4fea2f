//! A submission queue entry as the controller reads it, and the status that it answers.
//!
//! NVM Express Base Specification 2.0 §3.3.3 (entries) and §3.3.3.2.1 (status). Decoded from bytes here and not by the driver's own definitions, so
//! that a mistake in those shows.

use super::bytes::{u8_at, u16_at, u32_at, u64_at};

/// Bytes of a submission queue entry.
pub(super) const ENTRY: usize = 64;

/// A submission queue entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command(pub(super) [u8; ENTRY]);

impl Command {
    pub(super) fn opcode(&self) -> u8 {
        u8_at(&self.0, 0)
    }

    /// 0 alone, 1 the first of two, 2 the second.
    pub(super) fn fuse(&self) -> u8 {
        u8_at(&self.0, 1) & 3
    }

    /// How its data is described: 0 PRPs, 1 and 2 SGLs.
    pub(super) fn psdt(&self) -> u8 {
        u8_at(&self.0, 1) >> 6
    }

    pub(super) fn id(&self) -> u16 {
        u16_at(&self.0, 2)
    }

    pub(super) fn namespace(&self) -> u32 {
        u32_at(&self.0, 4)
    }

    pub(super) fn metadata(&self) -> u64 {
        u64_at(&self.0, 16)
    }

    pub(super) fn prp1(&self) -> u64 {
        u64_at(&self.0, 24)
    }

    pub(super) fn prp2(&self) -> u64 {
        u64_at(&self.0, 32)
    }

    /// The SGL descriptor that stands where the PRPs would.
    pub(super) fn sgl(&self) -> [u8; 16] {
        let mut descriptor = [0; 16];
        super::bytes::put(&mut descriptor, 0, self.0.get(24..40).unwrap_or_default());
        descriptor
    }

    /// Double word `n`, of 10 to 15.
    pub(super) fn dword(&self, n: usize) -> u32 {
        u32_at(&self.0, 4 * n)
    }

    /// Starting LBA of an I/O command.
    pub(super) fn lba(&self) -> u64 {
        u64_at(&self.0, 40)
    }
}

/// How a command ended: Status Code in bits 7:0, Status Code Type in bits 10:8, More in bit 13, Do Not Retry in bit 14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u16);

impl Status {
    /// The command was done.
    pub const SUCCESS: Self = Self(0);
    pub(super) const INVALID_OPCODE: Self = Self(0x01).final_();
    pub(super) const INVALID_FIELD: Self = Self(0x02).final_();
    pub(super) const ID_CONFLICT: Self = Self(0x03).final_();
    pub(super) const DATA_TRANSFER: Self = Self(0x04);
    /// Something went wrong inside.
    pub const INTERNAL: Self = Self(0x06);
    pub(super) const ABORT_REQUESTED: Self = Self(0x07);
    pub(super) const QUEUE_DELETED: Self = Self(0x08);
    pub(super) const FUSED_FAILED: Self = Self(0x09);
    pub(super) const FUSED_MISSING: Self = Self(0x0a).final_();
    pub(super) const INVALID_NAMESPACE: Self = Self(0x0b).final_();
    pub(super) const SEQUENCE: Self = Self(0x0c).final_();
    pub(super) const SGL_SEGMENT: Self = Self(0x0d).final_();
    pub(super) const SGL_COUNT: Self = Self(0x0e).final_();
    pub(super) const SGL_LENGTH: Self = Self(0x0f).final_();
    pub(super) const SGL_METADATA_LENGTH: Self = Self(0x10).final_();
    pub(super) const SGL_TYPE: Self = Self(0x11).final_();
    pub(super) const INVALID_BUFFER: Self = Self(0x12).final_();
    pub(super) const PRP_OFFSET: Self = Self(0x13).final_();
    pub(super) const SANITIZE_IN_PROGRESS: Self = Self(0x1d);
    pub(super) const LBA_RANGE: Self = Self(0x80).final_();
    pub(super) const NO_COMPLETION_QUEUE: Self = Self(0x100).final_();
    pub(super) const INVALID_QUEUE: Self = Self(0x101).final_();
    pub(super) const INVALID_QUEUE_SIZE: Self = Self(0x102).final_();
    pub(super) const EVENT_LIMIT: Self = Self(0x105).final_();
    pub(super) const INVALID_VECTOR: Self = Self(0x108).final_();
    pub(super) const INVALID_LOG: Self = Self(0x109).final_();
    pub(super) const INVALID_FORMAT: Self = Self(0x10a).final_();
    pub(super) const QUEUE_IN_USE: Self = Self(0x10c).final_();
    pub(super) const NOT_SAVEABLE: Self = Self(0x10d).final_();
    pub(super) const NO_CAPACITY: Self = Self(0x115).final_();
    pub(super) const NO_NAMESPACE_ID: Self = Self(0x116).final_();
    pub(super) const ATTACHED: Self = Self(0x118).final_();
    pub(super) const PRIVATE: Self = Self(0x119).final_();
    pub(super) const NOT_ATTACHED: Self = Self(0x11a).final_();
    pub(super) const CONTROLLER_LIST: Self = Self(0x11c).final_();
    pub(super) const INVALID_CONTROLLER: Self = Self(0x11f).final_();
    pub(super) const SECONDARY_STATE: Self = Self(0x120).final_();
    pub(super) const RESOURCE_COUNT: Self = Self(0x121).final_();
    pub(super) const RESOURCE_ID: Self = Self(0x122).final_();
    /// The medium could not be written.
    pub const WRITE_FAULT: Self = Self(0x280);
    /// The medium could not be read.
    pub const READ_ERROR: Self = Self(0x281);
    pub(super) const COMPARE: Self = Self(0x285);

    /// Not to be tried again: it would end the same way.
    #[must_use]
    pub const fn final_(self) -> Self {
        Self(self.0 | 1 << 14)
    }

    pub(super) fn is_success(self) -> bool {
        self.0.trailing_zeros() >= 11
    }
}
