//! Arguments of `assign` and `unassign`.

use super::{Interface, Selector};
use crate::complete;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use vfio_core::VfToken;

/// Gives functions of one slot to a guest.
#[derive(Debug, Args)]
pub(crate) struct Assign {
    /// The function, already on vfio-pci; of sriovctl also several, which become functions 0, 1 and so on of one slot
    #[arg(value_name = "SELECTOR", required = true, add = ArgValueCompleter::new(complete::functions))]
    pub(crate) functions: Vec<Selector>,
    /// The guest: qemu:QMP-SOCKET, cloud-hypervisor:API-SOCKET, libvirt:DOMAIN or sriovctl:CONTROL-SOCKET
    #[arg(long, value_name = "VMM:WHERE")]
    pub(crate) to: Target,
    /// The kernel interface that the VMM is to use
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Interface::Auto)]
    pub(crate) interface: Interface,
    /// Of QEMU: plug it in here, instead of into the first free port
    #[arg(long, value_name = "BUS")]
    pub(crate) bus: Option<String>,
    /// Of QEMU and sriovctl: open a VF of a PF on vfio-pci, or that PF, with this VF token
    #[arg(long, value_name = "UUID")]
    pub(crate) vf_token: Option<VfToken>,
    /// Of libvirt: use this virsh
    #[arg(long, value_name = "FILE", default_value = "virsh", hide_short_help = true)]
    pub(crate) virsh: PathBuf,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Print what would be said to the VMM, and do nothing
    #[arg(short = 'N', long)]
    pub(crate) dry_run: bool,
}

/// Takes a function back from a guest.
#[derive(Debug, Args)]
pub(crate) struct Unassign {
    /// The function; what is in one slot with it leaves with it
    #[arg(value_name = "SELECTOR", add = ArgValueCompleter::new(complete::functions))]
    pub(crate) function: Selector,
    /// The guest: qemu:QMP-SOCKET, cloud-hypervisor:API-SOCKET, libvirt:DOMAIN or sriovctl:CONTROL-SOCKET
    #[arg(long, value_name = "VMM:WHERE")]
    pub(crate) from: Target,
    /// Of libvirt: use this virsh
    #[arg(long, value_name = "FILE", default_value = "virsh", hide_short_help = true)]
    pub(crate) virsh: PathBuf,
    /// Let the guest take so many seconds to let go of it; afterwards it keeps it
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Print what would be said to the VMM, and do nothing
    #[arg(short = 'N', long)]
    pub(crate) dry_run: bool,
}

/// A running guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: TargetKind,
    /// A socket, or the name of a domain.
    pub(crate) name: String,
}

/// Of what VMM it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Qemu,
    CloudHypervisor,
    Libvirt,
    Sriovctl,
}

impl TargetKind {
    const ALL: [Self; 4] = [Self::Qemu, Self::CloudHypervisor, Self::Libvirt, Self::Sriovctl];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Libvirt => "libvirt",
            Self::Sriovctl => "sriovctl",
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || TargetKind::ALL.map(TargetKind::name).join(", ");
        let (vmm, name) = text
            .split_once(':')
            .ok_or_else(|| format!("expected VMM:WHERE, with one of {}", names()))?;
        let kind = TargetKind::ALL.into_iter().find(|kind| kind.name() == vmm);
        let kind = kind.ok_or_else(|| format!("unknown VMM {vmm}; there are {}", names()))?;
        if name.is_empty() {
            return Err(format!("{vmm} of what? A socket or a domain follows the colon"));
        }
        // virsh would take it for an option.
        if kind == TargetKind::Libvirt && name.starts_with('-') {
            return Err("no domain has such a name".to_owned());
        }
        let name = name.to_owned();
        Ok(Self { kind, name })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_named_by_its_vmm_and_where_it_is() {
        for text in [
            "qemu:/run/qmp",
            "cloud-hypervisor:a:b",
            "libvirt:web 1",
            "sriovctl:./control",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for wrong in ["", "qemu", "qemu:", "xen:1", "libvirt:--all", ":x"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
