//! A function as a page of text.

use super::Shown;
use crate::output::Output;
use crate::render::style;
use crate::render::table::printable;
use crate::view::function::{BarView, FunctionView, LinkStateView, Named};
use pci::ConfigSpace;
use std::fmt::Display;
use std::io::{self, Write};

/// Lines of decoded registers are broken here.
const WIDTH: usize = 112;

/// What the kernel shows of a configuration space to readers without privilege, in bytes.
const WITHOUT_PRIVILEGE: usize = 64;

/// How the registers that hold the ids of a VF are printed.
const IDS_OF_VF: &str = "vendor=0xffff device=0xffff ";

/// Whose ids the first registers hold.
#[derive(Clone, Copy)]
enum Ids {
    Own,
    /// Those of a VF hold nothing; the kernel takes its ids from the PF.
    OfPf,
}

impl Shown {
    fn config_ids(&self) -> Ids {
        let is_blank = |config: &ConfigSpace| config.bytes().starts_with(&[0xff; 4]);
        if self.function.vf_of.is_some() && self.config.as_ref().is_ok_and(is_blank) {
            Ids::OfPf
        } else {
            Ids::Own
        }
    }
}

/// Writes a function, below an empty line when it is not the first.
pub(super) fn write(shown: &Shown, is_next: bool, output: &mut Output) -> io::Result<()> {
    let heading = style::HEADING;
    let function = &shown.function;
    let out = output.data();
    if is_next {
        writeln!(out)?;
    }
    let name = |named: &Option<Named>| named.as_ref().map_or_else(|| "?".to_owned(), name_or_id);
    let class = function
        .class
        .as_ref()
        .and_then(|class| class.name.clone())
        .unwrap_or_else(|| "?".to_owned());
    let title = format!("{class}: {} {}", name(&function.vendor), name(&function.device));
    writeln!(out, "{heading}{}{heading:#}  {}", function.bdf, printable(&title))?;
    identity(out, function)?;
    place(out, function)?;
    isolation(out, function)?;
    users(out, function)?;
    match &shown.config {
        Ok(config) => {
            let len = config.bytes().len();
            let remark = match shown.config_ids() {
                Ids::OfPf => {
                    "; a VF reads ffff as vendor and device, which are its PF's (PCIe 6.0 §9.3.4.1.1, §9.3.4.1.2)"
                }
                Ids::Own => "",
            };
            let hint = if len == WITHOUT_PRIVILEGE {
                "; capabilities need root to be read"
            } else {
                ""
            };
            line(out, "config", format_args!("{len} bytes{hint}{remark}"))?;
            write_registers(out, config, shown.config_ids())
        }
        Err(unknown) => line(out, "config", format_args!("not known: {unknown}")),
    }
}

/// The header and all capabilities.
pub(super) fn write_config(out: &mut impl Write, config: &ConfigSpace) -> io::Result<()> {
    line(out, "config", format_args!("{} bytes", config.bytes().len()))?;
    write_registers(out, config, Ids::Own)
}

fn write_registers(out: &mut impl Write, config: &ConfigSpace, ids: Ids) -> io::Result<()> {
    let own = |text: &str| match ids {
        Ids::Own => text.to_owned(),
        Ids::OfPf => text.replacen(IDS_OF_VF, "", 1),
    };
    let mut lines = config.lines(WIDTH).into_iter();
    // The ids are the first registers.
    let first = lines.next().map(|text| own(&text));
    first
        .into_iter()
        .chain(lines)
        .try_for_each(|text| writeln!(out, "    {}", printable(&text)))
}

fn identity(out: &mut impl Write, function: &FunctionView) -> io::Result<()> {
    let id = |named: &Option<Named>| named.as_ref().map_or_else(|| "?".to_owned(), |named| named.id.clone());
    let (vendor, device, class) = (id(&function.vendor), id(&function.device), id(&function.class));
    let revision = function.revision.as_deref().unwrap_or("?");
    line(
        out,
        "id",
        format_args!("{vendor}:{device}, class {class}, revision {revision}"),
    )?;
    if let Some(subsystem) = &function.subsystem {
        let name = subsystem.name.as_deref().unwrap_or_default();
        line(out, "subsystem", format_args!("{} {name}", subsystem.id))?;
    }
    let unknown = |field| function.unknown.iter().any(|(name, _)| name == field);
    let driver = function
        .driver
        .as_deref()
        .unwrap_or(if unknown("driver") { "?" } else { "none" });
    line(out, "driver", driver)?;
    if let Some(devices) = function.class_devices.as_ref().filter(|devices| !devices.is_empty()) {
        let names: Vec<String> = devices
            .iter()
            .map(|device| format!("{}/{}", device.class, device.name))
            .collect();
        line(out, "devices", names.join(" "))?;
    }
    match &function.iommu_group {
        Some(group) => {
            let domain = group.domain_type.as_deref().unwrap_or("?");
            let viable = if group.viable {
                "viable"
            } else {
                "not viable: see sriovctl groups"
            };
            let with: Vec<&str> = group
                .functions
                .iter()
                .map(String::as_str)
                .filter(|bdf| *bdf != function.bdf)
                .collect();
            let with = if with.is_empty() {
                String::new()
            } else {
                format!(", with {}", with.join(" "))
            };
            line(out, "group", format_args!("{}, {domain}, {viable}{with}", group.group))
        }
        None if unknown("iommu_group") => line(out, "group", "?"),
        None => line(out, "group", "none: no IOMMU"),
    }
}

fn place(out: &mut impl Write, function: &FunctionView) -> io::Result<()> {
    line(out, "path", &function.path)?;
    if !function.parents.is_empty() {
        line(out, "below", function.parents.join(" "))?;
    }
    if let Some(node) = function.numa_node {
        line(out, "NUMA node", node)?;
    }
    // VFs have link files that say nothing.
    let says_something = |state: &LinkStateView| state.mts_per_lane.is_some() || state.width.is_some();
    if let Some(link) = function
        .link
        .as_ref()
        .filter(|link| says_something(&link.current) || says_something(&link.max))
    {
        line(
            out,
            "link",
            format_args!("{}, at most {}", link_state(&link.current), link_state(&link.max)),
        )?;
    }
    for bar in function.bars.iter().flatten() {
        write_bar(out, bar)?;
    }
    if let Some(sriov) = &function.sriov {
        let number = |value: Option<u16>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let autoprobe = sriov.drivers_autoprobe.map_or("?", |on| if on { "on" } else { "off" });
        let (total, offset, stride) = (number(sriov.total), number(sriov.offset), number(sriov.stride));
        let device = sriov.vf_device.as_deref().unwrap_or("?");
        let enabled = sriov.enabled;
        line(
            out,
            "SR-IOV",
            format_args!(
                "{enabled} of {total} VFs, device {device}, offset {offset}, stride {stride}, autoprobe {autoprobe}"
            ),
        )?;
        let vfs: Vec<&str> = sriov.virtual_functions.iter().map(|vf| vf.bdf.as_str()).collect();
        for some in vfs.chunks(8) {
            line(out, "VFs", some.join(" "))?;
        }
    }
    if let Some(vf) = &function.vf_of {
        let index = vf.index.map_or_else(|| "?".to_owned(), |index| index.to_string());
        line(out, "VF", format_args!("{index} of {}", vf.bdf))?;
    }
    if let Some(ari) = function.ari {
        line(out, "ARI", if ari { "forwarded by the port above" } else { "no" })?;
    }
    if let Some(methods) = &function.reset_methods {
        line(
            out,
            "reset",
            if methods.is_empty() {
                "none".to_owned()
            } else {
                methods.join(" ")
            },
        )?;
    }
    function
        .power_state
        .iter()
        .try_for_each(|state| line(out, "power", state))
}

/// The hops that need ACS, and what address translation there is.
fn isolation(out: &mut impl Write, function: &FunctionView) -> io::Result<()> {
    for hop in &function.isolation {
        let verdict = hop
            .isolates
            .map_or("?", |isolates| if isolates { "isolates" } else { "does not isolate" });
        line(out, "ACS", format_args!("{} {verdict}: {}", hop.bdf, hop.reason))?;
    }
    let Some(translation) = &function.translation else {
        return Ok(());
    };
    let services = [
        ("ATS", &translation.ats),
        ("PRI", &translation.pri),
        ("PASID", &translation.pasid),
    ];
    for (name, service) in services {
        if let Some(service) = service {
            line(out, name, if service.enabled { "enabled" } else { "not enabled" })?;
        }
    }
    if let Some(iommu) = &translation.iommu {
        let able = |name, able: Option<bool>| match able {
            Some(true) => format!("{name}+"),
            Some(false) => format!("{name}-"),
            None => format!("{name}?"),
        };
        let kind = iommu.kind.unwrap_or("?");
        let pasid = iommu
            .pasid_width_bits
            .map_or_else(|| "-".to_owned(), |bits| format!("+ ({bits} bits)"));
        let (ats, pri) = (able("ATS", iommu.ats), able("PRI", iommu.pri));
        line(
            out,
            "IOMMU",
            format_args!("{} ({kind}), can do {ats} {pri} PASID{pasid}", iommu.name),
        )?;
    }
    Ok(())
}

fn users(out: &mut impl Write, function: &FunctionView) -> io::Result<()> {
    function
        .held_by
        .iter()
        .try_for_each(|holder| line(out, "held by", holder))?;
    function.used_for.iter().try_for_each(|used| line(out, "used", used))
}

fn line(out: &mut impl Write, label: &str, text: impl Display) -> io::Result<()> {
    writeln!(out, "  {label:<9}  {}", printable(text.to_string().trim_end()))
}

fn name_or_id(named: &Named) -> String {
    named.name.clone().unwrap_or_else(|| format!("[{}]", named.id))
}

fn link_state(state: &LinkStateView) -> String {
    let speed = state.mts_per_lane.map_or_else(
        || "?".to_owned(),
        |mts| format!("{}.{} GT/s", mts / 1000, mts / 100 % 10),
    );
    let width = state.width.map_or_else(|| "?".to_owned(), |width| width.to_string());
    format!("{speed} x{width}")
}

fn write_bar(out: &mut impl Write, bar: &BarView) -> io::Result<()> {
    let label = match bar.kind {
        "bar" => format!("BAR {}", bar.index),
        "vf_bar" => format!("VF BAR {}", bar.index),
        "rom" => "ROM".to_owned(),
        _ => format!("window {}", bar.index),
    };
    let place = if bar.assigned {
        format!("at {}", bar.start)
    } else {
        "not assigned".to_owned()
    };
    let width = if bar.is_64_bit { ", 64-bit" } else { "" };
    let prefetchable = if bar.prefetchable { ", prefetchable" } else { "" };
    line(
        out,
        &label,
        format_args!("{} {place}, {}{width}{prefetchable}", size(bar.len_bytes), bar.space),
    )
}

/// In the largest unit that divides it.
fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    let unit = UNITS.into_iter().find(|(shift, _)| fits(*shift));
    unit.map_or_else(
        || format!("{bytes} B"),
        |(shift, unit)| format!("{} {unit}", bytes >> shift),
    )
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_exact() {
        let cases = [
            (0, "0 B"),
            (256, "256 B"),
            (4096, "4 KiB"),
            (5 << 20, "5 MiB"),
            (1 << 40, "1 TiB"),
            (1025, "1025 B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
