//! Downstream Port Containment (PCIe 6.0 §7.9.14): a port that takes its link down on an error.

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{code, register, structure};
use crate::{Hex, Truncated};

structure! {
    /// Downstream Port Containment.
    #[doc(alias = "PCI_EXT_CAP_ID_DPC")]
    pub struct Dpc {
        /// What it can do.
        capability: DpcCapability,
        /// What it does.
        control: DpcControl,
        /// What happened.
        status: DpcStatus,
        /// Routing id of the function that reported the error.
        source: Hex<u16>,
        /// Errors of the port's own requests; root ports that have them only.
        rp_pio: Option<RootPortPio>,
    }
}

structure! {
    /// Programmed I/O errors of a root port.
    pub struct RootPortPio {
        /// Errors that occurred.
        status: RpPioErrors,
        /// Errors that are not acted on.
        mask: RpPioErrors,
        /// Errors that are uncorrectable.
        severity: RpPioErrors,
        /// Errors that are system errors.
        system_error: RpPioErrors,
        /// Errors that are exceptions.
        exception: RpPioErrors,
        /// Header of the request with the first error, where it is logged.
        header_log: Option<[Hex<u32>; 4]>,
    }
}

register! {
    /// DPC capability register.
    pub struct DpcCapability: u16 {
        /// Which interrupt message announces containment.
        interrupt_message: u8 = 5,
        /// The registers of root ports are there.
        root_port_extensions: bool = 1,
        /// Poisoned TLPs can be stopped.
        poisoned_egress_blocking: bool = 1,
        /// Software can trigger.
        software_trigger: bool = 1,
        /// Size of the log, in dwords, bits 3:0.
        rp_pio_log_dwords: u8 = 4,
        /// A message can be sent when the link is up.
        dl_active_err_cor: bool = 1,
        /// Size of the log, bit 4.
        rp_pio_log_dwords_bit_4: bool = 1,
        .. u8 = 2,
    }
}

register! {
    /// DPC control register.
    pub struct DpcControl: u16 {
        /// What triggers containment.
        trigger_enable: DpcTriggerEnable = 2,
        /// Requests complete with unsupported request, else with completer abort.
        completion_unsupported_request: bool = 1,
        /// Interrupt.
        interrupt: bool = 1,
        /// Correctable error message.
        err_cor: bool = 1,
        /// Poisoned TLPs are stopped.
        poisoned_egress_blocking: bool = 1,
        /// Trigger now; reads as zero.
        software_trigger: bool = 1,
        /// A message is sent when the link is up.
        dl_active_err_cor: bool = 1,
        /// System firmware intermediary signalling.
        sig_sfw: bool = 1,
        .. u8 = 7,
    }
}

register! {
    /// DPC status register.
    pub struct DpcStatus: u16 {
        /// The link is down for containment.
        triggered: bool = 1,
        /// Why.
        trigger: DpcTrigger = 2,
        /// The interrupt was sent.
        interrupt: bool = 1,
        /// The root port is still busy.
        root_port_busy: bool = 1,
        /// More on why: 0 programmed I/O error, 1 software, for trigger `extension`.
        trigger_extension: u8 = 2,
        __: u8 = 1,
        /// Bit number of the first programmed I/O error.
        rp_pio_first_error: u8 = 5,
        /// The system firmware intermediary was signalled.
        sig_sfw: bool = 1,
        .. u8 = 2,
    }
}

register! {
    /// A set of programmed I/O errors: unsupported request, completer abort and timeout of three kinds of request.
    pub struct RpPioErrors: u32 {
        /// Configuration request, unsupported.
        config_unsupported_request: bool = 1,
        /// Configuration request, aborted.
        config_completer_abort: bool = 1,
        /// Configuration request, timed out.
        config_timeout: bool = 1,
        __: u8 = 5,
        /// I/O request, unsupported.
        io_unsupported_request: bool = 1,
        /// I/O request, aborted.
        io_completer_abort: bool = 1,
        /// I/O request, timed out.
        io_timeout: bool = 1,
        __: u8 = 5,
        /// Memory request, unsupported.
        memory_unsupported_request: bool = 1,
        /// Memory request, aborted.
        memory_completer_abort: bool = 1,
        /// Memory request, timed out.
        memory_timeout: bool = 1,
        .. u16 = 13,
    }
}

code! {
    /// What triggers containment.
    pub struct DpcTriggerEnable: u8 {
        /// Nothing.
        DISABLED = 0 "disabled",
        /// Fatal errors.
        FATAL = 1 "fatal",
        /// Fatal and non-fatal errors.
        NON_FATAL = 2 "fatal+non-fatal",
    }
}

code! {
    /// What triggered containment.
    pub struct DpcTrigger: u8 {
        /// An uncorrectable error of the port itself.
        UNCORRECTABLE = 0 "uncorrectable",
        /// A message of a non-fatal error.
        NON_FATAL = 1 "non-fatal",
        /// A message of a fatal error.
        FATAL = 2 "fatal",
        /// The extension says.
        EXTENSION = 3 "extension",
    }
}

impl Decode for Dpc {
    const ID: CapabilityId = CapabilityId::DPC;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let register: DpcCapability = window.read(0x04)?;
        let has_log = register.rp_pio_log_dwords() >= 4 || register.rp_pio_log_dwords_bit_4();
        let rp_pio = || -> Result<RootPortPio, Truncated> {
            Ok(RootPortPio {
                status: window.read(0x0c)?,
                mask: window.read(0x10)?,
                severity: window.read(0x14)?,
                system_error: window.read(0x18)?,
                exception: window.read(0x1c)?,
                header_log: window.read_if(has_log, 0x20)?,
            })
        };
        Ok(Self {
            capability: register,
            control: window.read(0x06)?,
            status: window.read(0x08)?,
            source: window.read(0x0a)?,
            rp_pio: register.root_port_extensions().then(rp_pio).transpose()?,
        })
    }
}
