//! The crate's error: the kernel's, or what policy refuses before the kernel is asked.

use vfio_core::IovaRange;

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the kernel failed; it says which, on which device, and what helps.
    #[error(transparent)]
    Kernel(#[from] vfio_core::Error),
    /// No free range is large enough.
    #[error("no free IOVAs for {len} bytes aligned to {alignment:#x}")]
    NoSpace {
        /// Bytes asked for.
        len: u64,
        /// Alignment asked for, in bytes.
        alignment: u64,
    },
    /// Part of the range is in use.
    #[error("{0} is in use")]
    InUse(IovaRange),
    /// Part of the range may not be used: outside the IOMMU's reach, or reserved.
    #[error("{0} is not among the allowed IOVAs")]
    NotAllowed(IovaRange),
    /// The range was not handed out, or not as one whole.
    #[error("{0} was not allocated")]
    NotAllocated(IovaRange),
    /// The request cannot be expressed or makes no sense; says why.
    #[error("{0}")]
    Invalid(&'static str),
    /// The kernel or the device does not offer this; says what does.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

/// What the functions of this crate give.
pub type Result<T> = std::result::Result<T, Error>;
