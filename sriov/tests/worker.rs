//! Accesses through a process of their own: answers, deadlines, and processes that end or talk nonsense.

#![cfg(test)]

use pci::Sysfs;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sriov::{Access, Failure, WorkerAccess, serve_accesses};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

/// Not a check of its own: the process that the others start is this test, with the replies on file descriptor 3.
#[test]
fn worker_process() {
    if std::env::var_os("SRIOV_TEST_WORKER").is_some() {
        let replies = File::options().write(true).open("/proc/self/fd/3").unwrap();
        let root = std::env::var_os("ROOT").unwrap();
        serve_accesses(&Sysfs::at(root), std::io::stdin().lock(), replies).unwrap();
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command.arg(std::env::current_exe().unwrap());
    command.env("SRIOV_TEST_WORKER", "1");
    command
}

/// Each start of the worker adds its process id to `started`.
fn worker(root: &Path) -> WorkerAccess {
    let mut command = shell(r#"echo $$ >>"$STARTED"; exec "$0" --exact worker_process --nocapture 3>&1 1>/dev/null"#);
    command.env("ROOT", root).env("STARTED", root.join("started"));
    WorkerAccess::new(Sysfs::at(root), command)
}

/// A file that is served, different for each function.
fn attribute(function: &str) -> PathBuf {
    Path::new("sys/bus/pci/devices").join(function).join("driver_override")
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn get(path: &Path) -> String {
    let mut text = String::new();
    File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Opening a FIFO blocks until its other end is opened: never.
fn fifo(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

fn errno(errno: rustix::io::Errno) -> Failure {
    Failure::Errno(errno.raw_os_error())
}

#[test]
fn one_process_serves_many_accesses() {
    let root = tempfile::tempdir().unwrap();
    let mut access = worker(root.path());
    let file = attribute("a");
    put(&root.path().join(&file), "0\n");
    for n in 0..200 {
        access.write(&file, &n.to_string(), LONG).unwrap();
        // A write to sysfs replaces; to a file it overwrites from the start.
        let found = access.read(&file, LONG).unwrap();
        assert_eq!(found.lines().next(), Some(n.to_string().as_str()));
    }
    assert_eq!(get(&root.path().join("started")).lines().count(), 1);
}

#[test]
fn values_go_over_unchanged() {
    let root = tempfile::tempdir().unwrap();
    let mut access = worker(root.path());
    let [empty, lines, odd, out] = ["empty", "lines", "odd\nname", "out"].map(attribute);
    put(&root.path().join(&empty), "");
    put(&root.path().join(&lines), "one\n\ntwo \n\n");
    put(&root.path().join(&odd), "x");
    put(&root.path().join(&out), "");
    assert_eq!(access.read(&empty, LONG).unwrap(), "");
    assert_eq!(access.read(&lines, LONG).unwrap(), "one\n\ntwo ");
    assert_eq!(access.read(&Path::new("/").join(odd), LONG).unwrap(), "x");
    access.write(&out, "", LONG).unwrap();
    assert_eq!(get(&root.path().join(out)), "\n");
}

#[test]
fn errors_of_the_kernel_come_back() {
    let root = tempfile::tempdir().unwrap();
    let mut access = worker(root.path());
    let missing = &attribute("missing");
    let directory = attribute("directory");
    std::fs::create_dir_all(root.path().join(&directory)).unwrap();
    assert_eq!(access.read(missing, LONG), Err(errno(rustix::io::Errno::NOENT)));
    assert_eq!(access.write(missing, "1", LONG), Err(errno(rustix::io::Errno::NOENT)));
    assert!(!root.path().join(missing).exists(), "a write must never create a file");
    assert_eq!(access.read(&directory, LONG), Err(errno(rustix::io::Errno::ISDIR)));
    let long = "x".repeat(100_000);
    assert_eq!(
        access.write(missing, &long, LONG),
        Err(errno(rustix::io::Errno::TOOBIG))
    );
    assert_eq!(access.read(long.as_ref(), LONG), Err(errno(rustix::io::Errno::TOOBIG)));
}

#[test]
fn files_that_are_no_attributes_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut access = worker(root.path());
    let secret = root.path().join("etc/secret");
    put(&secret, "before");
    put(&root.path().join("sys/bus/pci/devices/a/config"), "before");
    for path in [
        "etc/secret",
        "sys/bus/pci/../../../etc/secret",
        "sys/bus/pci/devices/a/config",
    ] {
        let refused = errno(rustix::io::Errno::PERM);
        assert_eq!(access.read(path.as_ref(), LONG), Err(refused.clone()), "{path}");
        assert_eq!(access.write(path.as_ref(), "1", LONG), Err(refused), "{path}");
    }
    // Nor through a link out of a captured tree.
    let outside = tempfile::tempdir().unwrap();
    put(&outside.path().join("secret"), "before");
    let link = attribute("linked");
    std::fs::create_dir_all(root.path().join(link.parent().unwrap())).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), root.path().join(&link)).unwrap();
    let refused = errno(rustix::io::Errno::XDEV);
    assert_eq!(access.write(&link, "1", LONG), Err(refused));
    assert_eq!(get(&secret), "before");
    assert_eq!(get(&outside.path().join("secret")), "before");
}

#[test]
fn a_blocked_access_is_given_up_and_the_next_one_served() {
    let root = tempfile::tempdir().unwrap();
    let mut access = worker(root.path());
    let fine = &attribute("fine");
    put(&root.path().join(fine), "7");
    for round in 0..2 {
        // Each its own: a process that still dies would be the other end.
        let [hangs, hangs_too] = &["reading", "writing"].map(|what| attribute(&format!("{what}{round}")));
        fifo(&root.path().join(hangs));
        fifo(&root.path().join(hangs_too));
        let start = Instant::now();
        assert_eq!(access.read(hangs, SHORT), Err(Failure::TimedOut(SHORT)));
        assert!(start.elapsed() >= SHORT && start.elapsed() < LONG);
        assert_eq!(access.read(fine, LONG).unwrap(), "7");
        assert_eq!(access.write(hangs_too, "1", SHORT), Err(Failure::TimedOut(SHORT)));
        access.write(fine, "7", LONG).unwrap();
    }
    let started = get(&root.path().join("started"));
    let started: Vec<_> = started.lines().map(|pid| Path::new("/proc").join(pid)).collect();
    assert_eq!(started.len(), 5);
    // The abandoned ones die of their signal in their own time and are reaped by later accesses.
    let (idle, abandoned) = started.split_last().unwrap();
    let until = Instant::now() + LONG;
    while abandoned.iter().any(|process| process.exists()) {
        assert!(Instant::now() < until, "{abandoned:?}");
        access.read(fine, LONG).unwrap();
    }
    assert!(idle.exists());
    drop(access);
    assert!(!idle.exists());
}

#[test]
fn a_process_that_ends_or_talks_nonsense_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mut absent = WorkerAccess::new(Sysfs::at(root.path()), Command::new("/nonexistent/program"));
    let Err(Failure::Worker(what)) = absent.read("a".as_ref(), LONG) else {
        panic!("started")
    };
    assert!(what.contains("cannot be started"), "{what}");
    let scripts = [
        "exit 1",
        "head -c 3 /dev/zero",
        r"printf '\1\1\1\1\377\377\377\377'; cat >/dev/null",
    ];
    for script in scripts {
        let mut access = WorkerAccess::new(Sysfs::at(root.path()), shell(script));
        for _ in 0..2 {
            let outcome = access.read("a".as_ref(), LONG);
            assert!(matches!(outcome, Err(Failure::Worker(_))), "{script}: {outcome:?}");
        }
    }
    let mut silent = WorkerAccess::new(Sysfs::at(root.path()), shell("exec 3>&1; exec cat >/dev/null"));
    assert_eq!(silent.read("a".as_ref(), SHORT), Err(Failure::TimedOut(SHORT)));
}

#[test]
fn only_block_devices_are_asked_for_a_claim_and_the_answer_has_a_deadline() {
    let root = tempfile::tempdir().unwrap();
    let mut access = worker(root.path());
    put(&root.path().join("dev/file"), "");
    put(&root.path().join("etc/secret"), "");
    fifo(&root.path().join("dev/fifo"));
    for (path, wanted) in [
        ("dev/file", rustix::io::Errno::NOTBLK),
        // Opening it for real would block.
        ("dev/fifo", rustix::io::Errno::NOTBLK),
        ("dev/absent", rustix::io::Errno::NOENT),
        ("dev/../etc/secret", rustix::io::Errno::PERM),
        ("etc/secret", rustix::io::Errno::PERM),
    ] {
        assert_eq!(access.is_claimed(path.as_ref(), LONG), Err(errno(wanted)), "{path}");
    }
    // What may be asked for may not be read.
    assert_eq!(
        access.read("dev/file".as_ref(), LONG),
        Err(errno(rustix::io::Errno::PERM))
    );
    access.policy_routes(LONG).unwrap();
    let busy = r"head -c 13 >/dev/null; printf '\20\0\0\0\0\0\0\0'; cat >/dev/null";
    let mut busy = WorkerAccess::new(Sysfs::at(root.path()), shell(busy));
    assert_eq!(busy.is_claimed("dev/disk".as_ref(), LONG), Ok(true));
    let mut stuck = WorkerAccess::new(Sysfs::at(root.path()), shell("exec 3>&1; exec cat >/dev/null"));
    assert_eq!(
        stuck.is_claimed("dev/disk".as_ref(), SHORT),
        Err(Failure::TimedOut(SHORT))
    );
}

#[test]
fn links_names_and_existence_need_no_process() {
    let root = tempfile::tempdir().unwrap();
    let mut access = WorkerAccess::new(Sysfs::at(root.path()), Command::new("/nonexistent/program"));
    std::os::unix::fs::symlink("../../bus/pci/drivers/vfio-pci", root.path().join("driver")).unwrap();
    std::fs::create_dir(root.path().join("vfio-dev")).unwrap();
    put(&root.path().join("vfio-dev/vfio10"), "");
    put(&root.path().join("vfio-dev/vfio1"), "");
    assert_eq!(access.link("driver".as_ref()), Ok(Some("vfio-pci".to_owned())));
    assert_eq!(access.link("absent".as_ref()), Ok(None));
    assert_eq!(access.link("vfio-dev".as_ref()), Err(errno(rustix::io::Errno::INVAL)));
    assert_eq!(access.names("vfio-dev".as_ref()).unwrap(), ["vfio1", "vfio10"]);
    assert_eq!(access.names("absent".as_ref()), Ok(Vec::new()));
    assert!(access.claim("vfio-dev/vfio1".as_ref()).is_ok());
    let absent = access.claim("absent".as_ref());
    assert_eq!(absent.unwrap_err(), errno(rustix::io::Errno::NOENT));
    assert_eq!(access.exists("vfio-dev/vfio1".as_ref()), Ok(true));
    assert_eq!(
        access.exists("driver".as_ref()),
        Ok(false),
        "a dangling link leads to nothing"
    );
}

#[test]
fn nothing_is_written_for_someone_who_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let served = attribute("a");
    let file = root.path().join(&served);
    put(&file, "before");
    let path = served.to_str().unwrap();
    for writing in [1, 4] {
        let mut request = vec![writing, u8::try_from(path.len()).unwrap(), 0, 5, 0];
        request.extend(path.bytes().chain(*b"after"));

        let (requests, to_worker) = rustix::pipe::pipe().unwrap();
        let mut to_worker = File::from(to_worker);
        to_worker.write_all(&request).unwrap();
        drop(to_worker);
        let mut replies = Vec::new();
        serve_accesses(&Sysfs::at(root.path()), File::from(requests), &mut replies).unwrap();
        assert_eq!((get(&file).as_str(), replies.as_slice()), ("before", [].as_slice()));
    }
}

#[test]
fn what_was_written_is_read_back_by_the_same_request() {
    let root = tempfile::tempdir().unwrap();
    let file = attribute("a");
    put(&root.path().join(&file), "before");
    let mut access = worker(root.path());
    // A file in memory keeps what was longer, as no attribute does.
    assert_eq!(access.replace(&file, "after", LONG).unwrap(), "aftere");
    let missing = attribute("b");
    let refused = access.replace(&missing, "1", LONG);
    assert_eq!(refused, Err(errno(rustix::io::Errno::NOENT)));
    let refused = access.replace(Path::new("etc/shadow"), "1", LONG);
    assert_eq!(refused, Err(errno(rustix::io::Errno::PERM)));
    assert_eq!(access.read(&file, LONG).unwrap(), "aftere");
}

#[test]
fn a_request_that_is_none_ends_the_service() {
    for request in [&[9, 0, 0, 0, 0][..], &[0, 5, 0, 0, 0, b'x']] {
        let (requests, to_worker) = rustix::pipe::pipe().unwrap();
        File::from(to_worker).write_all(request).unwrap();
        assert!(serve_accesses(&Sysfs::host(), File::from(requests), Vec::new()).is_err());
    }
}
