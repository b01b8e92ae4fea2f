//! The crate's error: on which function, at which step, what happened, and what can be done about it.
//!
//! Key types: [`Error`] and [`ErrorKind`]; [`Holder`] and [`Owner`] name the process that is in the way. The errno meanings of
//! `sriov_numvfs` follow the kernel's `drivers/pci/iov.c`; the codes are those of the knowledge base behind `explain`.

use crate::Failure;
use pci::Bdf;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What went wrong, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The function concerned, if one is.
    pub device: Option<Bdf>,
    /// The step, as the kernel spells it (`write sriov_numvfs`).
    pub step: String,
    /// What happened.
    pub kind: ErrorKind,
}

/// The kinds of failure that callers may tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Processes hold the function, or VFs that the step would destroy, through VFIO.
    Held {
        /// Who, through what.
        holders: Vec<Holder>,
    },
    /// The machine itself uses the function: a mount, swap, a route, the console.
    InUse {
        /// One line each, such as `nvme0n1p2 is mounted at /home`.
        uses: Vec<String>,
    },
    /// Another run of this tool has the lock.
    Busy {
        /// Who, as far as known.
        owner: Option<Owner>,
    },
    /// The process lacks the privilege.
    Denied,
    /// The function does not exist, or no longer.
    Gone,
    /// The function offers no VFs: no SR-IOV capability, or it is switched off in firmware.
    NotPf,
    /// The function is not a VF.
    NotVf,
    /// More VFs than the PF has.
    TooManyVfs {
        /// Asked for.
        wanted: u16,
        /// TotalVFs, as limited by the PF's driver.
        total: u16,
    },
    /// The PF has VFs already, in another number; the kernel goes only from 0 to N and from N to 0.
    VfsExist {
        /// How many there are.
        enabled: u16,
    },
    /// The address has no form for the program that is to use it.
    SegmentTooLarge {
        /// The function's segment.
        segment: u32,
        /// The largest one possible.
        max: u32,
    },
    /// It cannot be done there, by nobody.
    Unsupported {
        /// Why.
        why: String,
        /// What to do instead.
        fix: String,
    },
    /// The PF's driver will not part with VFs that it thinks are in a guest.
    VfsAssigned,
    /// No room for the BARs or the bus numbers of so many VFs.
    NoRoomForVfs,
    /// The PF has no driver, or its driver cannot enable VFs.
    NoDriver {
        /// The PF's driver, if it has one.
        driver: Option<String>,
    },
    /// There is no IOMMU in front of the function.
    NoIommu,
    /// No such driver is loaded.
    UnknownDriver {
        /// As asked.
        name: String,
        /// Drivers with similar names, best first.
        similar: Vec<String>,
    },
    /// The driver was offered the function and did not take it.
    NotBound {
        /// The driver wanted.
        wanted: String,
        /// The driver that has it instead.
        found: Option<String>,
        /// What the kernel answered; ENODEV when the driver does not know such a function.
        errno: Option<i32>,
    },
    /// The kernel did not answer, or what it should create did not come, in time.
    TimedOut {
        /// How long it was given.
        after: Duration,
        /// Who holds the function: usually the process that the kernel waits for.
        holders: Vec<Holder>,
    },
    /// An access to the function got no answer before and may still be under way: what is done now may be overtaken by it, and changing
    /// the number of VFs would hang their PF.
    Unanswered,
    /// The write succeeded and the value is another one.
    ReadBack {
        /// Written.
        wanted: String,
        /// Read back.
        found: String,
    },
    /// A file that should exist does not.
    Missing(PathBuf),
    /// A file holds what makes no sense; shortened.
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// An earlier operation was interrupted and is neither finished nor undone.
    Unfinished {
        /// Its id.
        operation: u64,
    },
    /// The journal has no such operation, or (`None`) none that can be undone.
    NoSuchOperation {
        /// As asked.
        operation: Option<u64>,
    },
    /// Someone else has changed the value since the operation that is to be undone.
    ChangedSince {
        /// As the operation left it.
        left: String,
        /// As it is now.
        found: String,
    },
    /// A step failed, and the steps before it were undone.
    RolledBack {
        /// The failure that began it.
        cause: Box<Error>,
        /// What could not be undone; empty when the machine is as it was.
        undo_failures: Vec<Error>,
    },
    /// Several changes of an operation could not be undone.
    NotUndone {
        /// At least two; the first is the one that came first.
        failures: Vec<Error>,
    },
    /// The process that serves the accesses cannot be started or ended on its own.
    Worker(String),
    /// Any other error of the operating system.
    Errno(i32),
}

/// A process that has a function in its hands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// What it holds, where known: an iommufd context is held by the process, not by function.
    pub function: Option<Bdf>,
    /// Process id.
    pub pid: u32,
    /// The process's short name (`/proc/PID/comm`).
    pub command: String,
    /// Beginning of its command line, space separated; empty when it may not be read.
    pub command_line: String,
    /// The open file, such as `/dev/vfio/devices/vfio3`.
    pub path: PathBuf,
}

/// The run of this tool that has the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

impl Error {
    /// An error at `step` of `device`.
    #[must_use]
    pub fn new(device: impl Into<Option<Bdf>>, step: impl Into<String>, kind: ErrorKind) -> Self {
        Self {
            device: device.into(),
            step: step.into(),
            kind,
        }
    }

    /// The entry of the knowledge base that explains this failure, such as `S01`.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        let code = match &self.kind {
            ErrorKind::VfsExist { .. } => "S01",
            ErrorKind::VfsAssigned => "S02",
            ErrorKind::NoRoomForVfs => "S03",
            ErrorKind::NoDriver { .. } => "S07",
            ErrorKind::TooManyVfs { .. } => "S08",
            ErrorKind::NotPf => "S09",
            ErrorKind::ReadBack { found, .. } if self.is_numvfs() => match found.as_str() {
                "0" => "S11",
                _ => "S12",
            },
            ErrorKind::TimedOut { .. } => "S13",
            ErrorKind::Denied => "S19",
            ErrorKind::NotBound { .. } => "B01",
            ErrorKind::Held { .. } if self.is_numvfs() => "S02",
            ErrorKind::Held { .. } => "B06",
            ErrorKind::InUse { .. } => "B17",
            ErrorKind::NoIommu => "P01",
            ErrorKind::RolledBack { cause, .. } => return cause.code(),
            ErrorKind::NotUndone { failures } => return failures.first().and_then(Self::code),
            _ => return None,
        };
        Some(code)
    }

    /// What the user can do about it.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        let device = self.device.map_or_else(|| "PF".to_owned(), |d| d.to_string());
        let fix = match &self.kind {
            ErrorKind::Held { .. } => "stop that process, or choose a function that nobody holds: sriovctl status",
            ErrorKind::InUse { .. } => {
                "end that use first: unmount, swapoff, take the link down, or choose another function"
            }
            ErrorKind::Busy { .. } => "wait until it has finished, or end it",
            ErrorKind::Denied => "run as root",
            ErrorKind::Gone => "see what is there: sriovctl list",
            ErrorKind::NotPf => "enable SR-IOV in the BIOS and in the card's firmware, or choose a PF: sriovctl list",
            ErrorKind::NotVf => "name a VF: sriovctl tree",
            ErrorKind::Unsupported { fix, .. } => fix,
            ErrorKind::TooManyVfs { total, .. } => return Some(format!("ask for at most {total}")),
            ErrorKind::VfsExist { .. } => return Some(format!("first sriovctl vf delete {device}")),
            ErrorKind::VfsAssigned => "stop the guests that have the VFs: sriovctl status",
            ErrorKind::NoRoomForVfs => {
                "ask for fewer VFs, or enable Above 4G Decoding and SR-IOV in the BIOS, or boot with pci=realloc"
            }
            ErrorKind::NoDriver { driver: None } => "bind the PF to its native driver first",
            ErrorKind::NoDriver { driver: Some(driver) } if driver == "vfio-pci" => {
                "load vfio-pci with enable_sriov=1, or give the PF back to its native driver"
            }
            ErrorKind::NoDriver { .. } => "bind the PF to a driver that supports SR-IOV",
            ErrorKind::NoIommu => {
                "enable VT-d or AMD-Vi in the BIOS and, before Linux 6.8 on Intel, boot with intel_iommu=on"
            }
            ErrorKind::UnknownDriver { name, similar } => {
                return Some(match similar.first() {
                    Some(best) => format!("did you mean {best}? Otherwise load the module: modprobe {name}"),
                    None => format!("load the module: modprobe {name}"),
                });
            }
            ErrorKind::NotBound { found: Some(_), .. } => {
                return Some(format!("first sriovctl unbind {device}"));
            }
            ErrorKind::NotBound { errno, .. } if is_no_match(*errno) => {
                return Some(format!(
                    "choose a driver that supports it, or let the kernel choose: sriovctl release {device}"
                ));
            }
            ErrorKind::NotBound { .. } => "see why the driver refused it: dmesg",
            ErrorKind::TimedOut { holders, .. } if !holders.is_empty() => "stop the process that holds the function",
            ErrorKind::TimedOut { .. } => {
                "see what the kernel waits for: dmesg, /proc/PID/stack of the process in state D"
            }
            ErrorKind::Unanswered => {
                "wait until nothing in state D has the function any more, or reboot; then sriovctl undo"
            }
            ErrorKind::ReadBack { found, .. } if self.is_numvfs() && found == "0" => {
                "bring the PF's port up first; some drivers accept the count while it is down and create nothing"
            }
            ErrorKind::ReadBack { .. } => "see why the driver did otherwise: dmesg",
            ErrorKind::Unfinished { operation } => {
                return Some(format!("restore what it changed: sriovctl undo {operation}"));
            }
            ErrorKind::ChangedSince { .. } => "put it back by hand, or leave it as it is and forget the operation",
            ErrorKind::NoSuchOperation { .. } => "see what there is: sriovctl log",
            ErrorKind::RolledBack { cause, undo_failures } => {
                return if undo_failures.is_empty() {
                    cause.fix()
                } else {
                    Some("remove what is in the way, then sriovctl undo".to_owned())
                };
            }
            ErrorKind::NotUndone { .. } => "remove what is in the way, then undo again",
            ErrorKind::Missing(_)
            | ErrorKind::Malformed { .. }
            | ErrorKind::SegmentTooLarge { .. }
            | ErrorKind::Worker(_)
            | ErrorKind::Errno(_) => {
                return None;
            }
        };
        Some(fix.to_owned())
    }

    fn is_numvfs(&self) -> bool {
        self.step.ends_with("sriov_numvfs")
    }
}

/// What a failed access means by itself; what the errno of a certain file means is known where that file is accessed.
impl From<Failure> for ErrorKind {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Errno(errno) => match rustix::io::Errno::from_raw_os_error(errno) {
                rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Self::Denied,
                _ => Self::Errno(errno),
            },
            Failure::TimedOut(after) => Self::TimedOut {
                after,
                holders: Vec::new(),
            },
            Failure::Worker(what) => Self::Worker(what),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = self.device {
            write!(f, "{device}: ")?;
        }
        write!(f, "{}: {}", self.step, self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::RolledBack { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { holders } if holders.is_empty() => {
                f.write_str("held by a process that cannot be seen from here")
            }
            Self::Held { holders } => {
                f.write_str("held by ")?;
                list(f, holders)
            }
            Self::InUse { uses } => {
                f.write_str("in use: ")?;
                list(f, uses)
            }
            Self::Busy { owner: Some(owner) } => write!(f, "locked by {owner}"),
            Self::Busy { owner: None } => f.write_str("locked by another sriovctl"),
            Self::Denied => f.write_str("permission denied"),
            Self::Gone => f.write_str("no such function"),
            Self::NotPf => f.write_str("offers no virtual functions"),
            Self::NotVf => f.write_str("is not a virtual function"),
            Self::TooManyVfs { wanted, total } => write!(f, "{wanted} VFs wanted, {total} possible"),
            Self::VfsExist { enabled } => write!(f, "{enabled} VFs are enabled already"),
            Self::SegmentTooLarge { segment, max } => write!(f, "segment {segment:#x}; at most {max:#x} is possible"),
            Self::Unsupported { why, .. } => f.write_str(why),
            Self::VfsAssigned => f.write_str("the PF's driver counts VFs as assigned to a guest"),
            Self::NoRoomForVfs => f.write_str("no MMIO space or bus numbers for so many VFs"),
            Self::NoDriver { driver: None } => f.write_str("the PF has no driver"),
            Self::NoDriver { driver: Some(driver) } => write!(f, "the PF's driver {driver} cannot enable VFs"),
            Self::NoIommu => f.write_str("no IOMMU group"),
            Self::UnknownDriver { name, .. } => write!(f, "no driver {name} is loaded"),
            Self::NotBound { wanted, found, errno } => {
                match errno {
                    _ if is_no_match(*errno) => write!(f, "{wanted} does not support this device")?,
                    Some(errno) => {
                        let why = std::io::Error::from_raw_os_error(*errno);
                        write!(f, "{wanted} did not take it: {why}")?;
                    }
                    None => write!(f, "{wanted} did not take it")?,
                }
                match found {
                    Some(found) => write!(f, "; {found} has it"),
                    None => f.write_str("; no driver has it"),
                }
            }
            Self::TimedOut { after, holders } => {
                write!(f, "not done after {:.1} s", after.as_secs_f64())?;
                if !holders.is_empty() {
                    f.write_str("; held by ")?;
                    list(f, holders)?;
                }
                Ok(())
            }
            Self::Unanswered => {
                f.write_str("not tried: an access to the function got no answer and may still be under way")
            }
            Self::ReadBack { wanted, found } => write!(f, "wrote {wanted:?}, found {found:?}"),
            Self::Missing(path) => write!(f, "{}: no such file", path.display()),
            Self::Malformed { path, found } => write!(f, "{}: malformed: {found:?}", path.display()),
            Self::Unfinished { operation } => write!(f, "operation {operation} was interrupted"),
            Self::NoSuchOperation {
                operation: Some(operation),
            } => write!(f, "no operation {operation}"),
            Self::NoSuchOperation { operation: None } => f.write_str("no operation to undo"),
            Self::ChangedSince { left, found } => write!(f, "left as {left:?}, changed by others to {found:?}"),
            Self::RolledBack { undo_failures, .. } if undo_failures.is_empty() => {
                f.write_str("failed; all that was changed before is undone")
            }
            Self::RolledBack { undo_failures, .. } => {
                f.write_str("failed; could not be undone completely: ")?;
                list(f, undo_failures)
            }
            Self::NotUndone { failures } => {
                write!(f, "{} changes could not be undone: ", failures.len())?;
                list(f, failures)
            }
            Self::Worker(what) => f.write_str(what),
            Self::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) through {}", self.command, self.pid, self.path.display())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// Whether the kernel or the driver itself found that the driver is not for the function.
fn is_no_match(errno: Option<i32>) -> bool {
    errno == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (n, item) in items.iter().enumerate() {
        let separator = if n == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
    }
    Ok(())
}
