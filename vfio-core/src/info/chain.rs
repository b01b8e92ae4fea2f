//! The chain of capabilities behind an information structure.

use crate::ErrorKind;

/// One capability: its number, version, and everything behind its header up to the end of the answer. How much of that is its own, only
/// its number tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability<'a> {
    /// What it is; the numbers have a meaning for each kind of structure.
    pub id: u16,
    /// Version of its layout.
    pub version: u16,
    /// The bytes behind the header.
    pub data: &'a [u8],
}

/// Walks the capabilities of an answer. Ends after the first error.
///
/// ```
/// use vfio_core::info::Chain;
///
/// // One capability, number 3 of version 1, at offset 4.
/// let mut answer = vec![0; 4];
/// answer.extend(3_u16.to_ne_bytes());
/// answer.extend(1_u16.to_ne_bytes());
/// answer.extend(0_u32.to_ne_bytes());
/// let ids: Vec<u16> = Chain::new(&answer, 4).map(|capability| capability.unwrap().id).collect();
/// assert_eq!(ids, [3]);
/// ```
#[derive(Debug, Clone)]
#[doc(alias = "vfio_info_cap_header")]
pub struct Chain<'a> {
    bytes: &'a [u8],
    next: u32,
    left: usize,
}

/// Length of `struct vfio_info_cap_header`.
const HEADER: usize = 8;

impl<'a> Chain<'a> {
    /// The chain that begins `first` bytes into the answer, an empty one for 0.
    #[must_use]
    pub fn new(bytes: &'a [u8], first: u32) -> Self {
        Self {
            bytes,
            next: first,
            // Headers do not overlap: more of them than fit are a circle.
            left: bytes.len() / HEADER,
        }
    }

    fn step(&mut self) -> Result<Capability<'a>, ErrorKind> {
        self.left = (self.left.checked_sub(1)).ok_or(ErrorKind::Malformed("the capabilities run in a circle"))?;
        let at = usize::try_from(self.next).unwrap_or(usize::MAX);
        let outside = ErrorKind::Malformed("a capability lies outside the answer");
        let (header, data) = (self.bytes.get(at..))
            .and_then(|rest| rest.split_first_chunk::<HEADER>())
            .ok_or(outside)?;
        let [id0, id1, version0, version1, next @ ..] = *header;
        self.next = u32::from_ne_bytes(next);
        Ok(Capability {
            id: u16::from_ne_bytes([id0, id1]),
            version: u16::from_ne_bytes([version0, version1]),
            data,
        })
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = Result<Capability<'a>, ErrorKind>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == 0 {
            return None;
        }
        let result = self.step();
        if result.is_err() {
            self.next = 0;
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(id: u16, next: u32) -> Vec<u8> {
        let mut bytes = id.to_ne_bytes().to_vec();
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes
    }

    #[test]
    fn capabilities_come_in_the_order_of_the_chain() {
        let bytes = [header(9, 0), header(1, 24), header(2, 16), header(3, 0)].concat();
        // 8 -> 24 is 3 and the end; 16 is never reached from there.
        let ids: Vec<_> = Chain::new(&bytes, 8).map(|capability| capability.unwrap().id).collect();
        assert_eq!(ids, [1, 3]);
        assert_eq!(Chain::new(&bytes, 0).count(), 0);
    }

    #[test]
    fn a_circle_ends_in_an_error() {
        let bytes = [header(1, 8), header(2, 8)].concat();
        let last = Chain::new(&bytes, 8).last().unwrap();
        assert_eq!(last, Err(ErrorKind::Malformed("the capabilities run in a circle")));
    }

    #[test]
    fn a_header_past_the_end_is_an_error() {
        let bytes = header(1, 1);
        for first in [1, 8, u32::MAX] {
            assert!(Chain::new(&bytes, first).last().unwrap().is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>, first: u32) {
            prop_assert!(Chain::new(&bytes, first).count() <= bytes.len() / 8 + 1);
            prop_assert!(Chain::new(&bytes, first % 64).count() <= bytes.len() / 8 + 1);
        }

        #[test]
        fn a_chain_in_any_order_is_walked_whole(order in Just((0..20_u32).collect::<Vec<_>>()).prop_shuffle()) {
            let mut bytes = vec![0; 8 * 21];
            for (place, slot) in order.iter().enumerate() {
                let next = order.get(place + 1).map_or(0, |next| 8 + next * 8);
                let at = 8 + *slot as usize * 8;
                bytes[at..at + 8].copy_from_slice(&header(u16::try_from(place).unwrap(), next));
            }
            let ids: Vec<_> = Chain::new(&bytes, 8 + order[0] * 8).map(|capability| capability.unwrap().id).collect();
            prop_assert_eq!(ids, (0..20).collect::<Vec<_>>());
        }
    }
}
