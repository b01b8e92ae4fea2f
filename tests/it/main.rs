//! it
mod topology;
