//! Who holds which function through VFIO or UIO: a scan of `/proc/*/fd`.
//!
//! A function is held by a process that has open its node `/dev/uioN`, its group node `/dev/vfio/N` (which holds the whole group), its character
//! device `/dev/vfio/devices/vfioN`, either of them in no-IOMMU mode, or a device descriptor that came from one of them, which
//! the kernel names in `fdinfo` since 6.18. Not seen: another PID namespace's parent, and a BAR that stays mapped after every
//! descriptor is closed. The calling process is one like any other.
//!
//! Key types: [`Holders`], [`Process`], [`OpenFile`]. The scan looks once at every descriptor that it may look at.

use crate::Holder;
use crate::file;
use pci::{Bdf, Reading, Reason, Sysfs, Unknown};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longest beginning of a command line that is kept, in characters.
const COMMAND_LINE_CHARS: usize = 160;
/// `PF_KTHREAD` of `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// `ESRCH`, which the files of a process answer once it has ended.
const NO_SUCH_PROCESS: i32 = rustix::io::Errno::SRCH.raw_os_error();
/// Limit in bytes for the small files of a process. A command line can be longer: up to `ARG_MAX`.
const SMALL: usize = 4 << 20;
/// What the kernel calls a descriptor from `VFIO_GROUP_GET_DEVICE_FD`.
const ANONYMOUS_DEVICE: &str = "anon_inode:[vfio-device]";

/// One scan for processes that have anything of VFIO or UIO open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// The processes, in order of pid.
    pub processes: Vec<Process>,
    /// How much of the machine the scan saw.
    pub coverage: Coverage,
}

/// How much of the machine a scan saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// Every process.
    Full,
    /// Some processes belong to somebody else.
    Partial {
        /// How many may not be looked into.
        unreadable: usize,
        /// Whether there are processes that are not even listed (`/proc` mounted with `hidepid`).
        hidden: bool,
    },
    /// None: there is no `/proc` under this root.
    Nothing(Unknown),
}

/// A process with something of VFIO or UIO open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its short name (`/proc/PID/comm`).
    pub command: String,
    /// Beginning of its command line, space separated.
    pub command_line: String,
    /// What it has open, in order of descriptor.
    pub files: Vec<OpenFile>,
}

/// One open file of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// The descriptor's number.
    pub fd: u32,
    /// What it leads to, as `/proc/PID/fd` says it.
    pub path: PathBuf,
    /// Of which kind it is.
    pub node: Node,
    /// The functions it holds, in order of address. Empty for nodes that name none.
    pub functions: Vec<Bdf>,
}

/// The kinds of files through which processes hold functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A group, `/dev/vfio/N` or `/dev/vfio/noiommu-N`.
    Group,
    /// A function's character device, `/dev/vfio/devices/vfioN`.
    Device,
    /// A device descriptor without a node; names its function since Linux 6.18.
    AnonymousDevice,
    /// A function on one of the drivers that hand it to user space without VFIO, `/dev/uioN`.
    Uio,
    /// A type1 container, `/dev/vfio/vfio`. Names no function.
    Container,
    /// An iommufd context, `/dev/iommu`. Names no function.
    Iommufd,
}

impl Holders {
    /// Looks at every process under the root.
    #[must_use]
    pub fn scan(sysfs: &Sysfs) -> Self {
        let pids = match sysfs.names("proc") {
            Ok(names) => pids(&names),
            Err(unknown) => {
                return Self {
                    processes: Vec::new(),
                    coverage: Coverage::Nothing(unknown),
                };
            }
        };
        let mut functions = Functions::new(sysfs);
        let mut unreadable = 0;
        let mut processes = Vec::new();
        for &pid in &pids {
            match files(sysfs, pid, &mut functions) {
                Ok(files) if files.is_empty() => {}
                Ok(files) => processes.push(process(sysfs, pid, files)),
                Err(unknown) if has_ended(&unknown) => {}
                Err(_) if is_kernel_thread(sysfs, pid) => {}
                Err(_) => unreadable += 1,
            }
        }
        // Where processes are listed at all, process 1 is, unless others' processes are hidden.
        let hidden = pids.first().is_some_and(|pid| *pid != 1);
        let coverage = match (unreadable, hidden) {
            (0, false) => Coverage::Full,
            _ => Coverage::Partial { unreadable, hidden },
        };
        Self { processes, coverage }
    }

    /// Who holds a function, through what.
    #[must_use]
    pub fn of(&self, function: Bdf) -> Vec<Holder> {
        self.select(Some(function), |file| file.functions.contains(&function))
    }

    /// Who holds a device that neither a node nor the kernel names: it may be any function on a VFIO driver.
    #[must_use]
    pub fn unnamed(&self) -> Vec<Holder> {
        let is_unnamed = |file: &OpenFile| file.node == Node::AnonymousDevice && file.functions.is_empty();
        let mut holders = self.select(None, is_unnamed);
        // The usual process has the node open as well, and the descriptor is that of the node's function.
        holders.retain(|holder| {
            let mut files = self
                .processes
                .iter()
                .filter(|p| p.pid == holder.pid)
                .flat_map(|p| &p.files);
            !files.any(|file| matches!(file.node, Node::Group | Node::Device))
        });
        holders
    }

    fn select(&self, function: Option<Bdf>, wanted: impl Fn(&OpenFile) -> bool) -> Vec<Holder> {
        let files = self
            .processes
            .iter()
            .flat_map(|process| process.files.iter().map(move |file| (process, file)));
        let mut holders: Vec<_> = files
            .filter(|(_, file)| wanted(file))
            .map(|(process, file)| Holder {
                function,
                pid: process.pid,
                command: process.command.clone(),
                command_line: process.command_line.clone(),
                path: file.path.clone(),
            })
            .collect();
        // A node may be open more than once.
        holders.dedup();
        holders
    }
}

/// The functions behind nodes, each looked up once.
struct Functions<'a> {
    sysfs: &'a Sysfs,
    known: BTreeMap<PathBuf, Vec<Bdf>>,
}

impl<'a> Functions<'a> {
    fn new(sysfs: &'a Sysfs) -> Self {
        Self {
            sysfs,
            known: BTreeMap::new(),
        }
    }

    fn of_group(&mut self, number: &str) -> Vec<Bdf> {
        let directory = Path::new("sys/kernel/iommu_groups").join(number).join("devices");
        let sysfs = self.sysfs;
        self.known
            .entry(directory)
            .or_insert_with_key(|directory| {
                let names = sysfs.names(directory).unwrap_or_default();
                let mut functions: Vec<Bdf> = names.iter().filter_map(|name| name.parse().ok()).collect();
                functions.sort_unstable();
                functions
            })
            .clone()
    }

    fn of_class_device(&mut self, class: &str, name: &str) -> Vec<Bdf> {
        let link = Path::new("sys/class").join(class).join(name);
        let sysfs = self.sysfs;
        self.known
            .entry(link)
            .or_insert_with_key(|link| {
                let target = sysfs.read_link(link).ok();
                target.as_deref().and_then(file::function_of).into_iter().collect()
            })
            .clone()
    }
}

fn has_ended(unknown: &Unknown) -> bool {
    matches!(unknown.reason(), Reason::Missing | Reason::Io(NO_SUCH_PROCESS))
}

fn pids(names: &[String]) -> Vec<u32> {
    let mut pids: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn files(sysfs: &Sysfs, pid: u32, functions: &mut Functions<'_>) -> Reading<Vec<OpenFile>> {
    let directory = PathBuf::from(format!("proc/{pid}/fd"));
    let mut files = Vec::new();
    for name in sysfs.names(&directory)? {
        let Ok(fd) = name.parse() else { continue };
        // A descriptor may be closed meanwhile.
        let Ok(path) = sysfs.read_link(directory.join(&name)) else {
            continue;
        };
        let Some((node, number)) = path.to_str().and_then(classify) else {
            continue;
        };
        let functions = match node {
            Node::Group => functions.of_group(number),
            Node::Device => functions.of_class_device("vfio-dev", number),
            Node::Uio => functions.of_class_device("uio", number),
            Node::AnonymousDevice => anonymous_device(sysfs, pid, fd).into_iter().collect(),
            Node::Container | Node::Iommufd => Vec::new(),
        };
        files.push(OpenFile {
            fd,
            path,
            node,
            functions,
        });
    }
    files.sort_by_key(|file| file.fd);
    Ok(files)
}

/// The kind of a node, and the part of its name by which sysfs knows it.
fn classify(path: &str) -> Option<(Node, &str)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A node that is gone while it is open.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    match path {
        "/dev/iommu" => return Some((Node::Iommufd, "")),
        "/dev/vfio/vfio" => return Some((Node::Container, "")),
        ANONYMOUS_DEVICE => return Some((Node::AnonymousDevice, "")),
        _ => {}
    }
    if let Some(number) = path.strip_prefix("/dev/uio") {
        let name = path.strip_prefix("/dev/")?;
        return is_number(number).then_some((Node::Uio, name));
    }
    let name = path.strip_prefix("/dev/vfio/")?;
    if let Some(device) = name.strip_prefix("devices/") {
        let number = device.strip_prefix("noiommu-").unwrap_or(device).strip_prefix("vfio")?;
        return is_number(number).then_some((Node::Device, device));
    }
    let number = name.strip_prefix("noiommu-").unwrap_or(name);
    is_number(number).then_some((Node::Group, number))
}

fn anonymous_device(sysfs: &Sysfs, pid: u32, fd: u32) -> Option<Bdf> {
    let info = file::text(sysfs, format!("proc/{pid}/fdinfo/{fd}"), SMALL).ok()?;
    let path = info
        .lines()
        .find_map(|line| line.strip_prefix("vfio-device-syspath:"))?;
    file::function_of(Path::new(path.trim()))
}

fn process(sysfs: &Sysfs, pid: u32, files: Vec<OpenFile>) -> Process {
    let text = |name: &str| file::text(sysfs, format!("proc/{pid}/{name}"), SMALL).unwrap_or_default();
    let printable = |text: &str| -> String {
        let clean = text.trim_end_matches(['\0', '\n']).chars();
        clean
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(COMMAND_LINE_CHARS)
            .collect()
    };
    Process {
        pid,
        command: printable(&text("comm")),
        command_line: printable(&text("cmdline")),
        files,
    }
}

/// A kernel thread has no files, and only root may see that.
fn is_kernel_thread(sysfs: &Sysfs, pid: u32) -> bool {
    let Ok(stat) = file::text(sysfs, format!("proc/{pid}/stat"), SMALL) else {
        return false;
    };
    // The second field, the name, is in parentheses and may itself hold any character.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let flags = fields
        .split_ascii_whitespace()
        .nth(6)
        .and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

#[cfg(test)]
mod tests;
