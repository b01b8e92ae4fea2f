//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod access;
mod apply;
mod bus;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod journal;
mod lock;
mod operation;
mod pause;
mod restore;
mod step;
mod undo;
mod worker;

pub use access::{Access, Deadlines, Failure};
pub use apply::{Applied, Executor, Guard, Loss, Progress};
pub use error::{Error, ErrorKind, Holder, Owner};
pub use journal::Journal;
pub use lock::Lock;
pub use operation::{Binding, Change, Former, Operation, Stage, Status, VirtualFunctions};
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
pub use undo::Undone;
pub use worker::{WorkerAccess, serve_accesses};
