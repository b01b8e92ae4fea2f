//! Page requests (PCIe PRI): what a device asks for, in groups, and the answers.

use super::command::{READ_FAULTS, WRITE_RESPONSE};
use super::{Object, ObjectId};
use crate::sys::iommufd::Queue;
use crate::{Error, ErrorKind, Iova};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// `sizeof(struct iommu_hwpt_pgfault)`.
const RECORD: usize = 40;
/// Records that one read takes at first, and at most: a group that is larger than any device may ask for is not read.
const FEW_RECORDS: usize = 64;
const MANY_RECORDS: usize = 1 << 17;

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

/// The requests that one response answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequestGroup {
    /// What the response names it by.
    pub cookie: u32,
    /// The device's own number for it.
    pub index: u32,
    /// The requests, at least one.
    pub requests: Vec<PageRequest>,
}

/// An answer to a group of page requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Response {
    /// The pages are mapped; the device may try again.
    Success,
    /// They will not be.
    Invalid,
}

/// Where page requests of devices come that are attached to an [`Hwpt`](super::Hwpt) made with this queue.
///
/// A device's requests wait until they are answered. Detaching a device answers what is left of it as invalid, and so does dropping the last
/// `Hwpt` of the queue.
///
/// ```no_run
/// use vfio_core::Error;
/// use vfio_core::iommufd::{FaultQueue, Iommufd, Response};
///
/// /// Answers what is there; `make_present` maps a page.
/// fn serve(queue: &FaultQueue, make_present: impl Fn(vfio_core::Iova) -> bool) -> Result<(), Error> {
///     while let Some(group) = queue.read()? {
///         let served = group.requests.iter().all(|request| make_present(request.iova));
///         queue.respond(group.cookie, if served { Response::Success } else { Response::Invalid })?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct FaultQueue {
    reader: Mutex<Reader>,
    /// Closed before the object is destroyed: an open descriptor keeps the kernel from it.
    queue: Arc<dyn Queue>,
    object: Arc<Object>,
}

#[derive(Debug, Default)]
struct Reader {
    buffer: Vec<u8>,
    assembly: Assembly,
}

/// Groups as they come out of records.
#[derive(Debug, Default)]
struct Assembly {
    complete: VecDeque<PageRequestGroup>,
    /// Its last request is still missing.
    partial: Option<PageRequestGroup>,
}

impl FaultQueue {
    pub(super) fn new(queue: Arc<dyn Queue>, object: Arc<Object>) -> Self {
        Self {
            reader: Mutex::default(),
            queue,
            object,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// The next group, or `None` if no complete one is there. Never waits: poll the descriptor for that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] for a record that is cut or a group without end; groups before it are still returned by the next calls.
    pub fn read(&self) -> Result<Option<PageRequestGroup>, Error> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let Reader { buffer, assembly } = &mut *reader;
        if let Some(group) = assembly.complete.pop_front() {
            return Ok(Some(group));
        }
        if buffer.is_empty() {
            buffer.resize(FEW_RECORDS * RECORD, 0);
        }
        let len = loop {
            match self.queue.read(buffer) {
                Ok(len) => break len,
                Err(Errno::AGAIN) => return Ok(None),
                // The first group needs more room.
                Err(Errno::INVAL) if buffer.len() < MANY_RECORDS * RECORD => buffer.resize(buffer.len() * 2, 0),
                Err(errno) => return Err(READ_FAULTS.error(errno)),
            }
        };
        let bytes = buffer
            .get(..len)
            .ok_or_else(|| READ_FAULTS.malformed("more bytes than there was room for"))?;
        assembly.take(bytes)?;
        Ok(assembly.complete.pop_front())
    }

    /// Answers a group. The kernel gives a cookie out again once it is answered, also by itself when a device is detached: each is to be
    /// answered once, and none that was read before its device was detached.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if no group with this cookie waits: it was answered, or its device was detached.
    #[doc(alias = "iommu_hwpt_page_response")]
    pub fn respond(&self, cookie: u32, response: Response) -> Result<(), Error> {
        match self.respond_all(&[(cookie, response)])? {
            0 => Err(WRITE_RESPONSE.fail(ErrorKind::ShortTransfer { wanted: 8, done: 0 })),
            _ => Ok(()),
        }
    }

    /// Answers several groups with one system call; returns how many were. The first that no longer waits ends it.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond), if the first of them could not be answered.
    pub fn respond_all(&self, responses: &[(u32, Response)]) -> Result<usize, Error> {
        let encode = |(cookie, response): &(u32, Response)| {
            let code: u32 = match response {
                Response::Success => 0,
                Response::Invalid => 1,
            };
            [cookie.to_ne_bytes(), code.to_ne_bytes()].concat()
        };
        let bytes: Vec<u8> = responses.iter().flat_map(encode).collect();
        match self.queue.write(&bytes) {
            Ok(len) => Ok(len / 8),
            Err(errno @ Errno::INVAL) => Err(WRITE_RESPONSE.fail(ErrorKind::NotFound(errno))),
            Err(errno) => Err(WRITE_RESPONSE.error(errno)),
        }
    }

    pub(super) fn object(&self) -> &Arc<Object> {
        &self.object
    }
}

impl AsFd for FaultQueue {
    /// Readable when the kernel has a group. Groups that were read ahead do not count, so read until there is none before polling.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.ready()
    }
}

impl Assembly {
    /// Takes the records of one read.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (records, rest) = bytes.as_chunks::<RECORD>();
        for record in records {
            self.add(record)?;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(READ_FAULTS.malformed("a record that is cut"))
        }
    }

    fn add(&mut self, record: &[u8; RECORD]) -> Result<(), Error> {
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
        let group = self.partial.get_or_insert_with(|| PageRequestGroup {
            cookie,
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
    use proptest::prelude::*;

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
            .take(&[record(0, 1, 0x1000), record(1, 1, 0x2000)].concat())
            .unwrap();
        assert_eq!(assembly.complete.pop_front(), None);
        assembly
            .take(&[record(FLAG_LAST_PAGE | 4, 1, 0x3000), record(FLAG_LAST_PAGE, 2, 0x4000)].concat())
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
        let error = assembly.take(&bytes[..RECORD + 8]).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Malformed(_)));
        assert_eq!(assembly.complete.len(), 1);
    }

    #[test]
    fn a_group_whose_end_is_missing_is_given_out_before_the_next() {
        let mut assembly = Assembly::default();
        assembly
            .take(&[record(0, 1, 0), record(FLAG_LAST_PAGE, 2, 0)].concat())
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
        let added: Result<Vec<()>, Error> = (0..=MANY_RECORDS).map(|_| assembly.add(&one)).collect();
        assert!(matches!(added.unwrap_err().kind, ErrorKind::Malformed(_)));
        assert_eq!(assembly.complete.len(), 1);
    }

    proptest! {
        #[test]
        fn no_record_is_lost_or_doubled(flags in proptest::collection::vec((any::<u32>(), 0_u32..3), 0..40), cut in 0_usize..1600) {
            let bytes: Vec<u8> = flags.iter().flat_map(|(flags, cookie)| record(*flags, *cookie, 0)).collect();
            let (first, second) = bytes.split_at((cut / RECORD * RECORD).min(bytes.len()));
            let mut assembly = Assembly::default();
            assembly.take(first).unwrap();
            assembly.take(second).unwrap();
            let groups = assembly.complete.iter().chain(&assembly.partial);
            prop_assert!(groups.clone().all(|group| !group.requests.is_empty()));
            prop_assert_eq!(groups.map(|group| group.requests.len()).sum::<usize>(), flags.len());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut assembly = Assembly::default();
            let whole = bytes.len().is_multiple_of(RECORD);
            prop_assert_eq!(assembly.take(&bytes).is_ok(), whole);
        }
    }
}
