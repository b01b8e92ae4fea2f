//! What was changed and how it was before: one append-only file of JSON lines per operation.
//!
//! [`Journal`] is the directory, [`Operation`](crate::Operation) one file read back. A line says what is about to happen before it happens (`intent`,
//! with the former state) and that it has (`done`, `undone`), so that after `kill -9` at any point the files tell what to restore.
//! Only lines that end in a newline count; a torn last line is what was being written when the process died, and the access
//! that it announces had not begun.
//!
//! Nothing is flushed to a disk: the journal lies in `/run`. A killed process leaves its lines in the page cache, and a
//! power cut that loses them also returns sysfs to its first state.

use crate::lock::create_private_dir;
use crate::operation::Record;
use crate::{Error, ErrorKind, Failure, Former, Operation, Plan, Status};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory of operations. It holds command lines and is for root alone.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
}

/// Finished operations beyond this many are forgotten, oldest first: `/run` is memory.
const KEPT: usize = 100;

impl Journal {
    /// The journal in `directory`, which need not exist yet.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// All operations, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`]; [`ErrorKind::Malformed`] for a file that is not the journal's.
    pub fn operations(&self) -> Result<Vec<Operation>, Error> {
        let ids = self.ids()?;
        let read = ids.into_iter().map(|id| self.read(id)).filter_map(Result::transpose);
        read.map(|result| result.map(|(operation, _)| operation)).collect()
    }

    /// The operation `id`, or without one the newest that can be undone.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchOperation`], and those of [`operations`](Self::operations).
    pub fn operation(&self, id: Option<u64>) -> Result<Operation, Error> {
        self.find(id).map(|(operation, _)| operation)
    }

    /// The newest operation that is neither done nor undone. Whoever has the lock knows that nobody works on it any more.
    ///
    /// # Errors
    /// As [`operations`](Self::operations).
    pub fn unfinished(&self) -> Result<Option<Operation>, Error> {
        for id in self.ids()?.into_iter().rev() {
            if !self.is_finished(id)?
                && let Some((operation, _)) = self.read(id)?
                && operation.status == Status::Unfinished
            {
                return Ok(Some(operation));
            }
        }
        Ok(None)
    }

    /// Takes note that the machine is to stay as operation `id` left it: it no longer blocks others, and is not undone by default.
    ///
    /// # Errors
    /// As [`operation`](Self::operation).
    pub fn abandon(&self, id: u64) -> Result<(), Error> {
        let mut recorder = self.resume(Some(id))?;
        match recorder.operation().status {
            Status::Unfinished | Status::Done => recorder.end(Status::Abandoned),
            Status::Undone | Status::Abandoned => Ok(()),
        }
    }

    /// Begins an operation.
    pub(crate) fn begin(&self, command: &str, plan: &Plan) -> Result<Recorder, Error> {
        create_private_dir(&self.directory)?;
        let ids = self.ids()?;
        self.forget_old(&ids)?;
        let id = ids.last().map_or(1, |last| last.saturating_add(1));
        let path = self.path(id);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, e))?;
        let begin = Record::Begin {
            id,
            time: now(),
            command: command.to_owned(),
            steps: plan.steps.clone(),
        };
        let Some(operation) = Operation::begin(begin.clone()) else {
            return Err(malformed(&path, ""));
        };
        let mut recorder = Recorder {
            path,
            file,
            len: 0,
            operation,
        };
        recorder.append(&begin)?;
        Ok(recorder)
    }

    /// Continues the operation `id`, or without one the newest that can be undone.
    pub(crate) fn resume(&self, id: Option<u64>) -> Result<Recorder, Error> {
        let (operation, len) = self.find(id)?;
        let path = self.path(operation.id);
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|e| failed(&path, e))?;
        // A torn line must not become the beginning of the next one.
        file.set_len(len).map_err(|e| failed(&path, e))?;
        Ok(Recorder {
            path,
            file,
            len,
            operation,
        })
    }

    fn find(&self, id: Option<u64>) -> Result<(Operation, u64), Error> {
        let none = || Error::new(None, "journal", ErrorKind::NoSuchOperation { operation: id });
        if let Some(id) = id {
            return self.read(id)?.ok_or_else(none);
        }
        for id in self.ids()?.into_iter().rev() {
            if let Some(found) = self.read(id)?
                && matches!(found.0.status, Status::Unfinished | Status::Done)
            {
                return Ok(found);
            }
        }
        Err(none())
    }

    fn path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id:06}.jsonl"))
    }

    fn ids(&self) -> Result<Vec<u64>, Error> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(&self.directory, e)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| failed(&self.directory, e))?.file_name();
            ids.extend(
                name.to_str()
                    .and_then(|name| name.strip_suffix(".jsonl")?.parse::<u64>().ok()),
            );
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The operation and the length of its whole lines; `None` when there is no such file, or it died before its first line was
    /// whole, and so before it changed anything.
    fn read(&self, id: u64) -> Result<Option<(Operation, u64)>, Error> {
        let path = self.path(id);
        let mut text = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&path, e)),
        }
        let mut len = 0;
        let mut operation = None::<Operation>;
        for line in text
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
        {
            len += line.len() as u64;
            let bad = || malformed(&path, &String::from_utf8_lossy(line));
            let record = serde_json::from_slice(line).map_err(|_syntax| bad())?;
            match &mut operation {
                None => operation = Some(Operation::begin(record).filter(|o| o.id == id).ok_or_else(bad)?),
                Some(operation) => operation.follow(record).ok_or_else(bad)?,
            }
        }
        Ok(operation.map(|operation| (operation, len)))
    }

    /// Whether the last line ends the operation, without reading the others.
    fn is_finished(&self, id: u64) -> Result<bool, Error> {
        let path = self.path(id);
        let tail = || {
            let mut file = File::open(&path)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(128)))?;
            let mut tail = Vec::new();
            file.take(128).read_to_end(&mut tail)?;
            Ok(tail)
        };
        let tail = tail().map_err(|e| failed(&path, e))?;
        let Some(whole) = tail.strip_suffix(b"\n") else {
            return Ok(false);
        };
        let last = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(matches!(serde_json::from_slice(last), Ok(Record::End { .. })))
    }

    fn forget_old(&self, ids: &[u64]) -> Result<(), Error> {
        let surplus = (ids.len() + 1).saturating_sub(KEPT);
        for id in ids.iter().take(surplus) {
            if self.is_finished(*id)? {
                let path = self.path(*id);
                std::fs::remove_file(&path).map_err(|e| failed(&path, e))?;
            }
        }
        Ok(())
    }
}

/// An operation whose lines are being written.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    file: File,
    /// Of its whole lines, which nobody else writes.
    len: u64,
    operation: Operation,
}

impl Recorder {
    pub(crate) fn operation(&self) -> &Operation {
        &self.operation
    }

    pub(crate) fn intent(&mut self, step: usize, former: Former) -> Result<(), Error> {
        self.record(Record::Intent { step, former })
    }

    pub(crate) fn done(&mut self, step: usize) -> Result<(), Error> {
        self.record(Record::Done { step })
    }

    pub(crate) fn undo(&mut self) -> Result<(), Error> {
        self.record(Record::Undo)
    }

    pub(crate) fn undone(&mut self, step: usize) -> Result<(), Error> {
        self.record(Record::Undone { step })
    }

    pub(crate) fn end(&mut self, status: Status) -> Result<(), Error> {
        let time = Some(now());
        self.record(Record::End { status, time })
    }

    fn record(&mut self, record: Record) -> Result<(), Error> {
        self.append(&record)?;
        self.operation.follow(record).ok_or_else(|| malformed(&self.path, ""))
    }

    /// One line in one `write(2)`; all of it or, where there is no room, nothing: a torn line would become the beginning of the next one.
    fn append(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record).map_err(|e| failed(&self.path, e.into()))?;
        line.push(b'\n');
        let appended = self.file.write_all(&line).or_else(|error| {
            self.file.set_len(self.len)?;
            Err(error)
        });
        appended.map_err(|e| failed(&self.path, e))?;
        self.len += line.len() as u64;
        Ok(())
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::new(None, format!("journal {}", path.display()), Failure::from(error).into())
}

fn malformed(path: &Path, line: &str) -> Error {
    let kind = ErrorKind::Malformed {
        path: path.to_owned(),
        found: line.chars().take(80).collect(),
    };
    Error::new(None, "journal", kind)
}
