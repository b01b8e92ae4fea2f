//! The one way into the fake kernel: calls are counted, named, and made to fail.

use crate::Step;
use crate::sys::Result;
use rustix::io::Errno;
use std::sync::{Mutex, PoisonError};

/// Counts calls and lets one of them fail.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    names: Vec<&'static str>,
    armed: Option<(Trigger, Errno)>,
    failed: Option<&'static str>,
}

#[derive(Debug)]
enum Trigger {
    /// After this many more calls.
    After(u32),
    /// The next call of this name.
    Name(&'static str),
}

impl Gate {
    /// A call begins.
    pub(crate) fn enter(&self, name: &'static str) -> Result<()> {
        let mut calls = self.calls();
        calls.names.push(name);
        let fails = match &mut calls.armed {
            Some((Trigger::After(0), _)) => true,
            Some((Trigger::After(count), _)) => {
                *count -= 1;
                false
            }
            Some((Trigger::Name(of), _)) => *of == name,
            None => false,
        };
        match calls.armed.take_if(|_| fails) {
            Some((_, errno)) => {
                calls.failed = Some(name);
                Err(errno)
            }
            None => Ok(()),
        }
    }

    pub(crate) fn fail_nth(&self, n: u32, errno: Errno) {
        let mut calls = self.calls();
        calls.armed = Some((Trigger::After(n), errno));
        calls.failed = None;
    }

    pub(crate) fn fail_next(&self, name: &'static str, errno: Errno) {
        let mut calls = self.calls();
        calls.armed = Some((Trigger::Name(name), errno));
        calls.failed = None;
    }

    pub(crate) fn failed(&self) -> Option<Step> {
        self.calls().failed.map(Step::from)
    }

    pub(crate) fn names(&self) -> Vec<Step> {
        self.calls().names.iter().map(|name| Step::from(*name)).collect()
    }

    pub(crate) fn forget(&self) {
        *self.calls() = Calls::default();
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
