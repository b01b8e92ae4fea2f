//! Tests without privileges and without the lab.
#![cfg(test)]

mod architecture;
mod tool;
mod topology;
