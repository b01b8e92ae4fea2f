//! Kubernetes: functions that this machine has made become resources that pods and guests ask for.
//!
//! Forms: sriov-network-device-plugin `README.md` and `deployments/configMap.yaml`; sriov-network-operator
//! `config/crd/bases` (`SriovNetworkNodePolicy`) and `doc/design/externally-manage-pf.md`; KubeVirt `api/…/types.go` (`PermittedHostDevices`).
//! What is printed is JSON, which is YAML, but for the first, whose value is a text in itself.

use super::vmm::pretty;
use super::{Emitted, Form, Handout, Pf};
use crate::Error;
use pci::{Bdf, DeviceId, VendorId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What stands before the name of a resource.
const PREFIX: &str = "sriovctl";
/// Base class of network controllers, and of processing accelerators (PCI Code and ID Assignment 1.11 §1).
const NETWORK: u8 = 0x02;
const ACCELERATOR: u8 = 0x12;

/// Functions of one kind, which become one resource.
type Kinds<'a> = BTreeMap<(VendorId, DeviceId, &'a str), Vec<&'a Handout>>;

/// Letters, digits and underscores are what every one of them takes.
fn resource(vendor: VendorId, device: DeviceId, driver: &str) -> String {
    let driver: String = driver
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("pci_{vendor}_{device}_{driver}")
}

fn emitted(functions: &[Handout], text: String, notes: &[&str]) -> Emitted {
    Emitted {
        functions: functions.iter().map(|function| function.bdf).collect(),
        backend: None,
        text,
        notes: notes.iter().map(|&note| note.to_owned()).collect(),
    }
}

fn kinds(functions: &[Handout], form: Form) -> Result<Kinds<'_>, Error> {
    let mut kinds = Kinds::new();
    for function in functions {
        let (vendor, device) = function.ids(form)?;
        let Some(driver) = function.driver.as_deref() else {
            let fix = format!(
                "sriovctl bind {} --driver vfio-pci, or sriovctl release {0}",
                function.bdf
            );
            return Err(form.refuse(function.bdf, "it has no driver, and could not be used by a pod", fix));
        };
        kinds.entry((vendor, device, driver)).or_default().push(function);
    }
    Ok(kinds)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceList {
    resource_list: Vec<Resource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource_name: String,
    resource_prefix: &'static str,
    device_type: &'static str,
    selectors: [Selector; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    vendors: [String; 1],
    devices: [String; 1],
    drivers: [String; 1],
    pci_addresses: Vec<String>,
}

/// One resource for each kind of function.
pub(super) fn device_plugin(functions: &[Handout]) -> Result<Emitted, Error> {
    let form = Form::DevicePlugin;
    let mut resource_list = Vec::new();
    for ((vendor, device, driver), members) in kinds(functions, form)? {
        let mut device_type = "netDevice";
        for member in &members {
            // The plugin's pattern for addresses.
            member.check_segment(form, 0)?;
            device_type = match member.class.map(pci::ClassCode::base) {
                Some(NETWORK) => "netDevice",
                Some(ACCELERATOR) => "accelerator",
                _ => {
                    let why = "the plugin finds network controllers and accelerators (class 02 and 12) only";
                    return Err(form.refuse(member.bdf, why, "for guests of KubeVirt: sriovctl emit kubevirt"));
                }
            };
        }
        resource_list.push(Resource {
            resource_name: resource(vendor, device, driver),
            resource_prefix: PREFIX,
            device_type,
            selectors: [Selector {
                vendors: [vendor.to_string()],
                devices: [device.to_string()],
                drivers: [driver.to_owned()],
                pci_addresses: members.iter().map(|member| member.bdf.to_string()).collect(),
            }],
        });
    }
    let config = pretty(&ResourceList { resource_list });
    let indented: Vec<String> = config.lines().map(|line| format!("    {line}")).collect();
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: sriovdp-config\n  namespace: kube-system\ndata:\n  config.json: |\n{}",
        indented.join("\n")
    );
    let notes =
        ["the plugin reads this when it starts, on every machine of the cluster: addresses are those of this one"];
    Ok(emitted(functions, text, &notes))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<S> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: S,
}

#[derive(Serialize)]
struct Metadata {
    name: String,
    namespace: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<S> {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<Manifest<S>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    resource_name: String,
    node_selector: BTreeMap<&'static str, String>,
    num_vfs: u16,
    nic_selector: NicSelector,
    device_type: &'static str,
    externally_managed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NicSelector {
    vendor: String,
    #[serde(rename = "deviceID")]
    device_id: String,
    root_devices: [String; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    pf_names: Option<[String; 1]>,
}

/// One policy for each run of VFs of a PF that are of one kind.
pub(super) fn node_policy(functions: &[Handout], node: Option<&str>) -> Result<Emitted, Error> {
    let form = Form::NodePolicy;
    let mut notes = vec![
        "the operator must be installed, and its device plugin takes the place of one that runs already",
        "its webhook refuses a NIC that is not in the ConfigMap supported-nic-ids of the operator's namespace",
    ];
    let node_selector = match node {
        Some(node) => {
            notes.push(
                "the node is named after this machine; a cluster may name it otherwise, and the policy selects nothing then: kubectl get nodes --show-labels",
            );
            // Labels of nodes are names of DNS, which have no capitals.
            BTreeMap::from([("kubernetes.io/hostname", node.to_lowercase())])
        }
        None => {
            notes.push("the name of this machine is not known: the policy is for all that have such a PF");
            BTreeMap::from([("feature.node.kubernetes.io/network-sriov.capable", "true".to_owned())])
        }
    };
    // Indices by PF and kind.
    let mut runs: BTreeMap<(Bdf, bool), (&Pf, BTreeSet<u16>)> = BTreeMap::new();
    for function in functions {
        let (pf, index) = member(function)?;
        let run = runs
            .entry((pf.bdf, function.is_on_vfio))
            .or_insert((pf, BTreeSet::new()));
        run.1.insert(index);
    }
    let mut items = Vec::new();
    for ((bdf, is_on_vfio), (pf, indices)) in runs {
        let (vendor, device) = pf.vendor.zip(pf.device).ok_or_else(|| {
            let why = "vendor and device of its PF are not known";
            form.refuse(bdf, why, "see why: sriovctl show")
        })?;
        for (first, last) in consecutive(&indices) {
            let is_all = first == 0 && last.checked_add(1) == Some(pf.vfs);
            let pf_names = match (&pf.interface, is_all) {
                (_, true) => None,
                (Some(name), false) => Some([format!("{name}#{first}-{last}")]),
                (None, false) => {
                    let why = "some VFs of a PF are named by its network interface, and it has none";
                    return Err(form.refuse(bdf, why, "select all VFs of the PF"));
                }
            };
            let (device_type, kind) = if is_on_vfio {
                ("vfio-pci", "vfio")
            } else {
                ("netdevice", "net")
            };
            let address = bdf.to_string().replace([':', '.'], "-");
            items.push(Manifest {
                api_version: "sriovnetwork.openshift.io/v1",
                kind: "SriovNetworkNodePolicy",
                metadata: Metadata {
                    name: format!("sriovctl-{address}-{kind}-{first}"),
                    namespace: "sriov-network-operator",
                },
                spec: Policy {
                    resource_name: resource(vendor, device, kind),
                    node_selector: node_selector.clone(),
                    num_vfs: pf.vfs,
                    nic_selector: NicSelector {
                        vendor: vendor.to_string(),
                        device_id: device.to_string(),
                        root_devices: [bdf.to_string()],
                        pf_names,
                    },
                    device_type,
                    externally_managed: true,
                },
            });
        }
    }
    let text = pretty(&List {
        api_version: "v1",
        kind: "List",
        items,
    });
    Ok(emitted(functions, text, &notes))
}

/// A VF of a network controller.
fn member(function: &Handout) -> Result<(&Pf, u16), Error> {
    let refuse = |why, fix| Form::NodePolicy.refuse(function.bdf, why, fix);
    if function.class.map(pci::ClassCode::base) != Some(NETWORK) {
        let why = "the operator knows network controllers only";
        return Err(refuse(why, "for guests of KubeVirt: sriovctl emit kubevirt"));
    }
    let vf = function.pf.as_ref().zip(function.index);
    vf.ok_or_else(|| refuse("it is not a VF", "name VFs: sriovctl tree"))
}

/// The ranges, both ends included.
fn consecutive(indices: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &index in indices {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(index) => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    ranges
}

#[derive(Serialize)]
struct KubeVirt {
    configuration: Configuration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    permitted_host_devices: PermittedHostDevices,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PermittedHostDevices {
    pci_host_devices: Vec<PciHostDevice>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PciHostDevice {
    pci_vendor_selector: String,
    resource_name: String,
    external_resource_provider: bool,
}

/// One permitted device for each pair of vendor and device: KubeVirt cannot tell such functions apart.
pub(super) fn kubevirt(functions: &[Handout]) -> Result<Emitted, Error> {
    let form = Form::KubeVirt;
    let mut ids = BTreeSet::new();
    for function in functions {
        ids.insert(function.ids(form)?);
    }
    let pci_host_devices = ids.into_iter().map(|(vendor, device)| PciHostDevice {
        pci_vendor_selector: format!("{vendor}:{device}").to_uppercase(),
        resource_name: format!("{PREFIX}/{}", resource(vendor, device, "vfio")),
        external_resource_provider: false,
    });
    let text = pretty(&Manifest {
        api_version: "kubevirt.io/v1",
        kind: "KubeVirt",
        metadata: Metadata {
            name: "kubevirt".to_owned(),
            namespace: "kubevirt",
        },
        spec: KubeVirt {
            configuration: Configuration {
                permitted_host_devices: PermittedHostDevices {
                    pci_host_devices: pci_host_devices.collect(),
                },
            },
        },
    });
    let notes = [
        "guests get host devices only with the feature gate HostDevices: add it to spec.configuration.developerConfiguration.featureGates, a list of which nothing may be lost",
        "the cluster's KubeVirt may have another name or namespace: kubectl get kubevirts --all-namespaces",
        "KubeVirt takes every function of this vendor and device that is on vfio-pci, not only those that were named",
        "merge it into what is there: a list of permitted devices takes the place of the former one",
    ];
    Ok(emitted(functions, text, &notes))
}
