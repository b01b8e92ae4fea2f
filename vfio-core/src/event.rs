//! Events: eventfds, which the kernel signals for an interrupt and a program waits for.
//!
//! Three ways to wait, and no runtime: block on one ([`EventFd::wait`], [`EventFd::wait_timeout`]), poll several ([`wait_any`]), or keep a set of many
//! ([`EventSet`]). Every descriptor can also be handed to a runtime of the caller's ([`AsFd`]).
//!
//! Follows `eventfd(2)`, `poll(2)` and `epoll(7)`.

use crate::{Error, ErrorKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// An eventfd: a counter that is added to by whoever signals and taken by whoever waits.
///
/// ```
/// use std::time::Duration;
/// use vfio_core::{EventFd, wait_any};
///
/// let (receive, transmit) = (EventFd::new()?, EventFd::new()?);
/// transmit.signal()?;
/// assert_eq!(wait_any(&[&receive, &transmit], Some(Duration::from_secs(1)))?, [1]);
/// assert_eq!(transmit.wait()?, 1);
/// assert_eq!(transmit.try_read()?, None);
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Debug)]
#[doc(alias = "eventfd")]
pub struct EventFd {
    fd: OwnedFd,
    /// Whether it was made so that a plain read does not block.
    is_nonblocking: bool,
}

impl EventFd {
    /// An event that was not signalled. One read takes all signals.
    ///
    /// # Errors
    ///
    /// When the process or the system has no descriptors left.
    pub fn new() -> Result<Self, Error> {
        Self::create(EventfdFlags::empty())
    }

    /// An event of which one read takes one signal (`EFD_SEMAPHORE`).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn semaphore() -> Result<Self, Error> {
        Self::create(EventfdFlags::SEMAPHORE)
    }

    /// An event for those who mostly [`try_read`](Self::try_read), which is cheaper of this one (`EFD_NONBLOCK`), while [`wait`](Self::wait) may take two
    /// calls more.
    ///
    /// For events that no other process has: being nonblocking is of the open file (`O_NONBLOCK`), so whoever holds a duplicate of the descriptor can
    /// make it block again, and `try_read` then waits for a signal.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn nonblocking() -> Result<Self, Error> {
        Self::create(EventfdFlags::NONBLOCK)
    }

    /// Takes over an eventfd, blocking or not.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        let is_nonblocking = false;
        Self { fd, is_nonblocking }
    }

    /// Waits until the event is signalled, and takes the signals: their number, 1 of a semaphore.
    ///
    /// # Errors
    ///
    /// When the descriptor is no eventfd.
    #[inline]
    pub fn wait(&self) -> Result<u64, Error> {
        let mut count = [0; 8];
        loop {
            match retry_on_intr(|| rustix::io::read(&self.fd, &mut count)) {
                Ok(len) => return number(len, count),
                // The descriptor is nonblocking.
                Err(Errno::AGAIN) => readable([self], None).map(drop)?,
                Err(errno) => return Err(failed("read eventfd", errno)),
            }
        }
    }

    /// Waits as [`wait`](Self::wait), but no longer than `timeout`; `None` if no signal came.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<u64>, Error> {
        // A time so far away that no clock reaches it is no limit.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let [is_there] = readable([self], left)?;
            // Somebody else may take the signals in between.
            let taken = self.try_read()?;
            if taken.is_some() || !is_there {
                return Ok(taken);
            }
        }
    }

    /// Takes the signals if there are any.
    ///
    /// # Errors
    ///
    /// When the descriptor is no eventfd.
    #[inline]
    pub fn try_read(&self) -> Result<Option<u64>, Error> {
        let mut count = [0; 8];
        let read = retry_on_intr(|| {
            if self.is_nonblocking {
                return rustix::io::read(&self.fd, &mut count);
            }
            // The position is of no meaning for an eventfd; all ones stand for `read`.
            rustix::io::preadv2(
                &self.fd,
                &mut [IoSliceMut::new(&mut count)],
                u64::MAX,
                ReadWriteFlags::NOWAIT,
            )
        });
        match read {
            Ok(len) => number(len, count).map(Some),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(failed("read eventfd", errno)),
        }
    }

    /// Signals the event. At 2⁶⁴−2 signals that nobody has taken, which whoever else has the event can add at once, this waits until they are taken; of a
    /// nonblocking descriptor the signal is lost, and the event stays signalled.
    ///
    /// # Errors
    ///
    /// When the descriptor is no eventfd.
    pub fn signal(&self) -> Result<(), Error> {
        let one = 1_u64.to_ne_bytes();
        match retry_on_intr(|| rustix::io::write(&self.fd, &one)) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(failed("write eventfd", errno)),
        }
    }

    /// A second handle on the same event.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd =
            rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(|errno| failed("fcntl F_DUPFD_CLOEXEC", errno))?;
        let is_nonblocking = self.is_nonblocking;
        Ok(Self { fd, is_nonblocking })
    }

    fn create(flags: EventfdFlags) -> Result<Self, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | flags).map_err(|errno| failed("eventfd", errno))?;
        let is_nonblocking = flags.contains(EventfdFlags::NONBLOCK);
        Ok(Self { fd, is_nonblocking })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.fd
    }
}

/// Waits until one of `files` is readable, or the time is over: the places of those that are, none after a timeout. Takes nothing: signals
/// stay until they are read.
///
/// # Errors
///
/// When the kernel has no memory for so many.
pub fn wait_any<F: AsFd>(files: &[F], timeout: Option<Duration>) -> Result<Vec<usize>, Error> {
    let mut fds: Vec<_> = files.iter().map(|file| PollFd::new(file, PollFlags::IN)).collect();
    until(timeout, |left| poll(&mut fds, left)).map_err(|errno| failed("poll", errno))?;
    let ready = fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
    Ok(ready.map(|(place, _)| place).collect())
}

/// As [`wait_any`] for two files: whether each of them is readable. Allocates nothing.
///
/// # Errors
///
/// As [`wait_any`].
pub fn wait_either<F: AsFd>(files: [&F; 2], timeout: Option<Duration>) -> Result<[bool; 2], Error> {
    readable(files, timeout)
}

/// Waits until one of the files is readable, or the time is over: which of them are.
fn readable<F: AsFd, const N: usize>(files: [&F; N], timeout: Option<Duration>) -> Result<[bool; N], Error> {
    let mut fds = files.map(|file| PollFd::new(file, PollFlags::IN));
    until(timeout, |left| poll(&mut fds, left)).map_err(|errno| failed("poll", errno))?;
    Ok(fds.map(|fd| !fd.revents().is_empty()))
}

/// A set of files to wait for, each with a key of the caller's. Waiting costs the same for one and for thousands.
#[derive(Debug)]
#[doc(alias = "epoll_create1")]
pub struct EventSet {
    fd: OwnedFd,
}

impl EventSet {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// When the process or the system has no descriptors left.
    pub fn new() -> Result<Self, Error> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| failed("epoll_create1", errno))?;
        Ok(Self { fd })
    }

    /// Adds a file. It leaves the set when it is closed, or by [`remove`](Self::remove).
    ///
    /// # Errors
    ///
    /// When the file is in the set already, or cannot be waited for.
    #[doc(alias = "EPOLL_CTL_ADD")]
    pub fn add(&self, file: impl AsFd, key: u64) -> Result<(), Error> {
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.fd, file, data, epoll::EventFlags::IN)
            .map_err(|errno| failed("epoll_ctl EPOLL_CTL_ADD", errno))
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// When the file is not in the set.
    #[doc(alias = "EPOLL_CTL_DEL")]
    pub fn remove(&self, file: impl AsFd) -> Result<(), Error> {
        epoll::delete(&self.fd, file).map_err(|errno| failed("epoll_ctl EPOLL_CTL_DEL", errno))
    }

    /// Waits until a file is readable, or the time is over, and calls `each` with the key of each that is, at most 64 at a time; says how many
    /// there were, none after a timeout. Takes nothing: signals stay until they are read. Allocates nothing.
    ///
    /// # Errors
    ///
    /// None that a valid set has.
    #[doc(alias = "epoll_wait")]
    pub fn wait(&self, timeout: Option<Duration>, mut each: impl FnMut(u64)) -> Result<usize, Error> {
        let mut events = [const { MaybeUninit::uninit() }; 64];
        let waited = until(timeout, |left| {
            let (ready, _) = epoll::wait(&self.fd, &mut events, left)?;
            ready.iter().for_each(|event| each(event.data.u64()));
            Ok(ready.len())
        });
        waited.map_err(|errno| failed("epoll_wait", errno))
    }
}

impl AsFd for EventSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Calls `wait` with the time left, again after every interruption by a signal.
fn until(
    timeout: Option<Duration>,
    mut wait: impl FnMut(Option<&Timespec>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    // A time so far away that no clock reaches it is no limit.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match wait(left.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[inline]
fn number(len: usize, count: [u8; 8]) -> Result<u64, Error> {
    if len == count.len() {
        Ok(u64::from_ne_bytes(count))
    } else {
        Err(malformed())
    }
}

#[cold]
fn malformed() -> Error {
    Error::new("read eventfd", ErrorKind::Malformed("an eventfd gives 8 bytes"))
}

#[cold]
fn failed(step: &'static str, errno: Errno) -> Error {
    Error::new(step, ErrorKind::from_errno(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{OFlags, fcntl_setfl};

    const SOON: Option<Duration> = Some(Duration::from_millis(1));
    const LATE: Option<Duration> = Some(Duration::from_secs(30));

    #[test]
    fn an_event_without_signal_has_nothing_to_read() {
        let event = EventFd::new().unwrap();
        assert_eq!(event.try_read().unwrap(), None);
        assert_eq!(wait_any(&[&event], SOON).unwrap(), [0_usize; 0]);
    }

    #[test]
    fn a_semaphore_gives_one_signal_at_a_time() {
        let event = EventFd::semaphore().unwrap();
        event.signal().unwrap();
        event.signal().unwrap();
        assert_eq!([event.wait().unwrap(), event.wait().unwrap()], [1, 1]);
        assert_eq!(event.try_read().unwrap(), None);
    }

    #[test]
    fn a_nonblocking_descriptor_is_waited_for_all_the_same() {
        let event = EventFd::new().unwrap();
        fcntl_setfl(&event, OFlags::NONBLOCK).unwrap();
        let signaller = event.try_clone().unwrap();
        let thread = std::thread::spawn(move || signaller.signal());
        assert_eq!(event.wait().unwrap(), 1);
        thread.join().unwrap().unwrap();
        assert_eq!(event.try_read().unwrap(), None);
    }

    #[test]
    fn an_event_that_does_not_block_is_read_and_waited_for_as_any_other() {
        let event = EventFd::nonblocking().unwrap();
        let clone = event.try_clone().unwrap();
        assert_eq!([event.try_read().unwrap(), clone.try_read().unwrap()], [None, None]);
        assert_eq!(event.wait_timeout(Duration::from_millis(1)).unwrap(), None);
        clone.signal().unwrap();
        clone.signal().unwrap();
        assert_eq!([event.try_read().unwrap(), event.try_read().unwrap()], [Some(2), None]);
        let thread = std::thread::spawn(move || clone.signal());
        assert_eq!(event.wait().unwrap(), 1);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn a_full_counter_stays_signalled() {
        let event = EventFd::new().unwrap();
        fcntl_setfl(&event, OFlags::NONBLOCK).unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.signal().unwrap();
        assert_eq!(event.wait().unwrap(), u64::MAX - 1);
    }

    #[test]
    fn waiting_ends_with_a_signal_or_with_the_time() {
        let event = EventFd::new().unwrap();
        let began = Instant::now();
        assert_eq!(event.wait_timeout(Duration::from_millis(1)).unwrap(), None);
        assert!(began.elapsed() >= Duration::from_millis(1));
        event.signal().unwrap();
        event.signal().unwrap();
        assert_eq!(
            event.wait_timeout(Duration::ZERO).unwrap(),
            Some(2),
            "what is there is taken without time"
        );
        let signaller = event.try_clone().unwrap();
        let thread = std::thread::spawn(move || signaller.signal());
        assert_eq!(event.wait_timeout(Duration::MAX).unwrap(), Some(1));
        thread.join().unwrap().unwrap();
        let file = EventFd::from_fd(tempfile::tempfile().unwrap().into());
        assert!(file.wait_timeout(Duration::ZERO).is_err());
    }

    #[test]
    fn a_file_that_is_no_eventfd_is_an_error() {
        let file = EventFd::from_fd(tempfile::tempfile().unwrap().into());
        assert!(file.wait().is_err());
        assert!(file.try_read().is_err());
    }

    #[test]
    fn a_set_forgets_what_was_removed_or_closed() {
        let set = EventSet::new().unwrap();
        let (kept, removed, closed) = (
            EventFd::new().unwrap(),
            EventFd::new().unwrap(),
            EventFd::new().unwrap(),
        );
        for (event, key) in [(&kept, 1), (&removed, 2), (&closed, 3)] {
            set.add(event, key).unwrap();
            event.signal().unwrap();
        }
        assert!(set.add(&kept, 4).is_err(), "it is in the set already");
        set.remove(&removed).unwrap();
        assert!(set.remove(&removed).is_err(), "it is not in the set any more");
        drop(closed);
        let mut keys = Vec::new();
        assert_eq!(set.wait(LATE, |key| keys.push(key)).unwrap(), 1);
        kept.wait().unwrap();
        assert_eq!(set.wait(SOON, |key| keys.push(key)).unwrap(), 0);
        assert_eq!(keys, [1]);
    }

    proptest! {
        #[test]
        fn every_wait_finds_exactly_what_was_signalled(signalled: [bool; 9]) {
            let events = [(); 9].map(|()| EventFd::new().unwrap());
            let set = EventSet::new().unwrap();
            for ((event, signalled), key) in events.iter().zip(signalled).zip(0..) {
                set.add(event, key).unwrap();
                if signalled {
                    event.signal().unwrap();
                }
            }
            let expected: Vec<_> = (0..9_usize).filter(|place| signalled[*place]).collect();
            prop_assert_eq!(&wait_any(&events, Some(Duration::ZERO)).unwrap(), &expected);
            let mut keys = Vec::new();
            set.wait(Some(Duration::ZERO), |key| keys.push(key)).unwrap();
            keys.sort_unstable();
            let expected: Vec<_> = expected.into_iter().map(|place| place as u64).collect();
            prop_assert_eq!(keys, expected);
        }
    }
}
