//! Identify: what a namespace is (NVM §4.1.5.1, CNS 00h and 11h; Base §5.1.13.2.3, CNS 03h), and what Namespace
//! Management takes (NVM §4.1.6). Fields have the specification's names.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Namespace.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Logical blocks.
    pub nsze: U64,
    /// Logical blocks that can be allocated.
    pub ncap: U64,
    /// Logical blocks that are allocated.
    pub nuse: U64,
    /// Features: bit 0 thin, bit 1 atomics of its own, bit 2 reads of deallocated blocks can fail, bit 4 preferred sizes.
    pub nsfeat: u8,
    /// LBA formats, less one.
    pub nlbaf: u8,
    /// The format in use: bits 6:5 and 3:0 its number, bit 4 metadata at the end of each block's data.
    pub flbas: u8,
    /// Metadata: bit 0 can be at the end of the data, bit 1 can be in a buffer of its own.
    pub mc: u8,
    /// Protection information that it can have.
    pub dpc: u8,
    /// Protection information that it has: bits 2:0 its type, bit 3 that it comes first.
    pub dps: u8,
    /// Sharing: bit 0 that several controllers can have it.
    pub nmic: u8,
    /// Reservations.
    pub rescap: u8,
    /// Progress of a format: bit 7 that this is said, bits 6:0 percent that remain.
    pub fpi: u8,
    /// Deallocated blocks: bits 2:0 what they read as, bit 3 that Write Zeroes can deallocate.
    pub dlfeat: u8,
    /// Logical blocks of an atomic write, less one.
    pub nawun: U16,
    /// Logical blocks of a write that is atomic over power loss, less one.
    pub nawupf: U16,
    /// Logical blocks of an atomic compare and write, less one.
    pub nacwu: U16,
    /// Logical blocks between atomic boundaries, less one.
    pub nabsn: U16,
    /// The first atomic boundary.
    pub nabo: U16,
    /// Logical blocks between boundaries that are atomic over power loss, less one.
    pub nabspf: U16,
    /// Logical blocks between boundaries that I/O had better not cross; 0 if not said.
    pub noiob: U16,
    /// Bytes of memory.
    pub nvmcap: U128,
    /// Preferred granularity of writes in blocks, less one.
    pub npwg: U16,
    /// Preferred alignment of writes in blocks, less one.
    pub npwa: U16,
    /// Preferred granularity of deallocation in blocks, less one.
    pub npdg: U16,
    /// Preferred alignment of deallocation in blocks, less one.
    pub npda: U16,
    /// Optimal size of writes in blocks, less one.
    pub nows: U16,
    /// Copy: blocks of a source range.
    pub mssrl: U16,
    /// Copy: blocks of a command.
    pub mcl: U32,
    /// Copy: source ranges, less one.
    pub msrc: u8,
    reserved_81: [u8; 11],
    /// Asymmetric access group.
    pub anagrpid: U32,
    reserved_96: [u8; 3],
    /// Attributes: bit 0 that it is write protected.
    pub nsattr: u8,
    /// NVM set.
    pub nvmsetid: U16,
    /// Endurance group.
    pub endgid: U16,
    /// Globally unique identifier; zeros if it has none.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier; zeros if it has none.
    pub eui64: [u8; 8],
    /// LBA formats.
    pub lbaf: [LbaFormat; 64],
    /// The vendor's.
    pub vs: [u8; 3712],
}

/// An LBA format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LbaFormat {
    /// Bytes of metadata of a block.
    pub ms: U16,
    /// A block has 1 << this bytes; below 9 the format is not there.
    pub lbads: u8,
    /// Relative performance: 0 best to 3 degraded.
    pub rp: u8,
}

/// What a new namespace is to be: the host's part of Namespace Management's data.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NewNamespace {
    /// Logical blocks.
    pub nsze: U64,
    /// Logical blocks that can be allocated.
    pub ncap: U64,
    reserved_16: [u8; 10],
    /// The LBA format, as in [`IdentifyNamespace::flbas`].
    pub flbas: u8,
    reserved_27: [u8; 2],
    /// Protection information, as in [`IdentifyNamespace::dps`].
    pub dps: u8,
    /// Sharing, as in [`IdentifyNamespace::nmic`].
    pub nmic: u8,
    reserved_31: [u8; 61],
    /// Asymmetric access group.
    pub anagrpid: U32,
    reserved_96: [u8; 4],
    /// NVM set.
    pub nvmsetid: U16,
    /// Endurance group.
    pub endgid: U16,
    reserved_104: [u8; 3992],
}

const _: () = assert!(
    size_of::<IdentifyNamespace>() == super::identify::LEN
        && size_of::<NewNamespace>() == super::identify::LEN
        && size_of::<LbaFormat>() == 4
);

impl IdentifyNamespace {
    /// The LBA formats that there are, the number of each with it.
    pub fn formats(&self) -> impl Iterator<Item = (u8, LbaFormat)> {
        (0_u8..=self.nlbaf)
            .zip(self.lbaf)
            .filter(|(_, format)| format.block_bytes().is_some())
    }

    /// Number of the format in use. Its upper bits count where there are more than 16 formats.
    #[must_use]
    pub fn format_number(&self) -> u8 {
        let low = self.flbas & 0xf;
        if self.nlbaf > 15 {
            low | (self.flbas & 0x60) >> 1
        } else {
            low
        }
    }

    /// The format in use; `None` if the controller names none of its own.
    #[must_use]
    pub fn format(&self) -> Option<LbaFormat> {
        let number = self.format_number();
        self.formats()
            .find(|(other, _)| *other == number)
            .map(|(_, format)| format)
    }

    /// Whether metadata follow each block's data, as longer blocks.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.flbas & 1 << 4 != 0
    }

    /// Whether several controllers can have it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.nmic & 1 != 0
    }

    /// Whether it is write protected.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.nsattr & 1 != 0
    }

    /// Percent of a format that remain to be done; `None` where that is not said.
    #[must_use]
    pub fn format_remains(&self) -> Option<u8> {
        (self.fpi & 1 << 7 != 0).then_some(self.fpi & 0x7f)
    }
}

impl LbaFormat {
    /// Bytes of a block without metadata; `None` of a format that is not there, or that no process could hold.
    #[must_use]
    pub fn block_bytes(&self) -> Option<u32> {
        (9..32).contains(&self.lbads).then(|| 1 << self.lbads)
    }
}

/// What a namespace is known by (Base §5.1.13.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identifier {
    /// IEEE extended unique identifier.
    Eui64([u8; 8]),
    /// Globally unique identifier.
    Nguid([u8; 16]),
    /// UUID.
    Uuid([u8; 16]),
    /// Command set: 0 NVM, 1 key value, 2 zoned.
    CommandSet(u8),
}

/// Reads the list of descriptors: a type, a length, 2 reserved bytes, the identifier. Ends at a length of 0, or where the list is cut
/// off; descriptors of unknown kinds are passed over.
#[must_use]
pub fn identifiers(list: &[u8]) -> Vec<Identifier> {
    let mut identifiers = Vec::new();
    let mut rest = list;
    while let [kind, len, _, _, tail @ ..] = rest
        && *len != 0
        && let Some((value, after)) = tail.split_at_checked(usize::from(*len))
    {
        identifiers.extend(match kind {
            1 => value.try_into().ok().map(Identifier::Eui64),
            2 => value.try_into().ok().map(Identifier::Nguid),
            3 => value.try_into().ok().map(Identifier::Uuid),
            4 => value.first().copied().map(Identifier::CommandSet),
            _ => None,
        });
        rest = after;
    }
    identifiers
}

/// Reads a list of namespace identifiers: ascending, ended by 0. What does not ascend past `after` ends it, too, so that a list that
/// goes on and on in new commands comes to an end.
#[must_use]
pub fn namespace_list(list: &[U32], after: u32) -> Vec<u32> {
    let mut last = after;
    let ascending = list.iter().map(|id| id.get()).take_while(|id| {
        let ascends = *id > last;
        last = *id;
        ascends
    });
    ascending.collect()
}

/// Reads a list of controller identifiers (Base §4.6.1): their number, then they.
#[must_use]
pub fn controller_list(list: &[U16]) -> Vec<u16> {
    let [count, ids @ ..] = list else {
        return Vec::new();
    };
    ids.iter().take(usize::from(count.get())).map(|id| id.get()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;
    use zerocopy::FromZeros;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let places = [
            (offset_of!(IdentifyNamespace, nawun), 34),
            (offset_of!(IdentifyNamespace, nvmcap), 48),
            (offset_of!(IdentifyNamespace, mssrl), 74),
            (offset_of!(IdentifyNamespace, anagrpid), 92),
            (offset_of!(IdentifyNamespace, nsattr), 99),
            (offset_of!(IdentifyNamespace, nguid), 104),
            (offset_of!(IdentifyNamespace, eui64), 120),
            (offset_of!(IdentifyNamespace, lbaf), 128),
            (offset_of!(IdentifyNamespace, vs), 384),
            (offset_of!(NewNamespace, flbas), 26),
            (offset_of!(NewNamespace, dps), 29),
            (offset_of!(NewNamespace, anagrpid), 92),
            (offset_of!(NewNamespace, nvmsetid), 100),
        ];
        for (place, expected) in places {
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn the_format_in_use_is_one_of_those_there_are() {
        let mut namespace = IdentifyNamespace::new_zeroed();
        assert_eq!(namespace.format(), None);
        let format = |lbads, ms: u16| LbaFormat {
            ms: ms.into(),
            lbads,
            rp: 0,
        };
        namespace.lbaf[0] = format(9, 0);
        namespace.lbaf[1] = format(12, 64);
        namespace.lbaf[2] = format(12, 0);
        namespace.nlbaf = 1;
        namespace.flbas = 1;
        assert_eq!(namespace.format().and_then(|format| format.block_bytes()), Some(4096));
        assert_eq!(namespace.formats().count(), 2);
        namespace.flbas = 2;
        assert_eq!(namespace.format(), None);
        // Bits 6:5 count only where there are formats above 15.
        namespace.flbas = 0x20 | 1;
        assert_eq!(namespace.format_number(), 1);
        namespace.nlbaf = 17;
        assert_eq!(namespace.format_number(), 17);
    }

    #[test]
    fn identifiers_are_read_up_to_the_end_of_the_list() {
        let mut list = vec![1, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        list.extend([9, 2, 0, 0, 0xff, 0xff]);
        list.extend([4, 1, 0, 0, 0]);
        list.extend([3, 16, 0, 0]);
        list.extend([7; 16]);
        list.extend([0, 0, 0, 0, 2, 16]);
        let expected = [
            Identifier::Eui64([1, 2, 3, 4, 5, 6, 7, 8]),
            Identifier::CommandSet(0),
            Identifier::Uuid([7; 16]),
        ];
        assert_eq!(identifiers(&list), expected);
        // A length that is not the kind's, and one past the list.
        assert_eq!(identifiers(&[1, 2, 0, 0, 1, 1, 2, 16, 0, 0, 1]), []);
    }

    #[test]
    fn a_list_that_does_not_ascend_ends() {
        let list = |ids: &[u32]| ids.iter().map(|id| U32::new(*id)).collect::<Vec<_>>();
        assert_eq!(namespace_list(&list(&[1, 2, 5, 0, 7]), 0), [1, 2, 5]);
        assert_eq!(namespace_list(&list(&[3, 3, 4]), 0), [3]);
        assert_eq!(namespace_list(&list(&[1, 2]), 2), Vec::<u32>::new());
        assert_eq!(controller_list(&[2, 7, 8, 9].map(U16::new)), [7, 8]);
        assert_eq!(controller_list(&[99, 7].map(U16::new)), [7]);
        assert_eq!(controller_list(&[]), Vec::<u16>::new());
    }

    proptest! {
        #[test]
        fn any_bytes_are_lists_and_namespaces(bytes in proptest::collection::vec(any::<u8>(), 4096), cut in 0_usize..4096) {
            prop_assert!(identifiers(&bytes[cut..]).len() <= 1024);
            let namespace = IdentifyNamespace::ref_from_bytes(&bytes).unwrap();
            prop_assert!(namespace.formats().count() <= 64);
            if let Some(format) = namespace.format() {
                prop_assert!(format.block_bytes().is_some_and(|bytes| bytes >= 512 && bytes.is_power_of_two()));
            }
            prop_assert!(controller_list(<[U16]>::ref_from_bytes(&bytes).unwrap()).len() <= 2047);
            prop_assert!(namespace_list(<[U32]>::ref_from_bytes(&bytes).unwrap(), 0).is_sorted());
        }
    }
}
