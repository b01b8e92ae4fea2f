//! Programs that run while a test does something else.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A program that runs meanwhile. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    /// What both of its outputs say.
    said: File,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

impl Background {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let said = tempfile::tempfile()?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, said })
    }

    pub(crate) fn said(&self) -> Result<String> {
        let len = self.said.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(len)?];
        std::os::unix::fs::FileExt::read_exact_at(&self.said, &mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.said()?.contains(text) {
            let ended = self.child.try_wait()?;
            ensure!(
                ended.is_none(),
                "it has ended without {text:?}, {ended:?}: {}",
                self.said()?
            );
            ensure!(Instant::now() < deadline, "it does not say {text:?}: {}", self.said()?);
            pause()?;
        }
        Ok(())
    }

    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("its input is closed")?;
        input.write_all(text.as_bytes())?;
        Ok(())
    }

    pub(crate) fn close_input(&mut self) {
        self.child.stdin = None;
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Lets it end by itself.
    pub(crate) fn end(mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let (code, said) = (status.code(), self.said()?);
                return Ok(Ended { code, said });
            }
            ensure!(Instant::now() < deadline, "it does not end: {}", self.said()?);
            pause()?;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only when it has ended and been reaped already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Lets others run, between two looks.
pub(crate) fn pause() -> Result<()> {
    let while_ = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    rustix::event::poll(&mut [], Some(&while_))?;
    Ok(())
}
