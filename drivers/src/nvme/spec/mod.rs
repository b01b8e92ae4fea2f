//! Formats that controllers and hosts agree on. No I/O here.
//!
//! Follows the NVM Express Base Specification 2.1 ("Base"), the NVM Command Set Specification 1.1 ("NVM") and the NVMe over PCIe Transport
//! Specification 1.1 ("PCIe"), all of 2024.

mod dataset;
mod entry;
mod opcode;
mod status;

pub use dataset::BlockRange;
pub use entry::{Cqe, DataPointer, Fuse, Sqe};
pub use opcode::Opcode;
pub use status::Status;
