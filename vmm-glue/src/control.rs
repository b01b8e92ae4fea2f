//! What may be asked of a running machine over a Unix socket, and both ends of that conversation.
//!
//! A request is one line of JSON and is answered by one line: [`Request`], [`Reply`]. A connection may carry several, one after another.
//! Descriptors travel with the bytes of the request that they belong to (`SCM_RIGHTS`, `unix(7)`), one with each of its first bytes, in order.
//!
//! ```text
//! {"add":{"device":"0000:01:10.0","interface":"iommufd"}}        with the descriptor of /dev/vfio/devices/vfioN
//! {"added":{"device":"0000:01:10.0","interface":"iommufd","address":"0000:02:00.0"}}
//! {"add_slot":[{"device":"0000:01:10.2","interface":"iommufd"},…]}    with a descriptor for each
//! {"added_slot":[{"device":"0000:01:10.2","interface":"iommufd","address":"0000:03:00.0"},…]}
//! {"remove":{"device":"0000:01:10.0","timeout_ms":10000}}
//! "removed"
//! "list"
//! {"functions":[]}
//! ```

mod text;

use crate::{Error, ErrorKind, Result};
use pci::Bdf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};
use text::{address, some};
use vfio_core::VfToken;
use vmm_sys_util::sock_ctrl_msg::ScmSocket as _;

/// Longest line in bytes.
const LINE: usize = 64 << 10;
/// Most descriptors of one request: one for each function of a slot.
const FILES: usize = 8;
/// How long a line may take from its first byte to its last, and how long nothing may come on a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many are heard at once.
const CONNECTIONS: usize = 4;
/// How long a removal may take at most.
const LONGEST: Duration = Duration::from_secs(600);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Gives the guest a function. Its descriptor comes along: the character device or the group; none where the machine has the function's group
    /// already.
    Add(Add),
    /// Gives the guest functions in one slot, of which the first is function 0, all or none. The descriptors come along in the same order: of each
    /// function its character device; of each that says a group, the group. One that says none is of a group that the machine has, or that comes with
    /// one before it.
    AddSlot(Vec<Add>),
    /// Takes a function back, with the guest's consent, and with it all that are in its slot.
    Remove(Remove),
    /// Which functions the guest has.
    List,
    /// Switches the machine off, without asking the guest.
    Stop,
}

/// A function to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// Its address on the host.
    #[serde(with = "address")]
    pub device: Bdf,
    /// What its descriptor is of.
    pub interface: Interface,
    /// The number of its IOMMU group, where the descriptor is of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// For a VF whose PF is on vfio-pci: what the user of the PF has set.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "some")]
    pub token: Option<VfToken>,
}

/// A function to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Its address on the host.
    #[serde(with = "address")]
    pub device: Bdf,
    /// How long the guest may take to let go of it, in milliseconds, at most 10 minutes. Afterwards it keeps it.
    pub timeout_ms: u64,
}

/// The kernel interface by which a machine has a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// Container and group.
    Type1,
    /// iommufd and character device.
    Iommufd,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Add`]: the guest has been told of it.
    Added(Assigned),
    /// To [`Request::AddSlot`], in their order: the guest has been told of them.
    AddedSlot(Vec<Assigned>),
    /// To [`Request::Remove`]: the guest has let go of it, and so has the machine.
    Removed,
    /// To [`Request::List`], in order of their slots.
    Functions(Vec<Assigned>),
    /// To [`Request::Stop`]: it will end.
    Stopping,
    /// What was asked was not done.
    Failed(Failed),
}

/// A function that the guest has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Its address on the host.
    #[serde(with = "address")]
    pub device: Bdf,
    /// By which interface the machine has it.
    pub interface: Interface,
    /// Its address in the guest.
    #[serde(with = "address")]
    pub address: Bdf,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The function concerned, on the host, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "some")]
    pub device: Option<Bdf>,
    /// The step.
    pub step: String,
    /// What happened.
    pub message: String,
    /// What can be done about it.
    pub fix: Option<String>,
    /// Whether it only took too long.
    #[serde(default)]
    pub timed_out: bool,
}

impl From<&Error> for Failed {
    fn from(error: &Error) -> Self {
        Self {
            device: error.device,
            step: error.step.to_string(),
            message: error.kind.to_string(),
            fix: error.fix().map(str::to_owned),
            timed_out: matches!(error.kind, ErrorKind::TimedOut),
        }
    }
}

/// What a machine does when it is asked. Adding and removing are done one at a time, and may take as long as they
/// need; the other calls come meanwhile.
pub trait Control: fmt::Debug + Send + Sync {
    /// Gives the guest functions in one slot, in the order of their numbers.
    ///
    /// # Errors
    ///
    /// When no slot is free, a function cannot be opened or its memory mapped. Nothing has changed then.
    fn add(&self, functions: &[Add], files: Vec<OwnedFd>) -> Result<Vec<Assigned>>;

    /// Takes a function back, and with it all that are in its slot: presses the button of its slot and waits until the guest has switched the slot off.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when the guest does not let go of it, [`ErrorKind::Invalid`] for one that it does not have.
    fn remove(&self, device: Bdf, timeout: Duration) -> Result<()>;

    /// Which functions the guest has.
    fn list(&self) -> Vec<Assigned>;

    /// Switches the machine off. Returns before that has happened.
    fn stop(&self);
}

/// Answers who comes to the socket, up to 4 at once, until the listener fails and the last one has gone; it goes on when descriptors or
/// memory are short; to end it shut the listener down, or let the
/// process end. Who says nothing for 10 seconds, or nonsense, is not heard any further. While one function is added or removed, another one is not: who asks
/// is told so at once. Who comes and is not of those whom `admits` admits is not heard at all.
///
/// # Errors
///
/// The listener's.
pub fn serve(
    listener: &UnixListener,
    machine: &dyn Control,
    admits: &(dyn Fn(&UnixStream) -> bool + Sync),
) -> Result<()> {
    let pause = vfio_core::EventFd::new()?;
    let (change, talking) = (Mutex::new(()), AtomicUsize::new(0));
    thread::scope(|scope| {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_passing(&error) => {
                    tracing::warn!("the control socket takes nobody for now: {error}");
                    // Nobody signals it.
                    pause.wait_timeout(Duration::from_millis(100))?;
                    continue;
                }
                Err(error) => return Err(Error::new("accept", ErrorKind::Io(error))),
            };
            if !admits(&stream) {
                tracing::warn!("somebody came to the control socket who may not");
                continue;
            }
            if talking.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                talking.fetch_sub(1, Ordering::Relaxed);
                tracing::info!("a connection to the control socket is refused: there are {CONNECTIONS}");
                continue;
            }
            let talk = || {
                if let Err(error) = converse(stream, machine, &change) {
                    tracing::info!("a connection to the control socket ends: {error}");
                }
                talking.fetch_sub(1, Ordering::Relaxed);
            };
            if let Err(error) = thread::Builder::new()
                .name("control".to_owned())
                .spawn_scoped(scope, talk)
            {
                talking.fetch_sub(1, Ordering::Relaxed);
                tracing::error!(%error, "a connection to the control socket is not answered");
            }
        }
    })
}

/// It may go another time.
fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::ECONNABORTED,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
    ];
    error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}

fn converse(stream: UnixStream, machine: &dyn Control, change: &Mutex<()>) -> Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some((line, files)) = connection.receive(Some(PATIENCE))? {
        let reply = match parse(&line, "read a request") {
            Ok(request) => answer(request, files, machine, change),
            Err(error) => {
                connection.send(&Reply::Failed(Failed::from(&error)), &[])?;
                return Err(error);
            }
        };
        connection.send(&reply, &[])?;
    }
    Ok(())
}

fn answer(request: Request, files: Vec<OwnedFd>, machine: &dyn Control, change: &Mutex<()>) -> Reply {
    let alone = || match change.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            let kind = ErrorKind::Invalid("busy: another function is being added or removed");
            Err(Error::new("add or remove a function", kind))
        }
    };
    let outcome = match request {
        Request::Add(add) => alone().and_then(|_alone| {
            let added = machine.add(std::slice::from_ref(&add), files)?.into_iter().next();
            let nothing = || Error::new("add a function", ErrorKind::Invalid("nothing was added")).on(add.device);
            added.map(Reply::Added).ok_or_else(nothing)
        }),
        Request::AddSlot(functions) => alone().and_then(|_alone| machine.add(&functions, files).map(Reply::AddedSlot)),
        Request::Remove(Remove { device, timeout_ms }) => alone().and_then(|_alone| {
            let timeout = Duration::from_millis(timeout_ms).min(LONGEST);
            machine.remove(device, timeout).map(|()| Reply::Removed)
        }),
        Request::List => Ok(Reply::Functions(machine.list())),
        Request::Stop => {
            machine.stop();
            Ok(Reply::Stopping)
        }
    };
    outcome.unwrap_or_else(|error| Reply::Failed(Failed::from(&error)))
}

/// A connection to a machine.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the socket of a machine.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Self> {
        let failed = |error| Error::new(format!("connect to {}", path.display()), ErrorKind::Io(error));
        let connection = Connection::new(UnixStream::connect(path).map_err(failed)?)?;
        Ok(Self { connection })
    }

    /// Asks, and waits so long for the answer. After an error the connection is of no more use.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] without an answer in time, [`ErrorKind::Malformed`] for one that is none. A refusal is no error but
    /// [`Reply::Failed`].
    pub fn ask(&mut self, request: &Request, files: &[BorrowedFd<'_>], timeout: Duration) -> Result<Reply> {
        self.connection.send(request, files)?;
        match self.connection.receive(Some(timeout))? {
            Some((line, _)) => parse(&line, "read an answer"),
            None => Err(Error::new(
                "read an answer",
                ErrorKind::Malformed(Cow::Borrowed("the connection ended")),
            )),
        }
    }
}

/// For what the kernel knows of who listens (`SO_PEERCRED`, `socket(7)`), whatever that says of itself.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }
}

/// One end of a connection.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// What has come and belongs to the next line.
    bytes: Vec<u8>,
    /// Descriptors, each with the place of the byte that it came with.
    files: Vec<(usize, OwnedFd)>,
}

impl Connection {
    fn new(stream: UnixStream) -> Result<Self> {
        let failed = |error| Error::new("set up a connection", ErrorKind::Io(error));
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self {
            stream,
            bytes: Vec::new(),
            files: Vec::new(),
        })
    }

    /// A line and what came with it; `None` at the end of the connection.
    fn receive(&mut self, timeout: Option<Duration>) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let failed = |kind| Error::new("receive", kind);
        let malformed = |what| failed(ErrorKind::Malformed(Cow::Borrowed(what)));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.take_line(end.saturating_add(1))));
            }
            if self.bytes.len() > LINE {
                return Err(malformed("a line is too long"));
            }
            // Zero would be for ever.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| left.max(Duration::from_millis(1)));
            self.stream
                .set_read_timeout(left)
                .map_err(|error| failed(ErrorKind::Io(error)))?;
            let mut buffer = [0; 4096];
            let (len, file) = match self.stream.recv_with_fd(&mut buffer) {
                Ok(received) => received,
                Err(error) => match io::Error::from(error) {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error if error.kind() == io::ErrorKind::WouldBlock => return Err(failed(ErrorKind::TimedOut)),
                    error => return Err(failed(ErrorKind::Io(error))),
                },
            };
            // The duplicate is closed on exec; what was received is not.
            let file = file.map(|file| file.try_clone()).transpose();
            let file = file.map_err(|error| failed(ErrorKind::Io(error)))?.map(OwnedFd::from);
            // The kernel gives no more bytes behind those that a descriptor came with.
            let place = (self.bytes.len() + len).saturating_sub(1);
            self.files.extend(file.map(|file| (place, file)));
            if self.files.len() > FILES {
                return Err(malformed("too many descriptors"));
            }
            if len == 0 {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(malformed("the connection ended within a line")),
                };
            }
            self.bytes.extend(buffer.iter().take(len));
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) && !self.bytes.contains(&b'\n') {
                return Err(failed(ErrorKind::TimedOut));
            }
        }
    }

    /// The first bytes, and the descriptors among them.
    fn take_line(&mut self, len: usize) -> (Vec<u8>, Vec<OwnedFd>) {
        let rest = self.bytes.split_off(len);
        let line = std::mem::replace(&mut self.bytes, rest);
        let mut files = Vec::new();
        for (place, file) in std::mem::take(&mut self.files) {
            match place.checked_sub(len) {
                Some(place) => self.files.push((place, file)),
                None => files.push(file),
            }
        }
        (line, files)
    }

    /// One descriptor with each of the first bytes: who receives takes one at a time.
    fn send(&mut self, what: &impl Serialize, files: &[BorrowedFd<'_>]) -> Result<()> {
        let failed = |error| Error::new("send", ErrorKind::Io(error));
        let mut line = serde_json::to_vec(what).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let (with, without) = line.split_at_checked(files.len()).ok_or_else(|| {
            let why = "more descriptors than bytes";
            Error::new("send", ErrorKind::Invalid(why))
        })?;
        for (byte, file) in with.chunks(1).zip(files) {
            let sent = self.stream.send_with_fd(byte, file.as_raw_fd());
            sent.map_err(|error| failed(error.into()))?;
        }
        self.stream.write_all(without).map_err(failed)
    }
}

fn parse<T: DeserializeOwned>(line: &[u8], step: &'static str) -> Result<T> {
    serde_json::from_slice(line).map_err(|error| Error::new(step, ErrorKind::Malformed(Cow::Owned(error.to_string()))))
}

#[cfg(test)]
mod tests;
