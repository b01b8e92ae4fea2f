//! A Unix socket with one deadline for all that is said over it.

use super::Pause;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest answer in bytes.
const LONGEST: usize = 16 << 20;

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// What has come and nobody has taken.
    bytes: Vec<u8>,
    deadline: Instant,
}

impl Wire {
    /// Connects, and waits while others are in the queue: QEMU's has one place.
    pub(super) fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(path)?;
        let mut pause = Pause::until(deadline);
        while let Err(errno) = connect(&socket, &address) {
            if errno != Errno::AGAIN {
                return Err(errno.into());
            }
            if !pause.next() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(Self {
            stream,
            bytes: Vec::new(),
            deadline,
        })
    }

    /// The process at the other end.
    pub(super) fn peer(&self) -> Option<u32> {
        u32::try_from(socket_peercred(&self.stream).ok()?.pid.as_raw_pid()).ok()
    }

    /// Sends all of it, and a descriptor with its first byte.
    pub(super) fn send(&mut self, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        let Some(file) = file else {
            return self.stream.write_all(bytes).map_err(timed_out);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file];
        if !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        let sent = sent.map_err(|errno| timed_out(errno.into()))?;
        self.stream
            .write_all(bytes.get(sent..).unwrap_or_default())
            .map_err(timed_out)
    }

    /// Up to and with the first line feed.
    pub(super) fn line(&mut self) -> io::Result<Vec<u8>> {
        // What was looked through is not looked through again: who answers may send a byte at a time.
        let mut seen = 0;
        loop {
            let new = self.bytes.get(seen..).unwrap_or_default();
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                return Ok(self.take(seen.saturating_add(end).saturating_add(1)));
            }
            seen = self.bytes.len();
            self.more()?;
        }
    }

    /// So many bytes.
    pub(super) fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        if len > LONGEST {
            return Err(too_long());
        }
        while self.bytes.len() < len {
            self.more()?;
        }
        Ok(self.take(len))
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(len);
        std::mem::replace(&mut self.bytes, rest)
    }

    fn more(&mut self) -> io::Result<()> {
        if self.bytes.len() > LONGEST {
            return Err(too_long());
        }
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        let mut buffer = [0; 4096];
        let len = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(timed_out(error)),
        };
        self.bytes.extend(buffer.iter().take(len));
        Ok(())
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer has no end")
}

/// A time-out of a socket is called otherwise.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{accept, bind, listen};

    #[test]
    fn who_comes_while_another_waits_is_let_in_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        let mut waiting = Vec::new();
        let full = loop {
            match Wire::connect(&path, soon()) {
                Ok(wire) => waiting.push(wire),
                Err(error) => break error,
            }
        };
        assert_eq!((full.kind(), waiting.is_empty()), (io::ErrorKind::TimedOut, false));
        let let_in = std::thread::spawn(move || accept(&listener).map(|_stream| listener));
        Wire::connect(&path, Instant::now() + Duration::from_secs(60)).unwrap();
        let_in.join().unwrap().unwrap();
    }
}
