//! `groups`: IOMMU groups, and what keeps them from VFIO.

use crate::args::Functions;
use crate::column::Need;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::style;
use crate::render::table::{Table, printable};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::Snapshot;
use crate::view::{self, Unknowns};
use pci::{Fields, Group, GroupId, ReservedKind, Spoiler, Viability};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write as _;

/// Shows the groups of the selected functions.
pub(crate) fn run(args: &Functions, settings: &Settings, output: &mut Output) -> Outcome {
    let fields = Fields::GROUP | Fields::GROUP_DETAILS | Fields::CLASS_DEVICES | selector::fields(&args.selectors);
    let need = Snapshot::FREE | Need::names(fields);
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let selection = selector::resolve(&args.selectors, &snapshot.topology, &settings.sysfs)?;
    let functions = selection
        .functions
        .iter()
        .filter_map(|bdf| snapshot.topology.function(*bdf));
    let ids: BTreeSet<GroupId> = functions
        .filter_map(|function| (*function.iommu_group.as_ref().ok()?).as_ref().copied())
        .collect();
    let groups: Vec<View> = ids
        .iter()
        .filter_map(|id| snapshot.topology.group(*id))
        .map(|group| View::new(&snapshot, group))
        .collect();

    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            groups: &groups,
            unmatched: &selection.unmatched,
        })?;
    } else {
        for group in &groups {
            group.write(output)?;
        }
        snapshot.note_what_was_not_seen(output);
    }
    let exit = super::finish(&selection, output);
    if groups.is_empty() {
        if !output.is_json() {
            output.note("no IOMMU group: sriovctl explain P01");
        }
        return Ok(Exit::NoMatch);
    }
    Ok(exit)
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    groups: &'a [View],
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct View {
    group: u32,
    domain_type: Option<String>,
    viable: bool,
    /// What keeps it from being viable.
    spoilers: Vec<SpoilerView>,
    held_by: Vec<view::Holder>,
    functions: Vec<Member>,
    /// Members that are not PCI functions.
    others: Vec<String>,
    reserved_regions: Option<Vec<Region>>,
    unknown: Unknowns,
}

#[derive(Serialize)]
struct SpoilerView {
    bdf: String,
    driver: Option<String>,
    reason: String,
}

#[derive(Serialize)]
struct Member {
    bdf: String,
    class: Option<String>,
    name: String,
    driver: Option<String>,
}

#[derive(Serialize)]
struct Region {
    start: String,
    end: String,
    kind: String,
}

impl View {
    fn new(snapshot: &Snapshot, group: &Group) -> Self {
        let mut unknown = Unknowns::default();
        let spoilers = match snapshot.topology.viability(group) {
            Viability::Viable => Vec::new(),
            Viability::Spoiled(spoilers) => spoilers.into_iter().map(SpoilerView::from).collect(),
        };
        let members = group
            .functions
            .iter()
            .filter_map(|bdf| snapshot.topology.function(*bdf));
        let holders: BTreeSet<_> = group
            .functions
            .iter()
            .flat_map(|bdf| snapshot.holders_of(*bdf))
            .collect();
        let regions = group.reserved_regions.as_ref().map_err(Clone::clone);
        let regions = regions.map(|regions| {
            let region = |region: &pci::ReservedRegion| Region {
                start: format!("{:#x}", region.start),
                end: format!("{:#x}", region.end),
                kind: region.kind.to_string(),
            };
            regions.iter().map(region).collect()
        });
        Self {
            group: group.id.0,
            domain_type: unknown
                .known("domain_type", group.domain_type.clone())
                .map(|kind| kind.to_lowercase()),
            viable: spoilers.is_empty(),
            spoilers,
            held_by: holders.iter().map(view::Holder::from).collect(),
            functions: members
                .map(|function| Member {
                    bdf: function.bdf.to_string(),
                    class: function
                        .class
                        .as_ref()
                        .ok()
                        .map(|class| snapshot.class_name(*class).into_owned()),
                    name: snapshot.function_name(function),
                    driver: function.driver.as_ref().ok().cloned().flatten(),
                })
                .collect(),
            others: group.others.clone(),
            reserved_regions: unknown.known("reserved_regions", regions),
            unknown,
        }
    }

    fn write(&self, output: &mut Output) -> std::io::Result<()> {
        let (heading, good, bad) = (style::HEADING, style::GOOD, style::BAD);
        let out = output.data();
        write!(out, "{heading}group {}{heading:#}  ", self.group)?;
        if let Some(kind) = &self.domain_type {
            write!(out, "{}  ", printable(kind))?;
        }
        if self.viable {
            writeln!(out, "{good}viable{good:#}")?;
        } else {
            writeln!(out, "{bad}not viable{bad:#}")?;
        }
        for spoiler in &self.spoilers {
            writeln!(out, "  because  {} {}", spoiler.bdf, printable(&spoiler.reason))?;
        }
        for holder in &self.held_by {
            writeln!(out, "  held by  {}", printable(&holder.to_string()))?;
        }
        let direct = ReservedKind::Direct.to_string();
        for region in self
            .reserved_regions
            .iter()
            .flatten()
            .filter(|region| region.kind == direct)
        {
            writeln!(
                out,
                "  firmware demands a direct mapping of {} to {}: VFIO refuses the group",
                region.start, region.end
            )?;
        }
        let mut table = Table::new(["bdf", "driver", "class", "name"]);
        for member in &self.functions {
            let driver = member.driver.as_deref().unwrap_or("-");
            let class = member.class.as_deref().unwrap_or("?");
            table.row([&format!("  {}", member.bdf), driver, class, &member.name]);
        }
        for other in &self.others {
            table.row([&format!("  {other}"), "-", "not a PCI function", ""]);
        }
        table.write(out, false)
    }
}

impl From<Spoiler> for SpoilerView {
    fn from(spoiler: Spoiler) -> Self {
        let reason = match &spoiler.driver {
            Ok(Some(driver)) => format!("is on {driver}"),
            Ok(None) => "has no driver".to_owned(),
            Err(unknown) => format!("may be on any driver: {unknown}"),
        };
        Self {
            bdf: spoiler.bdf.to_string(),
            driver: spoiler.driver.ok().flatten(),
            reason,
        }
    }
}
