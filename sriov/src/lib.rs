//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod access;
mod apply;
mod bus;
mod driver;
mod emit;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod file;
pub mod guard;
mod holder;
mod journal;
mod lock;
mod machine;
mod operation;
mod pause;
mod pf;
pub mod plan;
mod restore;
mod step;
#[cfg(test)]
mod testing;
mod undo;
mod usage;
mod worker;

pub use access::{Access, Deadlines, Failure};
pub use apply::{Applied, Executor, Guard, Loss, Progress};
pub use driver::WantedDriver;
pub use emit::{Backend, Emitted, Form, Handout, Pf, emit, hostdev, qemu_devices, sysfs_path};
pub use error::{Error, ErrorKind, Holder, Owner};
pub use guard::Refusal;
pub use holder::{Coverage, Holders, Node, OpenFile, Process};
pub use journal::Journal;
pub use lock::Lock;
pub use machine::Machine;
pub use operation::{Binding, Change, Former, Operation, Stage, Status, VirtualFunctions};
pub use pf::PhysicalFunction;
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
pub use undo::Undone;
pub use usage::{Interface, PolicyRoutes, Usage, Use};
pub use worker::{WorkerAccess, serve_accesses};
