//! An interrupt from the keyboard ends a change like any other failure: the step fails, and what was done is undone.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use sriov::{Access, Failure, PolicyRoutes};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether SIGINT, SIGTERM or SIGHUP came. A second one ends the process at once; the journal then tells what to undo.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes the signals from now on.
    pub(super) fn watch() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag unset, the second one set.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&came))?;
            signal_hook::flag::register(signal, Arc::clone(&came))?;
        }
        Ok(Self { came })
    }

    pub(super) fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}

/// Access that fails once after an interrupt, and serves the undoing that follows.
#[derive(Debug)]
pub(super) struct Interruptible<A> {
    inner: A,
    interrupt: Option<Interrupt>,
}

impl<A: Access> Interruptible<A> {
    pub(super) fn new(inner: A, interrupt: Interrupt) -> Self {
        let interrupt = Some(interrupt);
        Self { inner, interrupt }
    }

    fn check(&mut self) -> Result<(), Failure> {
        match self.interrupt.take_if(|interrupt| interrupt.came()) {
            Some(_) => Err(Failure::Errno(rustix::io::Errno::INTR.raw_os_error())),
            None => Ok(()),
        }
    }
}

impl<A: Access> Access for Interruptible<A> {
    fn read(&mut self, path: &Path, limit: Duration) -> Result<String, Failure> {
        self.check()?;
        self.inner.read(path, limit)
    }

    fn write(&mut self, path: &Path, value: &str, limit: Duration) -> Result<(), Failure> {
        self.check()?;
        self.inner.write(path, value, limit)
    }

    fn replace(&mut self, path: &Path, value: &str, limit: Duration) -> Result<String, Failure> {
        self.check()?;
        self.inner.replace(path, value, limit)
    }

    fn is_claimed(&mut self, path: &Path, limit: Duration) -> Result<bool, Failure> {
        self.check()?;
        self.inner.is_claimed(path, limit)
    }

    fn policy_routes(&mut self, limit: Duration) -> Result<Vec<PolicyRoutes>, Failure> {
        self.check()?;
        self.inner.policy_routes(limit)
    }

    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure> {
        self.check()?;
        self.inner.link(path)
    }

    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure> {
        self.check()?;
        self.inner.names(path)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Failure> {
        self.check()?;
        self.inner.exists(path)
    }

    /// Changes nothing by itself: the write that it is for takes the interrupt.
    fn claim(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        self.inner.claim(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Access for Nothing {
        fn read(&mut self, _: &Path, _: Duration) -> Result<String, Failure> {
            Ok(String::new())
        }
        fn write(&mut self, _: &Path, _: &str, _: Duration) -> Result<(), Failure> {
            Ok(())
        }
        fn is_claimed(&mut self, _: &Path, _: Duration) -> Result<bool, Failure> {
            Ok(false)
        }
        fn policy_routes(&mut self, _: Duration) -> Result<Vec<PolicyRoutes>, Failure> {
            Ok(Vec::new())
        }
        fn link(&mut self, _: &Path) -> Result<Option<String>, Failure> {
            Ok(None)
        }
        fn names(&mut self, _: &Path) -> Result<Vec<String>, Failure> {
            Ok(Vec::new())
        }
        fn exists(&mut self, _: &Path) -> Result<bool, Failure> {
            Ok(true)
        }
        fn claim(&mut self, _: &Path) -> Result<OwnedFd, Failure> {
            Ok(std::fs::File::open("/dev/null")?.into())
        }
    }

    #[test]
    fn one_access_fails_after_an_interrupt_and_the_undoing_does_not() {
        let interrupt = Interrupt {
            came: Arc::new(AtomicBool::new(false)),
        };
        let mut access = Interruptible::new(Nothing, interrupt.clone());
        assert!(access.exists(Path::new("x")).is_ok());
        interrupt.came.store(true, Ordering::Relaxed);
        // A claim does not use it up before the write that it is for.
        assert!(access.claim(Path::new("x")).is_ok());
        assert!(access.write(Path::new("x"), "1", Duration::ZERO).is_err());
        assert!(access.write(Path::new("x"), "0", Duration::ZERO).is_ok());
    }
}
