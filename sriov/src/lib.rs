//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod access;
mod error;
mod step;

pub use access::{Access, Deadlines, Failure};
pub use error::{Error, ErrorKind, Holder, Owner};
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
