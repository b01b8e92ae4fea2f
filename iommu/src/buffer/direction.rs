//! Which way a buffer's bytes go.

use std::fmt::Debug;
use vfio_core::Access;

/// A direction of DMA. The IOMMU enforces it: a device that writes where it may only read is stopped.
pub trait Direction: sealed::Sealed + Debug + Copy + Send + Sync + 'static {
    /// What the device may do.
    const ACCESS: Access;
}

/// The device reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToDevice;

/// The device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FromDevice;

/// The device reads and writes: rings, and memory that is used for either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Both;

impl Direction for ToDevice {
    const ACCESS: Access = Access::READ;
}

impl Direction for FromDevice {
    const ACCESS: Access = Access::WRITE;
}

impl Direction for Both {
    const ACCESS: Access = Access::READ.union(Access::WRITE);
}

/// Directions in which the device may read.
pub trait DeviceReads: Direction {}
impl DeviceReads for ToDevice {}
impl DeviceReads for Both {}

/// Directions in which the device may write.
pub trait DeviceWrites: Direction {}
impl DeviceWrites for FromDevice {}
impl DeviceWrites for Both {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ToDevice {}
    impl Sealed for super::FromDevice {}
    impl Sealed for super::Both {}
}
