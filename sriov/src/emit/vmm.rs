//! Programs that run guests, each told of one function at a time, but for those whose command line says some things once for all.
//!
//! Forms: QEMU `docs/system/devices/vfio.rst` and `hw/core/qdev-properties-system.c`, cloud-hypervisor `docs/vfio.md`,
//! libvirt `docs/formatdomain.rst` (hostdev), crosvm `run --help` (`--vfio`), Firecracker `docs/vfio.md`.

use super::{Backend, Emitted, Form, Handout};
use crate::Error;
use pci::Bdf;
use serde::Serialize;

/// Largest segment that QEMU's `host=` takes, and libvirt with it.
const MAX_SEGMENT: u32 = 0xffff;

/// What to know about Firecracker, whose releases up to 1.16 know no VFIO.
const FIRECRACKER: [&str; 2] = [
    "no release of Firecracker up to 1.16 takes this; it needs one built with VFIO, started with --enable-pci",
    "Firecracker uses container and group, and only functions with MSI-X; no hot-plug, no snapshot of such a guest",
];

pub(super) fn emit(form: Form, function: &Handout, wanted: Option<Backend>) -> Result<Emitted, Error> {
    let mut emitted = Emitted {
        functions: vec![function.bdf],
        backend: Some(function.backend(wanted)),
        text: String::new(),
        notes: Vec::new(),
    };
    let bdf = function.bdf;
    emitted.text = match form {
        Form::Libvirt => {
            function.check_segment(form, MAX_SEGMENT)?;
            hostdev(bdf)
        }
        Form::Crosvm => {
            emitted.backend = Some(only_type1(form, function, wanted)?);
            // Without, crosvm's own virtual IOMMU would stand between guest and function.
            format!("--vfio {},iommu=off", sysfs_path(bdf))
        }
        _ => {
            emitted.backend = Some(only_type1(form, function, wanted)?);
            emitted.notes = FIRECRACKER.map(str::to_owned).to_vec();
            let file = Firecracker {
                vfio: [firecracker_device(bdf)],
            };
            pretty(&file)
        }
    };
    Ok(emitted)
}

/// QEMU takes functions by either interface; the object of iommufd is there once.
pub(super) fn qemu(functions: &[Handout], wanted: Option<Backend>) -> Emitted {
    let named = functions
        .iter()
        .map(|function| (function.bdf, function.backend(wanted)));
    let backends: Vec<Backend> = named.clone().map(|(_, backend)| backend).collect();
    let first = backends.first().copied();
    Emitted {
        functions: functions.iter().map(|function| function.bdf).collect(),
        backend: first.filter(|first| backends.iter().all(|backend| backend == first)),
        text: qemu_devices(named),
        notes: Vec::new(),
    }
}

/// cloud-hypervisor uses one interface for all, and takes each of these options once.
pub(super) fn cloud_hypervisor(functions: &[Handout], wanted: Option<Backend>) -> Emitted {
    let mut backends = functions.iter().map(|function| function.backend(wanted));
    let is_iommufd = backends.all(|backend| backend == Backend::Iommufd);
    let paths = functions
        .iter()
        .map(|function| format!(" path={}/", sysfs_path(function.bdf)));
    let platform = if is_iommufd { "--platform iommufd=on " } else { "" };
    Emitted {
        functions: functions.iter().map(|function| function.bdf).collect(),
        backend: Some(if is_iommufd { Backend::Iommufd } else { Backend::Type1 }),
        text: format!("{platform}--device{}", paths.collect::<String>()),
        notes: Vec::new(),
    }
}

/// Refuses iommufd when it is asked for by name.
fn only_type1(form: Form, function: &Handout, wanted: Option<Backend>) -> Result<Backend, Error> {
    if wanted == Some(Backend::Iommufd) {
        let why = "it knows only container and group, not iommufd";
        return Err(form.refuse(
            function.bdf,
            why,
            "leave --interface out, or choose qemu or cloud-hypervisor",
        ));
    }
    Ok(Backend::Type1)
}

/// QEMU's options for functions, each by its interface.
pub fn qemu_devices(functions: impl IntoIterator<Item = (Bdf, Backend)>) -> String {
    let mut has_object = false;
    let mut options = Vec::new();
    for (function, backend) in functions {
        let device = format!("-device vfio-pci,{}", qemu_name(function));
        if backend == Backend::Type1 {
            options.push(device);
            continue;
        }
        if !std::mem::replace(&mut has_object, true) {
            options.push("-object iommufd,id=iommufd0".to_owned());
        }
        options.push(format!("{device},iommufd=iommufd0"));
    }
    options.join(" ")
}

/// How QEMU is told which function: by a path where its address is too short.
fn qemu_name(function: Bdf) -> String {
    if function.segment.0 > MAX_SEGMENT {
        return format!("sysfsdev={}", sysfs_path(function));
    }
    format!("host={function}")
}

/// The directory of a function.
#[must_use]
pub fn sysfs_path(function: Bdf) -> String {
    format!("/sys/bus/pci/devices/{function}")
}

/// libvirt's element for a function, whose segment must fit into 16 bits.
#[must_use]
pub fn hostdev(function: Bdf) -> String {
    let id = function.routing_id;
    format!(
        "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source>\n    \
         <address domain='{:#06x}' bus='{:#04x}' slot='{:#04x}' function='{:#x}'/>\n  </source>\n</hostdev>",
        function.segment.0,
        id.bus(),
        id.device(),
        id.function()
    )
}

#[derive(Serialize)]
struct Firecracker {
    vfio: [FirecrackerDevice; 1],
}

/// A function as Firecracker's configuration and API have it.
#[derive(Debug, Serialize)]
struct FirecrackerDevice {
    id: String,
    path_on_host: String,
}

fn firecracker_device(function: Bdf) -> FirecrackerDevice {
    FirecrackerDevice {
        // Letters, digits and underscores are all that an id may have.
        id: format!("pci_{}", function.to_string().replace([':', '.'], "_")),
        path_on_host: sysfs_path(function),
    }
}

/// JSON for people.
pub(super) fn pretty(value: &impl Serialize) -> String {
    // Structures of strings and numbers cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default()
}
