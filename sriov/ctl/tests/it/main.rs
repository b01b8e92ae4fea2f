//! The program as its users run it, on captured machines.
#![cfg(test)]

mod completion;
mod exit_codes;
mod guest;
mod hostile;
mod journal;
mod json;
mod machine;
mod text;
