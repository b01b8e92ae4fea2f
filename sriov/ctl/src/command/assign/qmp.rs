//! QEMU's machine protocol: requests, answers and events, each one line of JSON.
//!
//! Follows QEMU `docs/interop/qmp-spec.rst`. Answers are told apart by their id; events that come between them are kept.

use super::wire::Wire;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

/// Most events that are kept; older ones go.
const EVENTS: usize = 1024;

/// Why there is no result.
#[derive(Debug)]
pub(super) enum Problem {
    /// The connection: it broke, or no answer came in time.
    Wire(io::Error),
    /// What came is not of this protocol; says what is missing.
    Malformed(&'static str),
    /// QEMU's own answer.
    Refused(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Wire(error)
    }
}

/// An event.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Event {
    #[serde(rename = "event")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) data: Value,
}

/// A connection whose commands are accepted.
#[derive(Debug)]
pub(super) struct Qmp {
    wire: Wire,
    last: u64,
    events: VecDeque<Event>,
}

impl Qmp {
    /// Connects and takes what QEMU offers.
    pub(super) fn connect(path: &Path, deadline: Instant) -> Result<Self, Problem> {
        let mut wire = Wire::connect(path, deadline)?;
        // QEMU serves one at a time: another one's connection shows as silence.
        let greeting: Value = parse(&wire.line()?)?;
        if greeting.get("QMP").is_none() {
            return Err(Problem::Malformed("it does not greet as QEMU does"));
        }
        let mut qmp = Self {
            wire,
            last: 0,
            events: VecDeque::new(),
        };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// The process that answers.
    pub(super) fn peer(&self) -> Option<u32> {
        self.wire.peer()
    }

    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Problem> {
        self.execute_with(command, arguments, None)
    }

    /// Executes a command that takes a descriptor.
    pub(super) fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, Problem> {
        self.last = self.last.wrapping_add(1);
        let mut request = request(command, arguments);
        if let Some(request) = request.as_object_mut() {
            request.insert("id".to_owned(), self.last.into());
        }
        let mut line = request.to_string().into_bytes();
        line.push(b'\n');
        self.wire.send(&line, file)?;
        loop {
            let mut message = self.message()?;
            // An error in what could not even be parsed has no id.
            let is_ours = message.get("id").is_none_or(|id| *id == self.last);
            if !is_ours {
                continue;
            }
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let said = error.get("desc").and_then(Value::as_str);
                return Err(Problem::Refused(said.unwrap_or("it does not say why").to_owned()));
            }
        }
    }

    /// Waits for an event.
    pub(super) fn event(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Result<Event, Problem> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(event);
                }
            }
            self.message()?;
        }
    }

    /// The next message; an event is also kept.
    fn message(&mut self) -> Result<Value, Problem> {
        let message: Value = parse(&self.wire.line()?)?;
        if message.get("event").is_some()
            && let Ok(event) = Event::deserialize(&message)
        {
            if self.events.len() >= EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
        Ok(message)
    }
}

/// A command as it is sent, but for its id.
pub(super) fn request(command: &str, arguments: Value) -> Value {
    let mut request = serde_json::Map::from_iter([("execute".to_owned(), command.into())]);
    if arguments.as_object().is_none_or(|arguments| !arguments.is_empty()) {
        request.insert("arguments".to_owned(), arguments);
    }
    request.into()
}

fn parse(line: &[u8]) -> Result<Value, Problem> {
    let value: Value = serde_json::from_slice(line).map_err(|_error| Problem::Malformed("it does not speak JSON"))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(Problem::Malformed("it does not send objects")),
    }
}
