//! Data Object Exchange (PCIe 6.0 §7.9.24): a mailbox in configuration space.

use crate::Hex;
use crate::register::{register, structure};

structure! {
    /// Data Object Exchange mailbox.
    #[doc(alias = "PCI_EXT_CAP_ID_DOE")]
    pub struct Doe = DOE {
        /// What it can do.
        0x04 capability: DoeCapability,
        /// Control.
        0x08 control: DoeControl,
        /// Status.
        0x0c status: DoeStatus,
        /// Write mailbox.
        0x10 write_data: Hex<u32>,
        /// Read mailbox: the next dword of the object.
        0x14 read_data: Hex<u32>,
    }
}

register! {
    /// DOE capabilities register.
    pub struct DoeCapability: u32 {
        /// Interrupts.
        interrupt: bool = 1,
        /// Which interrupt message announces objects.
        interrupt_message: u16 = 11,
        .. u32 = 20,
    }
}

register! {
    /// DOE control register.
    pub struct DoeControl: u32 {
        /// Give up; reads as zero.
        abort: bool = 1,
        /// Interrupts.
        interrupt: bool = 1,
        __: u32 = 29,
        /// The object is written; reads as zero.
        go: bool = 1,
    }
}

register! {
    /// DOE status register.
    pub struct DoeStatus: u32 {
        /// Not ready for an object.
        busy: bool = 1,
        /// The interrupt was sent.
        interrupt: bool = 1,
        /// Something went wrong.
        error: bool = 1,
        __: u32 = 28,
        /// An object can be read.
        data_object_ready: bool = 1,
    }
}
