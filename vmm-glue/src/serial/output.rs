//! What the guest says, between its processors and a file that may be slow.

use crate::kvm::kick;
use crate::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Bytes that wait for the file before the guest does.
const MOST: usize = 64 << 10;
/// Bytes that are written at once.
const AT_ONCE: usize = 4096;
/// How long the file may take for the rest at the end.
const GRACE: Duration = Duration::from_secs(1);
/// A writer that comes late gets another signal, as processors do.
const AGAIN: Duration = Duration::from_millis(2);

/// Bytes on their way. Whoever is slow holds the processors that have more to say, and nobody else: nothing is locked meanwhile.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    bytes: VecDeque<u8>,
    /// Processors wait for room; else what they say without it is lost.
    is_waited_for: bool,
    /// Nothing comes any more.
    is_closed: bool,
    /// Nobody writes any more.
    is_done: bool,
    lost: u64,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        let state = State {
            bytes: VecDeque::new(),
            is_waited_for: false,
            is_closed: false,
            is_done: false,
            lost: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits until a byte has room, or for nothing when that is not wanted.
    pub(super) fn wait_for_room(&self) {
        let full = |state: &mut State| state.is_waited_for && !state.is_done && state.bytes.len() >= MOST;
        drop(
            self.changed
                .wait_while(self.state(), full)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Takes a byte, of each processor one more than there is room for. Without room, and nobody to wait for it, it is lost.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.state();
        if state.is_done || (!state.is_waited_for && state.bytes.len() >= MOST) {
            state.lost += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return;
        }
        state.bytes.extend(bytes);
        self.changed.notify_all();
    }

    /// Whether processors wait for room from now on. Those that do are let go of, else.
    pub(crate) fn hold(&self, is_waited_for: bool) {
        self.state().is_waited_for = is_waited_for;
        self.changed.notify_all();
    }

    /// All that waits, for nobody's file.
    #[cfg(feature = "fake")]
    pub(crate) fn take(&self) -> Vec<u8> {
        self.state().bytes.drain(..).collect()
    }

    /// The next bytes for the file; none at the end.
    fn next(&self, to: &mut Vec<u8>) {
        let empty = |state: &mut State| state.bytes.is_empty() && !state.is_closed;
        let waited = self.changed.wait_while(self.state(), empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let len = state.bytes.len().min(AT_ONCE);
        to.clear();
        to.extend(state.bytes.drain(..len));
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that writes to the file.
#[derive(Debug)]
pub(crate) struct Writer {
    outbox: Arc<Outbox>,
    is_cut: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Writes from now on.
    pub(crate) fn start(outbox: &Arc<Outbox>, file: File) -> Result<Self> {
        kick::prepare()?;
        let is_cut = Arc::new(AtomicBool::new(false));
        let (from, is_cut_there) = (Arc::clone(outbox), Arc::clone(&is_cut));
        let thread = Builder::new().name("console".into()).spawn(move || {
            kick::listen();
            let at_end = AtEnd(from);
            if let Err(error) = write_all(&at_end.0, file, &is_cut_there) {
                tracing::warn!(%error, "the console's output is lost from now on");
            }
        });
        Ok(Self {
            outbox: Arc::clone(outbox),
            is_cut,
            thread: thread.map_err(|error| Error::new("begin the console's thread", ErrorKind::Io(error)))?,
        })
    }

    /// Writes the rest, as far as the file takes it soon, and ends.
    pub(crate) fn end(self) {
        self.outbox.state().is_closed = true;
        self.outbox.changed.notify_all();
        let (waited, _) = self
            .outbox
            .changed
            .wait_timeout_while(self.outbox.state(), GRACE, |state| !state.is_done)
            .unwrap_or_else(PoisonError::into_inner);
        drop(waited);
        self.is_cut.store(true, Ordering::Release);
        let mut state = self.outbox.state();
        while !state.is_done {
            kick::kick(&self.thread);
            (state, _) = self
                .outbox
                .changed
                .wait_timeout(state, AGAIN)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let lost = state.lost + u64::try_from(state.bytes.len()).unwrap_or(u64::MAX);
        drop(state);
        if self.thread.join().is_err() {
            tracing::error!("the console's thread has panicked");
        }
        if lost > 0 {
            tracing::info!(lost, "nobody has read the last that the guest has said");
        }
    }
}

/// Until nothing comes any more, the file fails, or it is cut short.
fn write_all(outbox: &Outbox, mut file: File, is_cut: &AtomicBool) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(AT_ONCE);
    loop {
        outbox.next(&mut bytes);
        let mut rest = bytes.as_slice();
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            if is_cut.load(Ordering::Acquire) {
                return Ok(());
            }
            match file.write(rest) {
                Ok(0) => return Err(IoErrorKind::WriteZero.into()),
                Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                // Somebody shares the file and does not want to wait.
                Err(error) if error.kind() == IoErrorKind::WouldBlock => wait_for(&file)?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Until the file takes more, or a signal comes.
fn wait_for(file: &File) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let writable = EpollEvent::new(EventSet::OUT, 0);
    epoll.ctl(ControlOperation::Add, file.as_raw_fd(), writable)?;
    match epoll.wait(-1, &mut [EpollEvent::default()]) {
        Err(error) if error.kind() != IoErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Lets go of those who wait, however the thread ends.
struct AtEnd(Arc<Outbox>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.state().is_done = true;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.bytes.len())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, pipe};
    use std::thread;

    #[test]
    fn what_is_said_comes_out_in_order_and_all_of_it() {
        let (mut said, output) = pipe().unwrap();
        let outbox = Arc::new(Outbox::new());
        outbox.hold(true);
        let writer = Writer::start(&outbox, File::from(std::os::fd::OwnedFd::from(output))).unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            said.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for byte in bytes.chunks(1) {
            outbox.wait_for_room();
            outbox.push(byte);
        }
        writer.end();
        assert!(reader.join().unwrap() == bytes);
    }

    #[test]
    fn nobody_waits_for_a_file_that_nobody_reads_at_the_end() {
        let (said, output) = pipe().unwrap();
        let outbox = Arc::new(Outbox::new());
        outbox.hold(true);
        let writer = Writer::start(&outbox, File::from(std::os::fd::OwnedFd::from(output))).unwrap();
        // What a pipe takes, what is being written, and all that there is room for.
        let talker = thread::spawn({
            let outbox = Arc::clone(&outbox);
            move || {
                for _ in 0..4 * MOST {
                    outbox.wait_for_room();
                    outbox.push(b"x");
                }
            }
        });
        drop(
            outbox
                .changed
                .wait_while(outbox.state(), |state| state.bytes.len() < MOST)
                .unwrap(),
        );
        outbox.hold(false);
        talker.join().unwrap();
        assert!(outbox.state().bytes.len() <= MOST, "what has no room is lost");
        writer.end();
        drop(said);
    }

    #[test]
    fn a_file_that_fails_holds_nobody() {
        let (said, output) = pipe().unwrap();
        drop(said);
        let outbox = Arc::new(Outbox::new());
        outbox.hold(true);
        let writer = Writer::start(&outbox, File::from(std::os::fd::OwnedFd::from(output))).unwrap();
        for _ in 0..2 * MOST {
            outbox.wait_for_room();
            outbox.push(b"x");
        }
        writer.end();
        assert!(outbox.state().lost > 0);
    }
}
