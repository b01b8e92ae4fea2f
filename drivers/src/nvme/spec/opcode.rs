//! Commands by number. Bits 1:0 say which way data goes (Base §4.1).

use vfio_core::Access;

/// An opcode, of the admin or the I/O command set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opcode(pub u8);

/// Admin commands (Base §5).
impl Opcode {
    /// Delete I/O Submission Queue (Base §5.2.4).
    pub const DELETE_SQ: Self = Self(0x00);
    /// Create I/O Submission Queue (Base §5.2.2).
    pub const CREATE_SQ: Self = Self(0x01);
    /// Get Log Page (Base §5.1.12).
    pub const GET_LOG_PAGE: Self = Self(0x02);
    /// Delete I/O Completion Queue (Base §5.2.3).
    pub const DELETE_CQ: Self = Self(0x04);
    /// Create I/O Completion Queue (Base §5.2.1).
    pub const CREATE_CQ: Self = Self(0x05);
    /// Identify (Base §5.1.13).
    pub const IDENTIFY: Self = Self(0x06);
    /// Abort (Base §5.1.1).
    pub const ABORT: Self = Self(0x08);
    /// Set Features (Base §5.1.25).
    pub const SET_FEATURES: Self = Self(0x09);
    /// Get Features (Base §5.1.11).
    pub const GET_FEATURES: Self = Self(0x0a);
    /// Asynchronous Event Request (Base §5.1.2).
    pub const ASYNC_EVENT: Self = Self(0x0c);
    /// Namespace Management (Base §5.1.21).
    pub const NAMESPACE_MANAGEMENT: Self = Self(0x0d);
    /// Namespace Attachment (Base §5.1.20).
    pub const NAMESPACE_ATTACHMENT: Self = Self(0x15);
    /// Virtualization Management (Base §5.2.6).
    pub const VIRTUALIZATION_MANAGEMENT: Self = Self(0x1c);
    /// Doorbell Buffer Config (Base §5.2.5).
    pub const DOORBELL_BUFFER: Self = Self(0x7c);
    /// Format NVM (Base §5.1.10).
    pub const FORMAT: Self = Self(0x80);
    /// Sanitize (Base §5.1.22).
    pub const SANITIZE: Self = Self(0x84);
}

/// I/O commands (NVM Command Set 1.1 §3).
impl Opcode {
    /// Flush (Base §7.2).
    pub const FLUSH: Self = Self(0x00);
    /// Write (NVM §3.3.6).
    pub const WRITE: Self = Self(0x01);
    /// Read (NVM §3.3.4).
    pub const READ: Self = Self(0x02);
    /// Write Uncorrectable (NVM §3.3.7).
    pub const WRITE_UNCORRECTABLE: Self = Self(0x04);
    /// Compare (NVM §3.3.1).
    pub const COMPARE: Self = Self(0x05);
    /// Write Zeroes (NVM §3.3.8).
    pub const WRITE_ZEROES: Self = Self(0x08);
    /// Dataset Management (NVM §3.3.3).
    pub const DATASET_MANAGEMENT: Self = Self(0x09);
    /// Verify (NVM §3.3.5).
    pub const VERIFY: Self = Self(0x0c);
    /// Copy (NVM §3.3.2).
    pub const COPY: Self = Self(0x19);
}

impl Opcode {
    /// What the controller does with the data.
    #[must_use]
    #[inline]
    pub const fn access(self) -> Access {
        match self.0 & 0b11 {
            0 => Access::empty(),
            1 => Access::READ,
            2 => Access::WRITE,
            _ => Access::READ.union(Access::WRITE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_says_which_way_data_goes() {
        for (opcode, access) in [
            (Opcode::FLUSH, Access::empty()),
            (Opcode::WRITE, Access::READ),
            (Opcode::COMPARE, Access::READ),
            (Opcode::READ, Access::WRITE),
            (Opcode::DATASET_MANAGEMENT, Access::READ),
            (Opcode::VERIFY, Access::empty()),
            (Opcode::WRITE_ZEROES, Access::empty()),
            (Opcode::IDENTIFY, Access::WRITE),
            (Opcode::CREATE_SQ, Access::READ),
            (Opcode(0xff), Access::READ | Access::WRITE),
        ] {
            assert_eq!(opcode.access(), access, "{opcode:?}");
        }
    }
}
