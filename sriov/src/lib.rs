//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]

mod step;

pub use step::{Action, Attribute, Condition, Plan, Step, Target};
