//! The VF token: a secret shared by whoever drives a PF through VFIO and those who drive its VFs.
//!
//! Follows `VFIO_DEVICE_FEATURE_PCI_VF_TOKEN` of `include/uapi/linux/vfio.h` and, for the text form, RFC 9562.

use crate::{Error, ErrorKind};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::str::FromStr;

/// A VF token, a UUID. `Debug` does not show it.
///
/// ```
/// use vfio_core::VfToken;
///
/// let token: VfToken = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3".parse()?;
/// assert_eq!(token.to_string(), "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3");
/// # Ok::<(), vfio_core::ParseVfTokenError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VfToken(pub [u8; 16]);

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a VF token is a UUID, such as bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3")]
pub struct ParseVfTokenError;

impl VfToken {
    /// A token that nobody can guess (UUID version 4).
    ///
    /// # Errors
    ///
    /// When the kernel gives no random numbers.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        let filled = retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty()));
        let filled = filled.map_err(|errno| Error::new("getrandom", ErrorKind::from_errno(errno)))?;
        if filled != bytes.len() {
            return Err(Error::new(
                "getrandom",
                ErrorKind::Malformed("fewer bytes than asked for"),
            ));
        }
        let number = u128::from_be_bytes(bytes);
        // Version 4 in bits 79:76, variant 2 in bits 63:62.
        let number = number & !(0xf << 76) | 4 << 76;
        let number = number & !(0x3 << 62) | 2 << 62;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for VfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VfToken(..)")
    }
}

impl FromStr for VfToken {
    type Err = ParseVfTokenError;

    fn from_str(text: &str) -> Result<Self, ParseVfTokenError> {
        let dash = |place| matches!(place, 8 | 13 | 18 | 23);
        let well_formed = text.len() == 36
            && text.bytes().enumerate().all(|(place, byte)| {
                if dash(place) {
                    byte == b'-'
                } else {
                    byte.is_ascii_hexdigit()
                }
            });
        let number = well_formed.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok());
        let number = number.flatten().ok_or(ParseVfTokenError)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_bytes_are_the_same_token(bytes: [u8; 16]) {
            let token = VfToken(bytes);
            prop_assert_eq!(token.to_string().parse::<VfToken>(), Ok(token));
            prop_assert_eq!(token.to_string().to_uppercase().parse::<VfToken>(), Ok(token));
        }

        #[test]
        fn other_text_is_refused(text in "[0-9a-f-]{0,40}|\\PC*") {
            if let Ok(token) = text.parse::<VfToken>() {
                prop_assert_eq!(token.to_string(), text.to_lowercase());
            }
        }
    }

    #[test]
    fn random_tokens_differ_and_are_of_version_4() {
        let (a, b) = (VfToken::random().unwrap(), VfToken::random().unwrap());
        assert_ne!(a, b);
        for token in [a, b] {
            assert_eq!(token.to_string().as_bytes()[14], b'4');
            assert!(b"89ab".contains(&token.to_string().as_bytes()[19]));
        }
    }

    #[test]
    fn a_token_is_not_shown_by_accident() {
        assert_eq!(format!("{:?}", VfToken([7; 16])), "VfToken(..)");
    }
}
