//! The hidden command in which this program serves its own accesses to files that can block.

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::request::Settings;
use pci::Sysfs;
use std::io;
use std::process::Command;

/// Its name on the command line.
pub(crate) const NAME: &str = "access-worker";

/// Serves until end of file.
pub(crate) fn run(settings: &Settings) -> Outcome {
    // Not through Output: this standard output belongs to the parent and carries replies.
    sriov::serve_accesses(&settings.sysfs, io::stdin().lock(), io::stdout().lock())?;
    Ok(Exit::Ok)
}

/// Starts this program again as a worker for that root.
pub(super) fn command(sysfs: &Sysfs) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(NAME);
    if !sysfs.is_host() {
        command.arg("--sysroot").arg(sysfs.root());
    }
    command
}
