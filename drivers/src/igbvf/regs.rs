//! Registers of the 82576's virtual function: BAR 0, 16 KiB; and in [`physical`] what only the physical one has.
//!
//! Follows the 82576 datasheet §8.26 and, for what a VF's register does, that of the PF of the same name: §8.10 (receive), §8.12 (transmit),
//! §8.8 (interrupts). Those of a PF's first queues and of its interrupts lie where a VF has them. All are 32 bits wide.

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
/// VTIVAR: the vector of each queue, a byte each ([`IVAR_VALID`] and the number): receive 0, transmit 0, receive 1, transmit 1. A PF has the
/// last two in the low half of the next register.
pub const IVAR: Reg<u32, ReadWrite, 0x1700> = Reg::new();
/// The register after [`IVAR`], which a PF has.
pub const IVAR_NEXT: Reg<u32, ReadWrite, 0x1704> = Reg::new();
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

/// Registers of the physical function, and bits that only it has (§8.2 to §8.18).
pub mod physical {
    /// Bytes of BAR 0 that hold them.
    pub const LEN: u64 = 0x6000;

    /// Bit of CTRL: no more DMA is begun.
    pub const NO_DMA: u32 = 1 << 2;
    /// Bit of STATUS: DMA may be under way.
    pub const MAY_DMA: u32 = 1 << 19;
    /// Bit of CTRL: the MAC follows the link of the PHY.
    pub const SET_LINK_UP: u32 = 1 << 6;
    /// Bit of CTRL: VLAN tags are put in and taken out.
    pub const VLANS: u32 = 1 << 30;
    /// Extended device control.
    pub const CTRL_EXT: usize = 0x0018;
    /// Bits of [`CTRL_EXT`]: the link is not one of copper.
    pub const NOT_COPPER: u32 = 3 << 22;
    /// Access to the PHY.
    pub const MDIC: usize = 0x0020;
    /// Of [`MDIC`]: writes the control register of the PHY inside.
    pub const PHY_WRITE: u32 = 1 << 26 | 1 << 21;
    /// Of [`MDIC`]: the access is over.
    pub const PHY_READY: u32 = 1 << 28;
    /// Bits of the PHY's control register: it is on, and negotiates from the start (IEEE 802.3 §22.2.4.1).
    pub const NEGOTIATE: u32 = 1 << 12 | 1 << 9;
    /// Causes of interrupts that are no queue's; cleared by reading.
    pub const ICR: usize = 0x00c0;
    /// Lets such causes interrupt.
    pub const IMS: usize = 0x00d0;
    /// Keeps them from it.
    pub const IMC: usize = 0x00d8;
    /// Such a cause: the link has changed.
    pub const LINK_CHANGED: u32 = 1 << 2;
    /// How interrupts are sent.
    pub const GPIE: usize = 0x1514;
    /// Of [`GPIE`]: one vector for each entry of IVAR, which the message masks; an interrupt that is pending is sent again.
    pub const VECTORS: u32 = 1 << 4 | 1 << 30 | 1 << 31;
    /// Receive control.
    pub const RCTL: usize = 0x0100;
    /// Bit of [`RCTL`].
    pub const RECEIVE: u32 = 1 << 1;
    /// Bit of [`RCTL`]: all multicast frames.
    pub const ALL_MULTICAST: u32 = 1 << 4;
    /// Bit of [`RCTL`]: frames up to [`RLPML`].
    pub const LONG: u32 = 1 << 5;
    /// Bit of [`RCTL`]: broadcasts.
    pub const BROADCAST: u32 = 1 << 15;
    /// Bit of [`RCTL`]: frames with a tag only if [`VFTA`] has it.
    pub const FILTER_VLANS: u32 = 1 << 18;
    /// Bit of [`RCTL`]: the check sequence is not written to memory.
    pub const STRIP_FCS: u32 = 1 << 26;
    /// Transmit control.
    pub const TCTL: usize = 0x0400;
    /// Bit of [`TCTL`].
    pub const SEND: u32 = 1 << 1;
    /// The longest frame.
    pub const RLPML: usize = 0x5004;
    /// Hashes of multicast addresses, a bit each.
    pub const MTA: usize = 0x5200;
    /// Registers of [`MTA`].
    pub const MTA_WORDS: usize = 128;
    /// The first address; each has 8 bytes, the last two of them for [`ADDRESS_VALID`].
    pub const RAL: usize = 0x5400;
    /// Places for addresses that follow one another.
    pub const ADDRESSES: usize = 16;
    /// Bit of the second register of an address.
    pub const ADDRESS_VALID: u32 = 1 << 31;
    /// VLANs, a bit each.
    pub const VFTA: usize = 0x5600;

    /// Counters, which are cleared by reading: good frames received.
    pub const GPRC: usize = 0x4074;
    /// Multicast frames received.
    pub const MPRC: usize = 0x407c;
    /// Good frames sent.
    pub const GPTC: usize = 0x4080;
    /// Good octets received: the low half, and the high one, which clears both.
    pub const GORC: [usize; 2] = [0x4088, 0x408c];
    /// Good octets sent.
    pub const GOTC: [usize; 2] = [0x4090, 0x4094];
}

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
