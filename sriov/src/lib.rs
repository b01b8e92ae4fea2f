//! Control plane for physical and virtual functions.
#![forbid(unsafe_code)]
