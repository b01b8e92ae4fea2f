//! Where a running machine keeps its disks and logs: a directory that goes away with the process, also when a signal ends it.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::thread;

/// The beginning of the names of this process's directories: whoever takes a signal knows them by it.
fn prefix() -> String {
    format!("sriovctl-lab-{}-", std::process::id())
}

/// Makes one. Dropping it removes it.
pub(crate) fn make() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(&prefix()).tempdir()
}

/// From now on SIGINT, SIGTERM and SIGHUP remove this process's directories before they end it. QEMU ends with it.
///
/// # Errors
/// When signals cannot be taken.
pub fn remove_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("take signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            remove_all();
            // The process ends as if it had never taken the signal; where that fails the next one is tried.
            drop(signal_hook::low_level::emulate_default_handler(signal));
        }
    });
    Ok(())
}

/// Best effort: there is nobody left to tell.
fn remove_all() {
    let prefix = prefix();
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// Not a check of its own: the process that the next test sends a signal to.
    #[test]
    #[expect(clippy::print_stderr, reason = "how the next test learns the path")]
    fn has_a_scratch_directory() {
        if std::env::var_os("LAB_TEST_SCRATCH").is_some() {
            remove_on_signals().unwrap();
            let scratch = make().unwrap();
            std::fs::File::create(scratch.path().join("disk")).unwrap();
            eprintln!("scratch {}", scratch.path().display());
            loop {
                thread::park();
            }
        }
    }

    #[test]
    fn a_signal_leaves_no_scratch_directory_behind() {
        let others = make().unwrap();
        for (signal, number) in [(Signal::TERM, SIGTERM), (Signal::INT, SIGINT), (Signal::HUP, SIGHUP)] {
            let mut lab = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "scratch::tests::has_a_scratch_directory", "--nocapture"])
                .env("LAB_TEST_SCRATCH", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(lab.stderr.take().unwrap()).lines();
            let mut paths = lines.map_while(|line| line.unwrap().strip_prefix("scratch ").map(str::to_owned));
            let path = paths.next().unwrap();
            assert!(Path::new(&path).join("disk").exists());
            kill_process(Pid::from_child(&lab), signal).unwrap();
            assert_eq!(lab.wait().unwrap().signal(), Some(number));
            assert!(!Path::new(&path).exists(), "{number}");
        }
        assert!(others.path().exists());
    }
}
