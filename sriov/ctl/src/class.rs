//! Names of device classes for `class:` selectors (PCI Code and ID Assignment 1.15, chapter 1).

use crate::similar;
use pci::ClassCode;
use std::str::FromStr;

/// Base class, subclass and programming interface as hexadecimal digits.
const NAMES: [(&str, &str); 22] = [
    ("accelerator", "12"),
    ("ahci", "010601"),
    ("audio", "0403"),
    ("bridge", "06"),
    ("coprocessor", "0b40"),
    ("crypto", "10"),
    ("cxl", "0502"),
    ("display", "03"),
    ("ethernet", "0200"),
    ("fibre-channel", "0c04"),
    ("gpu", "03"),
    ("host-bridge", "0600"),
    ("infiniband", "0207"),
    ("memory", "05"),
    ("network", "02"),
    ("nvme", "010802"),
    ("pci-bridge", "0604"),
    ("raid", "0104"),
    ("serial", "0700"),
    ("storage", "01"),
    ("usb", "0c03"),
    ("vga", "0300"),
];

/// The first digits of a class code: two for the base class, four with the subclass, six with the programming interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    code: u32,
    /// How many low bits of a class code the prefix leaves open.
    open_bits: u32,
}

impl Prefix {
    /// Whether a class code starts with it.
    pub(crate) fn matches(self, class: ClassCode) -> bool {
        class.0 >> self.open_bits == self.code
    }

    fn from_digits(digits: &str) -> Option<Self> {
        let open_bits = match digits.len() {
            2 => 16,
            4 => 8,
            6 => 0,
            _ => return None,
        };
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()?;
        Some(Self { code, open_bits })
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let digits = named.map_or(text, |(_, digits)| digits);
        Self::from_digits(digits).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name);
            let hint = similar::hint(text, names);
            hint.unwrap_or_else(|| format!("expected 2, 4 or 6 hexadecimal digits or one of {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_every_code_is_valid() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for (name, digits) in NAMES {
            assert_eq!(name.parse::<Prefix>().ok(), Prefix::from_digits(digits), "{name}");
        }
    }

    #[test]
    fn a_prefix_matches_the_classes_below_it() {
        let nvme = ClassCode(0x01_0802);
        for text in ["nvme", "01", "0108", "010802", "storage"] {
            assert!(text.parse::<Prefix>().unwrap().matches(nvme), "{text}");
        }
        for text in ["02", "0106", "010801", "ahci"] {
            assert!(!text.parse::<Prefix>().unwrap().matches(nvme), "{text}");
        }
    }

    #[test]
    fn a_slip_is_answered_with_the_right_name() {
        assert_eq!("nvmee".parse::<Prefix>(), Err("did you mean nvme?".to_owned()));
    }
}
