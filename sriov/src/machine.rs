//! All that a plan looks at, gathered once: functions, their uses and holders, the overrides of those that will change, and
//! what the kernel has to offer.

use crate::file;
use crate::{Access, Deadlines, Error, ErrorKind, Failure, Holders, Loss, PhysicalFunction, Usage, Use, driver, guard};
use pci::{Bdf, Fields, Function, Reason, Sysfs, Topology, Unknown};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What plans ask of a function; not its link and its windows, whose reading may wake it up.
const FIELDS: Fields = Fields::ID
    .union(Fields::DRIVER)
    .union(Fields::GROUP)
    .union(Fields::SRIOV)
    .union(Fields::GROUP_DETAILS)
    .union(Fields::RESET)
    .union(Fields::CLASS_DEVICES);

/// Limit in bytes: `COMMAND_LINE_SIZE` is 4096 at most.
const CMDLINE_LIMIT: usize = 64 << 10;

/// The machine at the time of planning.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its functions.
    pub topology: Topology,
    /// What it uses them for.
    pub usage: Usage,
    /// Who holds them.
    pub holders: Holders,
    /// The names of the drivers of the PCI bus, sorted.
    pub drivers: Vec<String>,
    /// Whether VFIO makes group nodes, `/dev/vfio/N`.
    pub has_group_nodes: bool,
    /// Whether VFIO makes character devices, `/dev/vfio/devices/vfioN`.
    pub has_device_nodes: bool,
    /// What weakens the isolation of every function of this machine, one sentence each.
    pub hazards: Vec<&'static str>,
    overrides: BTreeMap<Bdf, String>,
}

impl Machine {
    /// Gathers what plans for `functions` need: for a PF also what its VFs need. Reads `driver_override`, which takes the device
    /// lock, and asks for disks and routes through `access`, and reads everything else directly.
    ///
    /// # Errors
    /// When there is no PCI bus, or a `driver_override` cannot be read in time; with who holds the function, if anybody.
    pub fn read(sysfs: &Sysfs, access: &mut dyn Access, limits: &Deadlines, functions: &[Bdf]) -> Result<Self, Error> {
        let topology = Topology::read_fields(sysfs, FIELDS).map_err(from_topology)?;
        let vfs = functions
            .iter()
            .flat_map(|pf| topology.virtual_functions(*pf))
            .map(|vf| vf.bdf);
        let mut wanted: Vec<Bdf> = functions.iter().copied().chain(vfs).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut usage = Usage::read(sysfs, &topology);
        usage.ask(sysfs, access, limits.attribute, &wanted);
        let holders = Holders::scan(sysfs);
        let mut overrides = BTreeMap::new();
        for &function in wanted.iter().filter(|function| topology.function(**function).is_some()) {
            match driver_override(access, limits, function) {
                Ok(Some(name)) => drop(overrides.insert(function, name)),
                Ok(None) => {}
                Err(failure) => return Err(from_failure(function, failure, &holders)),
            }
        }
        // These classes are there as soon as the module vfio is, which every driver of VFIO needs.
        let has_class = |class: &str| sysfs.names(Path::new("sys/class").join(class)).is_ok();
        Ok(Self {
            drivers: file::names(sysfs, "sys/bus/pci/drivers").unwrap_or_default(),
            has_group_nodes: has_class("vfio"),
            has_device_nodes: has_class("vfio-dev"),
            hazards: hazards(sysfs),
            topology,
            usage,
            holders,
            overrides,
        })
    }

    /// Whether something may be taken from its users as the machine is now: what an [`Executor`](crate::Executor) asks while it
    /// undoes. Disks and routes are asked for through `access`. Uses that `waive` says yes to are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Held`] or [`ErrorKind::InUse`]; when there is no PCI bus. A function that is gone has no users.
    pub fn check_loss(
        sysfs: &Sysfs,
        access: &mut dyn Access,
        loss: Loss,
        waive: impl Fn(&Use) -> bool,
    ) -> Result<(), Error> {
        let topology = Topology::read_fields(
            sysfs,
            Fields::ID | Fields::DRIVER | Fields::SRIOV | Fields::CLASS_DEVICES,
        )
        .map_err(from_topology)?;
        let (device, step, functions): (_, _, Vec<&Function>) = match loss {
            Loss::Driver(function) => (
                function,
                "write driver/unbind",
                topology.function(function).into_iter().collect(),
            ),
            Loss::VirtualFunctions(pf) => (pf, "write sriov_numvfs", topology.virtual_functions(pf).collect()),
            Loss::Nothing(function) => {
                let own = topology.function(function).into_iter();
                let functions = own.chain(topology.virtual_functions(function));
                (function, "look for holders", functions.collect())
            }
        };
        let usage = match loss {
            Loss::Nothing(_) => Usage::default(),
            Loss::Driver(_) | Loss::VirtualFunctions(_) => {
                let mut usage = Usage::read(sysfs, &topology);
                let functions: Vec<Bdf> = functions.iter().map(|function| function.bdf).collect();
                usage.ask(sysfs, access, Deadlines::default().attribute, &functions);
                usage.waive(waive);
                usage
            }
        };
        guard::check(device, &functions, &usage, &Holders::scan(sysfs)).map_err(|refusal| refusal.into_error(step))
    }

    /// The `driver_override` of a function, where it has one.
    #[must_use]
    pub fn driver_override(&self, function: Bdf) -> Option<&str> {
        self.overrides.get(&function).map(String::as_str)
    }

    /// The function, for `step`.
    pub(crate) fn function(&self, bdf: Bdf, step: &str) -> Result<&Function, Error> {
        self.topology
            .function(bdf)
            .ok_or_else(|| Error::new(bdf, step, ErrorKind::Gone))
    }

    /// The driver that a function is bound to, for `step`.
    pub(crate) fn driver<'a>(&self, function: &'a Function, step: &str) -> Result<Option<&'a str>, Error> {
        let driver = function
            .driver
            .as_ref()
            .map_err(|unknown| from_unknown(function.bdf, step, unknown))?;
        Ok(driver.as_deref())
    }

    /// The PF side of a function, for `step`.
    pub(crate) fn physical_function(&self, bdf: Bdf, step: &str) -> Result<PhysicalFunction<'_>, Error> {
        let function = self.function(bdf, step)?;
        match &function.sriov {
            Ok(Some(sriov)) => Ok(PhysicalFunction { function, sriov }),
            Ok(None) => Err(Error::new(bdf, step, ErrorKind::NotPf)),
            Err(unknown) => Err(from_unknown(bdf, step, unknown)),
        }
    }

    /// Whether the kernel offers VFs of `pf` to drivers that nobody named; where it does not say, it does, as old kernels did.
    pub(crate) fn autoprobes(&self, pf: Bdf) -> bool {
        let sriov = self
            .topology
            .function(pf)
            .and_then(|pf| pf.sriov.as_ref().ok()?.as_ref());
        sriov.is_none_or(|sriov| sriov.drivers_autoprobe != Ok(false))
    }

    /// Refuses a driver that is not loaded.
    pub(crate) fn check_driver(&self, device: Bdf, step: &str, name: &str) -> Result<(), Error> {
        if self.drivers.iter().any(|driver| driver == name) {
            return Ok(());
        }
        let kind = ErrorKind::UnknownDriver {
            name: name.to_owned(),
            similar: driver::similar(name, &self.drivers),
        };
        Err(Error::new(device, step, kind))
    }
}

/// Parameters of the modules, and of a patch that some distributions carry.
fn hazards(sysfs: &Sysfs) -> Vec<&'static str> {
    let is_set = |parameter: &str| {
        let text = sysfs.read(Path::new("sys/module").join(parameter));
        text.is_ok_and(|text| text == "Y" || text == "1")
    };
    let mut hazards = Vec::new();
    if is_set("vfio_iommu_type1/parameters/allow_unsafe_interrupts") {
        hazards.push("allow_unsafe_interrupts is set: a guest can forge interrupts of the host");
    }
    if is_set("vfio/parameters/enable_unsafe_noiommu_mode") {
        hazards.push("enable_unsafe_noiommu_mode is set: a function without an IOMMU can reach all memory");
    }
    if file::text(sysfs, "proc/cmdline", CMDLINE_LIMIT).is_ok_and(|line| line.contains("pcie_acs_override=")) {
        hazards.push("pcie_acs_override is set: functions in different IOMMU groups may reach each other");
    }
    hazards
}

fn driver_override(access: &mut dyn Access, limits: &Deadlines, function: Bdf) -> Result<Option<String>, Failure> {
    let path = PathBuf::from(format!("sys/bus/pci/devices/{function}/driver_override"));
    match access.read(&path, limits.attribute) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| !matches!(name.as_str(), "" | "(null)"))),
        // A captured tree need not have it.
        Err(failure) if failure.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn from_failure(function: Bdf, failure: Failure, holders: &Holders) -> Error {
    let mut kind = ErrorKind::from(failure);
    if let ErrorKind::TimedOut { holders: found, .. } = &mut kind {
        *found = holders.of(function);
    }
    Error::new(function, "read driver_override", kind)
}

fn from_errno(errno: i32) -> ErrorKind {
    match Errno::from_raw_os_error(errno) {
        Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
        Errno::NODEV | Errno::NXIO => ErrorKind::Gone,
        _ => ErrorKind::Errno(errno),
    }
}

fn from_topology(error: pci::Error) -> Error {
    let kind = match error.kind {
        pci::ErrorKind::NoPciBus(path) => ErrorKind::Missing(path),
        pci::ErrorKind::Denied => ErrorKind::Denied,
        pci::ErrorKind::Io(errno) => from_errno(errno),
        other => ErrorKind::Malformed {
            path: PathBuf::new(),
            found: other.to_string(),
        },
    };
    Error::new(error.device, error.step, kind)
}

/// The error of a step that cannot do without a value.
pub(crate) fn from_unknown(device: Bdf, step: &str, unknown: &Unknown) -> Error {
    let path = unknown.path().to_path_buf();
    let kind = match unknown.reason() {
        Reason::Missing => ErrorKind::Missing(path),
        Reason::Denied => ErrorKind::Denied,
        Reason::Io(errno) => from_errno(*errno),
        Reason::Malformed(found) => ErrorKind::Malformed {
            path,
            found: found.to_string(),
        },
        other => ErrorKind::Malformed {
            path,
            found: other.to_string(),
        },
    };
    Error::new(device, step, kind)
}
