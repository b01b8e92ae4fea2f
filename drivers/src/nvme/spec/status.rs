//! Status of a completion (Base §4.2.3).

use crate::ErrorKind;
use std::fmt;

/// The status field without the phase tag: SC in bits 7:0, SCT 10:8, CRD 12:11, M 13, DNR 14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u16);

macro_rules! statuses {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// The values that are given names to here: SCT and SC.
        impl Status {
            $(
                #[doc = concat!($text, ".")]
                pub const $name: Self = Self($value);
            )*

            /// What it is called, without CRD, M and DNR; `None` of a value that is not known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.code() {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

// Generic (0xx), command specific (1xx), media and data integrity (2xx), path related (3xx): Base §4.2.3.1 to 4.2.3.4, NVM §3.1.
statuses! {
    SUCCESS = 0x000, "successful completion";
    INVALID_OPCODE = 0x001, "invalid command opcode";
    INVALID_FIELD = 0x002, "invalid field in command";
    CID_CONFLICT = 0x003, "command ID conflict";
    DATA_TRANSFER_ERROR = 0x004, "data transfer error";
    POWER_LOSS = 0x005, "commands aborted due to power loss notification";
    INTERNAL_ERROR = 0x006, "internal error";
    ABORT_REQUESTED = 0x007, "command abort requested";
    SQ_DELETED = 0x008, "command aborted due to SQ deletion";
    FAILED_FUSED = 0x009, "command aborted due to failed fused command";
    MISSING_FUSED = 0x00a, "command aborted due to missing fused command";
    INVALID_NAMESPACE = 0x00b, "invalid namespace or format";
    SEQUENCE_ERROR = 0x00c, "command sequence error";
    INVALID_SGL_SEGMENT = 0x00d, "invalid SGL segment descriptor";
    INVALID_SGL_COUNT = 0x00e, "invalid number of SGL descriptors";
    DATA_SGL_LENGTH = 0x00f, "data SGL length invalid";
    METADATA_SGL_LENGTH = 0x010, "metadata SGL length invalid";
    SGL_TYPE = 0x011, "SGL descriptor type invalid";
    INVALID_CMB = 0x012, "invalid use of controller memory buffer";
    PRP_OFFSET = 0x013, "PRP offset invalid";
    ATOMIC_WRITE_UNIT = 0x014, "atomic write unit exceeded";
    OPERATION_DENIED = 0x015, "operation denied";
    SGL_OFFSET = 0x016, "SGL offset invalid";
    HOST_ID_FORMAT = 0x018, "host identifier inconsistent format";
    KEEP_ALIVE_EXPIRED = 0x019, "keep alive timer expired";
    SANITIZE_FAILED = 0x01c, "sanitize failed";
    SANITIZE_IN_PROGRESS = 0x01d, "sanitize in progress";
    NAMESPACE_WRITE_PROTECTED = 0x020, "namespace is write protected";
    COMMAND_INTERRUPTED = 0x021, "command interrupted";
    TRANSIENT_TRANSPORT = 0x022, "transient transport error";
    PROHIBITED = 0x023, "command prohibited by command and feature lockdown";
    NOT_READY = 0x024, "admin command media not ready";
    LBA_OUT_OF_RANGE = 0x080, "LBA out of range";
    CAPACITY_EXCEEDED = 0x081, "capacity exceeded";
    NAMESPACE_NOT_READY = 0x082, "namespace not ready";
    RESERVATION_CONFLICT = 0x083, "reservation conflict";
    FORMAT_IN_PROGRESS = 0x084, "format in progress";
    CQ_INVALID = 0x100, "completion queue invalid";
    QID_INVALID = 0x101, "invalid queue identifier";
    QUEUE_SIZE = 0x102, "invalid queue size";
    ABORT_LIMIT = 0x103, "abort command limit exceeded";
    ASYNC_EVENT_LIMIT = 0x105, "asynchronous event request limit exceeded";
    FIRMWARE_SLOT = 0x106, "invalid firmware slot";
    FIRMWARE_IMAGE = 0x107, "invalid firmware image";
    INTERRUPT_VECTOR = 0x108, "invalid interrupt vector";
    LOG_PAGE = 0x109, "invalid log page";
    INVALID_FORMAT = 0x10a, "invalid format";
    NEEDS_CONVENTIONAL_RESET = 0x10b, "firmware activation requires conventional reset";
    QUEUE_DELETION = 0x10c, "invalid queue deletion";
    FEATURE_NOT_SAVEABLE = 0x10d, "feature identifier not saveable";
    FEATURE_NOT_CHANGEABLE = 0x10e, "feature not changeable";
    FEATURE_NOT_NAMESPACE = 0x10f, "feature not namespace specific";
    NEEDS_SUBSYSTEM_RESET = 0x110, "firmware activation requires NVM subsystem reset";
    NEEDS_CONTROLLER_RESET = 0x111, "firmware activation requires controller level reset";
    INSUFFICIENT_CAPACITY = 0x115, "namespace insufficient capacity";
    NAMESPACE_ID_UNAVAILABLE = 0x116, "namespace identifier unavailable";
    NAMESPACE_ATTACHED = 0x118, "namespace already attached";
    NAMESPACE_PRIVATE = 0x119, "namespace is private";
    NAMESPACE_NOT_ATTACHED = 0x11a, "namespace not attached";
    THIN_PROVISIONING = 0x11b, "thin provisioning not supported";
    CONTROLLER_LIST = 0x11c, "controller list invalid";
    SELF_TEST_IN_PROGRESS = 0x11d, "device self-test in progress";
    BOOT_PARTITION = 0x11e, "boot partition write prohibited";
    CONTROLLER_ID = 0x11f, "invalid controller identifier";
    SECONDARY_STATE = 0x120, "invalid secondary controller state";
    RESOURCE_COUNT = 0x121, "invalid number of controller resources";
    RESOURCE_ID = 0x122, "invalid resource identifier";
    SANITIZE_PMR = 0x123, "sanitize prohibited while persistent memory region is enabled";
    CONFLICTING_ATTRIBUTES = 0x180, "conflicting attributes";
    PROTECTION_INFORMATION = 0x181, "invalid protection information";
    READ_ONLY_RANGE = 0x182, "attempted write to read only range";
    SIZE_LIMIT = 0x183, "command size limit exceeded";
    WRITE_FAULT = 0x280, "write fault";
    UNRECOVERED_READ = 0x281, "unrecovered read error";
    GUARD_CHECK = 0x282, "end-to-end guard check error";
    APPLICATION_TAG_CHECK = 0x283, "end-to-end application tag check error";
    REFERENCE_TAG_CHECK = 0x284, "end-to-end reference tag check error";
    COMPARE_FAILURE = 0x285, "compare failure";
    ACCESS_DENIED = 0x286, "access denied";
    DEALLOCATED_BLOCK = 0x287, "deallocated or unwritten logical block";
    STORAGE_TAG_CHECK = 0x288, "end-to-end storage tag check error";
    INTERNAL_PATH_ERROR = 0x300, "internal path error";
    CONTROLLER_PATHING = 0x360, "controller pathing error";
    HOST_PATHING = 0x370, "host pathing error";
    ABORTED_BY_HOST = 0x371, "command aborted by host";
}

impl Status {
    /// The command shall not be retried.
    pub const DO_NOT_RETRY: u16 = 1 << 14;

    /// SCT and SC alone, to compare with the constants.
    #[must_use]
    #[inline]
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether the command did what was asked.
    #[must_use]
    #[inline]
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// Whether the same command can succeed another time.
    #[must_use]
    pub const fn can_retry(self) -> bool {
        self.0 & Self::DO_NOT_RETRY == 0
    }

    /// Which of the controller's delays to wait before trying again (CRD), 0 for none (Identify Controller: CRDT1 to CRDT3).
    #[must_use]
    pub const fn retry_delay(self) -> u16 {
        self.0 >> 11 & 0b11
    }

    /// Whether there is more about it in the error log page.
    #[must_use]
    pub const fn has_more(self) -> bool {
        self.0 >> 13 & 1 != 0
    }

    /// What a status other than success means for the caller.
    ///
    /// # Errors
    ///
    /// [`Gone`](ErrorKind::Gone) for what this crate gives of a device that is gone ([`HOST_PATHING`](Self::HOST_PATHING));
    /// [`Refused`](ErrorKind::Refused) for all others.
    pub fn ok(self) -> Result<(), ErrorKind> {
        match self.code() {
            0 => Ok(()),
            0x370 => Err(ErrorKind::Gone),
            _ => Err(ErrorKind::Refused(self.to_string().into())),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(
                f,
                "status type {:x}h, code {:02x}h",
                self.code() >> 8,
                self.code() & 0xff
            )?,
        }
        if self.can_retry() || self.is_success() {
            Ok(())
        } else {
            f.write_str(" (do not retry)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_controller_means() {
        let status = Status(Status::COMPARE_FAILURE.0 | Status::DO_NOT_RETRY);
        assert_eq!(status.to_string(), "compare failure (do not retry)");
        assert_eq!(
            (status.code(), status.is_success(), status.can_retry()),
            (0x285, false, false)
        );
        assert_eq!(Status(0x7c1).to_string(), "status type 7h, code c1h");
        assert!(Status(0x0800).is_success() && Status(0x0800).retry_delay() == 1);
        assert!(matches!(Status::HOST_PATHING.ok(), Err(ErrorKind::Gone)));
        assert!(matches!(status.ok(), Err(ErrorKind::Refused(text)) if text.contains("compare")));
    }
}
