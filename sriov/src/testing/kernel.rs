//! What the kernel does to a tree.

use super::{Tree, bdf};
use crate::{Action, Attribute, Condition, Plan, Step, Target};
use pci::{Bdf, VfIndex};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const EBUSY: &str = "device or resource busy";

/// A machine with a root port, and a PF of eight VFs with `igb` and `igbvf` as native drivers.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) tree: Tree,
    pub(crate) has_iommu: bool,
}

/// What a step did, as far as undoing needs to know.
#[derive(Debug)]
pub(crate) struct Done {
    step: Step,
    former: Option<String>,
}

/// All that plans change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) numvfs: String,
    pub(crate) autoprobe: String,
    /// Driver and override.
    pub(crate) functions: BTreeMap<Bdf, (Option<String>, String)>,
}

impl Kernel {
    pub(crate) fn pf() -> Bdf {
        bdf("01:00.0")
    }

    pub(crate) fn vf(index: u16) -> Bdf {
        bdf(&format!("01:10.{index}"))
    }

    pub(crate) fn new(has_iommu: bool, has_device_nodes: bool) -> Self {
        let tree = Tree::new();
        tree.function(bdf("00:01.0"), "0x060400\n", has_iommu.then_some(1));
        tree.bind(bdf("00:01.0"), "pcieport");
        tree.function(Self::pf(), "0x020000\n", has_iommu.then_some(10));
        tree.bind(Self::pf(), "igb");
        let interface = tree.class_device(Self::pf(), "net", "eth0");
        tree.file(interface.join("flags"), "0x1003\n");
        let path = Tree::function_path(Self::pf());
        for (name, text) in [
            ("sriov_totalvfs", "8\n"),
            ("sriov_numvfs", "0\n"),
            ("sriov_offset", "128\n"),
            ("sriov_stride", "1\n"),
            ("sriov_vf_device", "10ca\n"),
            ("sriov_drivers_autoprobe", "1\n"),
        ] {
            tree.file(path.join(name), text);
        }
        for driver in ["igbvf", "vfio-pci"] {
            tree.driver(driver);
        }
        tree.directory("sys/class/vfio");
        if has_device_nodes {
            tree.directory("sys/class/vfio-dev");
        }
        Self { tree, has_iommu }
    }

    pub(crate) fn set_autoprobe(&self, value: &str) {
        self.tree
            .file(Tree::function_path(Self::pf()).join("sriov_drivers_autoprobe"), value);
    }

    /// The functions that exist.
    pub(crate) fn functions(&self) -> Vec<Bdf> {
        let names = self.tree.sysfs().names("sys/bus/pci/devices").unwrap();
        names.iter().map(|name| bdf(name)).collect()
    }

    pub(crate) fn state(&self) -> State {
        let pf = Tree::function_path(Self::pf());
        let mut functions = self.functions();
        functions.retain(|function| function.routing_id.bus() == 1);
        let function = |function: Bdf| {
            let text = self
                .tree
                .text(Tree::function_path(function).join("driver_override"))
                .unwrap();
            (function, (self.driver_of(function), text))
        };
        State {
            numvfs: self.tree.text(pf.join("sriov_numvfs")).unwrap(),
            autoprobe: self.tree.text(pf.join("sriov_drivers_autoprobe")).unwrap(),
            functions: functions.into_iter().map(function).collect(),
        }
    }

    /// Runs a plan.
    pub(crate) fn apply(&self, plan: &Plan) -> Result<Vec<Done>, String> {
        let run = |step: &Step| {
            let former = self.former(step);
            self.run(step)
                .map_err(|error| format!("{} {}: {error}", step.target, step.action))?;
            Ok(Done {
                step: step.clone(),
                former,
            })
        };
        plan.steps.iter().map(run).collect()
    }

    /// Undoes what was done, last step first.
    pub(crate) fn undo(&self, done: &[Done]) -> Result<(), String> {
        for Done { step, former } in done.iter().rev() {
            let function = self.resolve(step.target)?;
            match (&step.action, former) {
                (Action::Set { attribute, .. }, Some(former)) => self.set(function, *attribute, former)?,
                (Action::Unbind, Some(driver)) => self.probe(function, Some(driver))?,
                (Action::Probe { .. }, None) => self.unbind(function),
                _ => {}
            }
        }
        Ok(())
    }

    fn former(&self, step: &Step) -> Option<String> {
        let function = self.resolve(step.target).ok()?;
        match &step.action {
            Action::Set { attribute, .. } => {
                let text = self
                    .tree
                    .text(Tree::function_path(function).join(attribute.file_name()))?;
                Some(if text == "(null)" { String::new() } else { text })
            }
            Action::Unbind | Action::Probe { .. } => self.driver_of(function),
            Action::Wait { .. } => None,
        }
    }

    fn run(&self, step: &Step) -> Result<(), String> {
        let function = self.resolve(step.target)?;
        match &step.action {
            Action::Set { attribute, value } => self.set(function, *attribute, value),
            Action::Unbind => {
                self.driver_of(function).ok_or("no driver to unbind from")?;
                self.unbind(function);
                Ok(())
            }
            Action::Probe { driver } => self.probe(function, driver.as_deref()),
            Action::Wait { condition, .. } => {
                let is_met = match condition {
                    Condition::VirtualFunctions { count } => (0..*count).all(|n| self.path(&Self::virtfn(n)).exists()),
                    Condition::GroupNode => self.path(&self.group_node(function)).exists(),
                    Condition::DeviceNode => self.path(&Self::device_node(function)).exists(),
                    Condition::Exists(path) => self.path(path).exists(),
                };
                if is_met {
                    Ok(())
                } else {
                    Err("would wait for ever".to_owned())
                }
            }
        }
    }

    fn set(&self, function: Bdf, attribute: Attribute, value: &str) -> Result<(), String> {
        let file = Tree::function_path(function).join(attribute.file_name());
        match attribute {
            Attribute::DriverOverride => self.tree.file(file, if value.is_empty() { "(null)" } else { value }),
            Attribute::DriversAutoprobe => self.tree.file(file, value),
            Attribute::NumVfs => {
                let former: u16 = self.tree.text(&file).unwrap().parse().unwrap();
                let count: u16 = value.parse().unwrap();
                match (former, count) {
                    (0, count) => self.create(count),
                    (former, 0) => self.delete(former),
                    _ => return Err(EBUSY.to_owned()),
                }
                self.tree.file(file, value);
            }
        }
        Ok(())
    }

    fn create(&self, count: u16) {
        for index in 0..count {
            let vf = Self::vf(index);
            self.tree
                .function(vf, "0x020000\n", self.has_iommu.then_some(20 + u32::from(index)));
            self.tree
                .link_to(Tree::function_path(vf).join("physfn"), Tree::function_path(Self::pf()));
            self.tree.link_to(Self::virtfn(index), Tree::function_path(vf));
            self.offer(vf);
        }
    }

    fn delete(&self, count: u16) {
        for index in 0..count {
            let vf = Self::vf(index);
            self.unbind(vf);
            self.tree.remove(Self::virtfn(index));
            self.tree.remove(format!("sys/bus/pci/devices/{vf}"));
            self.tree
                .remove(format!("sys/kernel/iommu_groups/{}", 20 + u32::from(index)));
            self.tree.remove(Tree::function_path(vf));
        }
    }

    /// `device_attach`, with the rule of `pci_device_can_probe`.
    fn offer(&self, function: Bdf) {
        let path = Tree::function_path(function);
        let is_vf = self.path(&path.join("physfn")).exists();
        let autoprobe = self
            .tree
            .text(Tree::function_path(Self::pf()).join("sriov_drivers_autoprobe"));
        let driver = match self.tree.text(path.join("driver_override")).as_deref() {
            Some("(null)") | None if is_vf && autoprobe.as_deref() == Some("0") => return,
            Some("(null)") | None => if is_vf { "igbvf" } else { "igb" }.to_owned(),
            Some(name) => name.to_owned(),
        };
        if self.driver_of(function).is_some() || !self.path(&Path::new("sys/bus/pci/drivers").join(&driver)).exists() {
            return;
        }
        self.tree.bind(function, &driver);
        if driver == "vfio-pci" {
            self.tree.file(self.group_node(function), "");
            if self.path(Path::new("sys/class/vfio-dev")).exists() {
                let name = Self::device_name(function);
                self.tree.class_device(function, "vfio-dev", &name);
                self.tree.file(Self::device_node(function), "");
            }
        } else {
            self.tree
                .class_device(function, "net", &format!("if{}", function.routing_id.devfn()));
        }
    }

    fn probe(&self, function: Bdf, wanted: Option<&str>) -> Result<(), String> {
        self.offer(function);
        let found = self.driver_of(function);
        match wanted {
            Some(wanted) if found.as_deref() != Some(wanted) => Err(format!("{found:?} has it, not {wanted}")),
            _ => Ok(()),
        }
    }

    fn unbind(&self, function: Bdf) {
        let path = Tree::function_path(function);
        self.tree.remove(path.join("driver"));
        self.tree.remove(self.group_node(function));
        self.tree.remove(Self::device_node(function));
        for class in ["net", "vfio-dev"] {
            for name in self.tree.sysfs().names(path.join(class)).unwrap_or_default() {
                self.tree.remove(Path::new("sys/class").join(class).join(name));
            }
            self.tree.remove(path.join(class));
        }
    }

    pub(crate) fn driver_of(&self, function: Bdf) -> Option<String> {
        self.tree
            .sysfs()
            .link_name(Tree::function_path(function).join("driver"))
            .ok()
    }

    fn resolve(&self, target: Target) -> Result<Bdf, String> {
        match target {
            Target::Function(function) => Ok(function),
            Target::VirtualFunction {
                index: VfIndex(index), ..
            } => {
                let name = self
                    .tree
                    .sysfs()
                    .link_name(Self::virtfn(index))
                    .map_err(|unknown| unknown.to_string())?;
                Ok(bdf(&name))
            }
        }
    }

    fn path(&self, relative: &Path) -> PathBuf {
        self.tree.path(relative)
    }

    fn virtfn(index: u16) -> PathBuf {
        Tree::function_path(Self::pf()).join(format!("virtfn{index}"))
    }

    fn group_node(&self, function: Bdf) -> PathBuf {
        let group = self
            .tree
            .sysfs()
            .link_name(Tree::function_path(function).join("iommu_group"));
        Path::new("dev/vfio").join(group.unwrap_or_else(|_| "none".to_owned()))
    }

    fn device_name(function: Bdf) -> String {
        format!("vfio{}", function.routing_id.devfn())
    }

    fn device_node(function: Bdf) -> PathBuf {
        Path::new("dev/vfio/devices").join(Self::device_name(function))
    }
}
