//! The kernel boundary: VFIO and iommufd as safe types. Holds all `unsafe` code of the workspace, in `sys`.
