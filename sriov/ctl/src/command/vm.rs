//! The hidden command that is the process of a guest: it opens nothing, and gives up nearly every right before the guest runs.
//!
//! It comes with a socket for its standard input, over which it gets one line of JSON, a [`Spec`], and with its first byte the descriptors: KVM, kernel,
//! initial RAM disk, `/dev/iommu` or container, character devices or groups, where the console goes, where it comes from, control socket. What is
//! not there is left out.

use crate::args::VmProcess;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::log;
use crate::output::Output;
use crate::progress::Progress;
use pci::GroupId;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, listen, recvmsg};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, geteuid, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::fs::File;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, Container, ContainerPath, Group, NumaNode, PageSize};
use vmm_glue::control::serve;
use vmm_glue::dma::locked_bytes;
use vmm_glue::functions::{self, Backend, Controlled, DmaOptions, Functions, Opened, Parts};
use vmm_glue::kvm::Kvm;
use vmm_glue::machine::{Console, End, Files, Machine, Plugged, Reboot};
use vmm_glue::sandbox::{self, Enclosure, Left};

/// Its name on the command line.
pub(crate) const NAME: &str = "vm-process";
/// Most descriptors that come with a guest, as many as the kernel passes on at once (`SCM_MAX_FD`).
pub(crate) const FILES: usize = 253;
/// Longest line in bytes.
const LINE: u64 = 1 << 20;
/// The user and the group of nobody (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;
/// The first user that systemd's "Users, Groups, UIDs and GIDs" leaves unused: with the process's number added each guest has one of its own, which
/// no other process has.
const FIRST_USER: u32 = 0x7000_0000;
/// What may be locked beside the guest's memory, in bytes.
const SPARE: u64 = 64 << 20;
/// How many may wait to be heard.
const BACKLOG: i32 = 128;
/// Slots that functions can come into while the guest runs.
const FREE_SLOTS: u8 = 4;

/// What guest it is.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says that a descriptor comes along, or what the user asked for"
)]
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) nodes: Vec<Node>,
    /// The node that all functions are near to.
    pub(crate) pci_node: Option<u32>,
    /// Reserved pages of this size.
    pub(crate) huge_pages_mib: Option<u32>,
    /// The kernel's command line.
    pub(crate) append: String,
    pub(crate) is_iommufd: bool,
    /// The functions of each slot.
    pub(crate) slots: Vec<Vec<Device>>,
    pub(crate) pin: Pin,
    pub(crate) has_initrd: bool,
    pub(crate) has_input: bool,
    pub(crate) has_control: bool,
    pub(crate) has_exit_port: bool,
    pub(crate) is_sandboxed: bool,
}

/// A NUMA node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: u32,
    /// The node of the host that its memory comes from.
    pub(crate) host: Option<u32>,
}

/// A function.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) bdf: String,
    pub(crate) group: u32,
    /// Not for the second function of a group.
    pub(crate) has_file: bool,
    /// A VF token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// As `--pin` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pin {
    All,
    WorkingSet,
    None,
}

/// Runs the guest to its end.
pub(crate) fn run(args: &VmProcess, output: &mut Output) -> Outcome {
    end_with(args.parent)?;
    let owner = geteuid();
    let stop = heed_signals().map_err(|error| io_failure("take signals", &error))?;
    take_descriptors();
    let (spec, files) = receive().map_err(|error| io_failure("receive the guest", &error))?;
    let mut files = files.into_iter();
    let mut next = || files.next().ok_or_else(|| Failure::internal("a descriptor is missing"));

    let kvm = Kvm::from_fd(next()?).map_err(failure)?;
    let kernel = File::from(next()?);
    let initrd = spec.has_initrd.then(&mut next).transpose()?.map(File::from);
    let backend = match spec.is_iommufd {
        true => Backend::Iommufd(Iommufd::from_fd(next()?)),
        false => Backend::Type1(Container::from_fd(next()?, ContainerPath::Vfio)),
    };
    let mut opened = |device: &Device| {
        let bdf = device
            .bdf
            .parse()
            .map_err(|_error| Failure::internal("not an address"))?;
        let file = match (device.has_file, spec.is_iommufd) {
            (false, _) => functions::File::SameGroup,
            (true, true) => functions::File::Device(CdevFile::from_fd(next()?, Some(bdf))),
            (true, false) => functions::File::Group(Group::from_fd(next()?, Some(GroupId(device.group)))),
        };
        let token = device.token.as_deref().map(str::parse).transpose();
        let token = token.map_err(|_error| Failure::internal("not a VF token"))?;
        Ok::<_, Failure>(Opened { bdf, file, token })
    };
    let slots = spec.slots.iter().map(|slot| slot.iter().map(&mut opened).collect());
    let slots: Vec<Vec<Opened>> = slots.collect::<Result<_, _>>()?;
    let console = Console {
        output: next()?,
        input: spec.has_input.then(&mut next).transpose()?,
    };
    let control = spec.has_control.then(&mut next).transpose()?.map(UnixListener::from);
    if let Some(listener) = &control {
        // From now on the kernel says of this process, not of the one that made the socket, that it has the functions.
        listen(listener, BACKLOG).map_err(|errno| io_failure("listen", &errno.into()))?;
    }

    let mut machine = Machine::new(
        machine_spec(&spec),
        Files {
            kvm,
            kernel,
            initrd,
            console,
        },
    )
    .map_err(failure)?;
    let parts = Parts {
        irqs: Arc::new(machine.vm().irqs().clone()),
        slots: Arc::new(machine.vm().slots().clone()),
        bus: Arc::clone(machine.mmio()),
        memory: machine.memory().clone(),
        windows: machine.windows(),
        kvm: Some(machine.vm().vfio().map_err(failure)?),
    };
    let locked = locked_bytes(parts.memory.ram());
    let options = functions::Options {
        dma: DmaOptions {
            pin: match spec.pin {
                Pin::All => vmm_glue::dma::Pin::All,
                Pin::WorkingSet => vmm_glue::dma::Pin::WorkingSet,
                Pin::None => vmm_glue::dma::Pin::None,
            },
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        },
        free_slots: if spec.has_control { free_slots(slots.len()) } else { 0 },
        shown: vmm_glue::assigned::Options::default(),
        are_peers: true,
    };
    let mut progress = Progress::new("memory for the functions", output.talks_to_terminal());
    let functions = Functions::new(parts, options, backend, slots, &mut |done, total| {
        progress.tell(done, total);
    });
    drop(progress);
    let functions = Arc::new(functions.map_err(failure)?);
    let plugged: Arc<dyn Plugged> = Arc::<Functions>::clone(&functions);
    machine.connect(functions.root(), plugged).map_err(failure)?;
    let handle = machine.handle();
    let stopping = stop.try_clone().map_err(|error| io_failure("dup", &error))?;
    let on_stop = move || {
        // Whoever asks has patience for a while, and no more.
        let _fails = (&stopping).read(&mut [0]).is_err() || handle.stop().is_err();
    };
    machine.events().add(stop, on_stop).map_err(failure)?;
    if spec.is_sandboxed {
        let left = if spec.has_control { Left::Sys } else { Left::Nothing };
        confine(locked, left, args.parent, output)?;
    }
    functions.serve().map_err(failure)?;
    if let Some(listener) = control {
        let running = Controlled::new(functions, machine.handle());
        // Ends with the process.
        drop(std::thread::spawn(move || {
            let admits =
                |peer: &UnixStream| socket_peercred(peer).is_ok_and(|peer| peer.uid == owner || peer.uid.is_root());
            if let Err(error) = serve(&listener, &running, &admits) {
                // Who started the guest may have ended, and its standard error with it.
                drop(writeln!(
                    log::Stderr,
                    "the guest cannot be given functions any more: {error}"
                ));
            }
        }));
    }
    Ok(Exit::Guest(match machine.run().map_err(failure)? {
        End::Exited(status) => status,
        End::PoweredOff | End::Reset | End::Stopped => 0,
    }))
}

fn machine_spec(spec: &Spec) -> vmm_glue::machine::Spec {
    vmm_glue::machine::Spec {
        nodes: spec.nodes.iter().map(node).collect(),
        pci_node: spec.pci_node,
        pages: match spec.huge_pages_mib {
            // What is mapped page by page, as devices ask for it, is not to be there in large pieces.
            None if spec.pin != Pin::All => PageSize::Base,
            None => PageSize::Transparent,
            Some(2) => PageSize::Huge2M,
            Some(_) => PageSize::Huge1G,
        },
        command_line: spec.append.clone(),
        reboot: Reboot::End,
        has_exit_port: spec.has_exit_port,
    }
}

fn node(node: &Node) -> vmm_glue::memory::Node {
    vmm_glue::memory::Node {
        len_bytes: node.memory_bytes,
        vcpus: node.cpus,
        host: node.host.map(NumaNode),
    }
}

/// How many there are beside those that are asked for.
fn free_slots(asked: usize) -> u8 {
    let left = functions::MOST_SLOTS.saturating_sub(asked);
    u8::try_from(left).map_or(FREE_SLOTS, |left| left.min(FREE_SLOTS))
}

/// The kernel ends this process with the one that started it.
fn end_with(parent: i32) -> Result<(), Failure> {
    let refused = |errno: rustix::io::Errno| Failure::internal(format!("cannot follow the parent: {errno}"));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused)?;
    // It may have ended before that.
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        return Err(Failure::new(
            Exit::Failed,
            "guest",
            "the program that wanted the guest has ended",
        ));
    }
    Ok(())
}

/// From now on SIGTERM is something to read, and what the terminal sends is the other process's.
fn heed_signals() -> io::Result<UnixStream> {
    let (stop, handler) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, handler)?;
    for signal in [SIGINT, SIGHUP, SIGQUIT] {
        // Nobody looks.
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(stop)
}

/// Lets this process have as many descriptors as it may: each vector of a function takes one.
fn take_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // It goes on with fewer then.
    let _is_less = setrlimit(Resource::Nofile, most).is_err();
}

/// Gives up what the guest does not need. Its memory is mapped by now.
fn confine(locked: u64, left: Left, parent: i32, output: &mut Output) -> Result<(), Failure> {
    sandbox::alone().map_err(failure)?;
    if geteuid().is_root() {
        let refused = |errno: rustix::io::Errno| io_failure("become another user", &errno.into());
        let locked = Some(locked.saturating_add(SPARE));
        let limit = Rlimit {
            current: locked,
            maximum: locked,
        };
        setrlimit(Resource::Memlock, limit).map_err(refused)?;
        // Later threads are made of this one.
        set_thread_groups(&[]).map_err(refused)?;
        let own = FIRST_USER.saturating_add(std::process::id());
        let become_user = |number: u32| {
            let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)
        };
        match become_user(own) {
            // A container has not all users.
            Err(rustix::io::Errno::INVAL) => {
                become_user(NOBODY).map_err(refused)?;
                output.note("the guest's process is nobody, as others may be: this container has no user for it alone");
            }
            other => other.map_err(refused)?,
        }
        // Another user is not followed any more.
        end_with(parent)?;
    } else {
        output.note("the guest's process keeps this user: only root can take another one");
    }
    match sandbox::enter(left).map_err(failure)? {
        Enclosure::Full => {}
        Enclosure::OlderLandlock => {
            output.note("this kernel's Landlock is older: it does not take all rights from the guest's process");
        }
        Enclosure::NoLandlock => output.note("this kernel has no Landlock: only seccomp confines the guest's process"),
    }
    Ok(())
}

/// The spec and the descriptors.
fn receive() -> io::Result<(Spec, Vec<OwnedFd>)> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost"));
    }
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            files.extend(sent);
        }
    }
    let mut line: Vec<u8> = buffer.iter().take(received.bytes).copied().collect();
    let mut byte = [0];
    let mut stream = stream.take(LINE);
    while line.last() != Some(&b'\n') && stream.read(&mut byte)? > 0 {
        line.extend(byte);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::other("what was to be sent has not all come"));
    }
    Ok((serde_json::from_slice(&line)?, files))
}

fn io_failure(step: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "guest", error.to_string()).step(step)
}

fn failure(error: vmm_glue::Error) -> Failure {
    let fix = error.fix().map(str::to_owned);
    let mut failure = Failure::new(Exit::Failed, "guest", error.kind.to_string()).step(error.step);
    (failure.device, failure.fix) = (error.device, fix);
    failure
}
