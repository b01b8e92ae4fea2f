//! The hidden command that becomes the process of a guest, which the kernel ends together with the program that started it, however
//! that one ends: a guest that stays behind would keep the function.
//!
//! QEMU can do so itself only from 10.2 on (`-run-with exit-with-parent=on`), and would refuse to be sent to the background. Follows
//! `PR_SET_PDEATHSIG` of `prctl(2)`: it is kept when another program is executed, except one with capabilities or another user's rights, and lost by
//! a process that changes its user, and by a child. So QEMU is neither let change its user nor go to the background, and a script in its place must
//! execute it (`exec`): what it starts beside itself stays when it is killed.

use crate::args::Guest;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Its name on the command line.
pub(crate) const NAME: &str = "guest-process";

/// Executes the program in place of this one.
pub(crate) fn run(guest: &Guest) -> Outcome {
    let refused = |errno: rustix::io::Errno| Failure::internal(format!("cannot follow the parent: {errno}"));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused)?;
    // It may have ended before that.
    if getppid().map(Pid::as_raw_pid) != Some(guest.parent) {
        let failure = Failure::new(Exit::Failed, "qemu", "the program that wanted the guest has ended");
        return Err(failure.step(format!("start {}", guest.program.display())));
    }
    let error = Command::new(&guest.program).args(&guest.arguments).exec();
    Err(failed(&guest.program, &error))
}

/// What starts the program, so that it ends with this process.
///
/// # Errors
///
/// When the program is not there, or may not be executed: later there is only an exit code to tell.
pub(super) fn command(program: &Path, arguments: &[OsString]) -> Result<Command, Failure> {
    find(program).map_err(|error| failed(program, &error))?;
    let mut command = Command::new("/proc/self/exe");
    command.args([NAME, &std::process::id().to_string(), "--"]);
    command.arg(program).args(arguments);
    Ok(command)
}

/// Refuses arguments of QEMU with which it would not end with this process.
///
/// # Errors
///
/// [`Exit::Usage`] for those that fork it or change its user.
pub(super) fn check(arguments: &[OsString]) -> Result<(), Failure> {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    for (at, word) in words.iter().enumerate() {
        let value = words.get(at + 1).map_or("", |value| value);
        // QEMU takes both. A comma that is doubled is part of a value.
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let what = match name {
            Some("daemonize") => "-daemonize",
            Some("runas") => "-runas",
            Some("run-with") if value.replace(",,", "").split(',').any(|part| part.starts_with("user=")) => {
                "-run-with user="
            }
            _ => continue,
        };
        let failure = Failure::usage(format!(
            "with {what} the guest could outlive this program, and keep the function"
        ));
        return Err(failure.fix("leave it out; to run QEMU in your own way, take the arguments of sriovctl emit"));
    }
    Ok(())
}

/// Looks for a program as `execvp(3)` does.
fn find(program: &Path) -> io::Result<()> {
    let check = |path: &Path| access(path, Access::EXEC_OK).map_err(io::Error::from);
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return check(program);
    }
    let directories = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for directory in std::env::split_paths(&directories) {
        match check(&directory.join(program)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => outcome = other,
        }
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Why the program could not be started.
pub(super) fn failed(program: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, "qemu", error.to_string()).step(format!("start {}", program.display()));
    failure.fix("install QEMU, or name it with --qemu")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn arguments_by_which_a_guest_would_stay_behind_are_refused() {
        let refused = |text: &str| {
            let words: Vec<_> = text.split(' ').map(OsString::from).collect();
            check(&words).map_err(|failure| (failure.exit, failure.message.clone()))
        };
        for (text, named) in [
            ("-daemonize", "-daemonize"),
            ("-m 1G --daemonize", "-daemonize"),
            ("-runas nobody", "-runas"),
            ("-run-with user=nobody", "-run-with user="),
            ("-run-with chroot=/var/empty,user=0:0", "-run-with user="),
        ] {
            let (exit, message) = refused(text).unwrap_err();
            assert!(exit == Exit::Usage && message.contains(named), "{text}: {message}");
        }
        for text in [
            "",
            "-run-with",
            "-run-with exit-with-parent=on",
            "-run-with chroot=/a,,user=b",
            "-netdev user,id=net0",
            "-name daemonize",
        ] {
            assert!(refused(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_program_is_looked_for_on_the_path_or_where_it_is_said_to_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kind = |program: &Path| find(program).map_err(|error| error.kind());
        assert_eq!(kind(file.path()), Err(io::ErrorKind::PermissionDenied));
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(kind(file.path()), Ok(()));
        assert_eq!(kind(Path::new("/nonexistent/qemu")), Err(io::ErrorKind::NotFound));
        assert_eq!(kind(Path::new("sh")), Ok(()));
        assert_eq!(kind(Path::new("no-such-program")), Err(io::ErrorKind::NotFound));
    }
}
