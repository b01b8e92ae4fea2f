//! The first 64 bytes of configuration space (PCIe 6.0 §7.5.1; PCI-to-PCI Bridge 1.2 §3.2; CardBus bridges: PC Card Standard 8.1).

use crate::register::{Register, Window, register, structure};
use crate::{ClassCode, Describe, DeviceId, Field, Hex, Truncated, Value, VendorId};

structure! {
    /// The header: what every function has, and what its type adds.
    pub struct Header {
        /// Vendor id; 0xffff in VFs, whose PF states it.
        vendor: VendorId,
        /// Device id; 0xffff in VFs.
        device: DeviceId,
        /// Command register.
        command: Command,
        /// Status register.
        status: Status,
        /// Revision.
        revision: Hex<u8>,
        /// Class code.
        class: ClassCode,
        /// Cache line size in units of 4 bytes.
        cache_line_dwords: u8,
        /// Latency timer.
        latency_timer: u8,
        /// The device has other functions.
        is_multi_function: bool,
        /// Built-in self test.
        bist: Hex<u8>,
        /// Which interrupt line the platform uses, as firmware recorded it.
        interrupt_line: u8,
        /// Interrupt pin: 1 for INTA#, 0 for none.
        interrupt_pin: u8,
        /// The part that depends on the type.
        kind: HeaderKind,
    }
}

/// The part of a header that depends on its type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderKind {
    /// Type 0: a function that is no bridge.
    Endpoint(EndpointHeader),
    /// Type 1: a bridge to another PCI bus; also ports of PCI Express.
    Bridge(BridgeHeader),
    /// Type 2: a CardBus bridge.
    CardBus(CardBusHeader),
    /// A type that does not exist.
    Unknown(u8),
}

structure! {
    /// Type 0 header.
    pub struct EndpointHeader {
        /// Base address registers; a 64-bit address takes two.
        bars: [BarRegister; 6],
        /// CardBus information structure.
        cardbus_cis: Hex<u32>,
        /// Subsystem vendor.
        subsystem_vendor: VendorId,
        /// Subsystem device.
        subsystem_device: DeviceId,
        /// Expansion ROM.
        rom: RomRegister,
        /// First capability.
        capability_pointer: Hex<u8>,
        /// Burst length of conventional PCI, in units of 250 ns.
        min_grant: u8,
        /// Need of the bus of conventional PCI, in units of 250 ns.
        max_latency: u8,
    }
}

structure! {
    /// Type 1 header.
    pub struct BridgeHeader {
        /// Base address registers of the bridge itself.
        bars: [BarRegister; 2],
        /// Bus above.
        primary_bus: u8,
        /// Bus below.
        secondary_bus: u8,
        /// Highest bus below.
        subordinate_bus: u8,
        /// Latency timer of the bus below.
        secondary_latency_timer: u8,
        /// Status of the bus below.
        secondary_status: Status,
        /// First I/O port that is passed down.
        io_base: Hex<u32>,
        /// Last I/O port that is passed down; less than the base when none is.
        io_limit: Hex<u32>,
        /// First memory address that is passed down.
        memory_base: Hex<u32>,
        /// Last memory address that is passed down.
        memory_limit: Hex<u32>,
        /// First prefetchable memory address that is passed down.
        prefetchable_base: Hex<u64>,
        /// Last prefetchable memory address that is passed down.
        prefetchable_limit: Hex<u64>,
        /// Expansion ROM.
        rom: RomRegister,
        /// First capability.
        capability_pointer: Hex<u8>,
        /// Bridge control register.
        bridge_control: BridgeControl,
    }
}

structure! {
    /// Type 2 header.
    pub struct CardBusHeader {
        /// Base address of the socket registers.
        socket: BarRegister,
        /// First capability.
        capability_pointer: Hex<u8>,
        /// Status of the CardBus.
        secondary_status: Status,
        /// Bus above.
        primary_bus: u8,
        /// Bus number of the CardBus.
        cardbus_bus: u8,
        /// Highest bus below.
        subordinate_bus: u8,
        /// Latency timer of the CardBus.
        cardbus_latency_timer: u8,
        /// Bases and limits of two memory windows: base 0, limit 0, base 1, limit 1.
        memory_windows: [Hex<u32>; 4],
        /// Bases and limits of two I/O windows, in the same order.
        io_windows: [Hex<u32>; 4],
        /// Bridge control register.
        bridge_control: Hex<u16>,
    }
}

register! {
    /// Command register (PCIe 6.0 §7.5.1.1.3).
    #[doc(alias = "PCI_COMMAND")]
    pub struct Command: u16 {
        /// I/O space is decoded.
        io: bool = 1,
        /// Memory space is decoded.
        memory: bool = 1,
        /// The function may issue requests.
        bus_master: bool = 1,
        /// Special cycles are watched.
        special_cycles: bool = 1,
        /// Memory write and invalidate may be used.
        memory_write_invalidate: bool = 1,
        /// VGA palette snooping.
        vga_snoop: bool = 1,
        /// Parity errors are acted on.
        parity_error_response: bool = 1,
        /// Address and data stepping.
        stepping: bool = 1,
        /// System errors are reported.
        serr: bool = 1,
        /// Fast back-to-back writes.
        fast_back_to_back: bool = 1,
        /// INTx is disabled.
        interrupt_disable: bool = 1,
        .. u8 = 5,
    }
}

register! {
    /// Status register (PCIe 6.0 §7.5.1.1.4).
    #[doc(alias = "PCI_STATUS")]
    pub struct Status: u16 {
        /// Ready at once after a reset.
        immediate_readiness: bool = 1,
        __: u8 = 2,
        /// INTx is asserted.
        interrupt: bool = 1,
        /// There is a list of capabilities.
        capability_list: bool = 1,
        /// 66 MHz.
        mhz_66: bool = 1,
        /// User definable features.
        user_definable: bool = 1,
        /// Fast back-to-back writes.
        fast_back_to_back: bool = 1,
        /// A parity error on data that the function had asked for.
        master_data_parity_error: bool = 1,
        /// DEVSEL# timing, as a code.
        devsel: u8 = 2,
        /// Ended a request with target abort.
        signaled_target_abort: bool = 1,
        /// Had a request ended with target abort.
        received_target_abort: bool = 1,
        /// Had a request unanswered.
        received_master_abort: bool = 1,
        /// Reported a system error.
        signaled_system_error: bool = 1,
        /// Received a parity error or a poisoned TLP.
        detected_parity_error: bool = 1,
    }
}

register! {
    /// Bridge control register (PCIe 6.0 §7.5.1.3.13).
    #[doc(alias = "PCI_BRIDGE_CONTROL")]
    pub struct BridgeControl: u16 {
        /// Parity errors below are acted on.
        parity_error_response: bool = 1,
        /// System errors below are passed up.
        serr: bool = 1,
        /// ISA mode.
        isa: bool = 1,
        /// VGA addresses are passed down.
        vga: bool = 1,
        /// VGA addresses are decoded with 16 bits.
        vga_16_bit: bool = 1,
        /// Unanswered requests are reported.
        master_abort: bool = 1,
        /// The bus below is held in reset.
        secondary_bus_reset: bool = 1,
        /// Fast back-to-back writes.
        fast_back_to_back: bool = 1,
        /// Short discard timer above.
        primary_discard_timer: bool = 1,
        /// Short discard timer below.
        secondary_discard_timer: bool = 1,
        /// The discard timer has run out.
        discard_timer_status: bool = 1,
        /// System error when the discard timer runs out.
        discard_timer_serr: bool = 1,
        .. u8 = 4,
    }
}

/// A base address register as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BarRegister(pub u32);

impl BarRegister {
    /// I/O ports, not memory.
    #[must_use]
    pub const fn is_io(self) -> bool {
        self.0 & 1 != 0
    }

    /// Memory with a 64-bit address, whose upper half is in the next register.
    #[must_use]
    pub const fn is_memory_64(self) -> bool {
        self.0 & 7 == 4
    }

    /// Memory that can be prefetched.
    #[must_use]
    pub const fn is_prefetchable(self) -> bool {
        self.0 & 9 == 8
    }

    /// The address without the flags.
    #[must_use]
    pub const fn address(self) -> u32 {
        self.0 & if self.is_io() { !3 } else { !0xf }
    }
}

/// An expansion ROM base address register as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RomRegister(pub u32);

impl RomRegister {
    /// The ROM is decoded.
    #[must_use]
    pub const fn is_enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> u32 {
        self.0 & !0x7ff
    }
}

macro_rules! addresses {
    ($($name:ident),*) => {$(
        impl Register for $name {
            const LEN_BYTES: u16 = 4;

            fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
                window.read(offset).map(Self)
            }
        }

        impl Describe for $name {
            fn describe(&self) -> Value {
                Value::hex(self.0, 8)
            }
        }
    )*};
}

addresses!(BarRegister, RomRegister);

impl Describe for ClassCode {
    fn describe(&self) -> Value {
        Value::hex(self.0, 6)
    }
}

impl Describe for HeaderKind {
    fn describe(&self) -> Value {
        let (name, value) = match self {
            Self::Endpoint(header) => (Value::text("endpoint"), header.describe()),
            Self::Bridge(header) => (Value::text("bridge"), header.describe()),
            Self::CardBus(header) => (Value::text("cardbus"), header.describe()),
            Self::Unknown(kind) => (Value::text(format!("unknown({kind})")), Value::Absent),
        };
        let mut fields = vec![Field {
            name: "type",
            value: name,
        }];
        if let Value::Fields(others) = value {
            fields.extend(others);
        }
        Value::Fields(fields)
    }
}

impl Header {
    pub(crate) fn read(window: Window<'_>) -> Result<Self, Truncated> {
        let [revision, interface, sub, base] = window.read::<[u8; 4]>(0x08)?;
        let header_type: u8 = window.read(0x0e)?;
        let kind = match header_type & 0x7f {
            0 => HeaderKind::Endpoint(EndpointHeader::read(window)?),
            1 => HeaderKind::Bridge(BridgeHeader::read(window)?),
            2 => HeaderKind::CardBus(CardBusHeader::read(window)?),
            other => HeaderKind::Unknown(other),
        };
        Ok(Self {
            vendor: window.read(0x00)?,
            device: window.read(0x02)?,
            command: window.read(0x04)?,
            status: window.read(0x06)?,
            revision: Hex(revision),
            class: ClassCode(u32::from_be_bytes([0, base, sub, interface])),
            cache_line_dwords: window.read(0x0c)?,
            latency_timer: window.read(0x0d)?,
            is_multi_function: header_type & 0x80 != 0,
            bist: window.read(0x0f)?,
            interrupt_line: window.read(0x3c)?,
            interrupt_pin: window.read(0x3d)?,
            kind,
        })
    }
}

impl EndpointHeader {
    fn read(window: Window<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            bars: window.read(0x10)?,
            cardbus_cis: window.read(0x28)?,
            subsystem_vendor: window.read(0x2c)?,
            subsystem_device: window.read(0x2e)?,
            rom: window.read(0x30)?,
            capability_pointer: window.read(0x34)?,
            min_grant: window.read(0x3e)?,
            max_latency: window.read(0x3f)?,
        })
    }
}

impl BridgeHeader {
    fn read(window: Window<'_>) -> Result<Self, Truncated> {
        // The low four bits say whether the upper half of the address counts.
        let io = |low: u8, high: u16| match low & 0xf {
            1 => u32::from(high) << 16 | u32::from(low & 0xf0) << 8,
            _ => u32::from(low & 0xf0) << 8,
        };
        let memory = |upper: u16| u32::from(upper & 0xfff0) << 16;
        let prefetchable = |low: u16, high: u32| match low & 0xf {
            1 => u64::from(high) << 32 | u64::from(low & 0xfff0) << 16,
            _ => u64::from(low & 0xfff0) << 16,
        };
        Ok(Self {
            bars: window.read(0x10)?,
            primary_bus: window.read(0x18)?,
            secondary_bus: window.read(0x19)?,
            subordinate_bus: window.read(0x1a)?,
            secondary_latency_timer: window.read(0x1b)?,
            secondary_status: window.read(0x1e)?,
            io_base: Hex(io(window.read(0x1c)?, window.read(0x30)?)),
            io_limit: Hex(io(window.read(0x1d)?, window.read(0x32)?) | 0xfff),
            memory_base: Hex(memory(window.read(0x20)?)),
            memory_limit: Hex(memory(window.read(0x22)?) | 0xf_ffff),
            prefetchable_base: Hex(prefetchable(window.read(0x24)?, window.read(0x28)?)),
            prefetchable_limit: Hex(prefetchable(window.read(0x26)?, window.read(0x2c)?) | 0xf_ffff),
            rom: window.read(0x38)?,
            capability_pointer: window.read(0x34)?,
            bridge_control: window.read(0x3e)?,
        })
    }
}

impl CardBusHeader {
    fn read(window: Window<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            socket: window.read(0x10)?,
            capability_pointer: window.read(0x14)?,
            secondary_status: window.read(0x16)?,
            primary_bus: window.read(0x18)?,
            cardbus_bus: window.read(0x19)?,
            subordinate_bus: window.read(0x1a)?,
            cardbus_latency_timer: window.read(0x1b)?,
            memory_windows: window.read(0x1c)?,
            io_windows: window.read(0x2c)?,
            bridge_control: window.read(0x3e)?,
        })
    }
}
