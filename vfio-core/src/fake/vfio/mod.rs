//! The fake machine's VFIO (`drivers/vfio`): device files, groups, containers.
//!
//! [`function`] is what the driver keeps for a device, [`file`] its open file, [`calls`] what is asked of it; [`config`], [`irq`], [`migration`] and [`feature`] are parts
//! of it. [`group`] and [`container`] are the older way to a device, [`type1`] the container's own IOVA space.

mod calls;
pub(super) mod config;
mod container;
mod feature;
mod file;
mod function;
mod group;
mod info;
pub(super) mod irq;
mod mapping;
mod migration;
mod reset;
mod type1;

#[cfg(test)]
mod tests;

pub(super) use container::{Compatible, ContainerFile};
pub(super) use file::Opened;
pub(super) use function::Function;
pub(super) use group::{Group, GroupFile};
pub(super) use type1::Type1;
