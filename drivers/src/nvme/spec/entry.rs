//! Entries of submission and completion queues (NVM Express Base Specification 2.1, §4.1 and §4.2).
//!
//! An entry is kept as the words of 64 bits that it is stored and loaded in, little-endian; fields are views of them.

use super::Opcode;
use super::status::Status;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A submission queue entry, 64 bytes (Base §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sqe {
    /// CDW0: opcode, FUSE, PSDT, CID; NSID.
    head: U64,
    cdw2_3: U64,
    mptr: U64,
    dptr1: U64,
    dptr2: U64,
    cdw10_11: U64,
    cdw12_13: U64,
    cdw14_15: U64,
}

const _: () = assert!(size_of::<Sqe>() == 64);

/// Which half of a fused operation a command is (CDW0.FUSE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fuse {
    /// The first.
    First,
    /// The second: in the next entry.
    Second,
}

/// What the data pointer is (CDW0.PSDT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataPointer {
    /// Two PRP entries.
    Prp,
    /// An SGL segment; metadata, if any, is one buffer at MPTR.
    Sgl,
    /// An SGL segment, and another for metadata at MPTR.
    SglMetadata,
}

const FUSE: u64 = 0b11 << 8;
const PSDT: u64 = 0b11 << 14;
const CID: u64 = 0xffff << 16;
const LOW: u64 = 0xffff_ffff;

/// A field of 32 bits, as the low or the high half of a word.
macro_rules! dwords {
    ($($word:ident: $low:ident $with_low:ident $high:ident $with_high:ident, $low_name:literal $high_name:literal;)*) => {
        $(
            #[doc = $low_name]
            #[must_use]
            #[inline]
            pub const fn $low(&self) -> u32 {
                low(self.$word.get())
            }

            #[doc = concat!("With ", $low_name)]
            #[must_use]
            #[inline]
            pub const fn $with_low(mut self, value: u32) -> Self {
                self.$word = U64::new(self.$word.get() & !LOW | value as u64);
                self
            }

            #[doc = $high_name]
            #[must_use]
            #[inline]
            pub const fn $high(&self) -> u32 {
                low(self.$word.get() >> 32)
            }

            #[doc = concat!("With ", $high_name)]
            #[must_use]
            #[inline]
            pub const fn $with_high(mut self, value: u32) -> Self {
                self.$word = U64::new(self.$word.get() & LOW | (value as u64) << 32);
                self
            }
        )*
    };
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(word: u64) -> u32 {
    word as u32
}

/// A word of memory.
const fn word(word: u64) -> U64 {
    U64::new(u64::from_le(word))
}

impl Sqe {
    /// A command for a namespace, or for none: 0. `0xffff_ffff` is all of them.
    #[must_use]
    #[inline]
    pub const fn new(opcode: Opcode, nsid: u32) -> Self {
        const NONE: U64 = U64::new(0);
        Self {
            head: U64::new(opcode.0 as u64 | (nsid as u64) << 32),
            cdw2_3: NONE,
            mptr: NONE,
            dptr1: NONE,
            dptr2: NONE,
            cdw10_11: NONE,
            cdw12_13: NONE,
            cdw14_15: NONE,
        }
    }

    /// Opcode.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low byte is what is asked for")]
    pub const fn opcode(&self) -> Opcode {
        Opcode(self.head.get() as u8)
    }

    /// Command identifier.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits are what is asked for")]
    pub const fn cid(&self) -> u16 {
        (self.head.get() >> 16) as u16
    }

    /// With a command identifier.
    #[must_use]
    #[inline]
    pub const fn with_cid(mut self, cid: u16) -> Self {
        self.head = U64::new(self.head.get() & !CID | (cid as u64) << 16);
        self
    }

    /// Namespace identifier.
    #[must_use]
    #[inline]
    pub const fn nsid(&self) -> u32 {
        low(self.head.get() >> 32)
    }

    /// Which half of a fused operation it is, if it is one.
    #[must_use]
    #[inline]
    pub const fn fuse(&self) -> Option<Fuse> {
        match self.head.get() >> 8 & 0b11 {
            1 => Some(Fuse::First),
            2 => Some(Fuse::Second),
            _ => None,
        }
    }

    /// As a half of a fused operation.
    #[must_use]
    #[inline]
    pub const fn with_fuse(mut self, fuse: Fuse) -> Self {
        let bits = match fuse {
            Fuse::First => 1,
            Fuse::Second => 2,
        };
        self.head = U64::new(self.head.get() & !FUSE | bits << 8);
        self
    }

    /// As a command of its own.
    #[must_use]
    #[inline]
    pub const fn without_fuse(mut self) -> Self {
        self.head = U64::new(self.head.get() & !FUSE);
        self
    }

    /// What the data pointer is; `None` of a reserved value.
    #[must_use]
    #[inline]
    pub const fn data_pointer(&self) -> Option<DataPointer> {
        match self.head.get() >> 14 & 0b11 {
            0 => Some(DataPointer::Prp),
            1 => Some(DataPointer::Sgl),
            2 => Some(DataPointer::SglMetadata),
            _ => None,
        }
    }

    /// With a data pointer: the two PRP entries, or the 16 bytes of an SGL descriptor.
    #[must_use]
    #[inline]
    pub const fn with_data(mut self, kind: DataPointer, first: u64, second: u64) -> Self {
        let bits = match kind {
            DataPointer::Prp => 0,
            DataPointer::Sgl => 1,
            DataPointer::SglMetadata => 2,
        };
        self.head = U64::new(self.head.get() & !PSDT | bits << 14);
        self.dptr1 = U64::new(first);
        self.dptr2 = U64::new(second);
        self
    }

    /// The data pointer: two PRP entries, or the 16 bytes of an SGL descriptor.
    #[must_use]
    #[inline]
    pub const fn data(&self) -> (u64, u64) {
        (self.dptr1.get(), self.dptr2.get())
    }

    /// Metadata pointer.
    #[must_use]
    #[inline]
    pub const fn metadata(&self) -> u64 {
        self.mptr.get()
    }

    /// With a metadata pointer.
    #[must_use]
    #[inline]
    pub const fn with_metadata(mut self, pointer: u64) -> Self {
        self.mptr = U64::new(pointer);
        self
    }

    dwords! {
        cdw2_3: cdw2 with_cdw2 cdw3 with_cdw3, "CDW2." "CDW3.";
        cdw10_11: cdw10 with_cdw10 cdw11 with_cdw11, "CDW10." "CDW11.";
        cdw12_13: cdw12 with_cdw12 cdw13 with_cdw13, "CDW12." "CDW13.";
        cdw14_15: cdw14 with_cdw14 cdw15 with_cdw15, "CDW14." "CDW15.";
    }

    /// CDW10 and CDW11 as one: the first logical block of an I/O command.
    #[must_use]
    #[inline]
    pub const fn cdw10_11(&self) -> u64 {
        self.cdw10_11.get()
    }

    /// With CDW10 and CDW11 as one.
    #[must_use]
    #[inline]
    pub const fn with_cdw10_11(mut self, value: u64) -> Self {
        self.cdw10_11 = U64::new(value);
        self
    }

    /// As words of memory, in the order in which they lie there.
    #[must_use]
    #[inline]
    pub const fn words(self) -> [u64; 8] {
        [
            self.head.get().to_le(),
            self.cdw2_3.get().to_le(),
            self.mptr.get().to_le(),
            self.dptr1.get().to_le(),
            self.dptr2.get().to_le(),
            self.cdw10_11.get().to_le(),
            self.cdw12_13.get().to_le(),
            self.cdw14_15.get().to_le(),
        ]
    }

    /// From words of memory.
    #[must_use]
    #[inline]
    pub const fn from_words(words: [u64; 8]) -> Self {
        let [head, cdw2_3, mptr, dptr1, dptr2, cdw10_11, cdw12_13, cdw14_15] = words;
        Self {
            head: word(head),
            cdw2_3: word(cdw2_3),
            mptr: word(mptr),
            dptr1: word(dptr1),
            dptr2: word(dptr2),
            cdw10_11: word(cdw10_11),
            cdw12_13: word(cdw12_13),
            cdw14_15: word(cdw14_15),
        }
    }
}

/// A completion queue entry, 16 bytes (Base §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cqe {
    /// DW0 and DW1: specific to the command.
    result: U64,
    /// SQHD, SQID; CID, phase tag, status.
    tail: U64,
}

const _: () = assert!(size_of::<Cqe>() == 16);

impl Cqe {
    /// A completion of a command.
    #[must_use]
    #[inline]
    pub const fn new(sq_id: u16, sq_head: u16, cid: u16, status: Status, phase: bool, result: u64) -> Self {
        let status = (status.0 as u64) << 1 | phase as u64;
        Self {
            result: U64::new(result),
            tail: U64::new(sq_head as u64 | (sq_id as u64) << 16 | (cid as u64) << 32 | status << 48),
        }
    }

    /// From words of memory.
    #[must_use]
    #[inline]
    pub const fn from_words(words: [u64; 2]) -> Self {
        let [result, tail] = words;
        Self {
            result: word(result),
            tail: word(tail),
        }
    }

    /// As words of memory. The second holds the phase tag: it is stored last and loaded first.
    #[must_use]
    #[inline]
    pub const fn words(self) -> [u64; 2] {
        [self.result.get().to_le(), self.tail.get().to_le()]
    }

    /// The phase tag, from the second word of memory.
    #[must_use]
    #[inline]
    pub(crate) const fn phase_of(word: u64) -> bool {
        u64::from_le(word) >> 48 & 1 != 0
    }

    /// DW0 and DW1: what the command gives.
    #[must_use]
    #[inline]
    pub const fn result(&self) -> u64 {
        self.result.get()
    }

    /// How far the controller has taken entries from the submission queue.
    #[must_use]
    #[inline]
    pub const fn sq_head(&self) -> u16 {
        self.part(0)
    }

    /// The submission queue.
    #[must_use]
    #[inline]
    pub const fn sq_id(&self) -> u16 {
        self.part(16)
    }

    /// Command identifier.
    #[must_use]
    #[inline]
    pub const fn cid(&self) -> u16 {
        self.part(32)
    }

    /// Phase tag.
    #[must_use]
    #[inline]
    pub const fn phase(&self) -> bool {
        self.part(48) & 1 != 0
    }

    /// Status.
    #[must_use]
    #[inline]
    pub const fn status(&self) -> Status {
        Status(self.part(48) >> 1)
    }

    #[expect(clippy::cast_possible_truncation, reason = "16 bits are what is asked for")]
    const fn part(&self, shift: u32) -> u16 {
        (self.tail.get() >> shift) as u16
    }
}

#[cfg(test)]
mod tests;
