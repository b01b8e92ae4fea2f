//! What the machine itself uses functions for: mounted file systems, swap, volumes, routes, the console.
//!
//! Read once for all functions from `/sys/class` and `/proc`, as [`crate::Holders`] is for processes; what to make of it is
//! for the guard to say. Mounts and interfaces of other namespaces are not to be seen, and neither are the pools of file
//! systems that keep their devices to themselves (ZFS) and the routes of policy routing: [`Usage::ask`] asks the kernel for those.
//!
//! Key types: [`Usage`], [`Use`].

mod block;
mod console;
mod net;
pub(crate) mod policy;

pub use policy::PolicyRoutes;

use crate::{Access, Failure};
use pci::{Bdf, Reason, Sysfs, Topology, Unknown};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many mount points or routes a text names before it counts the rest.
const SHOWN: usize = 4;

/// The uses of all functions of a machine at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    uses: BTreeMap<Bdf, Vec<Use>>,
    disks: BTreeMap<Bdf, BTreeSet<String>>,
    interfaces: BTreeMap<Bdf, Vec<Interface>>,
    /// The files that could not be read. Where there are any, a function without uses may be in use all the same.
    pub unknown: Vec<Unknown>,
}

/// One use of a function. Prints as a sentence without its full stop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Use {
    /// A file system lies on a block device, partition or volume.
    Mounted {
        /// The block device (`nvme0n1p2`).
        device: String,
        /// Its mount points.
        at: Vec<PathBuf>,
    },
    /// A block device is one of those of a mounted btrfs.
    Filesystem {
        /// The block device.
        device: String,
        /// The UUID of the file system.
        uuid: String,
    },
    /// The machine swaps to a block device.
    Swap {
        /// The block device.
        device: String,
    },
    /// A block device is part of another one: a dm volume, an md array, a bcache.
    Member {
        /// The block device.
        device: String,
        /// What it is part of (`dm-0`).
        of: String,
    },
    /// Somebody has a block device for himself, and nothing says who: a mount in another namespace, a ZFS pool, a program.
    Claimed {
        /// The block device.
        device: String,
    },
    /// Routes lead through a network interface.
    Routes {
        /// The interface (`eth0`).
        interface: String,
        /// Some of their destinations; the default route first.
        destinations: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// Another interface lies on a network interface: a bond, bridge, VLAN or macvtap.
    Below {
        /// The interface.
        interface: String,
        /// The one on it.
        upper: String,
    },
    /// The firmware showed its output here.
    BootVga,
    /// The kernel's console is on its frame buffer.
    Console {
        /// The frame buffer (`fb0`).
        framebuffer: String,
    },
}

/// A network interface of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up (`IFF_UP`); `None` when that could not be read.
    pub is_up: Option<bool>,
}

impl Usage {
    /// Reads the uses of all functions.
    #[must_use]
    pub fn read(sysfs: &Sysfs, topology: &Topology) -> Self {
        let mut usage = Self::default();
        block::read(sysfs, &mut usage);
        net::read(sysfs, &mut usage);
        console::read(sysfs, topology, &mut usage);
        usage
    }

    /// Asks the kernel through `access` what no file tells of `functions`: for each disk that seems unused whether somebody has
    /// claimed it, and for the routes that lie in tables other than main. Does nothing for a captured tree. What does not answer within
    /// `limit` becomes unknown; after a disk that does not, no other is asked.
    pub fn ask(&mut self, sysfs: &Sysfs, access: &mut dyn Access, limit: Duration, functions: &[Bdf]) {
        if sysfs.is_host() {
            self.ask_for_routes(sysfs, access, limit, functions);
            self.ask_for_disks(access, limit, functions);
        }
    }

    fn ask_for_routes(&mut self, sysfs: &Sysfs, access: &mut dyn Access, limit: Duration, functions: &[Bdf]) {
        if !functions.iter().any(|function| self.interfaces.contains_key(function)) {
            return;
        }
        match access.policy_routes(limit) {
            Ok(routes) => net::add_policy_routes(sysfs, self, routes),
            Err(failure) => {
                let reason = failure.errno().map_or(Reason::TimedOut, Reason::Io);
                self.unknown.push(reason.at("rtnetlink: RTM_GETROUTE"));
            }
        }
    }

    fn ask_for_disks(&mut self, access: &mut dyn Access, limit: Duration, functions: &[Bdf]) {
        let unused = |function: &&Bdf| !self.uses.contains_key(function);
        for function in functions.iter().filter(unused).collect::<Vec<_>>() {
            for device in self.disks.get(function).into_iter().flatten() {
                let node = Path::new("dev").join(device);
                match access.is_claimed(&node, limit) {
                    Ok(true) => {
                        let device = device.clone();
                        self.uses.entry(*function).or_default().push(Use::Claimed { device });
                    }
                    // A disk without a node, or of a kind that cannot be opened now, was claimed by nobody that the kernel tells of.
                    Ok(false) | Err(Failure::Errno(_)) => {}
                    Err(Failure::TimedOut(_) | Failure::Worker(_)) => {
                        self.unknown.push(Reason::TimedOut.at(node));
                        return;
                    }
                }
            }
        }
    }

    /// Leaves out the uses that the user agreed to lose.
    pub fn waive(&mut self, is_agreed: impl Fn(&Use) -> bool) {
        for uses in self.uses.values_mut() {
            uses.retain(|used| !is_agreed(used));
        }
    }

    /// What a function is used for; nothing, as far as known, when empty.
    #[must_use]
    pub fn of(&self, function: Bdf) -> &[Use] {
        self.uses.get(&function).map(Vec::as_slice).unwrap_or_default()
    }

    /// The network interfaces of a function that this network namespace sees.
    #[must_use]
    pub fn interfaces(&self, function: Bdf) -> &[Interface] {
        self.interfaces.get(&function).map(Vec::as_slice).unwrap_or_default()
    }

    fn add(&mut self, function: Bdf, uses: Vec<Use>) {
        if !uses.is_empty() {
            self.uses.entry(function).or_default().extend(uses);
        }
    }

    /// The value, or its default and a note of what is not known.
    fn known<T: Default>(&mut self, reading: pci::Reading<T>) -> T {
        reading.unwrap_or_else(|unknown| {
            self.unknown.push(unknown);
            T::default()
        })
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => {
                write!(f, "{device} is mounted at ")?;
                some(f, at.iter().map(|path| path.display()), at.len())
            }
            Self::Filesystem { device, uuid } => write!(f, "{device} belongs to the mounted btrfs {uuid}"),
            Self::Swap { device } => write!(f, "{device} is swap space"),
            Self::Member { device, of } => write!(f, "{device} is part of {of}"),
            Self::Claimed { device } => write!(f, "{device} is claimed by a file system or a program"),
            Self::Routes {
                interface,
                destinations,
                count,
            } => {
                let noun = if *count == 1 { "route" } else { "routes" };
                write!(f, "{interface} carries the {noun} ")?;
                some(f, destinations.iter(), *count)
            }
            Self::Below { interface, upper } => write!(f, "{interface} is below {upper}"),
            Self::BootVga => f.write_str("it is the display that the machine booted with"),
            Self::Console { framebuffer } => write!(f, "the console is on {framebuffer}"),
        }
    }
}

/// The first few items of `count`.
fn some<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = T>, count: usize) -> fmt::Result {
    let mut shown = 0;
    for item in items.take(SHOWN) {
        let separator = if shown == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
        shown += 1;
    }
    match count.saturating_sub(shown) {
        0 => Ok(()),
        rest => write!(f, " and {rest} more"),
    }
}

#[cfg(test)]
mod tests;
