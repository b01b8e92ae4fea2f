//! A namespace: what is known of it, and was true when it was read.

/// Logical blocks that commands read and write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Namespace {
    /// NSID.
    pub id: u32,
    /// How many logical blocks it has (NSZE).
    pub blocks: u64,
    /// Bytes of data of a block, a power of two (LBADS).
    pub lba_bytes: u32,
    /// Bytes of metadata of a block (MS), 0 if it has none.
    pub metadata_bytes: u16,
    /// Whether metadata follows the data of each block in the same buffer (FLBAS bit 4), instead of having its own.
    pub is_extended: bool,
    /// When it was read, in changes of namespaces: commands of one that has changed since are refused.
    pub(crate) changes: u32,
}

impl Namespace {
    /// Bytes of a block as they are transferred in the data buffer.
    #[must_use]
    #[inline]
    pub fn block_bytes(&self) -> u64 {
        let metadata = if self.is_extended { self.metadata_bytes } else { 0 };
        u64::from(self.lba_bytes) + u64::from(metadata)
    }

    /// Bytes of a block's metadata that are transferred in a buffer of their own.
    #[must_use]
    #[inline]
    pub fn separate_bytes(&self) -> u64 {
        u64::from(if self.is_extended { 0 } else { self.metadata_bytes })
    }

    /// Bytes of all its blocks, without metadata; [`u64::MAX`] if that is more.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.lba_bytes))
    }
}
