//! What is done to blocks, and how much was.

use std::fmt;

/// What is under way.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// In the thread's blocks.
    pub(crate) block: usize,
    pub(crate) blocks: usize,
    /// Of its data in memory.
    pub(crate) start: usize,
    /// Commands that have not come back.
    pub(crate) left: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write(u32),
    Compare,
    Zero,
    Flush,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) compares: u64,
    pub(crate) zeroes: u64,
    pub(crate) flushes: u64,
    pub(crate) commands: u64,
    pub(crate) bytes: u64,
    pub(crate) recoveries: u64,
}

impl Operation {
    /// Whether one changes blocks of the other. Of compares, too, the blocks must stay.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.block < other.block + other.blocks && other.block < self.block + self.blocks;
        overlap && (self.kind.changes() || other.kind.changes())
    }
}

impl Kind {
    pub(crate) fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write(_) | Self::Compare)
    }

    pub(crate) fn changes(self) -> bool {
        matches!(self, Self::Write(_) | Self::Zero)
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.compares += other.compares;
        self.zeroes += other.zeroes;
        self.flushes += other.flushes;
        self.commands += other.commands;
        self.bytes += other.bytes;
        self.recoveries += other.recoveries;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations = self.reads + self.writes + self.compares + self.zeroes + self.flushes;
        write!(
            f,
            "{operations} operations ({} reads, {} writes, {} compares, {} zeroes, {} flushes) in {} commands with {} MiB, {} recoveries",
            self.reads,
            self.writes,
            self.compares,
            self.zeroes,
            self.flushes,
            self.commands,
            self.bytes >> 20,
            self.recoveries
        )
    }
}
