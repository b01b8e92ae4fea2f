//! Waits for the process that runs the guest, and ends it when its time is over or a signal ends this program: a guest that stays
//! behind would keep the function.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How the process ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Itself(ExitStatus),
    /// It was killed when its time was over.
    TimedOut,
    /// It was ended because of a signal.
    Signal {
        signal: i32,
        /// It did not end when it was asked to.
        was_killed: bool,
    },
}

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT, taken from when this is made on.
#[derive(Debug)]
pub(super) struct Signals {
    /// The last one that came.
    last: Arc<AtomicUsize>,
    /// Has a byte for each that came.
    wake: UnixStream,
}

impl Signals {
    pub(super) fn watch() -> io::Result<Self> {
        let (wake, handler) = UnixStream::pair()?;
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            let number = usize::try_from(signal).map_err(io::Error::other)?;
            // In this order: who is woken finds the number.
            signal_hook::flag::register_usize(signal, Arc::clone(&last), number)?;
            signal_hook::low_level::pipe::register(signal, handler.try_clone()?)?;
        }
        Ok(Self { last, wake })
    }

    /// Takes one that came.
    fn take(&mut self) -> io::Result<i32> {
        self.wake.read_exact(&mut [0])?;
        i32::try_from(self.last.load(Ordering::Acquire)).map_err(io::Error::other)
    }
}

/// Waits for the child to end. It has ended in any case, also after an error.
pub(super) fn wait(mut child: Child, limit: Option<Duration>, signals: &mut Signals) -> io::Result<Ended> {
    let outcome = watch(&child, limit, signals);
    if !matches!(outcome, Ok(Ending::Ended | Ending::Signal(_, true))) {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(match outcome? {
        Ending::Ended => Ended::Itself(status),
        Ending::TimedOut => Ended::TimedOut,
        Ending::Signal(signal, has_ended) => Ended::Signal {
            signal,
            was_killed: !has_ended,
        },
    })
}

enum Ending {
    Ended,
    TimedOut,
    /// The signal, and whether the child has ended since.
    Signal(i32, bool),
}

fn watch(child: &Child, limit: Option<Duration>, signals: &mut Signals) -> io::Result<Ending> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    match next(&pidfd, limit, signals)? {
        Event::Ended => Ok(Ending::Ended),
        Event::Timeout => Ok(Ending::TimedOut),
        Event::Signal => {
            let signal = signals.take()?;
            pidfd_send_signal(&pidfd, Signal::TERM)?;
            // A second signal means now.
            let has_ended = matches!(next(&pidfd, Some(GRACE), signals)?, Event::Ended);
            Ok(Ending::Signal(signal, has_ended))
        }
    }
}

enum Event {
    Ended,
    Signal,
    Timeout,
}

fn next(pidfd: &OwnedFd, limit: Option<Duration>, signals: &Signals) -> io::Result<Event> {
    // A limit beyond what the clock can say is none.
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = [
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::new(&signals.wake, PollFlags::IN),
        ];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(Event::Timeout),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [child, signal] = fds;
        // The guest may have ended because of it.
        if !signal.revents().is_empty() {
            return Ok(Event::Signal);
        }
        if !child.revents().is_empty() {
            return Ok(Event::Ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::kill_process;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().unwrap()
    }

    /// Signals that only the test sends.
    fn silent() -> (Signals, UnixStream) {
        let (wake, sender) = UnixStream::pair().unwrap();
        let last = Arc::new(AtomicUsize::new(usize::try_from(SIGTERM).unwrap()));
        (Signals { last, wake }, sender)
    }

    #[test]
    fn the_status_of_the_child_is_passed_on() {
        for limit in [None, Some(Duration::from_secs(60)), Some(Duration::MAX)] {
            let status = |script| match wait(shell(script), limit, &mut silent().0).unwrap() {
                Ended::Itself(status) => (status.code(), status.signal()),
                other => panic!("{other:?}"),
            };
            assert_eq!(status("exit 7"), (Some(7), None));
            assert_eq!(status("kill -KILL $$"), (None, Some(9)));
        }
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let ended = wait(
            shell("exec sleep 600"),
            Some(Duration::from_millis(20)),
            &mut silent().0,
        );
        assert!(matches!(ended.unwrap(), Ended::TimedOut));
    }

    #[test]
    fn a_child_that_will_not_end_is_killed_at_the_second_signal() {
        let (mut signals, mut sender) = silent();
        let mut child = Command::new("sh");
        child.args(["-c", "trap '' TERM; echo ready; exec sleep 600"]);
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        sender.write_all(b"12").unwrap();
        let start = Instant::now();
        assert!(matches!(
            wait(child, None, &mut signals).unwrap(),
            Ended::Signal {
                signal: SIGTERM,
                was_killed: true
            }
        ));
        assert!(start.elapsed() < GRACE);
    }

    /// Not a check of its own: the program that the next test sends a signal to.
    #[test]
    #[expect(clippy::exit, reason = "the status is what the next test looks at")]
    fn runs_a_guest() {
        if std::env::var_os("SRIOVCTL_TEST_RUN").is_some() {
            let mut signals = Signals::watch().unwrap();
            let ended = wait(shell("echo guest $$ >&2; exec sleep 600"), None, &mut signals).unwrap();
            let Ended::Signal {
                signal,
                was_killed: false,
            } = ended
            else {
                panic!("{ended:?}")
            };
            std::process::exit(signal);
        }
    }

    #[test]
    fn a_signal_that_ends_the_program_ends_the_guest_before() {
        for (signal, number) in [
            (Signal::TERM, SIGTERM),
            (Signal::INT, SIGINT),
            (Signal::HUP, SIGHUP),
            (Signal::QUIT, SIGQUIT),
        ] {
            let mut program = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "command::run::child::tests::runs_a_guest", "--nocapture"])
                .env("SRIOVCTL_TEST_RUN", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(program.stderr.take().unwrap()).lines();
            let mut guests = lines.map_while(|line| line.unwrap().strip_prefix("guest ").map(str::to_owned));
            let guest = Path::new("/proc").join(guests.next().unwrap());
            assert!(guest.exists());
            kill_process(Pid::from_child(&program), signal).unwrap();
            assert_eq!(program.wait().unwrap().code(), Some(number));
            assert!(!guest.exists(), "{number}");
        }
    }
}
