//! Numbers and layouts of virtio 1.3 (OASIS, "Virtual I/O Device (VIRTIO) Version 1.3"). All of them are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// PCI vendor of all virtio devices (§4.1.2).
pub const VENDOR: u16 = 0x1af4;

/// Where capabilities of PCI say that structures are (§4.1.4).
pub mod capability {
    /// Common configuration.
    pub const COMMON: u8 = 1;
    /// Notifications; four more bytes hold the multiplier.
    pub const NOTIFY: u8 = 2;
    /// Configuration of this kind of device.
    pub const DEVICE: u8 = 4;
    /// The last number of a BAR.
    pub const LAST_BAR: u8 = 5;
}

/// Offsets in the common configuration (§4.1.4.3).
pub mod common {
    /// u32: which 32 bits [`DEVICE_FEATURE`] shows.
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    /// u32, read-only.
    pub const DEVICE_FEATURE: usize = 0x04;
    /// u32: which 32 bits [`DRIVER_FEATURE`] shows.
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    /// u32.
    pub const DRIVER_FEATURE: usize = 0x0c;
    /// u16: vector for changes of the configuration.
    pub const CONFIG_VECTOR: usize = 0x10;
    /// u16, read-only: how many queues there are.
    pub const QUEUES: usize = 0x12;
    /// u8: [`status`](super::status).
    pub const STATUS: usize = 0x14;
    /// u8, read-only: changes with the device's configuration.
    pub const GENERATION: usize = 0x15;
    /// u16: the queue that those below are of.
    pub const QUEUE_SELECT: usize = 0x16;
    /// u16: descriptors; 0 if there is no such queue.
    pub const QUEUE_SIZE: usize = 0x18;
    /// u16.
    pub const QUEUE_VECTOR: usize = 0x1a;
    /// u16.
    pub const QUEUE_ENABLE: usize = 0x1c;
    /// u16, read-only: its place among the notifications.
    pub const QUEUE_NOTIFY: usize = 0x1e;
    /// u64, as two u32: IOVA of the descriptors.
    pub const QUEUE_DESCRIPTORS: usize = 0x20;
    /// u64, as two u32: IOVA of what the driver writes.
    pub const QUEUE_DRIVER: usize = 0x28;
    /// u64, as two u32: IOVA of what the device writes.
    pub const QUEUE_DEVICE: usize = 0x30;
    /// Bytes of all this.
    pub const LEN: u64 = 0x38;
    /// No vector: no interrupt is sent (§4.1.5.1.2).
    pub const NO_VECTOR: u16 = 0xffff;
}

/// Bits of the device status (§2.1).
pub mod status {
    /// It was seen.
    pub const ACKNOWLEDGE: u8 = 1;
    /// There is a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// The features are settled, if the device leaves the bit set.
    pub const FEATURES_OK: u8 = 8;
    /// The device does nothing more until it is reset.
    pub const NEEDS_RESET: u8 = 64;
}

bitflags::bitflags! {
    /// Features of all kinds of devices (§6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u64 {
        /// A descriptor may point to a table of them.
        const INDIRECT_DESC = 1 << 28;
        /// Each side says at which index it wants to be told.
        const EVENT_IDX = 1 << 29;
        /// It follows this specification.
        const VERSION_1 = 1 << 32;
        /// Addresses are those of the platform's IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
        /// It is ordered as a device in hardware is.
        const ORDER_PLATFORM = 1 << 36;
    }
}

bitflags::bitflags! {
    /// Features of a block device (§5.2.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct BlockFeatures: u64 {
        /// A piece has a greatest length.
        const SIZE_MAX = 1 << 1;
        /// A request has a greatest number of pieces.
        const SEG_MAX = 1 << 2;
        /// It cannot be written.
        const RO = 1 << 5;
        /// It says its block size.
        const BLK_SIZE = 1 << 6;
        /// It has a cache, and flushes it.
        const FLUSH = 1 << 9;
        /// It has several queues.
        const MQ = 1 << 12;
        /// It discards.
        const DISCARD = 1 << 13;
        /// It writes zeroes.
        const WRITE_ZEROES = 1 << 14;
    }
}

bitflags::bitflags! {
    /// Features of a network device (§5.1.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct NetFeatures: u64 {
        /// It fills in checksums of frames that are sent.
        const CSUM = 1 << 0;
        /// Received frames may be without checksum.
        const GUEST_CSUM = 1 << 1;
        /// It says the network's MTU.
        const MTU = 1 << 3;
        /// It says its address.
        const MAC = 1 << 5;
        /// A received frame may take several buffers.
        const MRG_RXBUF = 1 << 15;
        /// It says whether the link is up.
        const STATUS = 1 << 16;
    }
}

bitflags::bitflags! {
    /// Features of a console (§5.3.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ConsoleFeatures: u64 {
        /// It says how large it is.
        const SIZE = 1 << 0;
        /// It takes single bytes through a register.
        const EMERG_WRITE = 1 << 2;
    }
}

/// Flags of descriptors and rings (§2.7.5, §2.7.6, §2.7.8).
pub mod ring {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// It points to a table of descriptors.
    pub const INDIRECT: u16 = 4;
    /// In what the driver writes: no interrupts, please.
    pub const NO_INTERRUPT: u16 = 1;
    /// In what the device writes: no notifications, please.
    pub const NO_NOTIFY: u16 = 1;
    /// The most descriptors of a queue.
    pub const MAX_SIZE: u16 = 1 << 15;
}

/// A descriptor (§2.7.5).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// IOVA.
    pub address: U64,
    /// Bytes.
    pub len: U32,
    /// [`ring::NEXT`], [`ring::WRITE`], [`ring::INDIRECT`].
    pub flags: U16,
    /// Which one is next.
    pub next: U16,
}
const _: () = assert!(size_of::<Descriptor>() == 16);

/// A chain that the device is done with (§2.7.8).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UsedElement {
    /// Its first descriptor.
    pub id: U32,
    /// Bytes that the device has written.
    pub len: U32,
}
const _: () = assert!(size_of::<UsedElement>() == 8);

/// Block devices (§5.2).
pub mod block {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, U32, U64};

    /// Bytes that positions and lengths count in, whatever the block size is.
    pub const SECTOR: u64 = 512;
    /// Offsets in its configuration (§5.2.4): u64, sectors.
    pub const CAPACITY: usize = 0;
    /// u32, bytes.
    pub const SIZE_MAX: usize = 8;
    /// u32.
    pub const SEG_MAX: usize = 12;
    /// u32, bytes.
    pub const BLK_SIZE: usize = 20;
    /// u16.
    pub const QUEUES: usize = 34;
    /// u32, sectors.
    pub const MAX_DISCARD: usize = 36;
    /// u32, sectors.
    pub const MAX_WRITE_ZEROES: usize = 48;

    /// Kinds of requests (§5.2.6).
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Flush.
    pub const FLUSH: u32 = 4;
    /// Its name.
    pub const GET_ID: u32 = 8;
    /// Discard.
    pub const DISCARD: u32 = 11;
    /// Write zeroes.
    pub const WRITE_ZEROES: u32 = 13;
    /// Bytes of its name.
    pub const ID_LEN: usize = 20;
    /// In [`Range::flags`]: what was there may be discarded.
    pub const UNMAP: u32 = 1;
    /// Status: done.
    pub const OK: u8 = 0;
    /// Status: error of the device or the driver.
    pub const IOERR: u8 = 1;
    /// Status: it does not have this request.
    pub const UNSUPP: u8 = 2;

    /// What a request begins with.
    #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Header {
        /// [`IN`] and so on.
        pub kind: U32,
        /// 0.
        pub reserved: U32,
        /// Of [`IN`] and [`OUT`]; 0 for others.
        pub sector: U64,
    }
    const _: () = assert!(size_of::<Header>() == 16);

    /// What [`DISCARD`] and [`WRITE_ZEROES`] are for.
    #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Range {
        /// The first one.
        pub sector: U64,
        /// How many.
        pub sectors: U32,
        /// [`UNMAP`].
        pub flags: U32,
    }
    const _: () = assert!(size_of::<Range>() == 16);
}

/// Network devices (§5.1).
pub mod net {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, U16};

    /// Offsets in its configuration (§5.1.4): 6 bytes.
    pub const MAC: usize = 0;
    /// u16: [`LINK_UP`].
    pub const STATUS: usize = 6;
    /// u16, bytes.
    pub const MTU: usize = 10;
    /// In the status.
    pub const LINK_UP: u16 = 1;
    /// In [`Header::flags`]: the checksum from `checksum_start` on is to be filled in at `checksum_offset` behind that.
    pub const NEEDS_CSUM: u8 = 1;
    /// In [`Header::flags`]: the device has found the checksum right.
    pub const DATA_VALID: u8 = 2;

    /// What is in front of every frame (§5.1.6).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Header {
        /// [`NEEDS_CSUM`], [`DATA_VALID`].
        pub flags: u8,
        /// 0: segmentation is never negotiated.
        pub segmentation: u8,
        /// Used with segmentation only.
        pub header_len: U16,
        /// Used with segmentation only.
        pub segment_len: U16,
        /// Where the checksum begins.
        pub checksum_start: U16,
        /// Where it goes, from there.
        pub checksum_offset: U16,
        /// Of a received frame: how many buffers it takes.
        pub buffers: U16,
    }
    /// Bytes of [`Header`].
    pub const HEADER_LEN: usize = size_of::<Header>();
    const _: () = assert!(HEADER_LEN == 12);
}

/// Consoles (§5.3).
pub mod console {
    /// Offsets in its configuration (§5.3.4): u16.
    pub const COLUMNS: usize = 0;
    /// u16.
    pub const ROWS: usize = 2;
    /// u32, write-only.
    pub const EMERGENCY: usize = 8;
}
