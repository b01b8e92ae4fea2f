//! An image of a function's configuration space, and the look-up of capabilities in it.
//!
//! [`ConfigSpace`] holds bytes and nothing else: where they came from (sysfs, a dump, a VFIO region) is the caller's affair.
//! Follows PCIe 6.0 §7.5 and the kernel's `include/uapi/linux/pci_regs.h`.

use crate::cap::Decode;
use crate::register::Window;
use crate::{Describe, Field, Header, Truncated, Value, Walk, WalkEnd};

/// The configuration space of one function: 64 bytes for readers without privilege, 256 for conventional PCI, 4096 for PCI
/// Express; any other length is a shortened image. Nothing in it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
}

/// Why a capability can neither be shown nor be ruled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The list of capabilities could not be followed to its end.
    #[error("capability list: {0}")]
    List(WalkEnd),
    /// The capability is there, but not all of it.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl ConfigSpace {
    /// The size of an extended configuration space, and the most an image holds.
    pub const MAX_LEN_BYTES: usize = 4096;

    /// Takes an image; bytes past [`MAX_LEN_BYTES`](Self::MAX_LEN_BYTES) are dropped.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.truncate(Self::MAX_LEN_BYTES);
        Self { bytes }
    }

    /// All bytes of the image.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The byte at `offset`; `None` past the end of the image.
    #[must_use]
    pub fn u8(&self, offset: u16) -> Option<u8> {
        self.window().read(offset).ok()
    }

    /// The two bytes at `offset`; `None` past the end of the image.
    #[must_use]
    pub fn u16(&self, offset: u16) -> Option<u16> {
        self.window().read(offset).ok()
    }

    /// The four bytes at `offset`; `None` past the end of the image.
    #[must_use]
    pub fn u32(&self, offset: u16) -> Option<u32> {
        self.window().read(offset).ok()
    }

    /// The first 64 bytes, decoded.
    ///
    /// # Errors
    /// The image is shorter than that.
    pub fn header(&self) -> Result<Header, Truncated> {
        Header::read(self.window())
    }

    /// The capabilities below 256 (PCI 3.0 §6.7).
    #[must_use]
    pub fn capabilities(&self) -> Walk<'_> {
        Walk::standard(self)
    }

    /// The extended capabilities, from 256 on (PCIe 6.0 §7.6.3).
    #[must_use]
    pub fn extended_capabilities(&self) -> Walk<'_> {
        Walk::extended(self)
    }

    /// The first capability of a kind, decoded: `space.find::<ecap::Ats>()`. `Ok(None)` means that the function has none.
    ///
    /// # Errors
    /// The image does not tell: it ends too early, or the list is broken before such a capability was seen.
    pub fn find<C: Decode>(&self) -> Result<Option<C>, FindError> {
        let walk = if C::ID.is_extended() {
            self.extended_capabilities()
        } else {
            self.capabilities()
        };
        match walk.items.iter().find_map(|capability| capability.decode()) {
            Some(decoded) => Ok(Some(decoded?)),
            None if walk.end.is_complete() => Ok(None),
            None => Err(FindError::List(walk.end)),
        }
    }

    /// Text of the header and of every capability, with lines of at most `width` characters where the fields allow.
    #[must_use]
    pub fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = match self.header() {
            Ok(header) => header.describe().lines(width),
            Err(error) => vec![format!("header {error}")],
        };
        for (list, walk) in [
            ("capabilities", self.capabilities()),
            ("extended capabilities", self.extended_capabilities()),
        ] {
            for capability in &walk.items {
                lines.push(capability.to_string());
                let body = capability.contents().lines(width.saturating_sub(6));
                lines.extend(body.into_iter().map(|line| format!("      {line}")));
            }
            if !walk.end.is_complete() {
                lines.push(format!("{list}: {}", walk.end));
            }
        }
        lines
    }

    pub(crate) fn window(&self) -> Window<'_> {
        Window {
            bytes: &self.bytes,
            base: 0,
        }
    }
}

impl Describe for ConfigSpace {
    /// `len_bytes`, `header`, and for both lists the capabilities and how the list ended.
    fn describe(&self) -> Value {
        let (standard, extended) = (self.capabilities(), self.extended_capabilities());
        let field = |name, value| Field { name, value };
        Value::Fields(vec![
            field(
                "len_bytes",
                Value::Int(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)),
            ),
            field("header", self.header().ok().describe()),
            field("capabilities", standard.items.describe()),
            field("capabilities_end", Value::text(standard.end.to_string())),
            field("extended_capabilities", extended.items.describe()),
            field("extended_capabilities_end", Value::text(extended.end.to_string())),
        ])
    }
}
