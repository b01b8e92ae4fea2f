//! A guest in a process of this program: opens everything that it needs, and hands it over.
//!
//! The process gets one line of JSON ([`Spec`]) and the descriptors over a socket that is its standard input; it opens nothing itself
//! ([`crate::command::vm`]).

use super::terminal::{Input, Raw};
use super::{Given, Report, finish, no_kvm, nodes, token, watch_signals};
use crate::args::{HugePages, Pin, QEMU, Run};
use crate::command::vm::{self, Device, Node, Spec};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::process::umask;
use sriov::Backend;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What only QEMU can do with is refused, and what this VMM needs.
pub(super) fn check(args: &Run) -> Result<(), Failure> {
    if !args.extra.is_empty() || args.accel != "kvm" || args.qemu != Path::new(QEMU) {
        let failure = Failure::usage("--accel, --qemu and arguments after -- are for QEMU");
        return Err(failure.fix("add --vmm qemu"));
    }
    if args.kernel.is_none() {
        let failure = Failure::usage("the guest has nothing to boot: there is no firmware in sriovctl's own VMM");
        return Err(failure.fix("name a Linux kernel with --kernel, or add --vmm qemu"));
    }
    Ok(())
}

/// Boots it.
pub(super) fn run(
    args: &Run,
    nodes: Vec<Node>,
    slots: &[Vec<Given>],
    backend: Backend,
    is_verbose: bool,
    output: &mut Output,
) -> Outcome {
    let input = Input::new();
    let has_input = !output.is_json() && input != Input::Background;
    let spec = spec(args, nodes, slots, backend, has_input)?;
    let functions: Vec<Given> = slots.iter().flatten().copied().collect();
    let line = serde_json::to_string(&spec).map_err(|error| Failure::internal(error.to_string()))?;
    let report = Report::new(
        "own",
        &functions,
        backend,
        vec![
            "sriovctl".to_owned(),
            vm::NAME.to_owned(),
            token::hidden(&line, functions.iter().filter_map(|given| given.token)),
        ],
    );
    if args.dry_run {
        return report.write_command(output);
    }
    if !output.is_json() && input == Input::Background {
        output.note("another program has the terminal: the guest has no keyboard");
    }
    let kernel = args.kernel.as_deref().unwrap_or(Path::new(""));
    let mut files: Vec<OwnedFd> = vec![
        open(Path::new("/dev/kvm"), true)
            .map_err(|error| no_kvm(&error))?
            .into(),
        opened(kernel, false)?.into(),
    ];
    if let Some(initrd) = &args.initrd {
        files.push(opened(initrd, false)?.into());
    }
    for path in files_of(&functions, backend)? {
        files.push(opened(&path, true)?.into());
    }
    let clone = |file: BorrowedFd<'_>| file.try_clone_to_owned().map_err(|error| failed("dup", &error));
    // Standard output is for the one document; the guest's console is talk.
    files.push(if output.is_json() {
        clone(io::stderr().as_fd())?
    } else {
        clone(io::stdout().as_fd())?
    });
    if spec.has_input {
        files.push(clone(io::stdin().as_fd())?);
    }
    let control = args.control.as_deref().map(Control::bind).transpose()?;
    if let Some(control) = &control {
        files.push(clone(control.listener.as_fd())?);
    }
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed("socketpair", &error))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(is_verbose.then_some("--verbose"));
    command.args([vm::NAME, &std::process::id().to_string()]);
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    if output.is_json() {
        command.stdout(Stdio::from(clone(io::stderr().as_fd())?));
    }
    // What this program was started with is not the guest's: beside its standard streams its process has what it is sent.
    if let Err(error) = vfio_core::close_on_exec(3) {
        output.note(format_args!(
            "the guest's process gets what this program was started with, too: {error}"
        ));
    }
    // Before the guest, which no signal may leave behind.
    let signals = watch_signals()?;
    let raw = match spec.has_input {
        true => Raw::enter(input).map_err(|error| failed("tcsetattr", &error))?,
        false => None,
    };
    if raw.is_some() && input == Input::Controlling {
        output.note("Ctrl-] ends the guest");
    }
    let mut child = command
        .spawn()
        .map_err(|error| failed("start the guest's process", &error))?;
    let sent = send(&ours, &line, &files);
    // It waits for no more than was sent.
    drop((ours, files, command));
    if let Err(error) = sent
        // A process that has ended already says why itself.
        && !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    {
        // It has ended in any case.
        drop((child.kill(), child.wait()));
        return Err(failed("hand the guest over", &error));
    }
    let outcome = finish(child, signals, "run the guest", args, report, output);
    drop(raw);
    outcome
}

fn spec(
    args: &Run,
    nodes: Vec<Node>,
    slots: &[Vec<Given>],
    backend: Backend,
    has_input: bool,
) -> Result<Spec, Failure> {
    let append = args.append.as_deref().unwrap_or_default();
    let append = append
        .to_str()
        .ok_or_else(|| Failure::usage("the kernel's command line is not text"))?;
    let mut groups = Vec::new();
    let mut device = |given: &Given| {
        let is_new = !groups.contains(&given.group);
        groups.push(given.group);
        Device {
            bdf: given.bdf.to_string(),
            group: given.group.0,
            has_file: backend == Backend::Iommufd || is_new,
            token: given.token.map(|token| token.to_string()),
        }
    };
    let near: Vec<Option<u32>> = slots.iter().flatten().map(|given| given.numa).collect();
    Ok(Spec {
        pci_node: nodes::of_functions(&near, &nodes),
        nodes,
        huge_pages_mib: args.hugepages.map(|pages| match pages {
            HugePages::TwoMib => 2,
            HugePages::OneGib => 1024,
        }),
        // Ports are served by the guest's own driver: there is no ACPI method that would do it.
        append: format!("pcie_ports=native {append}").trim_end().to_owned(),
        is_iommufd: backend == Backend::Iommufd,
        slots: slots
            .iter()
            .map(|slot| slot.iter().map(&mut device).collect())
            .collect(),
        pin: match args.pin {
            Pin::All => vm::Pin::All,
            Pin::WorkingSet => vm::Pin::WorkingSet,
            Pin::None => vm::Pin::None,
        },
        has_initrd: args.initrd.is_some(),
        has_input,
        has_control: args.control.is_some(),
        has_exit_port: args.exit_port,
        is_sandboxed: !args.no_sandbox,
    })
}

/// The nodes, in the order in which the process takes them.
fn files_of(functions: &[Given], backend: Backend) -> Result<Vec<PathBuf>, Failure> {
    if backend == Backend::Iommufd {
        let mut paths = vec![PathBuf::from("/dev/iommu")];
        for given in functions {
            let none = || {
                Failure::new(Exit::Failed, "no_node", "has no character device of VFIO")
                    .device(given.bdf)
                    .step("run")
                    .fix("Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV is needed, or --interface type1")
            };
            let node = given.node.ok_or_else(none)?;
            paths.push(format!("/dev/vfio/devices/vfio{node}").into());
        }
        return Ok(paths);
    }
    let mut paths = vec![PathBuf::from("/dev/vfio/vfio")];
    for given in functions {
        let path = PathBuf::from(format!("/dev/vfio/{}", given.group.0));
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// A socket that is gone again with this program.
struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Its file: device and inode.
    file: Option<(u64, u64)>,
}

impl Control {
    fn bind(path: &Path) -> Result<Self, Failure> {
        let step = format!("bind {}", path.display());
        // Who may connect may give functions away: nobody else from the beginning on. There is no other thread that makes files.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = alone_beside(path).and_then(|_alone| {
            UnixListener::bind(path).or_else(|error| match is_left_behind(path, &error) {
                true => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)
                }
                false => Err(error),
            })
        });
        umask(before);
        let listener = bound.map_err(|error| {
            let failure = failed(&step, &error);
            failure.fix("choose another path: there is a guest that runs, or what is no socket")
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: file(path),
        })
    }
}

/// While this is kept, no other `run` makes a socket in the same directory: nobody listens to one that is just being made, and what another has
/// found to be left behind may be a new one by now.
fn alone_beside(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

/// Whether there is the socket of a program that was killed: nobody listens to it, nor ever will.
fn is_left_behind(path: &Path, error: &io::Error) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    // Not waited for: one that listens may have stopped with its queue full.
    let is_refused = || {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        connect(&socket, &SocketAddrUnix::new(path)?)
    };
    error.kind() == io::ErrorKind::AddrInUse && is_socket && is_refused() == Err(Errno::CONNREFUSED)
}

/// Which file is there.
fn file(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl Drop for Control {
    fn drop(&mut self) {
        // Somebody else may have removed it, and put something else there.
        if self.file.is_some() && file(&self.path) == self.file {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// The line, and all descriptors with its first byte.
fn send(stream: &UnixStream, line: &str, files: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(vm::FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let bytes = line.as_bytes();
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    stream.write_all(bytes.get(sent..).unwrap_or_default())?;
    stream.write_all(b"\n")
}

fn open(path: &Path, is_written: bool) -> io::Result<File> {
    File::options().read(true).write(is_written).open(path)
}

fn opened(path: &Path, is_written: bool) -> Result<File, Failure> {
    open(path, is_written).map_err(|error| {
        let failure = failed(&format!("open {}", path.display()), &error);
        match error.kind() {
            io::ErrorKind::NotFound if path.starts_with("/dev/vfio") => {
                failure.fix("load the module: modprobe vfio-pci")
            }
            io::ErrorKind::NotFound if path.starts_with("/dev/iommu") => {
                failure.fix("load the module: modprobe iommufd")
            }
            io::ErrorKind::PermissionDenied if path.starts_with("/dev") => {
                failure.fix("run as root, or let yourself at it with a udev rule")
            }
            _ => failure,
        }
    })
}

fn failed(step: &str, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Denied,
        _ => Exit::Failed,
    };
    Failure::new(exit, "guest", error.to_string()).step(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_socket_goes_with_its_program_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        drop(Control::bind(&path).unwrap());
        assert!(!path.exists());
        let control = Control::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(control);
        assert!(path.exists(), "it is somebody else's");
    }

    #[test]
    fn what_a_killed_program_has_left_is_replaced_and_nothing_that_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        // Its file stays when it is closed.
        drop(UnixListener::bind(&path).unwrap());
        let control = Control::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let _client = UnixStream::connect(&path).unwrap();
        control.listener.accept().unwrap();
        let refused = Control::bind(&path).err().unwrap();
        assert!(refused.message.contains("in use"), "{}", refused.message);
        drop(control);
        // A file is not replaced, nor what a link leads to.
        File::create(&path).unwrap().write_all(b"mine").unwrap();
        assert!(Control::bind(&path).is_err());
        let (socket, link) = (directory.path().join("socket"), directory.path().join("link"));
        drop(UnixListener::bind(&socket).unwrap());
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert!(Control::bind(&link).is_err());
        assert!(std::fs::read(&path).unwrap() == b"mine" && socket.exists());
    }
}
