//! Base address registers, as the `resource` file of sysfs lists them.

/// Which address window of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BarIndex {
    /// BAR 0 to 5.
    Bar(u8),
    /// The expansion ROM.
    Rom,
    /// VF BAR 0 to 5 of an SR-IOV PF: the window of all VFs together.
    VfBar(u8),
    /// A window of a bridge, 0 to 3 (I/O, memory, prefetchable memory, CardBus).
    BridgeWindow(u8),
}

bitflags::bitflags! {
    /// What a window is; from the kernel's resource flags (`include/linux/ioport.h`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct BarFlags: u64 {
        /// I/O ports.
        const IO = 0x100;
        /// Memory.
        const MEMORY = 0x200;
        /// Reads have no side effects.
        const PREFETCHABLE = 0x2000;
        /// 64-bit address.
        const MEMORY_64 = 0x10_0000;
        /// No address was assigned.
        const UNSET = 0x2000_0000;
        /// Disabled (an expansion ROM that is not decoded, for example).
        const DISABLED = 0x1000_0000;
        const _ = !0;
    }
}

/// One address window: where it is, how large, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Which window.
    pub index: BarIndex,
    /// Physical base address; 0 for readers without the privilege to see addresses.
    pub start: u64,
    /// Size in bytes.
    pub len_bytes: u64,
    /// Kind of window.
    pub flags: BarFlags,
}
