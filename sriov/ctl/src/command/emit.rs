//! `emit`: functions as others want to be told of them.

use crate::args::{Emit, Format, Interface};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::is_on_vfio;
use pci::{Bdf, Fields, Function, Sysfs, Topology};
use serde::Serialize;
use sriov::{Backend, Emitted, Form, Handout, Pf};
use std::io::Write as _;

/// Prints them.
pub(crate) fn run(args: &Emit, settings: &Settings, output: &mut Output) -> Outcome {
    let (form, name) = form(args.format);
    let fields = Fields::DRIVER | Fields::CLASS_DEVICES | needs(form) | selector::fields(&args.selectors);
    let topology = Topology::read_fields(&settings.sysfs, fields)?;
    let selection = selector::resolve(&args.selectors, &topology, &settings.sysfs)?;
    let functions = selection.functions.iter().filter_map(|bdf| topology.function(*bdf));
    let handouts: Vec<Handout> = functions
        .map(|function| handout(&settings.sysfs, &topology, function))
        .collect();
    let wanted = match args.interface {
        Interface::Auto => None,
        Interface::Type1 => Some(Backend::Type1),
        Interface::Iommufd => Some(Backend::Iommufd),
    };
    let node = settings.sysfs.read("proc/sys/kernel/hostname").ok();
    let node = node.as_deref().map(str::trim).filter(|node| !node.is_empty());
    let emitted = match handouts.is_empty() {
        // Nothing to tell, as of nothing that was selected.
        true => Vec::new(),
        false => sriov::emit(form, &handouts, wanted, node).map_err(Failure::from)?,
    };
    if output.is_json() {
        let configurations = emitted
            .iter()
            .map(|emitted| Configuration::new(emitted, name, &handouts));
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            configurations: configurations.collect(),
            unmatched: &selection.unmatched,
        })?;
    } else {
        for handout in handouts
            .iter()
            .filter(|handout| form.needs_vfio() && !handout.is_on_vfio)
        {
            output.note(format_args!(
                "{} is not on a VFIO driver yet: sriovctl bind {0} --driver vfio-pci",
                handout.bdf
            ));
        }
        // Those of one form are the same for every function.
        for note in emitted.first().iter().flat_map(|emitted| &emitted.notes) {
            output.note(note);
        }
        for emitted in &emitted {
            writeln!(output.data(), "{}", emitted.text)?;
        }
    }
    Ok(super::finish(&selection, output))
}

fn form(format: Format) -> (Form, &'static str) {
    match format {
        Format::Qemu => (Form::Qemu, "qemu"),
        Format::CloudHypervisor => (Form::CloudHypervisor, "cloud-hypervisor"),
        Format::Libvirt => (Form::Libvirt, "libvirt"),
        Format::Crosvm => (Form::Crosvm, "crosvm"),
        Format::Firecracker => (Form::Firecracker, "firecracker"),
        Format::Cdi => (Form::Cdi, "cdi"),
        Format::Systemd => (Form::Systemd, "systemd"),
        Format::K8sDevicePlugin => (Form::DevicePlugin, "k8s-device-plugin"),
        Format::K8sSriovPolicy => (Form::NodePolicy, "k8s-sriov-policy"),
        Format::Kubevirt => (Form::KubeVirt, "kubevirt"),
    }
}

/// What a form says beyond addresses.
fn needs(form: Form) -> Fields {
    match form {
        Form::Cdi => Fields::GROUP,
        Form::Systemd => Fields::SRIOV,
        Form::DevicePlugin | Form::NodePolicy => Fields::ID | Fields::SRIOV,
        Form::KubeVirt => Fields::ID,
        _ => Fields::empty(),
    }
}

/// What is known of a function.
fn handout(sysfs: &Sysfs, topology: &Topology, function: &Function) -> Handout {
    let of_pf = function.vf_of.as_ref().ok().and_then(Option::as_ref);
    let pf = match of_pf {
        Some(of) => topology.function(of.pf),
        None => Some(function),
    };
    Handout {
        bdf: function.bdf,
        vendor: function.vendor.as_ref().ok().copied(),
        device: function.device.as_ref().ok().copied(),
        class: function.class.as_ref().ok().copied(),
        driver: driver(function).map(str::to_owned),
        is_on_vfio: is_on_vfio(function),
        group: function.iommu_group.as_ref().ok().copied().flatten(),
        node: node(function),
        has_iommufd: has_iommufd(sysfs, function),
        pf: pf.and_then(|pf| pf_of(topology, pf)),
        index: of_pf.and_then(|of| of.index.as_ref().ok()).map(|index| index.0),
    }
}

fn pf_of(topology: &Topology, function: &Function) -> Option<Pf> {
    let sriov = function.sriov.as_ref().ok()?.as_ref()?;
    let mut devices = function.class_devices.iter().flatten();
    let mut vfs = topology.virtual_functions(function.bdf);
    let first = vfs.next();
    let driver = first.filter(|vf| is_on_vfio(vf)).and_then(driver);
    let is_on_all = vfs.all(|vf| self::driver(vf) == driver);
    Some(Pf {
        bdf: function.bdf,
        vendor: function.vendor.as_ref().ok().copied(),
        device: function.device.as_ref().ok().copied(),
        interface: devices
            .find(|device| device.class == "net")
            .map(|device| device.name.clone()),
        vfs: u16::try_from(sriov.virtual_functions.len()).ok()?,
        vf_driver: driver.filter(|_| is_on_all).map(str::to_owned),
    })
}

fn driver(function: &Function) -> Option<&str> {
    function.driver.as_ref().ok()?.as_deref()
}

/// N of its `vfioN`.
pub(super) fn node(function: &Function) -> Option<u32> {
    let mut devices = function.class_devices.iter().flatten();
    let device = devices.find(|device| device.class == "vfio-dev")?;
    device.name.strip_prefix("vfio")?.parse().ok()
}

/// Whether both nodes of iommufd are there.
fn has_iommufd(sysfs: &Sysfs, function: &Function) -> bool {
    let has = |directory: &str, name: &str| {
        let names = sysfs.names(directory).unwrap_or_default();
        names.iter().any(|found| found == name)
    };
    node(function).is_some_and(|node| has("dev/vfio/devices", &format!("vfio{node}"))) && has("dev", "iommu")
}

/// What a VMM is to use: as asked, or iommufd where both its nodes are there.
pub(super) fn backend(sysfs: &Sysfs, function: &Function, interface: Interface) -> Backend {
    match interface {
        Interface::Type1 => Backend::Type1,
        Interface::Iommufd => Backend::Iommufd,
        Interface::Auto if has_iommufd(sysfs, function) => Backend::Iommufd,
        Interface::Auto => Backend::Type1,
    }
}

/// As `--interface` spells it.
pub(super) fn name(backend: Backend) -> &'static str {
    match backend {
        Backend::Type1 => "type1",
        Backend::Iommufd => "iommufd",
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    configurations: Vec<Configuration<'a>>,
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct Configuration<'a> {
    /// `null` where the text is of several functions.
    bdf: Option<String>,
    bdfs: Vec<String>,
    format: &'static str,
    /// `null` where the text asks for none.
    interface: Option<&'static str>,
    /// Whether all are.
    is_on_vfio: bool,
    text: &'a str,
    notes: &'a [String],
}

impl<'a> Configuration<'a> {
    fn new(emitted: &'a Emitted, format: &'static str, handouts: &[Handout]) -> Self {
        let is_on_vfio = |bdf: &Bdf| handouts.iter().any(|handout| handout.bdf == *bdf && handout.is_on_vfio);
        let bdf = match emitted.functions.as_slice() {
            [only] => Some(only.to_string()),
            _ => None,
        };
        Self {
            bdf,
            bdfs: emitted.functions.iter().map(ToString::to_string).collect(),
            format,
            interface: emitted.backend.map(name),
            is_on_vfio: emitted.functions.iter().all(is_on_vfio),
            text: &emitted.text,
            notes: &emitted.notes,
        }
    }
}
