//! The program as its users run it, on captured machines.
#![cfg(test)]

mod exit_codes;
mod json;
mod machine;
mod text;
