//! A machine in memory that answers as the kernel does, for tests of what changes machines.
//!
//! [`Machine`] is an [`Access`](crate::Access): PFs create and remove VFs, drivers are chosen by override or by nature, nodes come and go, and a
//! function that someone holds blocks whoever wants to take it. [`Fault`]s make single accesses fail. Follows the kernel's
//! `drivers/pci/{iov,pci-driver}.c`. What differs between two machines is what `==` on [`Machine::functions`] tells.

mod access;

use pci::{Bdf, RoutingId};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// All functions.
    pub functions: BTreeMap<Bdf, Function>,
    /// Drivers whose probe fails; all others succeed.
    pub refusing: BTreeSet<String>,
    /// Functions that a process holds: taking them from their driver blocks, and from then on all that needs their lock.
    pub held: BTreeSet<Bdf>,
    /// Groups whose node a process has open.
    pub open_groups: BTreeSet<u32>,
    /// Functions whose device lock is taken for good.
    pub stuck: BTreeSet<Bdf>,
    /// What goes wrong; each happens once.
    pub faults: Vec<Fault>,
    /// The routes in tables other than main.
    pub policy_routes: Vec<crate::PolicyRoutes>,
    /// How many looks it takes until a device node is there.
    pub late_nodes: u32,
    /// Whether the kernel was built without VFIO's character devices: `vfio-dev/vfioN` has no `dev`, and no node ever comes.
    pub lacks_device_nodes: bool,
    /// How many reads and writes there were.
    pub accesses: u64,
}

/// A function of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The driver whose id table names it.
    pub native: Option<String>,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its `driver_override`; empty for none.
    pub driver_override: String,
    /// Its IOMMU group; `None` without an IOMMU.
    pub group: Option<u32>,
    /// What it is.
    pub role: Role,
}

/// What a function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Without SR-IOV.
    Plain,
    /// A PF.
    Physical(Sriov),
    /// A VF.
    Virtual {
        /// Its PF.
        pf: Bdf,
        /// Which VF.
        index: u16,
    },
}

/// The SR-IOV state of a PF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sriov {
    /// `sriov_totalvfs`
    pub total: u16,
    /// `sriov_numvfs`
    pub enabled: u16,
    /// `sriov_drivers_autoprobe`
    pub autoprobe: bool,
    /// First VF Offset.
    pub offset: u16,
    /// VF Stride.
    pub stride: u16,
    /// The driver whose id table names the VFs.
    pub vf_native: Option<String>,
}

/// Something that goes wrong once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The last component of the file's path.
    pub file: String,
    /// On writing; else on reading.
    pub write: bool,
    /// How many such accesses go well before.
    pub after: u32,
    /// What happens.
    pub effect: Effect,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The kernel answers with this errno and does nothing.
    Errno(i32),
    /// The access does not return, and does nothing.
    Hang,
    /// The access does not return in time, and happens nevertheless.
    Late,
    /// The write succeeds, and does what writing this value would do.
    Instead(String),
}

impl Machine {
    /// A machine with no functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a function bound to its native driver.
    #[must_use]
    pub fn with_function(mut self, bdf: Bdf, driver: &str) -> Self {
        self.functions.insert(bdf, function(bdf, Some(driver), Role::Plain));
        self
    }

    /// With a PF bound to its native driver, autoprobe on and no VFs; its VFs begin at the next routing id.
    #[must_use]
    pub fn with_pf(mut self, bdf: Bdf, total: u16, driver: &str, vf_driver: Option<&str>) -> Self {
        let role = Role::Physical(Sriov {
            total,
            enabled: 0,
            autoprobe: true,
            offset: 1,
            stride: 1,
            vf_native: vf_driver.map(str::to_owned),
        });
        self.functions.insert(bdf, function(bdf, Some(driver), role));
        self
    }

    /// The VF `index` of a PF, if it exists.
    #[must_use]
    pub fn vf(&self, pf: Bdf, index: u16) -> Option<Bdf> {
        let role = Role::Virtual { pf, index };
        self.functions.iter().find(|(_, f)| f.role == role).map(|(bdf, _)| *bdf)
    }

    /// The driver of a function.
    #[must_use]
    pub fn driver_of(&self, bdf: Bdf) -> Option<&str> {
        self.functions.get(&bdf)?.driver.as_deref()
    }

    /// The function that a path below `sys/bus/pci/devices` lies in, links followed, and the rest of the path.
    fn locate<'p>(&self, path: &'p Path) -> Option<(Bdf, Vec<&'p str>)> {
        let rest = path.strip_prefix("sys/bus/pci/devices").ok()?;
        let mut parts = rest.iter().filter_map(|part| part.to_str());
        let bdf: Bdf = parts.next()?.parse().ok()?;
        let function = self.functions.get(&bdf)?;
        let parts: Vec<_> = parts.collect();
        match (parts.split_first(), &function.role) {
            (Some((link, rest)), Role::Physical(_)) if link.starts_with("virtfn") => {
                let vf = self.vf(bdf, link.strip_prefix("virtfn")?.parse().ok()?)?;
                Some((vf, rest.to_vec()))
            }
            (Some((&"physfn", rest)), Role::Virtual { pf, .. }) => Some((*pf, rest.to_vec())),
            _ => Some((bdf, parts)),
        }
    }

    /// Makes the fault of this access happen, if it has one.
    fn fault(&mut self, path: &Path, write: bool) -> Option<Effect> {
        self.accesses += 1;
        let file = path.file_name()?.to_str()?;
        let at = self.faults.iter().position(|f| f.file == file && f.write == write)?;
        let fault = self.faults.get_mut(at)?;
        match fault.after.checked_sub(1) {
            Some(left) => fault.after = left,
            None => return Some(self.faults.remove(at).effect),
        }
        None
    }

    fn value(&self, path: &Path) -> Result<(Bdf, String), Errno> {
        let (bdf, rest) = self.locate(path).ok_or(Errno::NOENT)?;
        let function = self.functions.get(&bdf).ok_or(Errno::NOENT)?;
        let value = match (rest.as_slice(), &function.role) {
            (["driver_override"], _) if function.driver_override.is_empty() => "(null)".to_owned(),
            (["driver_override"], _) => function.driver_override.clone(),
            (["sriov_numvfs"], Role::Physical(sriov)) => sriov.enabled.to_string(),
            (["sriov_totalvfs"], Role::Physical(sriov)) => sriov.total.to_string(),
            (["sriov_offset"], Role::Physical(sriov)) => sriov.offset.to_string(),
            (["sriov_stride"], Role::Physical(sriov)) => sriov.stride.to_string(),
            (["sriov_drivers_autoprobe"], Role::Physical(sriov)) => u8::from(sriov.autoprobe).to_string(),
            _ => return Err(Errno::NOENT),
        };
        Ok((bdf, value))
    }

    /// `Ok(false)` when the write never returns.
    fn store(&mut self, path: &Path, value: &str) -> Result<bool, Errno> {
        if path == Path::new("sys/bus/pci/drivers_probe") {
            let bdf: Bdf = value.parse().map_err(|_syntax| Errno::NODEV)?;
            if !self.functions.contains_key(&bdf) {
                return Err(Errno::NODEV);
            }
            if self.stuck.contains(&bdf) {
                return Ok(false);
            }
            self.attach(bdf);
            return Ok(true);
        }
        if let Some(driver) = bound_through(path) {
            return self.bind(value, driver);
        }
        let (bdf, rest) = self.locate(path).ok_or(Errno::NOENT)?;
        if self.stuck.contains(&bdf) && !needs_no_lock(path) {
            return Ok(false);
        }
        let function = self.functions.get_mut(&bdf).ok_or(Errno::NOENT)?;
        match (rest.as_slice(), &mut function.role) {
            (["power", "control"], _) if !["on", "auto"].contains(&value) => return Err(Errno::INVAL),
            (["power", "control"], _) => {}
            (["driver_override"], _) => value.trim_end_matches('\n').clone_into(&mut function.driver_override),
            (["sriov_drivers_autoprobe"], Role::Physical(sriov)) => {
                sriov.autoprobe = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(Errno::INVAL),
                }
            }
            (["sriov_numvfs"], Role::Physical(_)) => {
                return self.set_count(bdf, value.parse().map_err(|_syntax| Errno::INVAL)?);
            }
            (["driver", "unbind"], _) if function.driver.is_none() => return Err(Errno::NOENT),
            (["driver", "unbind"], _) if value != bdf.to_string() => return Err(Errno::NODEV),
            (["driver", "unbind"], _) => return Ok(self.detach(bdf)),
            _ => return Err(Errno::NOENT),
        }
        Ok(true)
    }

    fn set_count(&mut self, pf: Bdf, count: u16) -> Result<bool, Errno> {
        let Some(Function {
            role: Role::Physical(sriov),
            driver,
            ..
        }) = self.functions.get(&pf)
        else {
            return Err(Errno::NOENT);
        };
        if count > sriov.total {
            return Err(Errno::RANGE);
        }
        if count == sriov.enabled {
            return Ok(true);
        }
        if driver.is_none() || driver.as_deref() == Some("vfio-pci") {
            return Err(Errno::NOENT);
        }
        if count > 0 && sriov.enabled > 0 {
            return Err(Errno::BUSY);
        }
        if count == 0 {
            return Ok(self.remove_vfs(pf));
        }
        let sriov = sriov.clone();
        for index in 0..count {
            let step = sriov
                .stride
                .checked_mul(index)
                .and_then(|s| s.checked_add(sriov.offset));
            let id = step
                .and_then(|step| pf.routing_id.0.checked_add(step))
                .ok_or(Errno::NOMEM)?;
            let vf = Bdf::new(pf.segment, RoutingId(id));
            let role = Role::Virtual { pf, index };
            self.functions
                .insert(vf, function(vf, sriov.vf_native.as_deref(), role).unbound());
            self.attach(vf);
        }
        self.set_enabled(pf, count);
        Ok(true)
    }

    fn set_enabled(&mut self, pf: Bdf, count: u16) {
        if let Some(Function {
            role: Role::Physical(sriov),
            ..
        }) = self.functions.get_mut(&pf)
        {
            sriov.enabled = count;
        }
    }

    /// `false` when it blocks, with the lock of the PF taken.
    fn remove_vfs(&mut self, pf: Bdf) -> bool {
        let of_pf = |f: &Function| matches!(f.role, Role::Virtual { pf: of, .. } if of == pf);
        let vfs: Vec<Bdf> = self
            .functions
            .iter()
            .filter(|(_, f)| of_pf(f))
            .map(|(bdf, _)| *bdf)
            .collect();
        for vf in vfs {
            if !self.detach(vf) {
                self.stuck.insert(pf);
                return false;
            }
            self.functions.remove(&vf);
        }
        self.set_enabled(pf, 0);
        true
    }

    /// `false` when it blocks, with the lock of the function taken.
    fn detach(&mut self, bdf: Bdf) -> bool {
        if self.held.contains(&bdf) || self.stuck.contains(&bdf) {
            self.stuck.insert(bdf);
            return false;
        }
        // The drivers of PFs remove their VFs when they leave.
        let is_pf = self
            .functions
            .get(&bdf)
            .is_some_and(|f| matches!(f.role, Role::Physical(_)));
        if is_pf && !self.remove_vfs(bdf) {
            return false;
        }
        if let Some(function) = self.functions.get_mut(&bdf) {
            function.driver = None;
        }
        true
    }

    /// Offers a function to the driver that matches it, as `drivers_probe` does: without telling what came of it.
    fn attach(&mut self, bdf: Bdf) {
        if let Some(function) = self.functions.get(&bdf)
            && let Some(driver) = function.matching()
        {
            let driver = driver.to_owned();
            self.offer(bdf, &driver).unwrap_or_default();
        }
    }

    /// Offers a function to one driver, as its `bind` does. `Ok(false)` when it blocks.
    fn bind(&mut self, function: &str, driver: &str) -> Result<bool, Errno> {
        let bdf: Bdf = function.parse().map_err(|_syntax| Errno::NODEV)?;
        let matching = self.functions.get(&bdf).and_then(Function::matching);
        if matching != Some(driver) {
            return Err(Errno::NODEV);
        }
        if self.stuck.contains(&bdf) {
            return Ok(false);
        }
        self.offer(bdf, driver).map(|()| true)
    }

    fn offer(&mut self, bdf: Bdf, driver: &str) -> Result<(), Errno> {
        let function = self.functions.get(&bdf).ok_or(Errno::NODEV)?;
        let may_probe = match function.role {
            // A VF of a PF without autoprobe binds to nothing until it has an override.
            Role::Virtual { pf, .. } => match self.functions.get(&pf).map(|pf| &pf.role) {
                Some(Role::Physical(sriov)) => sriov.autoprobe || !function.driver_override.is_empty(),
                _ => false,
            },
            Role::Plain | Role::Physical(_) => true,
        };
        let function = self.functions.get_mut(&bdf).ok_or(Errno::NODEV)?;
        if function.driver.is_some() {
            return Err(Errno::BUSY);
        }
        if !may_probe {
            return Err(Errno::NODEV);
        }
        if self.refusing.contains(driver) {
            return Err(Errno::INVAL);
        }
        function.driver = Some(driver.to_owned());
        Ok(())
    }

    /// The function whose VFIO node a path below `dev/vfio` is.
    fn is_vfio_node(&self, path: &Path) -> bool {
        let Some(name) = path.strip_prefix("dev/vfio").ok().and_then(Path::to_str) else {
            return false;
        };
        if self.lacks_device_nodes && name.starts_with("devices/") {
            return false;
        }
        let number = name.strip_prefix("devices/vfio").unwrap_or(name).parse().ok();
        let bound = |f: &Function| f.driver.as_deref() == Some("vfio-pci") && f.group == number;
        number.is_some() && self.functions.values().any(bound)
    }
}

/// Whether the kernel answers for this file without the device's lock (`driver_override` as of Linux 7).
fn needs_no_lock(path: &Path) -> bool {
    path.ends_with("sriov_drivers_autoprobe") || path.ends_with("driver_override")
}

/// The driver whose `bind` a path is.
fn bound_through(path: &Path) -> Option<&str> {
    let driver = path.strip_prefix("sys/bus/pci/drivers").ok()?.parent()?.to_str()?;
    path.ends_with("bind").then_some(driver)
}

/// In a group of its own, numbered as its routing id.
fn function(bdf: Bdf, driver: Option<&str>, role: Role) -> Function {
    Function {
        native: driver.map(str::to_owned),
        driver: driver.map(str::to_owned),
        driver_override: String::new(),
        group: Some(bdf.routing_id.0.into()),
        role,
    }
}

impl Function {
    /// The driver that matches: an override is the only one, whatever it is for.
    fn matching(&self) -> Option<&str> {
        match self.driver_override.as_str() {
            "" => self.native.as_deref(),
            name => Some(name),
        }
    }

    fn unbound(mut self) -> Self {
        self.driver = None;
        self
    }
}
