//! A VMM that runs: what it says, and its memory.

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use system_tests::machine::read;

/// A guest inside an emulated machine takes some ten seconds.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Mappings as large as this are the guest's memory: it has 512 MiB, in one piece.
const RAM: u64 = 256 << 20;
pub(super) const CONTROL: &str = "/tmp/bench-control";

/// A VMM that runs.
pub(super) struct Vmm {
    child: Child,
    lines: Receiver<String>,
    /// What it said so far.
    said: String,
}

impl Vmm {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        // One that was killed leaves it behind.
        drop(std::fs::remove_file(CONTROL));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let stdout = child.stdout.take().context("no output")?;
        let (to, lines) = channel();
        std::thread::spawn(move || pass(stdout, |line| to.send(line).is_ok()));
        Ok(Self {
            child,
            lines,
            said: String::new(),
        })
    }

    /// The first line from here on that has this in it.
    pub(super) fn wait_for(&mut self, text: &str, deadline: Instant) -> Result<String> {
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => self.said += &line,
                Err(RecvTimeoutError::Timeout) => anyhow::bail!("no {text:?} in {} s: {}", LIMIT.as_secs(), self.said),
                Err(RecvTimeoutError::Disconnected) => {
                    let mut why = String::new();
                    if let Some(mut stderr) = self.child.stderr.take() {
                        stderr.read_to_string(&mut why)?;
                    }
                    anyhow::bail!("it ended: {}{why}", self.said)
                }
            }
        }
    }

    /// MiB of its processes, shared pages in parts, without the guest's memory.
    pub(super) fn memory(&self) -> Result<f64> {
        let mut kib = 0;
        for process in family(self.child.id())? {
            kib += beside(&read(format!("/proc/{process}/smaps"))?);
        }
        Ok(f64::from(u32::try_from(kib)?) / 1024.0)
    }

    /// Kills it, and waits for the end of each of its processes: those that hold devices give them back, after a reset of each, long after they
    /// have closed their output.
    pub(super) fn end(mut self) -> Result<()> {
        let processes = family(self.child.id())?.into_iter().filter_map(opened);
        let processes: Vec<OwnedFd> = processes.collect();
        self.child.kill()?;
        self.child.wait()?;
        let limit = Timespec::try_from(LIMIT)?;
        for process in &processes {
            let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit))?;
            ensure!(ended == 1, "it does not end");
        }
        Ok(())
    }
}

/// Nothing if it has ended.
fn opened(process: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(process.try_into().ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn pass(stdout: ChildStdout, mut to: impl FnMut(String) -> bool) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    while stdout.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if !to(String::from_utf8_lossy(&line).into_owned()) {
            return;
        }
        line.clear();
    }
}

/// A process, and those that it started.
fn family(process: u32) -> Result<BTreeSet<u32>> {
    let mut family = BTreeSet::from([process]);
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = read(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            Some((number, parent.trim().parse().ok()?))
        })
        .collect();
    loop {
        let children = parents
            .iter()
            .filter(|(_, parent)| family.contains(parent))
            .map(|(number, _)| *number);
        let children: Vec<u32> = children.filter(|number| !family.contains(number)).collect();
        if children.is_empty() {
            return Ok(family);
        }
        family.extend(children);
    }
}

/// KiB of a process that are in memory, each page by the part that it has in it, without mappings as large as the guest's memory.
fn beside(smaps: &str) -> u64 {
    let (mut sum, mut size) = (0, 0);
    let kib = |text: &str| {
        text.split_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0)
    };
    for line in smaps.lines() {
        if let Some(text) = line.strip_prefix("Size:") {
            size = kib(text);
        } else if let Some(text) = line.strip_prefix("Pss:")
            && size << 10 < RAM
        {
            sum += kib(text);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "7f00-7f01 rw-p 0 0:0 0 [heap]\nSize:    132 kB\nRss:  99 kB\nPss:      12 kB\nPss_Dirty:  3 kB\n\
            7e00-7f00 rw-s 0 0:0 0 /memfd:guest (deleted)\nSize: 524288 kB\nPss:   200000 kB\n\
            7d00-7e00 r-xp 0 0:0 0 /bin/vmm\nSize:  4096 kB\nPss:    1000 kB\n";
        assert_eq!(beside(smaps), 1012);
    }
}
