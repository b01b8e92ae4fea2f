//! [`WorkerAccess`]: one child process does the accesses that may block, and is left behind when it does.
//!
//! A thread would not do: a thread in state D keeps its whole process from ending. The child serves one request at a time over its
//! standard input and output until end of file. One start serves a whole job; only after a missed deadline a new child is started.
//!
//! Request: kind (1 byte), length of path (u16), length of value (u16), path, value. Reply: errno or 0 (i32), length (u32), text.
//! All little-endian. Paths are relative to the root that the process was started with, and only those that `serve` lists:
//! whoever may start the process must not get at other files through it.

mod serve;

pub use serve::serve_accesses;

use crate::pause::timespec;
use crate::usage::policy;
use crate::{Access, Failure, PolicyRoutes};
use pci::Sysfs;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Access to the files below a [`Sysfs`] root through a child process that can be abandoned.
#[derive(Debug)]
pub struct WorkerAccess {
    sysfs: Sysfs,
    command: Command,
    worker: Option<Worker>,
    abandoned: Vec<Child>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
}

/// A file longer than this is cut off; sysfs attributes end at one page.
const REPLY_MAX: u32 = 64 * 1024;
/// A request always fits into an empty pipe, so that sending one never blocks.
const REQUEST_MAX: usize = 8 * 1024;
const HEADER: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read = 0,
    Write = 1,
    /// Opens a block device for itself alone, and closes it.
    Exclusive = 2,
    /// Asks for routes; has no path.
    Routes = 3,
    /// Writes, and reads what is there then.
    Replace = 4,
}

impl WorkerAccess {
    /// `command` starts a process that calls [`serve_accesses`] for `sysfs` on its standard input and output. It is started at the first
    /// access, in its own process group, so that an interrupt typed at the terminal does not reach it in the middle of a write.
    #[must_use]
    pub fn new(sysfs: Sysfs, mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        Self {
            sysfs,
            command,
            worker: None,
            abandoned: Vec::new(),
        }
    }

    fn request(&mut self, kind: Kind, path: &Path, value: &str, limit: Duration) -> Result<String, Failure> {
        let message = encode(kind, path.strip_prefix("/").unwrap_or(path), value)?;
        let until = Instant::now() + limit;
        self.reap();
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start()?,
        };
        match worker.exchange(&message, until) {
            Ok(Reply { errno: 0, text }) => {
                self.worker = Some(worker);
                Ok(text)
            }
            Ok(Reply { errno, .. }) => {
                self.worker = Some(worker);
                Err(Failure::Errno(errno))
            }
            Err(Lost::Deadline) => {
                self.abandon(worker);
                Err(Failure::TimedOut(limit))
            }
            Err(Lost::Broken(what)) => {
                self.abandon(worker);
                Err(Failure::Worker(format!("the access process {what}")))
            }
        }
    }

    fn start(&mut self) -> Result<Worker, Failure> {
        let failed = |why: String| Failure::Worker(format!("the access process cannot be started: {why}"));
        let mut child = self.command.spawn().map_err(|e| failed(e.to_string()))?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("no pipes".to_owned()));
        };
        Ok(Worker {
            child,
            requests,
            replies,
        })
    }

    /// Kills the child and does not wait for it: in state D it dies only when the kernel lets go.
    fn abandon(&mut self, worker: Worker) {
        let mut child = worker.child;
        if child.kill().is_ok() {
            self.abandoned.push(child);
        }
    }

    fn reap(&mut self) {
        self.abandoned.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

impl Drop for WorkerAccess {
    /// An idle child blocks on its pipe and dies at once, so it can be waited for; abandoned ones are left to init.
    fn drop(&mut self) {
        if let Some(mut worker) = self.worker.take()
            && worker.child.kill().is_ok()
        {
            drop(worker.child.wait());
        }
        self.reap();
    }
}

impl Access for WorkerAccess {
    fn read(&mut self, path: &Path, limit: Duration) -> Result<String, Failure> {
        self.request(Kind::Read, path, "", limit)
    }

    fn write(&mut self, path: &Path, value: &str, limit: Duration) -> Result<(), Failure> {
        self.request(Kind::Write, path, value, limit).map(drop)
    }

    fn replace(&mut self, path: &Path, value: &str, limit: Duration) -> Result<String, Failure> {
        self.request(Kind::Replace, path, value, limit)
    }

    fn is_claimed(&mut self, path: &Path, limit: Duration) -> Result<bool, Failure> {
        match self.request(Kind::Exclusive, path, "", limit) {
            Ok(_) => Ok(false),
            Err(failure) if failure.errno() == Some(Errno::BUSY.raw_os_error()) => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    fn policy_routes(&mut self, limit: Duration) -> Result<Vec<PolicyRoutes>, Failure> {
        let text = self.request(Kind::Routes, Path::new(""), "", limit)?;
        policy::from_text(&text)
            .ok_or_else(|| Failure::Worker("the access process does not speak the protocol".to_owned()))
    }

    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure> {
        match std::fs::read_link(self.sysfs.path(path)) {
            Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure> {
        let entries = match std::fs::read_dir(self.sysfs.path(path)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, Failure>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Failure> {
        Ok(self.sysfs.path(path).try_exists()?)
    }

    fn claim(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(openat(CWD, self.sysfs.path(path), flags, Mode::empty())?)
    }
}

struct Reply {
    errno: i32,
    text: String,
}

enum Lost {
    Deadline,
    Broken(String),
}

impl Worker {
    fn exchange(&mut self, message: &[u8], until: Instant) -> Result<Reply, Lost> {
        self.requests
            .write_all(message)
            .map_err(|e| Lost::Broken(format!("takes no request: {e}")))?;
        let mut reply = Vec::new();
        loop {
            if let Some((header, text)) = reply.split_first_chunk() {
                let [e0, e1, e2, e3, l0, l1, l2, l3] = *header;
                let len = u32::from_le_bytes([l0, l1, l2, l3]);
                let is_whole = text.len() as u64 == u64::from(len);
                if len > REPLY_MAX || text.len() as u64 > u64::from(len) {
                    return Err(Lost::Broken("does not speak the protocol".to_owned()));
                }
                if is_whole {
                    return Ok(Reply {
                        errno: i32::from_le_bytes([e0, e1, e2, e3]),
                        text: String::from_utf8_lossy(text).into_owned(),
                    });
                }
            }
            self.receive(&mut reply, until)?;
        }
    }

    /// Appends what there is of a reply: most often all of it.
    fn receive(&mut self, reply: &mut Vec<u8>, until: Instant) -> Result<(), Lost> {
        let mut buffer = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match poll(&mut [PollFd::new(&self.replies, PollFlags::IN)], Some(&timespec(left))) {
                Ok(0) => return Err(Lost::Deadline),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(Lost::Broken(e.to_string())),
            }
            match self.replies.read(&mut buffer) {
                Ok(0) => return Err(Lost::Broken("has ended".to_owned())),
                Ok(n) => {
                    reply.extend(buffer.iter().take(n));
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Lost::Broken(e.to_string())),
            }
        }
    }
}

fn encode(kind: Kind, path: &Path, value: &str) -> Result<Vec<u8>, Failure> {
    let path = path.as_os_str().as_bytes();
    let (Ok(path_len), Ok(value_len)) = (u16::try_from(path.len()), u16::try_from(value.len())) else {
        return Err(Errno::TOOBIG.into());
    };
    if HEADER + path.len() + value.len() > REQUEST_MAX {
        return Err(Errno::TOOBIG.into());
    }
    let [p0, p1] = path_len.to_le_bytes();
    let [v0, v1] = value_len.to_le_bytes();
    Ok([&[kind as u8, p0, p1, v0, v1], path, value.as_bytes()].concat())
}
