//! What a command reports when it cannot do its job: the facts of the error shape, before any formatting.

use crate::exit::Exit;
use pci::Bdf;
use sriov::Holder;
use std::io;
use std::ops::{Deref, DerefMut};

mod from_sriov;

/// An unsuccessful end.
#[derive(Debug)]
pub(crate) struct Failure(Box<Facts>);

/// What is known about a failure.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The stable code that `explain` knows.
    pub(crate) code: Option<&'static str>,
    /// The function concerned.
    pub(crate) device: Option<Bdf>,
    /// The step, as the kernel spells it.
    pub(crate) step: Option<String>,
    /// The kind, in snake case.
    pub(crate) kind: &'static str,
    /// What went wrong; does not repeat device and step.
    pub(crate) message: String,
    /// What lies behind it, nearest first.
    pub(crate) causes: Vec<String>,
    /// Who is in the way.
    pub(crate) held_by: Vec<Holder>,
    /// What the user can do about it.
    pub(crate) fix: Option<String>,
    /// Names that look like what was asked for, and other help.
    pub(crate) hints: Vec<String>,
}

/// The result of a command: how the process ends, or why it failed.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, kind: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Facts {
            exit,
            code: None,
            device: None,
            step: None,
            kind,
            message: message.into(),
            causes: Vec::new(),
            held_by: Vec::new(),
            fix: None,
            hints: Vec::new(),
        }))
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, "internal", message).fix("please report this as a defect of sriovctl")
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn device(mut self, device: Bdf) -> Self {
        self.device = Some(device);
        self
    }

    pub(crate) fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    pub(crate) fn causes(mut self, causes: impl IntoIterator<Item = String>) -> Self {
        self.causes.extend(causes);
        self
    }

    pub(crate) fn held_by(mut self, holders: Vec<Holder>) -> Self {
        self.held_by = holders;
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Whether standard output is gone, so that there is nobody to tell.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.exit == Exit::BrokenPipe
    }
}

impl Deref for Failure {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.0
    }
}

/// A failure to write the result: the only place where a bare [`io::Error`] becomes a [`Failure`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::BrokenPipe, "broken_pipe", "standard output was closed")
        } else {
            Self::new(Exit::Failed, "output", error.to_string()).step("write standard output")
        }
    }
}

impl From<pci::Error> for Failure {
    fn from(error: pci::Error) -> Self {
        let (exit, kind) = match error.kind {
            pci::ErrorKind::NoPciBus(_) => (Exit::Failed, "no_pci_bus"),
            pci::ErrorKind::Denied => (Exit::Denied, "denied"),
            pci::ErrorKind::OutsideRoot(_) => (Exit::Usage, "outside_root"),
            pci::ErrorKind::Syntax { .. } => (Exit::Failed, "syntax"),
            _ => (Exit::Failed, "io"),
        };
        let fix = error.fix();
        let mut failure = Self::new(exit, kind, error.kind.to_string()).step(error.step);
        failure.device = error.device;
        failure.fix = fix.map(str::to_owned);
        failure
    }
}
