//! What a machine is made of, and how it ends.

use crate::kvm::Kvm;
use crate::memory::Node;
use crate::serial::Console;
use std::fs::File;
use vfio_core::PageSize;

/// What machine to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its memory and processors. The guest is told of nodes when there are several.
    pub nodes: Vec<Node>,
    /// The one of them that its functions are near to.
    pub pci_node: Option<u32>,
    /// What its memory is made of. Joined pages are the best that needs no preparation of the host.
    pub pages: PageSize,
    /// The kernel's command line.
    pub command_line: String,
    /// What a reset is.
    pub reboot: Reboot,
    /// Whether the guest may end the machine with a status, by writing it to I/O port 0xF4.
    pub has_exit_port: bool,
}

/// What happens when the guest resets its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reboot {
    /// The machine ends.
    #[default]
    End,
    /// It boots again: the same kernel, initrd and command line.
    InPlace,
}

/// The files that a machine needs, opened by somebody who may.
#[derive(Debug)]
pub struct Files {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// A bzImage, or an ELF file with a PVH entry.
    pub kernel: File,
    /// An initial RAM disk.
    pub initrd: Option<File>,
    /// Where COM1 leads to.
    pub console: Console,
}

/// How a machine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest has powered it off.
    PoweredOff,
    /// The guest has reset it, by a triple fault at worst, and a reset is the [end](Reboot::End).
    Reset,
    /// The guest is done, with this status.
    Exited(u8),
    /// Somebody has [stopped](super::Handle::stop) it.
    Stopped,
}
