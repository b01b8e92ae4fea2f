//! `emit`: a function as a VMM wants to be told.

use crate::args::{Emit, Format, Interface};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::is_on_vfio;
use pci::{Fields, Function, Sysfs, Topology};
use serde::Serialize;
use sriov::{Backend, Vmm};
use std::io::Write as _;

/// Prints each function.
pub(crate) fn run(args: &Emit, settings: &Settings, output: &mut Output) -> Outcome {
    let fields = Fields::DRIVER | Fields::CLASS_DEVICES | selector::fields(&args.selectors);
    let topology = Topology::read_fields(&settings.sysfs, fields)?;
    let selection = selector::resolve(&args.selectors, &topology, &settings.sysfs)?;
    let (vmm, format) = match args.format {
        Format::Qemu => (Vmm::Qemu, "qemu"),
        Format::CloudHypervisor => (Vmm::CloudHypervisor, "cloud-hypervisor"),
        Format::Libvirt => (Vmm::Libvirt, "libvirt"),
    };
    let mut configurations = Vec::new();
    for function in selection.functions.iter().filter_map(|bdf| topology.function(*bdf)) {
        let backend = backend(&settings.sysfs, function, args.interface);
        if !is_on_vfio(function) && !output.is_json() {
            output.note(format_args!(
                "{} is not on a VFIO driver yet: sriovctl bind {0} --driver vfio-pci",
                function.bdf
            ));
        }
        configurations.push(Configuration {
            bdf: function.bdf.to_string(),
            format,
            interface: name(backend),
            is_on_vfio: is_on_vfio(function),
            text: sriov::emit(vmm, function.bdf, backend).map_err(Failure::from)?,
        });
    }
    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            configurations,
            unmatched: &selection.unmatched,
        })?;
    } else {
        for configuration in &configurations {
            writeln!(output.data(), "{}", configuration.text)?;
        }
    }
    Ok(super::finish(&selection, output))
}

/// What a VMM is to use: as asked, or iommufd where both its nodes are there.
pub(super) fn backend(sysfs: &Sysfs, function: &Function, interface: Interface) -> Backend {
    match interface {
        Interface::Type1 => Backend::Type1,
        Interface::Iommufd => Backend::Iommufd,
        Interface::Auto => {
            let has = |directory: &str, name: &str| {
                let names = sysfs.names(directory).unwrap_or_default();
                names.iter().any(|found| found == name)
            };
            let mut devices = function
                .class_devices
                .iter()
                .flatten()
                .filter(|device| device.class == "vfio-dev");
            let has_node = devices.any(|device| has("dev/vfio/devices", &device.name));
            if has_node && has("dev", "iommu") {
                Backend::Iommufd
            } else {
                Backend::Type1
            }
        }
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
    configurations: Vec<Configuration>,
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct Configuration {
    bdf: String,
    format: &'static str,
    interface: &'static str,
    is_on_vfio: bool,
    text: String,
}
