//! Selectors: the one grammar that names functions on every command line. [`Selector`] is what was typed, [`resolve`] finds
//! what it means on this machine.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::{class, describe, glob, similar};
use pci::{Bdf, ClassDevice, Fields, Function, GroupId, Sysfs, Topology};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The grammar, for the long help.
pub(crate) const HELP: &str = "\
Selectors (in every command):
  0000:3b:00.2, 3b:00.2   the function of that address
  ens1f0, nvme0           the function with that interface or other class device,
                          except for the representors of VFs
  ens1f0#2, ens1f0#0-3    VFs of a PF by index
  pf:ens1f0               all VFs of a PF
  id:8086:1889, id:8086   all functions of a vendor and device, or of a vendor
  group:22                all functions of an IOMMU group
  class:nvme, class:0108  all functions of a class, by name or first digits
Addresses and names may contain * (any text) and ? (any character).";

/// One selector as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    text: String,
    meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    Named(Name),
    VirtualFunctions { pf: Name, range: Option<(u16, u16)> },
    Id { vendor: u16, device: Option<u16> },
    Group(GroupId),
    Class(class::Prefix),
}

/// A function by address or by the name of a class device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Address(Bdf),
    ClassDevice(String),
    Pattern(String),
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ParseError(String);

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let meaning = Meaning::from_str(text)?;
        Ok(Self {
            text: text.to_owned(),
            meaning,
        })
    }
}

impl FromStr for Meaning {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(pf) = text.strip_prefix("pf:") {
            return Ok(Self::VirtualFunctions {
                pf: Name::from_str(pf)?,
                range: None,
            });
        }
        if let Some(id) = text.strip_prefix("id:") {
            return parse_id(id).ok_or_else(|| ParseError("expected id:VENDOR[:DEVICE] in hexadecimal".to_owned()));
        }
        if let Some(group) = text.strip_prefix("group:") {
            let number = group
                .parse()
                .map_err(|_not_a_number| ParseError("expected group:NUMBER".to_owned()));
            return number.map(|number| Self::Group(GroupId(number)));
        }
        if let Some(name) = text.strip_prefix("class:") {
            return class::Prefix::from_str(name).map(Self::Class).map_err(ParseError);
        }
        if let Some((pf, range)) = text.split_once('#') {
            let range = parse_range(range);
            let range =
                range.ok_or_else(|| ParseError("expected PF#INDEX or PF#FIRST-LAST, such as ens1f0#0-3".to_owned()));
            return Ok(Self::VirtualFunctions {
                pf: Name::from_str(pf)?,
                range: Some(range?),
            });
        }
        Name::from_str(text).map(Self::Named)
    }
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError("an empty name selects nothing".to_owned()));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(ParseError("neither an address nor a name".to_owned()));
        }
        if glob::is_pattern(text) {
            return Ok(Self::Pattern(text.to_owned()));
        }
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            // A colon is in every address and in no interface name worth guessing at.
            Err(error) if text.contains(':') => Err(ParseError(error.to_string())),
            Err(_) => Ok(Self::ClassDevice(text.to_owned())),
        }
    }
}

fn parse_id(text: &str) -> Option<Meaning> {
    let hex = |digits: &str| {
        let is_hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    match text.split_once(':') {
        Some((vendor, device)) => Some(Meaning::Id {
            vendor: hex(vendor)?,
            device: Some(hex(device)?),
        }),
        None => Some(Meaning::Id {
            vendor: hex(text)?,
            device: None,
        }),
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

impl Name {
    fn fields(&self) -> Fields {
        match self {
            Self::Address(_) => Fields::empty(),
            Self::ClassDevice(_) | Self::Pattern(_) => Fields::CLASS_DEVICES,
        }
    }

    fn is_name_of(&self, function: &Function, sysfs: &Sysfs) -> bool {
        let has_device = |is_meant: &dyn Fn(&str) -> bool| {
            let devices = function.class_devices.iter().flatten();
            let mut meant = devices.filter(|device| is_meant(&device.name));
            meant.any(|device| !is_representor(device, sysfs))
        };
        match self {
            Self::Address(address) => function.bdf == *address,
            Self::ClassDevice(name) => has_device(&|found| found == name),
            Self::Pattern(pattern) => {
                glob::matches(pattern, &function.bdf.to_string())
                    || glob::matches(pattern, &function.bdf.routing_id.to_string()) && function.bdf.segment.0 == 0
                    || has_device(&|found| glob::matches(pattern, found))
            }
        }
    }
}

/// Whether a network interface stands for the far side of a VF or subfunction in the switch of the NIC (`pf0vf3`). It lies below
/// the PF, and who names it does not mean the PF.
fn is_representor(device: &ClassDevice, sysfs: &Sysfs) -> bool {
    if device.class != "net" {
        return false;
    }
    let port = sysfs
        .read(format!("sys/class/net/{}/phys_port_name", device.name))
        .unwrap_or_default();
    // An external controller comes first: c1pf0vf3.
    let pf = port
        .trim_start_matches('c')
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .strip_prefix("pf");
    pf.is_some_and(|pf| pf.contains("vf") || pf.contains("sf"))
}

/// The names of the class devices of a function.
fn names(function: &Function) -> impl Iterator<Item = &str> {
    let devices = function.class_devices.as_deref().unwrap_or_default();
    devices.iter().map(|device| device.name.as_str())
}

impl Selector {
    /// What has to be read to resolve it.
    pub(crate) fn fields(&self) -> Fields {
        match &self.meaning {
            Meaning::Named(name) => name.fields(),
            Meaning::VirtualFunctions { pf, .. } => pf.fields() | Fields::SRIOV,
            Meaning::Id { .. } | Meaning::Class(_) => Fields::ID,
            Meaning::Group(_) => Fields::GROUP,
        }
    }

    /// The address, if the selector is nothing but one.
    pub(crate) fn address(&self) -> Option<Bdf> {
        match self.meaning {
            Meaning::Named(Name::Address(bdf)) => Some(bdf),
            _ => None,
        }
    }

    /// Adds what it selects, and what it names that is not there.
    fn select(&self, topology: &Topology, sysfs: &Sysfs, selection: &mut Selection) {
        let before = selection.matches;
        let mut add = |bdf: Bdf| {
            selection.matches += 1;
            selection.functions.insert(bdf);
        };
        match &self.meaning {
            Meaning::Named(name) => filter(topology, |f| name.is_name_of(f, sysfs)).for_each(&mut add),
            Meaning::Id { vendor, device } => filter(topology, |f| {
                f.vendor.as_ref().is_ok_and(|found| found.0 == *vendor)
                    && device.is_none_or(|device| f.device.as_ref().is_ok_and(|found| found.0 == device))
            })
            .for_each(&mut add),
            Meaning::Group(id) => filter(topology, |f| f.iommu_group == Ok(Some(*id))).for_each(&mut add),
            Meaning::Class(prefix) => {
                filter(topology, |f| f.class.as_ref().is_ok_and(|class| prefix.matches(*class))).for_each(&mut add);
            }
            Meaning::VirtualFunctions { pf, range } => {
                for pf in topology.functions().filter(|f| pf.is_name_of(f, sysfs)) {
                    let enabled = pf.sriov.as_ref().ok().and_then(Option::as_ref);
                    let enabled = enabled
                        .map(|sriov| sriov.virtual_functions.as_slice())
                        .unwrap_or_default();
                    let Some((first, last)) = *range else {
                        enabled.iter().for_each(|vf| add(vf.bdf));
                        continue;
                    };
                    let wanted = enabled.iter().filter(|vf| (first..=last).contains(&vf.index.0));
                    let indices: BTreeSet<u16> = wanted.clone().map(|vf| vf.index.0).collect();
                    wanted.for_each(|vf| add(vf.bdf));
                    let missing = usize::from(last - first) + 1 - indices.len();
                    if missing > 0 && !indices.is_empty() {
                        selection.unmatched.push(self.text.clone());
                    }
                }
            }
        }
        if selection.matches == before {
            selection.unmatched.push(self.text.clone());
        }
    }
}

fn filter(topology: &Topology, keep: impl Fn(&Function) -> bool) -> impl Iterator<Item = Bdf> {
    topology.functions().filter(move |f| keep(f)).map(|f| f.bdf)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a list of selectors means on a machine.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// The functions, in order of address; each once.
    pub(crate) functions: BTreeSet<Bdf>,
    /// The selectors that matched nothing, or not all they name.
    pub(crate) unmatched: Vec<String>,
    matches: usize,
}

impl Selection {
    /// How a command ends that did its work on what matched.
    pub(crate) fn exit(&self) -> Exit {
        if self.unmatched.is_empty() {
            Exit::Ok
        } else {
            Exit::PartialMatch
        }
    }

    /// Refuses a selection of which a part is missing: for commands that change the machine.
    pub(crate) fn complete(self, topology: &Topology) -> Result<BTreeSet<Bdf>, Failure> {
        if self.unmatched.is_empty() {
            return Ok(self.functions);
        }
        let failure = no_match(Exit::PartialMatch, &self.unmatched, topology);
        Err(failure.hint("nothing was changed: every selector of a change must match"))
    }
}

/// The fields that all of them need.
pub(crate) fn fields(selectors: &[Selector]) -> Fields {
    selectors
        .iter()
        .fold(Fields::empty(), |fields, selector| fields | selector.fields())
}

/// Resolves selectors. None at all selects every function.
///
/// # Errors
/// When there are selectors and none of them matches; names what looks similar.
pub(crate) fn resolve(selectors: &[Selector], topology: &Topology, sysfs: &Sysfs) -> Result<Selection, Failure> {
    let mut selection = Selection::default();
    if selectors.is_empty() {
        selection.functions = topology.functions().map(|f| f.bdf).collect();
        return Ok(selection);
    }
    for selector in selectors {
        selector.select(topology, sysfs, &mut selection);
    }
    if selection.functions.is_empty() {
        return Err(no_match(Exit::NoMatch, &selection.unmatched, topology));
    }
    Ok(selection)
}

/// Resolves a selector that must mean exactly one function.
///
/// # Errors
/// When it means none or several.
pub(crate) fn resolve_one(selector: &Selector, topology: &Topology, sysfs: &Sysfs) -> Result<Bdf, Failure> {
    let selection = resolve(std::slice::from_ref(selector), topology, sysfs)?;
    let mut functions = selection.functions.into_iter();
    match (functions.next(), functions.next()) {
        (Some(bdf), None) => Ok(bdf),
        (first, second) => {
            let found = first.into_iter().chain(second).chain(functions);
            let found: Vec<String> = found.map(|bdf| bdf.to_string()).collect();
            Err(Failure::usage(format!(
                "{selector} selects {} functions and exactly one is needed",
                found.len()
            ))
            .cause(found.join(", "))
            .fix("name each function by a selector of its own"))
        }
    }
}

fn no_match(exit: Exit, unmatched: &[String], topology: &Topology) -> Failure {
    let list = unmatched.join(", ");
    let mut failure = Failure::new(exit, "no_match", format!("no function matches {list}")).code("C01");
    let addresses: Vec<String> = topology.functions().map(|f| f.bdf.to_string()).collect();
    let candidates = || {
        topology
            .functions()
            .flat_map(names)
            .chain(addresses.iter().map(String::as_str))
    };
    for wanted in unmatched {
        let name = wanted.strip_prefix("pf:").unwrap_or(wanted);
        let name = name.split_once('#').map_or(name, |(pf, _)| pf);
        let full = name
            .parse::<Bdf>()
            .map_or_else(|_| name.to_owned(), |bdf| bdf.to_string());
        // The function is there, and its VFs are not.
        let known = topology
            .functions()
            .find(|f| f.bdf.to_string() == full || names(f).any(|found| found == full));
        let hint = match known.map(|pf| pf.sriov.as_ref()) {
            Some(Ok(Some(sriov))) => Some(format!("{full} has {}", describe::vf_count(sriov))),
            Some(_) => None,
            None => similar::hint(&full, candidates()),
        };
        failure.hints.extend(hint);
    }
    if failure.hints.is_empty() {
        failure = failure.hint("list what is there: sriovctl list");
    }
    failure
}

#[cfg(test)]
mod tests;
