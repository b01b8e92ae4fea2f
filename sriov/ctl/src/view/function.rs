//! Everything that is known about a function.

use super::isolation::{HopView, TranslationView};
use super::{Holder, Unknowns};
use crate::snapshot::Snapshot;
use pci::{Bar, BarFlags, BarIndex, Function, LinkState, Sriov, Sysfs, Viability};
use serde::Serialize;
use sriov::Usage;

/// A function. What is `null` either does not exist or has its reason in `unknown`.
#[derive(Debug, Serialize)]
pub(crate) struct FunctionView {
    pub(crate) bdf: String,
    pub(crate) path: String,
    pub(crate) class: Option<Named>,
    pub(crate) vendor: Option<Named>,
    pub(crate) device: Option<Named>,
    pub(crate) subsystem: Option<Named>,
    pub(crate) revision: Option<String>,
    pub(crate) driver: Option<String>,
    pub(crate) iommu_group: Option<GroupView>,
    pub(crate) numa_node: Option<u32>,
    pub(crate) link: Option<LinkView>,
    pub(crate) bars: Option<Vec<BarView>>,
    pub(crate) sriov: Option<SriovView>,
    pub(crate) vf_of: Option<VfView>,
    pub(crate) ari: Option<bool>,
    pub(crate) reset_methods: Option<Vec<String>>,
    pub(crate) power_state: Option<String>,
    /// The bridges above it, from the root port down.
    pub(crate) parents: Vec<String>,
    pub(crate) class_devices: Option<Vec<ClassDeviceView>>,
    /// The way of its requests to the root: itself, then the bridges above it.
    pub(crate) isolation: Vec<HopView>,
    pub(crate) translation: Option<TranslationView>,
    pub(crate) held_by: Vec<Holder>,
    pub(crate) used_for: Vec<String>,
    pub(crate) unknown: Unknowns,
}

/// An identifier and its name, which is `null` where the database has none.
#[derive(Debug, Serialize)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct GroupView {
    pub(crate) group: u32,
    pub(crate) domain_type: Option<String>,
    pub(crate) viable: bool,
    pub(crate) functions: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LinkView {
    pub(crate) current: LinkStateView,
    pub(crate) max: LinkStateView,
}

#[derive(Debug, Serialize)]
pub(crate) struct LinkStateView {
    pub(crate) mts_per_lane: Option<u32>,
    pub(crate) width: Option<u8>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BarView {
    /// `bar`, `rom`, `vf_bar` or `bridge_window`.
    pub(crate) kind: &'static str,
    pub(crate) index: u8,
    /// `"0x0"` for readers who may not see addresses.
    pub(crate) start: String,
    pub(crate) len_bytes: u64,
    /// `memory` or `io`.
    pub(crate) space: &'static str,
    pub(crate) is_64_bit: bool,
    pub(crate) prefetchable: bool,
    pub(crate) assigned: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct SriovView {
    pub(crate) total: Option<u16>,
    pub(crate) enabled: usize,
    pub(crate) offset: Option<u16>,
    pub(crate) stride: Option<u16>,
    pub(crate) vf_device: Option<String>,
    pub(crate) drivers_autoprobe: Option<bool>,
    pub(crate) virtual_functions: Vec<VfView>,
}

/// A VF: with its PF, or of a PF.
#[derive(Debug, Serialize)]
pub(crate) struct VfView {
    pub(crate) bdf: String,
    pub(crate) index: Option<u16>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ClassDeviceView {
    pub(crate) class: String,
    pub(crate) name: String,
}

impl FunctionView {
    pub(crate) fn new(snapshot: &Snapshot, usage: &Usage, sysfs: &Sysfs, function: &Function) -> Self {
        let mut unknown = Unknowns::default();
        let named = |id: String, name: Option<String>| Named { id, name };
        let class = unknown.known("class", function.class.clone());
        let subsystem = unknown.optional("subsystem", function.subsystem.clone());
        let sriov = unknown.optional("sriov", function.sriov.clone());
        let mut parents: Vec<String> = snapshot
            .topology
            .parents(function.bdf)
            .map(|f| f.bdf.to_string())
            .collect();
        parents.reverse();
        Self {
            bdf: function.bdf.to_string(),
            path: format!("/{}", function.path.display()),
            class: class.map(|class| named(class.to_string(), Some(snapshot.class_name(class).into_owned()))),
            vendor: unknown
                .known("vendor", function.vendor.clone())
                .map(|id| named(id.to_string(), snapshot.vendor_name(function).map(str::to_owned))),
            device: unknown
                .known("device", function.device.clone())
                .map(|id| named(id.to_string(), snapshot.device_name(function).map(str::to_owned))),
            subsystem: subsystem.map(|id| named(id.to_string(), snapshot.subsystem_name(function).map(str::to_owned))),
            revision: unknown
                .known("revision", function.revision.clone())
                .map(|revision| format!("{revision:02x}")),
            driver: unknown.optional("driver", function.driver.clone()),
            iommu_group: group(snapshot, function, &mut unknown),
            numa_node: unknown.optional("numa_node", function.numa_node.clone()),
            link: unknown.optional("link", function.link.clone()).map(|link| LinkView {
                current: link.current.into(),
                max: link.max.into(),
            }),
            bars: unknown
                .known("bars", function.bars.clone())
                .map(|bars| bars.iter().map(BarView::from).collect()),
            sriov: sriov.map(|sriov| SriovView::new(&sriov, &mut unknown)),
            vf_of: unknown.optional("vf_of", function.vf_of.clone()).map(|vf| VfView {
                bdf: vf.pf.to_string(),
                index: unknown.known("vf_of.index", vf.index).map(|index| index.0),
            }),
            ari: unknown.optional("ari", function.ari.clone()),
            reset_methods: unknown
                .known("reset_methods", function.reset_methods.clone())
                .map(|methods| methods.iter().map(ToString::to_string).collect()),
            power_state: unknown
                .known("power_state", function.power_state.clone())
                .map(|state| state.to_string().to_lowercase()),
            parents,
            class_devices: unknown
                .known("class_devices", function.class_devices.clone())
                .map(|devices| {
                    let view = |device: pci::ClassDevice| ClassDeviceView {
                        class: device.class,
                        name: device.name,
                    };
                    devices.into_iter().map(view).collect()
                }),
            isolation: snapshot
                .topology
                .isolation(sysfs, function.bdf)
                .into_iter()
                .map(HopView::from)
                .collect(),
            translation: snapshot
                .topology
                .translation_services(sysfs, function.bdf)
                .map(|services| TranslationView::new(services, sysfs, &mut unknown)),
            held_by: snapshot.holders_of(function.bdf).iter().map(Holder::from).collect(),
            used_for: usage.of(function.bdf).iter().map(ToString::to_string).collect(),
            unknown,
        }
    }
}

fn group(snapshot: &Snapshot, function: &Function, unknown: &mut Unknowns) -> Option<GroupView> {
    let id = unknown.optional("iommu_group", function.iommu_group.clone())?;
    let group = snapshot.topology.group(id)?;
    Some(GroupView {
        group: id.0,
        domain_type: unknown
            .known("iommu_group.domain_type", group.domain_type.clone())
            .map(|domain| domain.to_lowercase()),
        viable: snapshot.topology.viability(group) == Viability::Viable,
        functions: group.functions.iter().map(ToString::to_string).collect(),
    })
}

impl SriovView {
    fn new(sriov: &Sriov, unknown: &mut Unknowns) -> Self {
        let functions = sriov.virtual_functions.iter().map(|vf| VfView {
            bdf: vf.bdf.to_string(),
            index: Some(vf.index.0),
        });
        Self {
            total: unknown.known("sriov.total", sriov.total.clone()),
            enabled: sriov.virtual_functions.len(),
            offset: unknown.known("sriov.offset", sriov.offset.clone()),
            stride: unknown.known("sriov.stride", sriov.stride.clone()),
            vf_device: unknown
                .known("sriov.vf_device", sriov.vf_device.clone())
                .map(|id| id.to_string()),
            drivers_autoprobe: unknown.known("sriov.drivers_autoprobe", sriov.drivers_autoprobe.clone()),
            virtual_functions: functions.collect(),
        }
    }
}

impl From<LinkState> for LinkStateView {
    fn from(state: LinkState) -> Self {
        Self {
            mts_per_lane: state.speed.map(|speed| u32::from(speed.0) * 100),
            width: state.width,
        }
    }
}

impl From<&Bar> for BarView {
    fn from(bar: &Bar) -> Self {
        let (kind, index) = match bar.index {
            BarIndex::Bar(index) => ("bar", index),
            BarIndex::Rom => ("rom", 0),
            BarIndex::VfBar(index) => ("vf_bar", index),
            BarIndex::BridgeWindow(index) => ("bridge_window", index),
            _ => ("other", 0),
        };
        Self {
            kind,
            index,
            start: format!("{:#x}", bar.start),
            len_bytes: bar.len_bytes,
            space: if bar.flags.contains(BarFlags::IO) {
                "io"
            } else {
                "memory"
            },
            is_64_bit: bar.flags.contains(BarFlags::MEMORY_64),
            prefetchable: bar.flags.contains(BarFlags::PREFETCHABLE),
            assigned: !bar.flags.contains(BarFlags::UNSET),
        }
    }
}
