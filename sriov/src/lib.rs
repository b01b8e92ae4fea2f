//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod access;
mod driver;
mod emit;
mod error;
mod file;
pub mod guard;
mod holder;
mod lock;
mod machine;
mod pause;
mod pf;
pub mod plan;
mod step;
#[cfg(test)]
mod testing;
mod usage;
mod worker;

pub use access::{Access, Deadlines, Failure};
pub use driver::WantedDriver;
pub use emit::{Backend, Vmm, emit};
pub use error::{Error, ErrorKind, Holder, Owner};
pub use guard::Refusal;
pub use holder::{Coverage, Holders, Node, OpenFile, Process};
pub use lock::Lock;
pub use machine::Machine;
pub use pf::PhysicalFunction;
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
pub use usage::{Interface, Usage, Use};
pub use worker::{WorkerAccess, serve_accesses};
