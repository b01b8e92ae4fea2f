//! The registers of edu, in BAR 0 (QEMU, `docs/specs/edu.rst`). Those below 0x80 are 4 bytes wide.

use vfio_core::mmio::{ReadOnly, ReadWrite, Reg, WriteOnly};

/// Bytes of BAR 0 that are mapped.
pub(super) const LEN: usize = 0x1000;

/// Identification: 0xRRrr00ed, with major and minor version.
pub(super) const ID: Reg<u32, ReadOnly, 0x00> = Reg::new();
/// Gives back the complement of what was written.
pub(super) const LIVENESS: Reg<u32, ReadWrite, 0x04> = Reg::new();
/// Written: the number. Read, once [`STATUS`] is not [`COMPUTING`]: its factorial, modulo 2³².
pub(super) const FACTORIAL: Reg<u32, ReadWrite, 0x08> = Reg::new();
/// [`COMPUTING`] and [`INTERRUPT_WHEN_DONE`].
pub(super) const STATUS: Reg<u32, ReadWrite, 0x20> = Reg::new();
/// Why it interrupts: [`FACTORIAL_DONE`], [`DMA_DONE`], or what software raised.
pub(super) const INTERRUPT: Reg<u32, ReadOnly, 0x24> = Reg::new();
/// Raises an interrupt for these reasons.
pub(super) const RAISE: Reg<u32, WriteOnly, 0x60> = Reg::new();
/// Ends these reasons.
pub(super) const ACKNOWLEDGE: Reg<u32, WriteOnly, 0x64> = Reg::new();
/// Where DMA reads: an IOVA, or a place at [`INSIDE`].
pub(super) const DMA_SOURCE: Reg<u64, ReadWrite, 0x80> = Reg::new();
/// Where DMA writes.
pub(super) const DMA_TARGET: Reg<u64, ReadWrite, 0x88> = Reg::new();
/// Bytes.
pub(super) const DMA_LEN: Reg<u64, ReadWrite, 0x90> = Reg::new();
/// [`START`], [`FROM_DEVICE`] and [`INTERRUPT_AFTER_DMA`]. [`START`] reads as 1 until the end.
pub(super) const DMA_COMMAND: Reg<u64, ReadWrite, 0x98> = Reg::new();

/// In [`STATUS`], read only: a factorial is being computed.
pub(super) const COMPUTING: u32 = 0x01;
/// In [`STATUS`].
pub(super) const INTERRUPT_WHEN_DONE: u32 = 0x80;
/// In [`INTERRUPT`].
pub(super) const FACTORIAL_DONE: u32 = 0x001;
/// In [`INTERRUPT`].
pub(super) const DMA_DONE: u32 = 0x100;
/// In [`DMA_COMMAND`].
pub(super) const START: u64 = 1;
/// In [`DMA_COMMAND`]: from the device's own memory to ours.
pub(super) const FROM_DEVICE: u64 = 2;
/// In [`DMA_COMMAND`].
pub(super) const INTERRUPT_AFTER_DMA: u64 = 4;
/// Where DMA finds the device's own memory.
pub(super) const INSIDE: u64 = 0x4_0000;
