//! What ours is compared with where the other is no crate: structures of the same cost, written from their description. None is another project's
//! code, and none claims to be as fast as that; what they show is how cost grows.

mod best_fit;
mod first_fit;
mod skip_list;
mod two_level;

pub use best_fit::BestFit;
pub use first_fit::FirstFit;
pub use skip_list::SkipList;
pub use two_level::TwoLevel;
