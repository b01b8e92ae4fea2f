//! The hidden command in which this program serves its own accesses to files that can block.

/// Its name on the command line.
pub(crate) const NAME: &str = "access-worker";
