//! Namespaces: what they are, and their blocks. Only blocks that were written take memory.

use std::collections::{BTreeMap, BTreeSet};

/// The size of a logical block and its metadata, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Of the block itself: a power of two of at least 512.
    pub lba_bytes: u32,
    /// Of its metadata.
    pub metadata: u16,
}

/// A namespace to begin with.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceOptions {
    /// Logical blocks.
    pub blocks: u64,
    /// Index of its format in [`Options::formats`](super::Options::formats).
    pub format: u8,
    /// Whether metadata follows each block's data, instead of lying in a buffer of its own.
    pub extended: bool,
}

/// A namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) blocks: u64,
    pub(super) format: u8,
    pub(super) layout: Format,
    pub(super) extended: bool,
    pub(super) is_shared: bool,
    /// Controllers that it is attached to.
    pub(super) attached: BTreeSet<u16>,
    /// Data and metadata of a block, by its address.
    content: BTreeMap<u64, Box<[u8]>>,
}

impl Namespace {
    pub(super) fn new(blocks: u64, format: u8, layout: Format, extended: bool, is_shared: bool) -> Self {
        Self {
            blocks,
            format,
            layout,
            extended,
            is_shared,
            attached: BTreeSet::new(),
            content: BTreeMap::new(),
        }
    }

    /// Bytes of a block with its metadata.
    pub(super) fn stored_bytes(&self) -> usize {
        self.lba_bytes() + self.metadata_bytes()
    }

    pub(super) fn lba_bytes(&self) -> usize {
        usize::try_from(self.layout.lba_bytes).unwrap_or(usize::MAX)
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.layout.metadata.into()
    }

    /// Bytes of a block in a transfer of data.
    pub(super) fn transferred_bytes(&self) -> usize {
        if self.extended {
            self.stored_bytes()
        } else {
            self.lba_bytes()
        }
    }

    pub(super) fn has(&self, lba: u64, count: u64) -> bool {
        lba.checked_add(count).is_some_and(|end| end <= self.blocks)
    }

    /// Data and metadata of blocks, one after the other; what was never written is 0.
    pub(super) fn read(&self, lba: u64, count: u64) -> Vec<u8> {
        let bytes = self.stored_bytes();
        let mut all = Vec::with_capacity(bytes * super::bytes::size(count));
        for lba in lba..lba.saturating_add(count) {
            match self.content.get(&lba) {
                Some(block) => all.extend_from_slice(block),
                None => all.resize(all.len() + bytes, 0),
            }
        }
        all
    }

    pub(super) fn write(&mut self, lba: u64, all: &[u8]) {
        for (lba, block) in (lba..).zip(all.chunks_exact(self.stored_bytes())) {
            self.content.insert(lba, block.into());
        }
    }

    pub(super) fn clear(&mut self, lba: u64, count: u64) {
        let end = lba.saturating_add(count);
        // Whichever is less: the blocks that are to go, or those that are there.
        while let Some((&lba, _)) = self.content.range(lba..end).next() {
            self.content.remove(&lba);
        }
    }

    /// Everything is gone, and its blocks have another layout; it is as large in bytes as before.
    pub(super) fn format(&mut self, format: u8, layout: Format, extended: bool) {
        let bytes = u128::from(self.blocks) * u128::from(self.layout.lba_bytes);
        self.blocks = u64::try_from(bytes / u128::from(layout.lba_bytes.max(1))).unwrap_or(u64::MAX);
        (self.format, self.layout, self.extended) = (format, layout, extended);
        self.content.clear();
    }

    /// Blocks that hold something.
    pub(super) fn used(&self) -> u64 {
        self.content.len() as u64
    }
}
