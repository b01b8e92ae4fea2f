//! `kill -9` at every step, and what `undo` makes of it.

use crate::PASSED;
use crate::machine::{Snapshot, done, physical_function, sriovctl};
use anyhow::{Context, Result, bail, ensure};
use lab::case::Outcome;
use rustix::event::{Timespec, poll};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const JOURNAL: &str = "/run/sriovctl/journal";

/// Starts a change and kills it as soon as its journal has `lines` lines. Whether it was killed, that is, had not ended before.
fn killed_after(arguments: &[&str], journal: &dyn Fn() -> Option<PathBuf>, lines: usize) -> Result<bool> {
    let mut child = Command::new("sriovctl")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    while child.try_wait()?.is_none() {
        if journal().is_some_and(|path| lines_of(&path) >= lines) {
            return kill(child);
        }
        poll(
            &mut [],
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 50_000,
            }),
        )?;
    }
    let ended = child.wait_with_output()?;
    ensure!(
        ended.status.success(),
        "sriovctl {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(false)
}

fn kill(mut child: Child) -> Result<bool> {
    child.kill()?;
    Ok(child.wait()?.code().is_none())
}

fn lines_of(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

/// Whether the operation came to its end before it was killed.
fn has_ended(journal: &Path) -> bool {
    std::fs::read(journal).is_ok_and(|bytes| {
        String::from_utf8_lossy(&bytes)
            .lines()
            .any(|line| line.contains("\"end\""))
    })
}

fn operations() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(JOURNAL).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    paths.sort();
    paths
}

pub(crate) fn killed_at_every_step() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let before = Snapshot::take()?;
    let create = ["vf", "create", &pf, "2", "--driver", "vfio-pci"];
    for lines in 1..200 {
        // By name: how many there are stays the same once the oldest are let go.
        let known = operations().pop();
        let newest = || operations().pop().filter(|path| Some(path) != known.as_ref());
        if !killed_after(&create, &newest, lines)? {
            // It was faster than the kill: every step has had its turn.
            ensure!(lines > 8, "it ended by itself before line {lines}");
            done(&["undo"])?;
            before
                .must_equal(&Snapshot::take()?)
                .context("after the operation that was not killed")?;
            return PASSED;
        }
        let journal = newest().context("no journal")?;
        let again = sriovctl(&create)?;
        ensure!(
            again.code != 0 || has_ended(&journal),
            "a change begins while that of {} is unfinished",
            journal.display()
        );
        done(&["undo"])?;
        before
            .must_equal(&Snapshot::take()?)
            .with_context(|| format!("killed after {lines} lines of the journal"))?;
    }
    bail!("200 lines and no end")
}

pub(crate) fn killed_while_undoing() -> Result<Outcome> {
    let pf = physical_function("nvme")?;
    let before = Snapshot::take()?;
    let mut kills = 0;
    for more in 1..6 {
        done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
        let newest = operations().pop().context("no journal")?;
        let lines = lines_of(&newest) + more;
        // Named, since the first undo may come to its end before the kill, and the next would be of an earlier operation.
        let id = newest.file_stem().context("no name")?.to_string_lossy();
        let id = id.trim_start_matches('0');
        kills += u32::from(killed_after(&["undo", id], &|| Some(newest.clone()), lines)?);
        done(&["undo", id])?;
        before
            .must_equal(&Snapshot::take()?)
            .with_context(|| format!("undo killed after {more} lines"))?;
    }
    ensure!(kills > 0, "every undo came to its end before it was killed");
    PASSED
}
