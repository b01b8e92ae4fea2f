//! How to map.

use crate::Iova;
use crate::allocator::Request;
use vfio_core::Access;

/// How memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapOptions {
    access: Access,
    iova: Option<Iova>,
    alignment: Option<u64>,
    width: u32,
}

impl MapOptions {
    /// Anywhere, aligned to its size; or, from 2 MiB on, where it begins as far inside a large page as in this process.
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self {
            access,
            iova: None,
            alignment: None,
            width: u64::BITS,
        }
    }

    /// At this IOVA.
    #[must_use]
    pub const fn at(self, iova: Iova) -> Self {
        Self {
            iova: Some(iova),
            ..self
        }
    }

    /// Aligned to `alignment` bytes, a power of two, and not to its size.
    #[must_use]
    pub const fn aligned_to(self, alignment: u64) -> Self {
        Self {
            alignment: Some(alignment),
            ..self
        }
    }

    /// Within reach of a device that has `bits` address bits.
    #[must_use]
    pub const fn within(self, bits: u32) -> Self {
        Self { width: bits, ..self }
    }

    /// What devices may do.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    pub(crate) const fn iova(&self) -> Option<Iova> {
        self.iova
    }

    /// For `len` bytes that this process has at `address`.
    pub(crate) fn request(&self, len: u64, address: Option<usize>) -> Request {
        let request = Request::new(len).within(self.width);
        match (self.alignment, address) {
            (Some(alignment), _) => request.aligned_to(alignment),
            (None, Some(address)) => request.congruent_to(address as u64),
            (None, None) => request,
        }
    }
}
