//! What a demand-paged space has done.

/// Counts since the space was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Groups of page requests that were read.
    pub groups: u64,
    /// Page requests in them.
    pub requests: u64,
    /// Requests for what was mapped already: another request had asked for it.
    pub repeated: u64,
    /// Units mapped because a device asked, or to be pinned.
    pub mapped: u64,
    /// Of these, units among the last to be evicted, as many as the budget has: many of them say that it is too small.
    pub refaults: u64,
    /// Units mapped ahead.
    pub prefetched: u64,
    /// Units unmapped to make room.
    pub evicted: u64,
    /// Groups answered as invalid because no device may go there.
    pub refused: u64,
    /// Groups answered as invalid because the budget is smaller than what is pinned and what they asked for.
    pub over_budget: u64,
    /// Groups answered as invalid because memory could not be had or mapped.
    pub failed: u64,
    /// Groups that had to wait, as they would have evicted what had just been brought for others.
    pub deferred: u64,
    /// Groups whose device was detached before the answer.
    pub late: u64,
    /// Units that the kernel did not unmap; they stay, and count.
    pub stuck: u64,
    /// Transfers that went to a backup buffer.
    pub backups: u64,
    /// Bytes mapped now.
    pub resident_bytes: u64,
    /// Most bytes that were ever mapped at a time.
    pub peak_bytes: u64,
}
