//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod error;
mod file;
mod holder;
mod step;

pub use error::{Error, ErrorKind, Holder, Owner};
pub use holder::{Coverage, Holders, Node, OpenFile, Process};
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
