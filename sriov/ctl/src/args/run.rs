//! Arguments of `run`, and of the process that it starts.

use super::{Interface, Selector};
use crate::complete;
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use vfio_core::VfToken;

mod device;
mod numa;

pub(crate) use device::{Device, Place};
pub(crate) use numa::{Numa, NumaNode};

/// Boots a guest.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Functions, already on vfio-pci; none are needed with --device or --control
    #[arg(value_name = "SELECTOR", required_unless_present_any = ["device", "control"], add = ArgValueCompleter::new(complete::functions))]
    pub(crate) functions: Vec<Selector>,
    /// A function, as one that is named without this, and how the guest has it
    ///
    /// slot=SLOT[.FUNCTION] says where: slot 1 to 31 and function 0 to 7 of it, which is 0000:SLOT:00.FUNCTION in the guest. Several functions in one slot are
    /// one device. Without, each gets the first free slot. token=UUID is its VF token.
    #[arg(long, value_name = "SELECTOR[,slot=SLOT.FUNCTION][,token=UUID]", add = ArgValueCompleter::new(complete::functions))]
    pub(crate) device: Vec<Device>,
    /// Open VFs of a PF on vfio-pci, and that PF, with this VF token
    ///
    /// The kernel lets nobody at a VF whose PF user space has, unless with the token that the user of the PF has set.
    /// With --vmm qemu it is an argument of QEMU, which everybody on this machine can read.
    #[arg(long, value_name = "UUID")]
    pub(crate) vf_token: Option<VfToken>,
    /// Run the guest with this
    #[arg(long, value_name = "NAME", value_enum, default_value_t = VmmName::Own)]
    pub(crate) vmm: VmmName,
    /// Boot this Linux kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// With this initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// And this kernel command line
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub(crate) append: Option<OsString>,
    /// Give the guest so much memory, 1G without; suffixes K, M, G and T are powers of 1024
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<MemorySize>,
    /// Give the guest so many CPUs, 1 without
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=254))]
    pub(crate) cpus: Option<u16>,
    /// Give the guest so many NUMA nodes, or one of these CPUs and this memory; may be repeated
    ///
    /// With a number, or where cpus and memory are left out, nodes share CPUs and memory evenly. cpus=FIRST-LAST follows those of the node before. memory=SIZE
    /// is of every node or of none. host=NODE takes the memory from a node of the host as long as that has any. The guest is told which node
    /// its functions are near to when all of them are near to a node of the host that one of the guest's has.
    #[arg(long, value_name = "N|[cpus=FIRST-LAST][,memory=SIZE][,host=NODE]")]
    pub(crate) numa: Vec<Numa>,
    /// Take reserved huge pages of this size for the guest's memory
    ///
    /// Without, and with all of it pinned, they are pages that the kernel joins to 2 MiB where it can (transparent_hugepage).
    #[arg(long, value_name = "SIZE", value_enum)]
    pub(crate) hugepages: Option<HugePages>,
    /// How much of the guest's memory is kept in place for its functions
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Pin::All)]
    pub(crate) pin: Pin,
    /// Listen here for sriovctl assign and unassign; up to four functions can come later
    #[arg(long, value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,
    /// Let the guest end with an exit code, which it writes to I/O port 0xF4
    #[arg(long)]
    pub(crate) exit_port: bool,
    /// Leave the guest's process the rights of root
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// Of QEMU: run guest code in this way
    #[arg(long, value_name = "NAME", default_value = "kvm", value_parser = ["kvm", "tcg"])]
    pub(crate) accel: String,
    /// Of QEMU: use this one; a script must execute it in its own place (exec)
    #[arg(long, value_name = "FILE", default_value = QEMU)]
    pub(crate) qemu: PathBuf,
    /// The kernel interface to use
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Interface::Auto)]
    pub(crate) interface: Interface,
    /// End the guest after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) timeout: Option<u64>,
    /// Print what would be run, and do nothing: QEMU's command line, or what the guest's process would be told; files are not looked at
    #[arg(short = 'N', long)]
    pub(crate) dry_run: bool,
    /// Further arguments of QEMU; none that sends it to the background or changes its user
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) extra: Vec<OsString>,
}

/// The QEMU that is used unless another one is named.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// What runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VmmName {
    /// sriovctl itself: Linux kernels, functions and a serial console, and nothing else
    Own,
    /// qemu-system-x86_64
    Qemu,
}

/// Reserved pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HugePages {
    /// 2 MiB
    #[value(name = "2M")]
    TwoMib,
    /// 1 GiB
    #[value(name = "1G")]
    OneGib,
}

/// What is kept in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// All of it: what every function can do with
    All,
    /// What functions have asked for: they must be able to ask (PRI)
    WorkingSet,
    /// What functions have asked for lately: they must be able to ask (PRI)
    None,
}

/// Becomes the process of a guest of sriovctl itself.
#[derive(Debug, Args)]
pub(crate) struct VmProcess {
    /// The process to end with
    #[arg(value_name = "PID")]
    pub(crate) parent: i32,
}

/// Becomes a guest's process.
#[derive(Debug, Args)]
pub(crate) struct Guest {
    /// The process to end with
    #[arg(value_name = "PID")]
    pub(crate) parent: i32,
    /// The program to execute
    #[arg(value_name = "FILE")]
    pub(crate) program: PathBuf,
    /// Its arguments
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

/// An amount of guest memory in bytes, a multiple of 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemorySize(u64);

const MIB: u64 = 1 << 20;

impl MemorySize {
    /// In bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text
            .get(digits.len()..)
            .unwrap_or_default()
            .to_ascii_uppercase()
            .as_str()
        {
            "" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            suffix => return Err(format!("unknown suffix {suffix}")),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_not_a_number| "expected a size such as 512M or 2G".to_owned())?;
        let bytes = number
            .checked_mul(1 << shift)
            .filter(|bytes| *bytes >= MIB && bytes.is_multiple_of(MIB));
        bytes
            .map(Self)
            .ok_or_else(|| "expected a multiple of 1 MiB, at least 1M".to_owned())
    }
}

/// In the form that QEMU's `-m` takes.
impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0 / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        let size = |text: &str| text.parse::<MemorySize>().map(|size| size.to_string());
        assert_eq!(size("1G").unwrap(), "1024M");
        assert_eq!(size("512m").unwrap(), "512M");
        assert_eq!(size("2097152").unwrap(), "2M");
        for wrong in ["", "G", "0", "1K", "1.5G", "1P", "18446744073709551615T", "-1G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
