//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod access;
mod error;
mod lock;
mod pause;
mod step;
mod worker;

pub use access::{Access, Deadlines, Failure};
pub use error::{Error, ErrorKind, Holder, Owner};
pub use lock::Lock;
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
pub use worker::{WorkerAccess, serve_accesses};
