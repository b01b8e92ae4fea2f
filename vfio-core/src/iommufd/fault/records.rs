//! Records of page requests, and the groups that they make up.

use super::READ_FAULTS;
use crate::iommufd::ObjectId;
use crate::{Error, Iova};
use std::collections::VecDeque;

/// `sizeof(struct iommu_hwpt_pgfault)`.
pub(super) const RECORD: usize = 40;
/// Records of a group at most, more than any device may ask for.
pub(super) const MANY_RECORDS: usize = 1 << 17;

const FLAG_PASID_VALID: u32 = 1;
const FLAG_LAST_PAGE: u32 = 2;

bitflags::bitflags! {
    /// What a device wants to do with a page.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct PageAccess: u32 {
        /// Read.
        const READ = 1;
        /// Write.
        const WRITE = 2;
        /// Execute.
        const EXEC = 4;
        /// With privilege.
        const PRIV = 8;
    }
}

/// One page that a device asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// The device.
    pub device: ObjectId,
    /// The PASID, if the request has one.
    pub pasid: Option<u32>,
    /// What it wants to do.
    pub access: PageAccess,
    /// The address, in the page.
    pub iova: Iova,
    /// How many bytes the device is going to use from there, if it says so; else 0.
    pub length: u32,
}

/// A group as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) cookie: u32,
    /// Never used twice, which cookies are.
    pub(super) serial: u64,
    /// The device's number for it.
    pub(super) index: u32,
    pub(super) requests: Vec<PageRequest>,
}

/// Groups as they come out of records.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) complete: VecDeque<Group>,
    /// Its last request is still missing.
    pub(super) partial: Option<Group>,
}

impl Assembly {
    /// Takes the records of one read. `number` gives a group its serial number. All of them, whatever is wrong with one: the kernel gives each out
    /// once, and the devices of those behind it wait too.
    pub(super) fn take(&mut self, bytes: &[u8], mut number: impl FnMut(u32) -> u64) -> Result<(), Error> {
        let (records, rest) = bytes.as_chunks::<RECORD>();
        let mut taken = Ok(());
        for record in records {
            taken = taken.and(self.add(record, &mut number));
        }
        if rest.is_empty() {
            taken
        } else {
            Err(READ_FAULTS.malformed("a record that is cut"))
        }
    }

    fn add(&mut self, record: &[u8; RECORD], number: &mut impl FnMut(u32) -> u64) -> Result<(), Error> {
        let word = |at: usize| {
            record
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .map_or(0, |word| u32::from_ne_bytes(*word))
        };
        let (flags, index, cookie) = (word(0), word(12), word(36));
        let request = PageRequest {
            device: ObjectId(word(4)),
            // Other bits of the flags are the kernel's own and leak out (4: a PASID is needed in the answer).
            pasid: (flags & FLAG_PASID_VALID != 0).then(|| word(8)),
            access: PageAccess::from_bits_truncate(word(16)),
            iova: Iova(
                record
                    .get(24..)
                    .and_then(|rest| rest.first_chunk())
                    .map_or(0, |word| u64::from_ne_bytes(*word)),
            ),
            length: word(32),
        };
        // A group whose end never came can still be answered.
        if let Some(other) = self.partial.take_if(|partial| partial.cookie != cookie) {
            self.complete.push_back(other);
        }
        let group = self.partial.get_or_insert_with(|| Group {
            cookie,
            serial: number(cookie),
            index,
            requests: Vec::new(),
        });
        group.requests.push(request);
        let endless = group.requests.len() > MANY_RECORDS;
        if flags & FLAG_LAST_PAGE != 0 || endless {
            self.complete.extend(self.partial.take());
        }
        if endless {
            Err(READ_FAULTS.malformed("a group without end"))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    fn serial(cookie: u32) -> u64 {
        cookie.into()
    }

    fn record(flags: u32, cookie: u32, iova: u64) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        for (at, word) in [(0, flags), (4, 7), (8, 99), (12, 3), (16, 2), (32, 4096), (36, cookie)] {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes[24..32].copy_from_slice(&iova.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_group_ends_with_its_last_page() {
        let mut assembly = Assembly::default();
        assembly
            .take(&[record(0, 1, 0x1000), record(1, 1, 0x2000)].concat(), serial)
            .unwrap();
        assert_eq!(assembly.complete.pop_front(), None);
        assembly
            .take(
                &[record(FLAG_LAST_PAGE | 4, 1, 0x3000), record(FLAG_LAST_PAGE, 2, 0x4000)].concat(),
                serial,
            )
            .unwrap();
        let group = assembly.complete.pop_front().unwrap();
        assert_eq!((group.cookie, group.index), (1, 3));
        let request = PageRequest {
            device: ObjectId(7),
            pasid: None,
            access: PageAccess::WRITE,
            iova: Iova(0x1000),
            length: 4096,
        };
        let second = PageRequest {
            pasid: Some(99),
            iova: Iova(0x2000),
            ..request
        };
        assert_eq!(
            group.requests,
            [
                request,
                second,
                PageRequest {
                    iova: Iova(0x3000),
                    ..request
                }
            ]
        );
        assert_eq!(assembly.complete.pop_front().map(|group| group.cookie), Some(2));
        assert_eq!(assembly.partial, None);
    }

    #[test]
    fn a_cut_record_is_said_and_what_came_before_is_kept() {
        let mut assembly = Assembly::default();
        let bytes = [record(FLAG_LAST_PAGE, 1, 0), record(FLAG_LAST_PAGE, 2, 0)].concat();
        let error = assembly.take(&bytes[..RECORD + 8], serial).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Malformed(_)));
        assert_eq!(assembly.complete.len(), 1);
    }

    #[test]
    fn a_group_whose_end_is_missing_is_given_out_before_the_next() {
        let mut assembly = Assembly::default();
        assembly
            .take(&[record(0, 1, 0), record(FLAG_LAST_PAGE, 2, 0)].concat(), serial)
            .unwrap();
        assert_eq!(
            assembly.complete.iter().map(|group| group.cookie).collect::<Vec<_>>(),
            [1, 2]
        );
    }

    #[test]
    fn a_group_without_end_does_not_grow_for_ever() {
        let mut assembly = Assembly::default();
        let one = record(0, 1, 0);
        let added: Result<Vec<()>, Error> = (0..=MANY_RECORDS).map(|_| assembly.add(&one, &mut serial)).collect();
        assert!(matches!(added.unwrap_err().kind, ErrorKind::Malformed(_)));
        assert_eq!(assembly.complete.len(), 1);
    }

    #[test]
    fn what_comes_behind_a_group_without_end_is_not_lost() {
        let mut assembly = Assembly::default();
        let mut bytes = vec![record(0, 1, 0); MANY_RECORDS + 1].concat();
        bytes.extend(record(FLAG_LAST_PAGE, 2, 0x1000));
        bytes.extend(record(FLAG_LAST_PAGE, 3, 0x2000));
        let error = assembly.take(&bytes, serial).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Malformed(_)));
        let cookies: Vec<_> = assembly.complete.iter().map(|group| group.cookie).collect();
        assert_eq!(cookies, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn no_record_is_lost_or_doubled(flags in proptest::collection::vec((any::<u32>(), 0_u32..3), 0..40), cut in 0_usize..1600) {
            let bytes: Vec<u8> = flags.iter().flat_map(|(flags, cookie)| record(*flags, *cookie, 0)).collect();
            let (first, second) = bytes.split_at((cut / RECORD * RECORD).min(bytes.len()));
            let mut assembly = Assembly::default();
            assembly.take(first, serial).unwrap();
            assembly.take(second, serial).unwrap();
            let groups = assembly.complete.iter().chain(&assembly.partial);
            prop_assert!(groups.clone().all(|group| !group.requests.is_empty()));
            prop_assert_eq!(groups.map(|group| group.requests.len()).sum::<usize>(), flags.len());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut assembly = Assembly::default();
            let whole = bytes.len().is_multiple_of(RECORD);
            prop_assert_eq!(assembly.take(&bytes, serial).is_ok(), whole);
        }
    }
}
