//! Takes the snapshot: visits every function, then works out the relations between them.

use super::visit::{Found, Visitor};
use super::{Fields, Topology, class_devices};
use crate::sysfs::{Buffer, Dir};
use crate::{Bdf, Error, ErrorKind, Function, Group, GroupId, Reason, Sysfs, Unknown, VfIndex, VfOf};
use std::collections::BTreeMap;
use std::num::NonZero;

pub(super) const DEVICES: &str = "sys/bus/pci/devices";
const GROUPS: &str = "sys/kernel/iommu_groups";

/// How many functions make a further thread worth its start.
const FUNCTIONS_PER_THREAD: usize = 256;

pub(super) fn topology(sysfs: &Sysfs, fields: Fields) -> Result<Topology, Error> {
    let failed = |reason: Reason| no_bus(sysfs, &reason);
    let devices = Dir::open(sysfs, DEVICES).map_err(failed)?;
    let mut names = Vec::new();
    devices
        .each(|entry| names.push(entry.name.to_owned()))
        .map_err(failed)?;
    // Functions below one bridge come one after the other.
    names.sort_unstable();

    let Found {
        mut functions,
        mut oddities,
    } = visit(&names, || Visitor::new(sysfs, fields, &devices));
    functions.sort_unstable_by_key(|function| function.bdf);
    index_virtual_functions(sysfs, &mut functions);
    if fields.contains(Fields::CLASS_DEVICES) {
        class_devices::attach(sysfs, &mut functions);
    }
    let mut groups = BTreeMap::new();
    if fields.contains(Fields::GROUP_DETAILS) {
        groups = read_groups(sysfs, &mut oddities);
    }
    gather_groups(&functions, &mut groups);
    let mut children = BTreeMap::<_, Vec<_>>::new();
    for (position, function) in functions.iter().enumerate() {
        children.entry(function.parent).or_default().push(position);
    }
    Ok(Topology {
        functions,
        children,
        groups,
        oddities,
    })
}

/// Visits the functions of these names, on several threads when they are many: nearly all of the time goes to the kernel.
fn visit<'s>(names: &[String], visitor: impl Fn() -> Visitor<'s> + Sync) -> Found {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(names.len() / FUNCTIONS_PER_THREAD);
    if threads < 2 {
        return visitor().visit(names);
    }
    let visitor = &visitor;
    std::thread::scope(|scope| {
        let mut parts = names.chunks(names.len().div_ceil(threads));
        let own = parts.next().unwrap_or_default();
        let running: Vec<_> = parts.map(|part| scope.spawn(move || visitor().visit(part))).collect();
        let mut found = visitor().visit(own);
        for thread in running {
            let part = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            found.functions.extend(part.functions);
            found.oddities.extend(part.oddities);
        }
        found
    })
}

/// Gives every VF the index under which its PF links to it. `functions` are in order of address.
fn index_virtual_functions(sysfs: &Sysfs, functions: &mut [Function]) {
    let mut links: Vec<(Bdf, Bdf, VfIndex)> = Vec::new();
    for pf in functions.iter() {
        let sriov = pf.sriov.as_ref().ok().and_then(Option::as_ref);
        links.extend(
            sriov
                .iter()
                .flat_map(|s| &s.virtual_functions)
                .map(|vf| (vf.bdf, pf.bdf, vf.index)),
        );
    }
    for (vf, pf, index) in links {
        let position = functions.binary_search_by_key(&vf, |function| function.bdf);
        let function = position.ok().and_then(|position| functions.get_mut(position));
        let vf_of = function.and_then(|f| f.vf_of.as_mut().ok()?.as_mut());
        if let Some(vf_of) = vf_of.filter(|vf_of| vf_of.pf == pf) {
            vf_of.index = Ok(index);
        }
    }
    for vf in functions.iter_mut() {
        if let Ok(Some(VfOf { index, .. })) = &mut vf.vf_of
            && index.is_err()
        {
            *index = Err(Reason::Missing.at(sysfs.path(vf.path.join("physfn/virtfn*"))));
        }
    }
}

/// The groups as their own directories describe them.
fn read_groups(sysfs: &Sysfs, oddities: &mut Vec<Unknown>) -> BTreeMap<GroupId, Group> {
    let mut groups = BTreeMap::new();
    let mut names = Vec::new();
    let listed = Dir::open(sysfs, GROUPS).and_then(|dir| {
        dir.each(|entry| names.push(entry.name.to_owned()))?;
        Ok(dir)
    });
    let dir = match listed {
        Ok(dir) => dir,
        // A kernel without IOMMU support.
        Err(Reason::Missing) => return groups,
        Err(reason) => {
            oddities.push(reason.at(sysfs.path(GROUPS)));
            return groups;
        }
    };
    let mut buffer = Buffer::new();
    for name in names {
        let group = match GroupId::parse(&name) {
            Some(id) => Group::read(id, &dir, &mut buffer),
            None => Err(Reason::malformed(&name).at(dir.path_of(&name))),
        };
        match group {
            Ok(group) => groups.extend([(group.id, group)]),
            Err(unknown) => oddities.push(unknown),
        }
    }
    groups
}

/// Adds every function to the group that it links to.
fn gather_groups(functions: &[Function], groups: &mut BTreeMap<GroupId, Group>) {
    let not_read = Unknown::not_read("");
    for function in functions {
        if let Ok(Some(id)) = function.iommu_group {
            groups
                .entry(id)
                .or_insert_with(|| Group::new(id, &not_read))
                .functions
                .push(function.bdf);
        }
    }
    for group in groups.values_mut() {
        group.functions.sort_unstable();
        group.functions.dedup();
    }
}

fn no_bus(sysfs: &Sysfs, reason: &Reason) -> Error {
    let path = sysfs.path(DEVICES);
    let step = format!("read {}", path.display());
    let kind = match reason {
        Reason::Denied => ErrorKind::Denied,
        Reason::OutsideRoot => ErrorKind::OutsideRoot(path),
        Reason::Io(errno) => ErrorKind::Io(*errno),
        _ => ErrorKind::NoPciBus(path),
    };
    Error {
        device: None,
        step,
        kind,
    }
}
