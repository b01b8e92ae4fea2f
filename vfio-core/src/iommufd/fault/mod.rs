//! Page requests (PCIe PRI): what a device asks for, in groups, and the answers.
//!
//! The kernel names a group by a cookie, the lowest number that is free, and frees it also by itself: when a device is detached. So a late answer
//! could meet another group. It does not, because a number gets its next owner only when a group is read, and groups are read
//! and answered here under one lock: an answer is written only if its group is the last that was read with its number.

mod records;

pub use records::{PageAccess, PageRequest};

use super::command::{READ_FAULTS, WRITE_RESPONSE};
use super::{Object, ObjectId};
use crate::sys::iommufd::Queue;
use crate::{Error, ErrorKind};
use records::{Assembly, Group, MANY_RECORDS, RECORD};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records that one read takes at first.
const FEW_RECORDS: usize = 64;

/// An answer to a group of page requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Response {
    /// The pages are mapped; the device may try again.
    Success,
    /// They will not be.
    Invalid,
}

/// The requests that one response answers. Dropping it answers them as invalid: the device waits until it has an answer.
#[must_use = "dropping it answers the requests as invalid"]
pub struct PageRequestGroup {
    /// The device's own number for it.
    pub index: u32,
    /// The requests, at least one.
    pub requests: Vec<PageRequest>,
    /// Taken by the answer.
    answer: Option<Answer>,
}

type Answer = Box<dyn FnOnce(Response) -> Result<(), Error> + Send>;

/// Where page requests of devices come that are attached to an [`Hwpt`](super::Hwpt) made with this queue.
///
/// A device's requests wait until they are answered. Detaching a device answers what is left of it as invalid, and so does dropping the last
/// `Hwpt` of the queue. Dropping the queue answers what was read of it; what was not read waits for that.
///
/// ```no_run
/// use vfio_core::Error;
/// use vfio_core::iommufd::{FaultQueue, Iommufd, Response};
///
/// /// Answers what is there; `make_present` maps a page.
/// fn serve(queue: &FaultQueue, make_present: impl Fn(vfio_core::Iova) -> bool) -> Result<(), Error> {
///     while let Some(group) = queue.read()? {
///         let served = group.requests.iter().all(|request| make_present(request.iova));
///         group.respond(if served { Response::Success } else { Response::Invalid })?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct FaultQueue {
    inner: Arc<Inner>,
}

/// Held by the queue and by its groups.
#[derive(Debug)]
struct Inner {
    reader: Mutex<Reader>,
    /// Closed before the object is destroyed: an open descriptor keeps the kernel from it.
    queue: Box<dyn Queue>,
    object: Arc<Object>,
}

#[derive(Debug, Default)]
struct Reader {
    buffer: Vec<u8>,
    assembly: Assembly,
    /// Which group a cookie was last read for, as long as that has no answer.
    owners: HashMap<u32, u64>,
    next_serial: u64,
}

impl FaultQueue {
    pub(super) fn new(queue: Box<dyn Queue>, object: Arc<Object>) -> Self {
        let reader = Mutex::default();
        let inner = Arc::new(Inner { reader, queue, object });
        Self { inner }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.inner.object.id()
    }

    /// The next group, or `None` if no complete one is there. Never waits: poll the descriptor for that. Some may wait no more when they
    /// are given out, because their device was detached.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] for a record that is cut, a group without end, or one of more requests than any device may make, which
    /// stays in the way of all others until its device is detached. The other groups that were read with it are returned by the next calls.
    pub fn read(&self) -> Result<Option<PageRequestGroup>, Error> {
        let mut reader = self.inner.lock();
        let group = match reader.take() {
            Some(group) => Some(group),
            None => {
                reader.fill(&*self.inner.queue)?;
                reader.take()
            }
        };
        Ok(group.map(|group| {
            let inner = Arc::clone(&self.inner);
            let (cookie, serial) = (group.cookie, group.serial);
            PageRequestGroup::new(group.index, group.requests, move |response| {
                inner.answer(cookie, serial, response)
            })
        }))
    }

    pub(super) fn object(&self) -> &Arc<Object> {
        &self.inner.object
    }
}

impl Drop for FaultQueue {
    fn drop(&mut self) {
        // Nobody can get at them any more, and their devices wait.
        let unread = self.inner.lock().take_all();
        for group in unread {
            match self.inner.answer(group.cookie, group.serial, Response::Invalid) {
                Err(error) if !matches!(error.kind, ErrorKind::NotFound(_)) => {
                    tracing::error!(%error, "a page request stays unanswered until its device is detached");
                }
                _ => {}
            }
        }
    }
}

impl AsFd for FaultQueue {
    /// Readable when the kernel has a group. Groups that were read ahead do not count, so read until there is none before polling. Always
    /// writable: wait for readability alone.
    ///
    /// Reading or answering through it besides this queue mixes groups up, and a duplicate that outlives the queue keeps the kernel from destroying it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.queue.ready()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, cookie: u32, serial: u64, response: Response) -> Result<(), Error> {
        let late = |errno| WRITE_RESPONSE.fail(ErrorKind::NotFound(errno));
        let mut reader = self.lock();
        if reader.owners.get(&cookie) != Some(&serial) {
            return Err(late(Errno::NOENT));
        }
        reader.owners.remove(&cookie);
        let code: u32 = match response {
            Response::Success => 0,
            Response::Invalid => 1,
        };
        // With the lock held: nobody reads the cookie's next owner before this is written.
        match self
            .queue
            .write([cookie.to_ne_bytes(), code.to_ne_bytes()].as_flattened())
        {
            Ok(8) => Ok(()),
            Ok(done) => Err(WRITE_RESPONSE.fail(ErrorKind::ShortTransfer { wanted: 8, done })),
            Err(errno @ Errno::INVAL) => Err(late(errno)),
            Err(errno) => Err(WRITE_RESPONSE.error(errno)),
        }
    }
}

impl Reader {
    /// Reads what there is room for.
    fn fill(&mut self, queue: &dyn Queue) -> Result<(), Error> {
        let buffer = &mut self.buffer;
        if buffer.is_empty() {
            buffer.resize(FEW_RECORDS * RECORD, 0);
        }
        let len = loop {
            match queue.read(buffer) {
                Ok(len) => break len,
                Err(Errno::AGAIN) => return Ok(()),
                // The first group needs more room.
                Err(Errno::INVAL) if buffer.len() < MANY_RECORDS * RECORD => buffer.resize(buffer.len() * 2, 0),
                Err(Errno::INVAL) => {
                    let how = "a group of too many page requests, which only detaching its device removes";
                    return Err(READ_FAULTS.malformed(how));
                }
                Err(errno) => return Err(READ_FAULTS.error(errno)),
            }
        };
        let bytes = buffer
            .get(..len)
            .ok_or_else(|| READ_FAULTS.malformed("more bytes than there was room for"))?;
        let (owners, next) = (&mut self.owners, &mut self.next_serial);
        self.assembly.take(bytes, |cookie| {
            *next += 1;
            owners.insert(cookie, *next);
            *next
        })
    }

    fn take(&mut self) -> Option<Group> {
        self.assembly.complete.pop_front()
    }

    fn take_all(&mut self) -> Vec<Group> {
        let Assembly { complete, partial } = &mut self.assembly;
        complete.drain(..).chain(partial.take()).collect()
    }
}

impl PageRequestGroup {
    /// A group that does not come from a [`FaultQueue`]: of a device that has its own way to report that a page is missing. `answer`
    /// is called once, and fails with [`ErrorKind::NotFound`] if nobody waits.
    pub fn new(
        index: u32,
        requests: Vec<PageRequest>,
        answer: impl FnOnce(Response) -> Result<(), Error> + Send + 'static,
    ) -> Self {
        let answer: Option<Answer> = Some(Box::new(answer));
        Self {
            index,
            requests,
            answer,
        }
    }

    /// Answers it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it does not wait any more: its device was detached, which has answered it as invalid.
    #[doc(alias = "iommu_hwpt_page_response")]
    pub fn respond(mut self, response: Response) -> Result<(), Error> {
        self.answer.take().map_or(Ok(()), |answer| answer(response))
    }
}

impl Drop for PageRequestGroup {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        match answer(Response::Invalid) {
            Err(error) if !matches!(error.kind, ErrorKind::NotFound(_)) => {
                tracing::error!(%error, requests = ?self.requests, "page requests stay unanswered until their device is detached");
            }
            _ => {}
        }
    }
}

impl fmt::Debug for PageRequestGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRequestGroup")
            .field("index", &self.index)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
