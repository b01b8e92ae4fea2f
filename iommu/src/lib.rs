//! Policy over the kernel boundary: who may reach which memory, and where.
#![forbid(unsafe_code)]
