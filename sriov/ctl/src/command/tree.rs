//! `tree`: root port → switch → PF → VF.

use crate::args::Tree;
use crate::column::{self, Need, Row};
use crate::failure::Outcome;
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::tree::{self, Node, Strokes};
use crate::render::{style, table::printable};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::Snapshot;
use pci::{Bdf, Fields, Function, Topology};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Draws the tree.
pub(crate) fn run(args: &Tree, settings: &Settings, output: &mut Output) -> Outcome {
    let fields = Fields::ID | Fields::DRIVER | Fields::GROUP | Fields::SRIOV | Fields::CLASS_DEVICES;
    let need = Need::names(fields | selector::fields(&args.selectors));
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let selection = selector::resolve(&args.selectors, &snapshot.topology, &settings.sysfs)?;
    let roots = Hierarchy::new(&snapshot.topology, &selection.functions).roots(&snapshot);

    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            roots,
            unmatched: &selection.unmatched,
        })?;
        return Ok(selection.exit());
    }
    let strokes = if args.ascii {
        Strokes::ASCII
    } else {
        Strokes::for_locale()
    };
    for (bus, branches) in by_bus(roots) {
        let root = Node {
            text: format!("{}root bus {bus}{:#}", style::HEADING, style::HEADING),
            children: branches.into_iter().map(Node::from).collect(),
        };
        tree::write(output.data(), &root, strokes)?;
    }
    Ok(super::finish(&selection, output))
}

/// Who is drawn below whom: a VF below its PF, everything else below its bridge.
struct Hierarchy {
    below: BTreeMap<Option<Bdf>, Vec<Bdf>>,
    /// What is not drawn yet.
    left: BTreeSet<Bdf>,
}

impl Hierarchy {
    /// Of the selected functions, all above them and all below them.
    fn new(topology: &Topology, selected: &BTreeSet<Bdf>) -> Self {
        let mut below: BTreeMap<Option<Bdf>, Vec<Bdf>> = BTreeMap::new();
        for function in topology.functions() {
            let is_shown = ancestors(topology, function).any(|bdf| selected.contains(&bdf));
            if is_shown {
                below.entry(above(topology, function)).or_default().push(function.bdf);
            }
        }
        // What is above a selected function is shown without what else is below it.
        for bdf in selected {
            let path: Vec<Bdf> = topology
                .function(*bdf)
                .map(|f| ancestors(topology, f).collect())
                .unwrap_or_default();
            for bdf in path {
                let parent = topology.function(bdf).and_then(|function| above(topology, function));
                let siblings = below.entry(parent).or_default();
                if let Err(place) = siblings.binary_search(&bdf) {
                    siblings.insert(place, bdf);
                }
            }
        }
        let left = below.values().flatten().copied().collect();
        Self { below, left }
    }

    fn roots(mut self, snapshot: &Snapshot) -> Vec<Branch<'_>> {
        let mut roots = self.branches(snapshot, None);
        // In a captured tree, bridges can lie below each other in a circle, out of reach from any root bus.
        while let Some(bdf) = self.left.first().copied() {
            roots.extend(self.branch(snapshot, bdf));
        }
        roots
    }

    fn branches<'a>(&mut self, snapshot: &'a Snapshot, parent: Option<Bdf>) -> Vec<Branch<'a>> {
        let children = self.below.remove(&parent).unwrap_or_default();
        children
            .into_iter()
            .filter_map(|bdf| self.branch(snapshot, bdf))
            .collect()
    }

    /// A function and all below it; `None` for one that is drawn already.
    fn branch<'a>(&mut self, snapshot: &'a Snapshot, bdf: Bdf) -> Option<Branch<'a>> {
        let function = snapshot.topology.function(bdf).filter(|_| self.left.remove(&bdf))?;
        let mut branch = Branch::new(snapshot, function);
        branch.children = self.branches(snapshot, Some(bdf));
        Some(branch)
    }
}

/// What a function hangs below. A captured tree can be inconsistent: a VF whose PF is not there hangs below its bridge.
fn above(topology: &Topology, function: &Function) -> Option<Bdf> {
    let pf = function.vf_of.as_ref().ok().and_then(Option::as_ref).map(|vf| vf.pf);
    let pf = pf.filter(|pf| topology.function(*pf).is_some_and(|pf| matches!(pf.vf_of, Ok(None))));
    pf.or_else(|| function.parent.filter(|parent| topology.function(*parent).is_some()))
}

/// The function itself and everything above it.
fn ancestors<'a>(topology: &'a Topology, function: &'a Function) -> impl Iterator<Item = Bdf> + 'a {
    let pf = above(topology, function).and_then(|bdf| topology.function(bdf));
    let bridges = pf
        .into_iter()
        .flat_map(|pf| topology.parents(pf.bdf))
        .map(|bridge| bridge.bdf);
    std::iter::once(function.bdf).chain(pf.map(|pf| pf.bdf)).chain(bridges)
}

fn by_bus(roots: Vec<Branch<'_>>) -> BTreeMap<String, Vec<Branch<'_>>> {
    let mut buses: BTreeMap<(u32, u8), Vec<Branch<'_>>> = BTreeMap::new();
    for root in roots {
        buses
            .entry((root.address.segment.0, root.address.routing_id.bus()))
            .or_default()
            .push(root);
    }
    let named = buses
        .into_iter()
        .map(|((segment, bus), branches)| (format!("{segment:04x}:{bus:02x}"), branches));
    named.collect()
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    roots: Vec<Branch<'a>>,
    unmatched: &'a [String],
}

/// A function and what is below it.
#[derive(Serialize)]
struct Branch<'a> {
    #[serde(skip)]
    address: Bdf,
    bdf: String,
    role: column::Value<'a>,
    name: column::Value<'a>,
    class: column::Value<'a>,
    driver: column::Value<'a>,
    group: column::Value<'a>,
    sriov: column::Value<'a>,
    devices: column::Value<'a>,
    children: Vec<Self>,
}

impl<'a> Branch<'a> {
    fn new(snapshot: &'a Snapshot, function: &'a Function) -> Self {
        let row = Row { function, snapshot };
        let value = |name: &str| column::find(name).map_or(column::Value::None, |column| column.value(&row));
        Self {
            address: function.bdf,
            bdf: function.bdf.to_string(),
            role: value("role"),
            name: value("name"),
            class: value("class"),
            driver: value("driver"),
            group: value("group"),
            sriov: value("sriov"),
            devices: value("devices"),
            children: Vec::new(),
        }
    }

    fn text(&self) -> String {
        use column::Value;
        let mut text = self.bdf.clone();
        let mut add = |word: String| {
            text.push_str("  ");
            text.push_str(&printable(&word));
        };
        match (&self.sriov, &self.role) {
            (Value::Text(sriov), Value::Text(role)) if role == "vf" => {
                // The PF is the line above.
                add(sriov.split(" of ").next().unwrap_or(sriov).to_owned());
            }
            (Value::Text(sriov), _) => {
                add(format!("{}: {}", self.class, self.name));
                add(format!("PF, {sriov}"));
            }
            _ => add(format!("{}: {}", self.class, self.name)),
        }
        match &self.driver {
            Value::Text(driver) => add(format!("[{driver}]")),
            Value::Unknown(_) => add("[?]".to_owned()),
            _ => {}
        }
        if let Value::Number(group) = &self.group {
            add(format!("group {group}"));
        }
        if let Value::List(devices) = &self.devices {
            devices.iter().for_each(|device| add(device.clone()));
        }
        text
    }
}

impl From<Branch<'_>> for Node {
    fn from(branch: Branch<'_>) -> Self {
        Self {
            text: branch.text(),
            children: branch.children.into_iter().map(Self::from).collect(),
        }
    }
}
