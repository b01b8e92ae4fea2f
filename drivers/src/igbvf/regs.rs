//! Registers of the 82576's virtual function: BAR 0, 16 KiB.
//!
//! Follows the 82576 datasheet §8.26 and, for what a VF's register does, that of the PF of the same name: §8.10 (receive), §8.12 (transmit),
//! §8.8 (interrupts). All are 32 bits wide.

use bitfield_struct::bitfield;
use vfio_core::mmio::{ReadOnly, ReadWrite, Reg, Register, WriteOnly};

/// Bytes of BAR 0.
pub const LEN: usize = 0x4000;
/// Pairs of queues of a VF.
pub const QUEUES: u8 = 2;

/// VTCTRL: device control. Writing [`RESET`] resets the function's queues and interrupts (§4.2.1.6).
pub const CTRL: Reg<u32, ReadWrite, 0x0000> = Reg::new();
/// Bit of [`CTRL`].
pub const RESET: u32 = 1 << 26;
/// Device status: that of the port.
pub const STATUS: Reg<Status, ReadOnly, 0x0008> = Reg::new();
/// VTEICS: sets causes.
pub const EICS: Reg<u32, WriteOnly, 0x1520> = Reg::new();
/// VTEIMS: lets vectors interrupt.
pub const EIMS: Reg<u32, ReadWrite, 0x1524> = Reg::new();
/// VTEIMC: keeps vectors from interrupting.
pub const EIMC: Reg<u32, WriteOnly, 0x1528> = Reg::new();
/// VTEIAC: vectors whose cause is cleared by their message.
pub const EIAC: Reg<u32, ReadWrite, 0x152c> = Reg::new();
/// VTEIAM: vectors that are masked by their message.
pub const EIAM: Reg<u32, ReadWrite, 0x1530> = Reg::new();
/// EITR of vector 0: the least time between two messages. Others follow, 4 bytes apart.
pub const EITR: usize = 0x1680;
/// VTIVAR: the vector of each queue, a byte each ([`IVAR_VALID`] and the number): receive 0, transmit 0, receive 1, transmit 1.
pub const IVAR: Reg<u32, ReadWrite, 0x1700> = Reg::new();
/// VTIVAR_MISC: the vector of the mailbox.
pub const IVAR_MISC: Reg<u32, ReadWrite, 0x1740> = Reg::new();
/// Bit of an entry of [`IVAR`].
pub const IVAR_VALID: u32 = 0x80;

/// The VF's side of the mailbox.
pub const V2PMAILBOX: Reg<u32, ReadWrite, 0x0c40> = Reg::new();
/// The mailbox's memory, which both sides share: 64 bytes.
pub const VMBMEM: usize = 0x0800;

bitflags::bitflags! {
    /// Bits of [`V2PMAILBOX`]. Those that the PF sets are lost once read.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mailbox: u32 {
        /// The VF has written a message.
        const REQUEST = 1;
        /// The VF has read a message.
        const ACKNOWLEDGE = 1 << 1;
        /// The VF has the memory.
        const VF_OWNS = 1 << 2;
        /// The PF has the memory.
        const PF_OWNS = 1 << 3;
        /// The PF has written a message.
        const PF_MESSAGE = 1 << 4;
        /// The PF has read a message.
        const PF_ACKNOWLEDGE = 1 << 5;
        /// The PF is being reset.
        const PF_RESETTING = 1 << 6;
        /// The PF was reset.
        const PF_RESET = 1 << 7;
    }
}

/// Registers of receive queue 0; those of the next queue are [`QUEUE_STRIDE`] further.
pub const RX: usize = 0x2800;
/// Registers of transmit queue 0.
pub const TX: usize = 0x3800;
/// From one queue's registers to the next one's.
pub const QUEUE_STRIDE: usize = 0x100;

/// Offsets of a queue's registers.
pub mod queue {
    /// RDBAL, TDBAL: low half of the ring's address.
    pub const BASE_LOW: usize = 0x00;
    /// RDBAH, TDBAH: high half of the ring's address.
    pub const BASE_HIGH: usize = 0x04;
    /// RDLEN, TDLEN: the ring's length in bytes.
    pub const LEN: usize = 0x08;
    /// SRRCTL: size of the buffers and format of the descriptors; of receive queues (§8.10.2).
    pub const SRRCTL: usize = 0x0c;
    /// RDH, TDH: the descriptor that the device uses next.
    pub const HEAD: usize = 0x10;
    /// TXCTL: relaxed ordering; of transmit queues.
    pub const TXCTL: usize = 0x14;
    /// RDT, TDT: the descriptor after the last one that the device may use.
    pub const TAIL: usize = 0x18;
    /// RXDCTL, TXDCTL: on or off.
    pub const CONTROL: usize = 0x28;
    /// TDWBAL: where the device writes the head, and bit 0: that it does; of transmit queues.
    pub const HEAD_LOW: usize = 0x38;
    /// TDWBAH.
    pub const HEAD_HIGH: usize = 0x3c;
}

/// Bit of RXDCTL and TXDCTL.
pub const ENABLE: u32 = 1 << 25;
/// Bit of TXCTL: the head may be written before what it is about was read. It must not be (§7.2.3).
pub const HEAD_RELAXED: u32 = 1 << 11;
/// Bit of SRRCTL: frames without a buffer are dropped, and do not block the other functions' queues.
pub const DROP: u32 = 1 << 31;
/// SRRCTL.DESCTYPE: advanced descriptors with one buffer each.
pub const ONE_BUFFER: u32 = 1 << 25;

/// Counters, which wrap: good frames received.
pub const VFGPRC: Reg<u32, ReadOnly, 0x0f10> = Reg::new();
/// Good frames sent.
pub const VFGPTC: Reg<u32, ReadOnly, 0x0f14> = Reg::new();
/// Good octets received.
pub const VFGORC: Reg<u32, ReadOnly, 0x0f18> = Reg::new();
/// Good octets sent.
pub const VFGOTC: Reg<u32, ReadOnly, 0x0f34> = Reg::new();
/// Multicast frames received.
pub const VFMPRC: Reg<u32, ReadOnly, 0x0f3c> = Reg::new();
/// Good frames received from functions of the same port.
pub const VFGPRLBC: Reg<u32, ReadOnly, 0x0f40> = Reg::new();
/// Good frames sent to functions of the same port.
pub const VFGPTLBC: Reg<u32, ReadOnly, 0x0f44> = Reg::new();
/// Good octets received from functions of the same port.
pub const VFGORLBC: Reg<u32, ReadOnly, 0x0f48> = Reg::new();
/// Good octets sent to functions of the same port.
pub const VFGOTLBC: Reg<u32, ReadOnly, 0x0f50> = Reg::new();

/// What [`STATUS`] holds.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// FD: both ways at the same time.
    pub is_full_duplex: bool,
    /// LU: there is a link.
    pub is_up: bool,
    #[bits(4)]
    __: u8,
    /// SPEED: 0 for 10 Mb/s, 1 for 100 Mb/s, else 1 Gb/s.
    #[bits(2)]
    pub speed: u8,
    #[bits(24)]
    __: u32,
}

impl Register for Status {
    type Bits = u32;

    fn from_bits(bits: u32) -> Self {
        Self::from_bits(bits)
    }

    fn into_bits(self) -> u32 {
        self.into_bits()
    }
}
