//! Formats that controllers and hosts agree on. No I/O here.
//!
//! Follows the NVM Express Base Specification 2.1 ("Base"), the NVM Command Set Specification 1.1 ("NVM") and the NVMe over PCIe Transport
//! Specification 1.1 ("PCIe"), all of 2024.

mod ability;
mod dataset;
mod entry;
pub mod identify;
pub mod log;
pub mod namespace;
mod opcode;
mod status;
pub mod virtualization;

pub use dataset::BlockRange;
pub use entry::{Cqe, DataPointer, Fuse, Sqe};
pub use opcode::Opcode;
pub use status::Status;

/// What a field of ASCII says, without its padding: spaces, or all from the first 0 on. What cannot be printed is replaced.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let field = field.get(..end).unwrap_or(field);
    let text = String::from_utf8_lossy(field);
    let printable = |char: char| {
        if char.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            char
        }
    };
    text.trim().chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn text_ends_at_its_padding_and_can_be_printed() {
        assert_eq!(text(b"lab0    "), "lab0");
        assert_eq!(text(b"nqn.x\0\0rest"), "nqn.x");
        assert_eq!(text(b"\x1b[2Ja"), "\u{fffd}[2Ja");
        assert_eq!(text(b"        "), "");
    }
}
