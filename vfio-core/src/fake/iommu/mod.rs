//! The fake machine's iommufd (`drivers/iommu/iommufd`).
//!
//! [`table`] is one IOVA space, [`pages`] the memory behind it, [`context`] the objects of one open `/dev/iommu`; the other files
//! are the commands by kind of object, and [`calls`] is the way in.

mod attach;
mod calls;
mod context;
mod fault;
mod hwpt;
mod ioas;
mod pages;
mod room;
mod table;
mod viommu;

#[cfg(test)]
mod tests;

pub(super) use calls::{ContextFile, Handle};
pub(super) use context::{Context, Env};
pub(super) use fault::{Answer, Fault};
pub(super) use hwpt::mark;
pub(super) use pages::{Account, Accounts, PAGE, Pages, Source};
