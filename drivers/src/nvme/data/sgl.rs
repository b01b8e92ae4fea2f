//! Scatter-gather lists (Base §4.3.2): descriptors of 16 bytes, each for a piece of any length.

use super::{Lists, Pieces, Unfit};
use crate::nvme::payload::Payload;
use crate::nvme::shared::Sgl;
use std::sync::atomic::Ordering;

/// Types of descriptors, in the last byte's bits 7:4, subtype 0: an address.
const DATA_BLOCK: u64 = 0x0 << 60;
const LAST_SEGMENT: u64 = 0x3 << 60;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;

/// Bytes of a descriptor's piece at most: what 32 bits hold, and whole dwords.
pub(super) const MOST: u64 = (1 << 32) - 4;

/// A descriptor of a piece of data, of [`MOST`] bytes at most.
#[inline]
pub(super) fn block(iova: u64, bytes: u64, sgl: Sgl) -> Result<(u64, u64), Unfit> {
    if sgl == Sgl::Dword && !(iova | bytes).is_multiple_of(4) {
        return Err(Unfit::Alignment);
    }
    let bytes = u32::try_from(bytes).map_err(|_too_long| Unfit::TooMany)?;
    Ok((iova, DATA_BLOCK | u64::from(bytes)))
}

impl Lists {
    /// The descriptor for data in pieces: of a segment that holds one for each of them.
    pub(super) fn sgl_list<P: Payload>(&self, index: u16, payload: &P, bytes: u64) -> Result<(u64, u64), Unfit> {
        let (list, iova) = self.list(index);
        let mut pieces = Pieces::new(payload, bytes);
        let (mut descriptors, mut count) = (list.chunks_exact(2), 0);
        while let Some((mut iova, mut len)) = pieces.next()? {
            while len != 0 {
                let Some([address, rest]) = descriptors.next() else {
                    return Err(Unfit::TooMany);
                };
                let part = len.min(MOST);
                let (first, second) = block(iova, part, self.sgl)?;
                // Relaxed: the doorbell orders them.
                address.store(first.to_le(), Ordering::Relaxed);
                rest.store(second.to_le(), Ordering::Relaxed);
                count += DESCRIPTOR;
                len -= part;
                iova = iova.wrapping_add(part);
            }
        }
        Ok((iova, LAST_SEGMENT | count))
    }
}
