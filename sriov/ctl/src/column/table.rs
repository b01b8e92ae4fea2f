//! The table of columns.

use super::Kind::{Boolean, Integer, String, Strings};
use super::{Column, Need, Reader, Row, Value};
use crate::describe;
use pci::{Fields, Function, LinkState, Reason, Viability};
use sriov::Coverage;

/// Every column, in the order of `--columns`.
pub(crate) static COLUMNS: [Column; 35] = [
    column("bdf", String, "address", Need::NONE, |row| {
        Value::text(row.function.bdf.to_string())
    }),
    column("class", String, "name of the class", Need::names(Fields::ID), |row| {
        Value::of(&row.function.class, |class| {
            Value::text(row.snapshot.class_name(*class))
        })
    }),
    column(
        "class_code",
        String,
        "class code, six digits",
        Need::fields(Fields::ID),
        |row| Value::of(&row.function.class, |value| Value::text(value.to_string())),
    ),
    column("vendor", String, "vendor id", Need::fields(Fields::ID), |row| {
        Value::of(&row.function.vendor, |value| Value::text(value.to_string()))
    }),
    column("device", String, "device id", Need::fields(Fields::ID), |row| {
        Value::of(&row.function.device, |value| Value::text(value.to_string()))
    }),
    column(
        "subsystem",
        String,
        "subsystem vendor and device id",
        Need::fields(Fields::ID),
        |row| Value::of_optional(&row.function.subsystem, |value| Value::text(value.to_string())),
    ),
    column(
        "revision",
        String,
        "revision, two digits",
        Need::fields(Fields::REVISION),
        |row| {
            Value::of(&row.function.revision, |revision| {
                Value::text(format!("{revision:02x}"))
            })
        },
    ),
    column(
        "role",
        String,
        "pf, vf, bridge or function",
        Need::fields(Fields::ID.union(Fields::SRIOV)),
        |row| super::role(row.function),
    ),
    column(
        "driver",
        String,
        "driver it is bound to",
        Need::fields(Fields::DRIVER),
        |row| Value::of_optional(&row.function.driver, Value::text),
    ),
    column("group", Integer, "IOMMU group", Need::fields(Fields::GROUP), |row| {
        Value::of_optional(&row.function.iommu_group, |group| Value::Number(group.0.into()))
    }),
    column(
        "viable",
        Boolean,
        "whether VFIO would hand its group out",
        VIABILITY,
        viable,
    ),
    column("numa", Integer, "NUMA node", Need::fields(Fields::NUMA), |row| {
        Value::of_optional(&row.function.numa_node, |node| Value::Number((*node).into()))
    }),
    column(
        "sriov",
        String,
        "PF: enabled and possible VFs; VF: index and PF",
        Need::fields(Fields::SRIOV),
        |row| super::sriov(row.function),
    ),
    column("pf", String, "the PF of a VF", Need::fields(Fields::SRIOV), |row| {
        Value::of_optional(&row.function.vf_of, |vf| Value::text(vf.pf.to_string()))
    }),
    column("vf", Integer, "index of a VF", Need::fields(Fields::SRIOV), |row| {
        Value::of_optional(&row.function.vf_of, |vf| {
            Value::of(&vf.index, |index| Value::Number(index.0.into()))
        })
    }),
    column(
        "vfs",
        Integer,
        "enabled VFs of a PF",
        Need::fields(Fields::SRIOV),
        |row| Value::of_optional(&row.function.sriov, |pf| number(pf.virtual_functions.len())),
    ),
    column(
        "total_vfs",
        Integer,
        "possible VFs of a PF",
        Need::fields(Fields::SRIOV),
        |row| {
            Value::of_optional(&row.function.sriov, |pf| {
                Value::of(&pf.total, |total| Value::Number((*total).into()))
            })
        },
    ),
    column(
        "devices",
        Strings,
        "class devices, as CLASS/NAME",
        Need::fields(Fields::CLASS_DEVICES),
        |row| class_devices(row.function, |_| true, |class, name| format!("{class}/{name}")),
    ),
    column(
        "net",
        Strings,
        "network interfaces",
        Need::fields(Fields::CLASS_DEVICES),
        |row| class_devices(row.function, |class| class == "net", |_, name| name.to_owned()),
    ),
    column(
        "block",
        Strings,
        "block devices",
        Need::fields(Fields::CLASS_DEVICES),
        |row| class_devices(row.function, |class| class == "block", |_, name| name.to_owned()),
    ),
    column(
        "vfio",
        Strings,
        "VFIO character devices",
        Need::fields(Fields::CLASS_DEVICES),
        |row| class_devices(row.function, |class| class == "vfio-dev", |_, name| name.to_owned()),
    ),
    on_request(column(
        "link",
        String,
        "speed per lane and width of the link",
        Need::fields(Fields::LINK),
        |row| {
            Value::of_optional(&row.function.link, |link| {
                Value::text(describe::link_state(link.current))
            })
        },
    )),
    on_request(column(
        "link_mts",
        Integer,
        "speed of the link, MT/s per lane",
        Need::fields(Fields::LINK),
        |row| Value::of_optional(&row.function.link, |link| speed(link.current)),
    )),
    on_request(column(
        "link_width",
        Integer,
        "lanes of the link",
        Need::fields(Fields::LINK),
        |row| Value::of_optional(&row.function.link, |link| width(link.current)),
    )),
    on_request(column(
        "link_max",
        String,
        "as link, at most",
        Need::fields(Fields::LINK),
        |row| Value::of_optional(&row.function.link, |link| Value::text(describe::link_state(link.max))),
    )),
    on_request(column(
        "link_max_mts",
        Integer,
        "as link_mts, at most",
        Need::fields(Fields::LINK),
        |row| Value::of_optional(&row.function.link, |link| speed(link.max)),
    )),
    on_request(column(
        "link_max_width",
        Integer,
        "as link_width, at most",
        Need::fields(Fields::LINK),
        |row| Value::of_optional(&row.function.link, |link| width(link.max)),
    )),
    column(
        "ari",
        Boolean,
        "whether ARI forwarding is enabled above it",
        Need::fields(Fields::ARI),
        |row| Value::of_optional(&row.function.ari, |ari| Value::Flag(*ari)),
    ),
    column(
        "reset",
        Strings,
        "ways to reset it",
        Need::fields(Fields::RESET),
        |row| {
            Value::of(&row.function.reset_methods, |methods| {
                Value::List(methods.iter().map(ToString::to_string).collect())
            })
        },
    ),
    column("power", String, "power state", Need::fields(Fields::POWER), |row| {
        Value::of(&row.function.power_state, |power| {
            Value::text(power.to_string().to_lowercase())
        })
    }),
    column("parent", String, "the bridge above it", Need::NONE, |row| {
        Value::optional_text(row.function.parent.map(|bridge| bridge.to_string()))
    }),
    column("path", String, "directory in sysfs", Need::NONE, |row| {
        Value::text(format!("/{}", row.function.path.display()))
    }),
    column(
        "vendor_name",
        String,
        "name of the vendor",
        Need::names(Fields::ID),
        |row| {
            Value::of(&row.function.vendor, |_| {
                Value::optional_text(row.snapshot.vendor_name(row.function))
            })
        },
    ),
    column(
        "name",
        String,
        "vendor and device by name",
        Need::names(Fields::ID),
        |row| {
            Value::of(&row.function.device, |_| {
                Value::text(row.snapshot.function_name(row.function))
            })
        },
    ),
    on_request(column(
        "holder",
        Strings,
        "processes that hold it through VFIO, as NAME(PID)",
        Need::HOLDERS,
        holder,
    )),
];

const VIABILITY: Need = Need::fields(
    Fields::GROUP
        .union(Fields::DRIVER)
        .union(Fields::ID)
        .union(Fields::CLASS_DEVICES),
);

/// Not in JSON unless asked for: reading it costs more than a look into sysfs. The link wakes a sleeping device, holders need a
/// scan of every process.
const fn on_request(mut column: Column) -> Column {
    column.on_request = true;
    column
}

const fn column(name: &'static str, kind: super::Kind, about: &'static str, need: Need, value: Reader) -> Column {
    Column {
        name,
        kind,
        about,
        need,
        on_request: false,
        value,
    }
}

fn number(count: usize) -> Value<'static> {
    u64::try_from(count).map_or(Value::None, Value::Number)
}

fn speed(link: LinkState) -> Value<'static> {
    link.speed
        .map_or(Value::None, |speed| Value::Number(u64::from(speed.0) * 100))
}

fn width(link: LinkState) -> Value<'static> {
    link.width.map_or(Value::None, |width| Value::Number(width.into()))
}

fn class_devices(
    function: &Function,
    keep: fn(&str) -> bool,
    text: fn(&str, &str) -> std::string::String,
) -> Value<'_> {
    Value::of(&function.class_devices, |devices| {
        let kept = devices.iter().filter(|device| keep(&device.class));
        Value::List(kept.map(|device| text(&device.class, &device.name)).collect())
    })
}

fn viable<'a>(row: &Row<'a>) -> Value<'a> {
    Value::of_optional(&row.function.iommu_group, |id| match row.snapshot.topology.group(*id) {
        Some(group) => Value::Flag(row.snapshot.topology.viability(group) == Viability::Viable),
        None => Value::None,
    })
}

fn holder<'a>(row: &Row<'a>) -> Value<'a> {
    let holders = row.snapshot.holders_of(row.function.bdf);
    let coverage = row.snapshot.holders.as_ref().map(|holders| &holders.coverage);
    match coverage {
        _ if !holders.is_empty() => {
            let mut names: Vec<_> = holders
                .iter()
                .map(|holder| format!("{}({})", holder.command, holder.pid))
                .collect();
            names.dedup();
            Value::List(names)
        }
        Some(Coverage::Full) => Value::List(Vec::new()),
        Some(Coverage::Nothing(unknown)) => Value::Unknown(unknown.clone()),
        Some(Coverage::Partial { .. }) | None => Value::Unknown(Reason::Denied.at("/proc")),
    }
}
