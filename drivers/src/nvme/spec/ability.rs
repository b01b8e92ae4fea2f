//! What a controller can do beside what every one can: words of Identify Controller (Base §5.1.13.2.1).

use bitflags::bitflags;

bitflags! {
    /// Optional admin commands: OACS.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct AdminCommands: u16 {
        /// Security Send and Receive.
        const SECURITY = 1 << 0;
        /// Format NVM.
        const FORMAT = 1 << 1;
        /// Firmware Commit and Image Download.
        const FIRMWARE = 1 << 2;
        /// Namespace Management and Attachment.
        const NAMESPACES = 1 << 3;
        /// Device Self-test.
        const SELF_TEST = 1 << 4;
        /// Directives.
        const DIRECTIVES = 1 << 5;
        /// NVMe-MI Send and Receive.
        const MANAGEMENT_INTERFACE = 1 << 6;
        /// Virtualization Management.
        const VIRTUALIZATION = 1 << 7;
        /// Doorbell Buffer Config.
        const DOORBELL_BUFFER = 1 << 8;
        /// Get LBA Status.
        const LBA_STATUS = 1 << 9;
        /// Command and Feature Lockdown.
        const LOCKDOWN = 1 << 10;
        const _ = !0;
    }
}

bitflags! {
    /// Optional commands of the NVM command set: ONCS.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct NvmCommands: u16 {
        /// Compare.
        const COMPARE = 1 << 0;
        /// Write Uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Dataset Management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Saving and selecting features.
        const SAVE_FEATURES = 1 << 4;
        /// Reservations.
        const RESERVATIONS = 1 << 5;
        /// The Timestamp feature.
        const TIMESTAMP = 1 << 6;
        /// Verify.
        const VERIFY = 1 << 7;
        /// Copy.
        const COPY = 1 << 8;
        const _ = !0;
    }
}

bitflags! {
    /// Sanitize operations: SANICAP.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SanitizeCapabilities: u32 {
        /// Crypto erase.
        const CRYPTO_ERASE = 1 << 0;
        /// Block erase.
        const BLOCK_ERASE = 1 << 1;
        /// Overwrite.
        const OVERWRITE = 1 << 2;
        const _ = !0;
    }
}
