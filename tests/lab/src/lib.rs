//! The lab: a QEMU machine with an IOMMU, an SR-IOV NIC and NVMe and nested KVM, on any Linux host, without root.
//!
//! [`Setup`] brings QEMU and a kernel into the [`Cache`]; [`Machine`] says what the machine is made of; [`Vm`] boots it and runs
//! commands of the host inside. [`case`] is the harness of test programs that run there, [`Report`] the one list of results.
//!
//! The lab never touches the host's devices, needs no root (only to install packages), writes only to its cache and to
//! temporary files, and everything in it has a time limit.
#![forbid(unsafe_code)]

mod cache;
pub mod case;
pub mod conformance;
pub mod host_tests;
mod initramfs;
mod kernel;
mod kernel_log;
mod machine;
mod progress;
mod report;
mod scratch;
mod setup;
mod tap;
mod vm;
pub mod vm_tests;

pub use cache::Cache;
pub use initramfs::{
    Role, add_program, build_examples, build_guest_driver, build_guest_tests, build_programs, build_release_example,
    build_release_programs, cargo, target_dir,
};
pub use kernel::{Flavour, Kernel};
pub use kernel_log::{Trouble, trouble};
pub use machine::{Device, Iommu, MONITOR, Machine};
pub use progress::{Progress, Step};
pub use report::{Report, Verdict};
pub use scratch::remove_on_signals;
pub use setup::{Qemu, Setup};
pub use vm::{Finished, Output, TimeLimit, Vm};
