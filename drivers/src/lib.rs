//! To come: userspace drivers for NVMe, igb VF, virtio and edu, over a `Backing` that the drivers own.
#![forbid(unsafe_code)]
