//! Containers and groups: how devices were opened before iommufd, and still are where a kernel has none.
//!
//! A [`Container`] is one address space for all devices of its [`Group`]s. Its IOMMU is type1 in one of two versions, of the kernel's own
//! (`/dev/vfio/vfio`) or by an iommufd that behaves like it (`/dev/iommu`). The order is fixed: a group is added to a container, the
//! container gets an IOMMU, then devices are opened and memory is mapped ([`LegacyMapping`]).
//!
//! Follows `include/uapi/linux/vfio.h`, and `drivers/iommu/iommufd/vfio_compat.c` for the second kind.

mod attached;
mod container;
mod dirty;
mod group;
mod mapping;

pub use attached::AttachedGroup;
pub(crate) use attached::Member;
pub use container::{Container, ContainerPath, IommuType};
pub use group::{Group, GroupStatus};
pub use mapping::LegacyMapping;
