//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod error;
mod step;

pub use error::{Error, ErrorKind, Holder, Owner};
pub use step::{Action, Attribute, Condition, Plan, Step, Target};
