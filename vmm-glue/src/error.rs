//! The crate's error.

use pci::Bdf;
use std::borrow::Cow;
use std::ops::Range;
use std::{fmt, io};

/// What went wrong: on which device, in which step, and why.
#[derive(Debug)]
pub struct Error {
    /// The function concerned, where one is.
    pub device: Option<Bdf>,
    /// What was being done, as the kernel spells it where it is a call of the kernel.
    pub step: Cow<'static, str>,
    /// Why it failed.
    pub kind: ErrorKind,
}

/// Why something failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device, through the kernel.
    Device(Box<vfio_core::Error>),
    /// Memory for devices.
    Memory(Box<iommu::Error>),
    /// The kernel refused, or a file.
    Io(io::Error),
    /// Something else is there.
    Occupied(Range<u64>),
    /// Guest memory lies where the IOMMU has none for devices.
    Reserved {
        /// The guest-physical addresses of the memory.
        wanted: Range<u64>,
        /// The first of them that devices cannot have.
        reserved: Range<u64>,
    },
    /// The request makes no sense; says why.
    Invalid(&'static str),
    /// What was given cannot be used; says why.
    Malformed(Cow<'static, str>),
    /// The kernel or the device does not offer this; says what does.
    Unsupported(&'static str),
    /// Nothing of this kind is left; says of what.
    Exhausted(&'static str),
    /// A processor of the guest cannot go on; says why.
    Stopped(Cow<'static, str>),
    /// It took longer than it may.
    TimedOut,
}

/// What the functions of this crate give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of no function in particular.
    #[must_use]
    pub fn new(step: impl Into<Cow<'static, str>>, kind: ErrorKind) -> Self {
        Self {
            device: None,
            step: step.into(),
            kind,
        }
    }

    /// Of this function.
    #[must_use]
    pub fn on(self, device: Bdf) -> Self {
        let device = Some(device);
        Self { device, ..self }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        match &self.kind {
            ErrorKind::Device(error) => error.fix(),
            ErrorKind::Memory(error) => error.fix(),
            ErrorKind::Reserved { .. } => Some(
                "give the guest less memory, or leave out the device whose IOMMU group has these addresses in reserved_regions",
            ),
            ErrorKind::TimedOut if self.step == UNPLUG => Some(
                "the guest needs a driver for PCI Express hot-plug slots (Linux: CONFIG_HOTPLUG_PCI_PCIE, pcie_ports=native)",
            ),
            ErrorKind::Io(error) => self.fix_io(error),
            ErrorKind::Exhausted("interrupt route" | "interrupt vector" | "memory slot") => {
                Some("give the guest fewer functions, or such as have fewer vectors")
            }
            ErrorKind::Exhausted(HUGE_PAGE) => Some(
                "reserve as many as the guest's memory takes, in nr_hugepages below /sys/kernel/mm/hugepages, or give it less memory",
            ),
            ErrorKind::Exhausted("slot") => Some("remove a function first: the guest has no free slot"),
            ErrorKind::Exhausted("address") => Some("give the guest less memory, or functions with smaller BARs"),
            ErrorKind::Exhausted(what) if what.starts_with("memory of the guest") => Some("give the guest more memory"),
            ErrorKind::Malformed(_) | ErrorKind::Unsupported(_) if self.step == LOAD_KERNEL => {
                Some("boot a bzImage for x86-64 (Linux 3.8 or newer), or an ELF file with CONFIG_PVH")
            }
            ErrorKind::Malformed(_) if ["seccomp", "landlock"].contains(&&*self.step) => {
                Some("the kernel does not confine processes so: --no-sandbox does without")
            }
            ErrorKind::Stopped(_) => {
                Some("the guest's kernel did what KVM cannot: see what it said last, or boot another one")
            }
            _ => None,
        }
    }
}

impl Error {
    fn fix_io(&self, error: &io::Error) -> Option<&'static str> {
        let is_kvm = self.step.starts_with("open ") && self.step.ends_with("kvm");
        match error.kind() {
            io::ErrorKind::NotFound if is_kvm => {
                Some("load kvm_intel or kvm_amd; the firmware has to have virtualization switched on")
            }
            io::ErrorKind::PermissionDenied if is_kvm => Some("join the group that may open it (mostly kvm)"),
            _ if error.raw_os_error() == Some(libc::EMFILE) => {
                Some("raise the hard limit of open files: ulimit -Hn, or LimitNOFILE= in the unit")
            }
            _ => None,
        }
    }
}

/// Of which there are too few for a guest.
pub(crate) const HUGE_PAGE: &str = "reserved huge page";

/// The step in which the guest's kernel is read.
pub(crate) const LOAD_KERNEL: &str = "load the kernel";

/// The step in which a guest is to let go of a function.
pub(crate) const UNPLUG: &str = "unplug a function";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = self.device {
            write!(f, "{device}: ")?;
        }
        write!(f, "{}: {}", self.step, self.kind)
    }
}

/// The cause alone: device and step are the [`Error`]'s to say.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.kind.fmt(f),
            Self::Memory(error) => match &**error {
                iommu::Error::Kernel(error) => error.kind.fmt(f),
                error => error.fmt(f),
            },
            Self::Io(error) => error.fmt(f),
            Self::Occupied(range) => write!(f, "{:#x}..{:#x} is taken", range.start, range.end),
            Self::Reserved { wanted, reserved } => write!(
                f,
                "guest memory at {:#x}..{:#x} collides with {:#x}..{:#x}, where devices can have none (reserved, or beyond the IOMMU's reach)",
                wanted.start, wanted.end, reserved.start, reserved.end
            ),
            Self::Invalid(why) => f.write_str(why),
            Self::Malformed(why) | Self::Stopped(why) => f.write_str(why),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::Exhausted(what) => write!(f, "no {what} is left"),
            Self::TimedOut => f.write_str("it took too long"),
        }
    }
}

impl std::error::Error for Error {}

impl From<vfio_core::Error> for Error {
    fn from(error: vfio_core::Error) -> Self {
        Self {
            device: error.device,
            step: Cow::Owned(error.step.to_string()),
            kind: ErrorKind::Device(Box::new(error)),
        }
    }
}

impl From<iommu::Error> for Error {
    fn from(error: iommu::Error) -> Self {
        Self {
            device: error.device(),
            step: match &error {
                iommu::Error::Kernel(error) => Cow::Owned(error.step.to_string()),
                _ => Cow::Borrowed("map memory for devices"),
            },
            kind: ErrorKind::Memory(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_does_not_let_go_may_lack_a_driver_and_a_full_one_has_slots_to_be_freed() {
        let fix = |step, kind| Error::new(step, kind).fix();
        assert!(fix(UNPLUG, ErrorKind::TimedOut).unwrap().contains("pcie_ports"));
        assert!(
            fix("plug", ErrorKind::Exhausted("slot"))
                .unwrap()
                .contains("no free slot")
        );
        assert_eq!(fix("receive", ErrorKind::TimedOut), None);
        let errno = |number| ErrorKind::Io(io::Error::from_raw_os_error(number));
        let missing = |number| fix("open /dev/kvm", errno(number)).unwrap();
        assert!(missing(libc::ENOENT).contains("load") && missing(libc::EACCES).contains("group"));
        assert!(fix("dup", errno(libc::EMFILE)).unwrap().contains("ulimit"));
        assert_eq!(fix("open /boot/vmlinuz", errno(libc::ENOENT)), None);
    }

    #[test]
    fn what_can_be_done_about_a_failure_depends_on_its_step() {
        let fix = |step, kind| Error::new(step, kind).fix().unwrap_or_default();
        let malformed = || ErrorKind::Malformed("no magic number".into());
        assert!(fix(LOAD_KERNEL, malformed()).contains("bzImage"));
        assert!(fix("seccomp", malformed()).contains("--no-sandbox"));
        assert_eq!(fix("receive", malformed()), "");
        assert!(fix("KVM_IRQFD", ErrorKind::Exhausted("interrupt route")).contains("fewer"));
        let full = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(fix("dup", ErrorKind::Io(full)).contains("LimitNOFILE"));
    }

    #[test]
    fn an_error_says_device_step_and_cause_once() {
        let error = Error::new("KVM_IRQFD", ErrorKind::Exhausted("interrupt route"));
        assert_eq!(error.to_string(), "KVM_IRQFD: no interrupt route is left");
        let error = error.on("0000:01:10.0".parse().unwrap());
        assert_eq!(error.to_string(), "0000:01:10.0: KVM_IRQFD: no interrupt route is left");
        let inner = vfio_core::Error::new("VFIO_DEVICE_RESET", vfio_core::ErrorKind::Gone(vfio_core::Errno::NODEV));
        let said = inner.to_string();
        assert_eq!(Error::from(inner.clone()).to_string(), said);
        // One that the kernel's step did not know of is named, too.
        let device = "0000:01:10.0".parse().unwrap();
        for error in [Error::from(inner.clone()), Error::from(iommu::Error::from(inner))] {
            assert_eq!(error.step, "VFIO_DEVICE_RESET");
            assert_eq!(error.on(device).to_string(), format!("0000:01:10.0: {said}"));
        }
        let error = Error::from(iommu::Error::Cancelled).on(device);
        assert_eq!(
            error.to_string(),
            "0000:01:10.0: map memory for devices: the map was cancelled"
        );
    }
}
