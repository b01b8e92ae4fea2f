//! Advanced Error Reporting (PCIe 6.0 §7.8.4).

use crate::cap::{Capability, CapabilityId, Decode, Express};
use crate::register::{register, structure};
use crate::{Hex, Truncated};

structure! {
    /// Errors that a function saw, and what it does about them.
    #[doc(alias = "PCI_EXT_CAP_ID_ERR")]
    pub struct Aer {
        /// Uncorrectable errors that occurred.
        uncorrectable_status: UncorrectableErrors,
        /// Uncorrectable errors that are not reported.
        uncorrectable_mask: UncorrectableErrors,
        /// Uncorrectable errors that are fatal.
        uncorrectable_severity: UncorrectableErrors,
        /// Correctable errors that occurred.
        correctable_status: CorrectableErrors,
        /// Correctable errors that are not reported.
        correctable_mask: CorrectableErrors,
        /// Capabilities and control.
        control: AerControl,
        /// Header of the TLP with the first error.
        header_log: [Hex<u32>; 4],
        /// Root ports and event collectors: which errors from below interrupt.
        root_command: Option<RootErrorCommand>,
        /// Root ports and event collectors: which errors came from below.
        root_status: Option<RootErrorStatus>,
        /// Root ports and event collectors: who sent them.
        error_sources: Option<ErrorSources>,
        /// Prefixes of the TLP with the first error, where they are logged and there is room for them.
        prefix_log: Option<[Hex<u32>; 4]>,
    }
}

register! {
    /// A set of uncorrectable errors.
    pub struct UncorrectableErrors: u32 {
        /// Undefined since PCIe 1.1: link training.
        undefined: bool = 1,
        __: u8 = 3,
        /// Data link protocol.
        data_link_protocol: bool = 1,
        /// Surprise down.
        surprise_down: bool = 1,
        __: u8 = 6,
        /// Poisoned TLP received.
        poisoned_tlp: bool = 1,
        /// Flow control protocol.
        flow_control_protocol: bool = 1,
        /// Completion timeout.
        completion_timeout: bool = 1,
        /// Completer abort.
        completer_abort: bool = 1,
        /// Unexpected completion.
        unexpected_completion: bool = 1,
        /// Receiver overflow.
        receiver_overflow: bool = 1,
        /// Malformed TLP.
        malformed_tlp: bool = 1,
        /// End-to-end CRC.
        ecrc: bool = 1,
        /// Unsupported request.
        unsupported_request: bool = 1,
        /// ACS violation.
        acs_violation: bool = 1,
        /// Uncorrectable internal error.
        internal: bool = 1,
        /// Multicast TLP blocked.
        multicast_blocked: bool = 1,
        /// AtomicOp not let out.
        atomic_egress_blocked: bool = 1,
        /// TLP prefix not let out.
        prefix_blocked: bool = 1,
        /// Poisoned TLP not let out.
        poisoned_egress_blocked: bool = 1,
        /// Deferrable memory write not let out.
        dmwr_egress_blocked: bool = 1,
        /// IDE check failed.
        ide_check_failed: bool = 1,
        /// IDE TLP arrived at the wrong place.
        misrouted_ide: bool = 1,
        /// Plaintext CRC check failed.
        pcrc_check_failed: bool = 1,
        /// Translated TLP not let out.
        translation_egress_blocked: bool = 1,
    }
}

register! {
    /// A set of correctable errors.
    pub struct CorrectableErrors: u32 {
        /// Receiver error.
        receiver: bool = 1,
        __: u8 = 5,
        /// Bad TLP.
        bad_tlp: bool = 1,
        /// Bad data link layer packet.
        bad_dllp: bool = 1,
        /// Replay number rollover.
        replay_rollover: bool = 1,
        __: u8 = 3,
        /// Replay timer timeout.
        replay_timeout: bool = 1,
        /// Uncorrectable, but the receiver coped.
        advisory_non_fatal: bool = 1,
        /// Corrected internal error.
        internal: bool = 1,
        /// More errors than the header log holds.
        header_log_overflow: bool = 1,
        .. u16 = 16,
    }
}

register! {
    /// Advanced error capabilities and control.
    pub struct AerControl: u32 {
        /// Bit number of the first uncorrectable error.
        first_error: u8 = 5,
        /// End-to-end CRCs can be generated.
        ecrc_generation_capable: bool = 1,
        /// They are.
        ecrc_generation_enable: bool = 1,
        /// End-to-end CRCs can be checked.
        ecrc_check_capable: bool = 1,
        /// They are.
        ecrc_check_enable: bool = 1,
        /// Several headers can be recorded.
        multiple_header_capable: bool = 1,
        /// They are.
        multiple_header_enable: bool = 1,
        /// The prefix log is valid.
        prefix_log_present: bool = 1,
        /// Completion timeouts are logged with prefix and header.
        completion_timeout_log_capable: bool = 1,
        /// Size of the header log in flit mode, in dwords.
        header_log_dwords: u8 = 5,
        /// The TLP was logged in flit mode.
        flit_mode_log: bool = 1,
        /// Size of the logged TLP header in flit mode, in dwords.
        logged_tlp_dwords: u8 = 5,
        .. u8 = 8,
    }
}

register! {
    /// Which errors from below interrupt.
    pub struct RootErrorCommand: u32 {
        /// Correctable errors.
        correctable: bool = 1,
        /// Non-fatal errors.
        non_fatal: bool = 1,
        /// Fatal errors.
        fatal: bool = 1,
        .. u32 = 29,
    }
}

register! {
    /// Which errors came from below.
    pub struct RootErrorStatus: u32 {
        /// A correctable one.
        correctable: bool = 1,
        /// Several.
        multiple_correctable: bool = 1,
        /// An uncorrectable one.
        uncorrectable: bool = 1,
        /// Several.
        multiple_uncorrectable: bool = 1,
        /// The first uncorrectable one was fatal.
        first_is_fatal: bool = 1,
        /// A non-fatal one.
        non_fatal: bool = 1,
        /// A fatal one.
        fatal: bool = 1,
        /// Subclass of the correctable one.
        correctable_subclass: u8 = 2,
        __: u32 = 18,
        /// Which interrupt message announces errors.
        interrupt_message: u8 = 5,
    }
}

register! {
    /// Routing ids of the functions that reported errors first.
    pub struct ErrorSources: u32 {
        /// Correctable.
        correctable: Hex<u16> = 16,
        /// Uncorrectable.
        uncorrectable: Hex<u16> = 16,
    }
}

impl Decode for Aer {
    const ID: CapabilityId = CapabilityId::AER;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let express = capability.space().find::<Express>().ok().flatten();
        let is_root = express.is_some_and(|express| express.flags.port_type().is_root());
        let control: AerControl = window.read(0x18)?;
        Ok(Self {
            uncorrectable_status: window.read(0x04)?,
            uncorrectable_mask: window.read(0x08)?,
            uncorrectable_severity: window.read(0x0c)?,
            correctable_status: window.read(0x10)?,
            correctable_mask: window.read(0x14)?,
            control,
            header_log: window.read(0x1c)?,
            root_command: window.read_if(is_root, 0x2c)?,
            root_status: window.read_if(is_root, 0x30)?,
            error_sources: window.read_if(is_root, 0x34)?,
            prefix_log: window.read_if(control.prefix_log_present(), 0x38).unwrap_or(None),
        })
    }
}
