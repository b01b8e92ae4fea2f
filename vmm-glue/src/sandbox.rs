//! What a process that runs a guest needs after it has opened everything: nearly nothing.
//!
//! Landlock takes away every file and network, seccomp every system call that is not on the list below: a process that the guest has taken over can use
//! what is open, and no more. Both last until the process ends, and hold for the threads that are started afterwards. Follows `landlock(7)`,
//! `seccomp(2)`; the user is the caller's to change before.

use crate::{Error, ErrorKind, Result};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vfio_core::EventFd;

/// The newest Landlock that is asked for; older kernels do what they can of it.
const LANDLOCK: ABI = ABI::V6;

/// How long a thread that has been joined may be seen, on a busy machine.
const LINGERING: Duration = Duration::from_secs(2);

/// What is allowed whatever its arguments are: moving data, waiting, memory, threads, clocks, and ending.
const ALLOWED: [libc::c_long; 68] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrlimit,
    libc::SYS_uname,
];

/// The kinds of `ioctl` that are allowed, in bits 8 to 15 of the request: KVM's, and that of VFIO and iommufd.
const IOCTL_KINDS: [u64; 2] = [0xAE, 0x3B];

/// What reading `/sys` takes besides, which Landlock holds to that.
const READING: [libc::c_long; 6] = [
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
];

/// What is left to a process besides what it has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// It may read `/sys`, as whoever is given functions later must: what is in front of them is said there.
    Sys,
}

/// How far a process is locked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enclosure {
    /// By Landlock as far as it is asked for here, and by seccomp.
    Full,
    /// By seccomp, and by an older Landlock: some rights on files or the network are left to seccomp alone.
    OlderLandlock,
    /// By seccomp alone: the kernel has no Landlock. Then nothing is left, [`Left::Sys`] neither.
    NoLandlock,
}

/// Locks this process in, for good. To be called before it has other threads: what they do would stay as it was.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] when there is another thread; when the kernel knows no seccomp, or the filter is refused.
pub fn enter(left: Left) -> Result<Enclosure> {
    alone()?;
    lock(left)
}

fn lock(left: Left) -> Result<Enclosure> {
    let enclosure = restrict_files(left)?;
    // Without Landlock it would be all files that it may read.
    let left = match enclosure {
        Enclosure::NoLandlock => Left::Nothing,
        _ => left,
    };
    // A C library that knows `clone3` asks for it first, and goes on without when it is told that there is none.
    let none = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let enosys = SeccompAction::Errno(errno(libc::ENOSYS));
    let denied = SeccompAction::Errno(errno(libc::EPERM));
    let first = program(none, SeccompAction::Allow, enosys)?;
    let second = program(rules(left)?, denied, SeccompAction::Allow)?;
    for filter in [first, second] {
        seccompiler::apply_filter(&filter).map_err(|error| refused(&error))?;
    }
    Ok(enclosure)
}

/// Checks that there is no other thread, which would keep its rights. To be called before rights are given up. One that is at its end has time to go:
/// whoever has joined it still sees it for a moment.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] when there is one; when `/proc` cannot be read.
pub fn alone() -> Result<()> {
    let failed = |kind| Error::new("look for other threads", kind);
    // Nobody signals it.
    let (deadline, pause) = (Instant::now() + LINGERING, EventFd::new()?);
    loop {
        let threads = std::fs::read_dir("/proc/self/task").map_err(|error| failed(ErrorKind::Io(error)))?;
        if threads.count() == 1 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(failed(ErrorKind::Invalid("another thread would keep its rights")));
        }
        pause.wait_timeout(Duration::from_millis(1))?;
    }
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}

fn refused(error: &dyn std::fmt::Display) -> Error {
    Error::new("seccomp", ErrorKind::Malformed(Cow::Owned(error.to_string())))
}

fn restrict_files(left: Left) -> Result<Enclosure> {
    let refused =
        |error: landlock::RulesetError| Error::new("landlock", ErrorKind::Malformed(Cow::Owned(error.to_string())));
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .map_err(refused)?;
    let mut rules = rules.create().map_err(refused)?;
    if left == Left::Sys {
        let sys = PathFd::new("/sys")
            .map_err(|error| Error::new("open /sys", ErrorKind::Malformed(Cow::Owned(error.to_string()))))?;
        let access = AccessFs::ReadFile | AccessFs::ReadDir;
        rules = rules.add_rule(PathBeneath::new(sys, access)).map_err(refused)?;
    }
    let status = rules.restrict_self().map_err(refused)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enclosure::Full,
        RulesetStatus::PartiallyEnforced => Enclosure::OlderLandlock,
        RulesetStatus::NotEnforced => Enclosure::NoLandlock,
    })
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64).map_err(|error| refused(&error))?;
    BpfProgram::try_from(filter).map_err(|error| refused(&error))
}

/// What is allowed, and with which arguments.
fn rules(left: Left) -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let reading = READING.into_iter().filter(|_| left == Left::Sys);
    let allowed = ALLOWED.into_iter().chain(reading);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.map(|call| (call, Vec::new())).collect();
    let masked = |argument, mask, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value);
        condition
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| refused(&error))
    };
    let ioctls: Vec<SeccompRule> = IOCTL_KINDS
        .into_iter()
        .map(|kind| masked(1, 0xFF00, kind << 8))
        .chain(
            [libc::FIONBIO, libc::TCGETS]
                .into_iter()
                .map(|request| masked(1, u64::from(u32::MAX), request)),
        )
        .collect::<Result<_>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    let is = |argument, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value);
        condition.map_err(|error| refused(&error))
    };
    let only = |conditions| SeccompRule::new(conditions).map_err(|error| refused(&error));
    if left == Left::Sys {
        let written =
            libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_TMPFILE & !libc::O_DIRECTORY;
        let reading = masked(2, u64::from(written.unsigned_abs()), 0)?;
        rules.insert(libc::SYS_openat, vec![reading]);
    }
    // A thread says its name; the parent's end stays this process's.
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    rules.insert(libc::SYS_prctl, vec![only(vec![is(0, name)?])?]);
    // Nobody else is signalled, or limited.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![only(vec![is(0, own)?])?]);
    rules.insert(libc::SYS_prlimit64, vec![only(vec![is(0, 0)?, is(2, 0)?])?]);
    // Nothing becomes code, and nothing is started but threads.
    let no_code = || masked(2, 4, 0);
    rules.insert(libc::SYS_mmap, vec![no_code()?]);
    rules.insert(libc::SYS_mprotect, vec![no_code()?]);
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
    rules.insert(libc::SYS_clone3, Vec::new());
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::TcpListener;
    use std::process::Command;

    /// Not a check of its own: the process that the next test locks in, and that may read what is in front of functions.
    #[test]
    #[expect(clippy::exit, reason = "nothing else is left to it")]
    fn may_read_sys() {
        if std::env::var_os("VMM_GLUE_TEST_SYS").is_none() {
            return;
        }
        let (files, writable) = (tempfile::tempdir().unwrap(), "/sys/kernel/profiling");
        let own = files.path().join("file");
        File::create(&own).unwrap();
        let enclosure = lock(Left::Sys).unwrap();
        let denied = [
            File::open(&own).is_err(),
            File::options().append(true).open(&own).is_err(),
            File::create(files.path().join("new")).is_err(),
            File::options().read(true).write(true).open(writable).is_err(),
            std::fs::read_dir("/tmp").is_err(),
        ];
        let reads = File::open("/sys/kernel/mm/transparent_hugepage/enabled").is_ok();
        // Without Landlock that would be every file, and there is none.
        let is_so = reads == (enclosure != Enclosure::NoLandlock) && denied.iter().all(|is_denied| *is_denied);
        std::process::exit(if is_so { 7 } else { 8 });
    }

    #[test]
    fn sys_is_read_where_landlock_holds_a_process_to_it_and_nothing_is_written() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sandbox::tests::may_read_sys", "--test-threads", "1"]);
        let status = command.env("VMM_GLUE_TEST_SYS", "1").status().unwrap();
        assert_eq!(status.code(), Some(7));
    }

    /// Not a check of its own: the process that the next test locks in.
    #[test]
    #[expect(clippy::exit, reason = "nothing else is left to it")]
    fn is_locked_in() {
        if std::env::var_os("VMM_GLUE_TEST_SANDBOX").is_none() {
            return;
        }
        // The test program itself is another thread.
        assert!(matches!(enter(Left::Nothing).unwrap_err().kind, ErrorKind::Invalid(_)));
        lock(Left::Nothing).unwrap();
        let denied = [
            File::open("/etc/passwd").is_err(),
            File::create("/tmp/vmm-glue-sandbox").is_err(),
            TcpListener::bind("127.0.0.1:0").is_err(),
            Command::new("/bin/true").spawn().is_err(),
        ];
        // Threads, memory, events and time are what a guest needs.
        let thread = std::thread::spawn(|| vec![1_u8; 8 << 20].len());
        let works = [
            thread.join().is_ok_and(|len| len == 8 << 20),
            EventFd::new().is_ok_and(|event| event.signal().is_ok()),
        ];
        let all = denied.iter().chain(&works).all(|is_so| *is_so);
        std::process::exit(if all { 7 } else { 8 });
    }

    #[test]
    fn a_process_that_is_locked_in_can_use_what_it_has_and_nothing_else() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sandbox::tests::is_locked_in", "--test-threads", "1"]);
        let status = command.env("VMM_GLUE_TEST_SANDBOX", "1").status().unwrap();
        assert_eq!(status.code(), Some(7));
    }
}
