//! Waits for functions that the kernel has not let go of yet.
//!
//! A process that was killed has no files any more, for those who look, while the kernel still closes them: a function is reset then, which takes as long as the
//! device does. Whether somebody has it is what its group says, which opens only once, and not while a function of it is open.

use super::Given;
use crate::command::ready;
use crate::failure::Failure;
use crate::output::Output;
use crate::snapshot::Snapshot;
use pci::Sysfs;
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use sriov::{Holder, Holders};
use std::fs::File;
use std::time::{Duration, Instant};

/// For all functions together: resets take up to 100 ms each (PCIe 6.0 §6.6.2).
const PATIENCE: Duration = Duration::from_secs(2);
/// A group that can be opened again tells nobody.
const AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Until nobody has a function, or somebody is found who does.
pub(super) fn wait(
    functions: &[Given],
    snapshot: &Snapshot,
    sysfs: &Sysfs,
    output: &mut Output,
) -> Result<(), Failure> {
    let start = Instant::now();
    for given in functions {
        let node = format!("/dev/vfio/{}", given.group.0);
        let mut is_busy = || {
            let opened = File::options().read(true).write(true).open(&node);
            // All else is said by who needs it.
            opened.is_err_and(|error| error.raw_os_error() == Some(Errno::BUSY.raw_os_error()))
        };
        let mut holders = || {
            let group = snapshot.topology.group(given.group);
            group.map_or_else(Vec::new, |group| ready::holders(&Holders::scan(sysfs), group))
        };
        let mut pause = || {
            // An error is an interruption, which only makes the pause shorter.
            let _interrupted = poll(&mut [], Some(&AGAIN)).is_err();
            start.elapsed() < PATIENCE
        };
        match until_free(&mut is_busy, &mut holders, &mut pause) {
            Ok(false) => {}
            Ok(true) => output.note(format_args!(
                "{}: was held by a process that has ended: the kernel took {} ms more to let go of it",
                given.bdf,
                start.elapsed().as_millis()
            )),
            Err(held_by) => return Err(ready::held(given.bdf, "run", held_by)),
        }
    }
    Ok(())
}

/// Whether it had to wait; an error has those who hold it, and is empty when the wait was in vain. `pause` says whether to go on.
fn until_free(
    is_busy: &mut dyn FnMut() -> bool,
    holders: &mut dyn FnMut() -> Vec<Holder>,
    pause: &mut dyn FnMut() -> bool,
) -> Result<bool, Vec<Holder>> {
    let mut has_waited = false;
    while is_busy() {
        let found = holders();
        // Who is found may have let go of it while the others were looked at.
        if !found.is_empty() && is_busy() {
            return Err(found);
        }
        has_waited = true;
        if !pause() {
            return Err(Vec::new());
        }
    }
    Ok(has_waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder {
            function: None,
            pid: 7,
            command: "qemu".to_owned(),
            command_line: String::new(),
            path: "/dev/vfio/7".into(),
        }
    }

    /// Busy so many times, with a holder found from that look on, and so many pauses before patience is over.
    fn tried(busy: usize, found_at: usize, pauses: usize) -> (Result<bool, Vec<Holder>>, usize) {
        let (mut tries, mut looks, mut slept) = (0, 0, 0);
        let result = until_free(
            &mut || {
                tries += 1;
                tries <= busy
            },
            &mut || {
                looks += 1;
                if looks > found_at { vec![holder()] } else { Vec::new() }
            },
            &mut || {
                slept += 1;
                slept < pauses
            },
        );
        (result, slept)
    }

    #[test]
    fn what_nobody_holds_is_not_waited_for() {
        assert_eq!(tried(0, 0, 10), (Ok(false), 0));
    }

    #[test]
    fn what_a_process_that_has_ended_held_is_waited_for_up_to_a_limit() {
        assert_eq!(tried(3, usize::MAX, 10), (Ok(true), 3));
        assert_eq!(tried(usize::MAX, usize::MAX, 10), (Err(Vec::new()), 10));
    }

    #[test]
    fn what_a_living_process_holds_is_refused_at_once() {
        assert_eq!(tried(usize::MAX, 0, 10), (Err(vec![holder()]), 0));
        assert_eq!(
            tried(usize::MAX, 2, 10),
            (Err(vec![holder()]), 2),
            "one that came meanwhile"
        );
        assert_eq!(tried(1, 0, 10), (Ok(true), 1), "it has let go");
    }
}
