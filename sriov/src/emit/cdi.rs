//! The Container Device Interface: what a container runtime puts into a container that asks for a function.
//!
//! Form: CDI `SPEC.md` and `schema/`, of which nothing is used that is newer than 0.5.0, where names of devices may begin with a digit. A function
//! is asked for as `sriovctl/vfio=0000:01:10.0` (`podman run --device`, `docker run --device`, CRI).

use super::vmm::pretty;
use super::{Backend, Emitted, Form, Handout};
use crate::Error;
use serde::Serialize;

/// The oldest version that has all of it, for the sake of runtimes that refuse newer ones.
const VERSION: &str = "0.5.0";
const KIND: &str = "sriovctl/vfio";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    device_nodes: [Node; 2],
}

#[derive(Serialize)]
struct Node {
    path: String,
    permissions: &'static str,
}

pub(super) fn emit(functions: &[Handout], wanted: Option<Backend>) -> Result<Emitted, Error> {
    let devices: Vec<Device> = functions
        .iter()
        .map(|function| device(function, wanted))
        .collect::<Result<_, _>>()?;
    let mut backends = functions.iter().map(|function| function.backend(wanted));
    let first = backends.next();
    let spec = Spec {
        cdi_version: VERSION,
        kind: KIND,
        devices,
    };
    Ok(Emitted {
        functions: functions.iter().map(|function| function.bdf).collect(),
        backend: first.filter(|first| backends.all(|backend| backend == *first)),
        text: pretty(&spec),
        notes: vec![
            "a file for /etc/cdi or /run/cdi, to be written again when the functions are bound anew: their nodes get other numbers".to_owned(),
            "who is not root in the container must be let at the nodes, and needs a limit of locked memory (ulimit -l) as large as what it maps"
                .to_owned(),
        ],
    })
}

fn device(function: &Handout, wanted: Option<Backend>) -> Result<Device, Error> {
    let bind = || format!("sriovctl bind {} --driver vfio-pci", function.bdf);
    let refuse = |why| Form::Cdi.refuse(function.bdf, why, bind());
    if !function.is_on_vfio {
        return Err(refuse("it is not on a VFIO driver, and has no node for a container"));
    }
    let paths = match function.backend(wanted) {
        Backend::Type1 => {
            let group = function.group.ok_or_else(|| refuse("it has no IOMMU group"))?;
            ["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{}", group.0)]
        }
        Backend::Iommufd => {
            let node = function
                .node
                .ok_or_else(|| refuse("it has no character device of VFIO"))?;
            ["/dev/iommu".to_owned(), format!("/dev/vfio/devices/vfio{node}")]
        }
    };
    Ok(Device {
        name: function.bdf.to_string(),
        container_edits: Edits {
            device_nodes: paths.map(|path| Node {
                path,
                permissions: "rw",
            }),
        },
    })
}
