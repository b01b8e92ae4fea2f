//! The words for values of `pci`, as the kernel spells them; used by tables and JSON alike.

use pci::{LinkState, Sriov};

/// `16.0 GT/s x8`; `?` for what the kernel does not know.
pub(crate) fn link_state(link: LinkState) -> String {
    let speed = link.speed.map_or_else(|| "?".to_owned(), |speed| speed.to_string());
    let width = link.width.map_or_else(|| "x?".to_owned(), |width| format!("x{width}"));
    format!("{speed} {width}")
}

/// `1 change`, `2 changes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// `7/8 VFs`.
pub(crate) fn vf_count(sriov: &Sriov) -> String {
    let total = sriov.total.as_ref().map_or_else(|_| "?".to_owned(), u16::to_string);
    format!("{}/{total} VFs", sriov.virtual_functions.len())
}
