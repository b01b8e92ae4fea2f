//! From facts to text and JSON. Nothing here reads the machine or decides anything.

pub(crate) mod error;
pub(crate) mod markdown;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod tree;
