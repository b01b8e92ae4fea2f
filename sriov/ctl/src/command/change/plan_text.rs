//! A plan for people: every step in order where it is the result, one line for each kind of step where it is talk.

use crate::output::Output;
use crate::render::table::Table;
use crate::view::step::describe;
use pci::Bdf;
use sriov::{Plan, Target};
use std::collections::BTreeMap;
use std::io;

/// Writes every step, in order.
pub(super) fn write(plan: &Plan, output: &mut Output) -> io::Result<()> {
    for warning in &plan.warnings {
        output.warn(warning);
    }
    if plan.steps.is_empty() {
        output.note("nothing to do");
        return Ok(());
    }
    steps(plan).write(output.data(), true)
}

/// Says what is about to be done.
pub(super) fn talk(plan: &Plan, verbose: bool, output: &mut Output) {
    for warning in &plan.warnings {
        output.warn(warning);
    }
    let table = if verbose { steps(plan) } else { summary(plan) };
    let mut text = Vec::new();
    if table.write(&mut text, true).is_ok() {
        output.talk(format_args!("{}", String::from_utf8_lossy(&text)));
    }
}

fn steps(plan: &Plan) -> Table {
    let mut table = Table::aligned([("step", true), ("function", false), ("action", false)]);
    for (number, step) in (1_usize..).zip(&plan.steps) {
        table.row([number.to_string(), step.target.to_string(), describe(&step.action)]);
    }
    table
}

/// Each kind of step once, with all its functions.
fn summary(plan: &Plan) -> Table {
    let mut order: Vec<String> = Vec::new();
    let mut targets: BTreeMap<String, Vec<Target>> = BTreeMap::new();
    for step in &plan.steps {
        let text = describe(&step.action);
        if !targets.contains_key(&text) {
            order.push(text.clone());
        }
        targets.entry(text).or_default().push(step.target);
    }
    let mut table = Table::aligned([("steps", true), ("action", false), ("functions", false)]);
    for text in order {
        let targets = targets.remove(&text).unwrap_or_default();
        table.row([targets.len().to_string(), text, list(&targets)]);
    }
    table
}

/// `0000:01:00.0 VF 0-7`; of single functions the first three.
fn list(targets: &[Target]) -> String {
    const SHOWN: usize = 3;
    let mut names: Vec<String> = Vec::new();
    let mut vfs: BTreeMap<Bdf, Vec<u16>> = BTreeMap::new();
    for target in targets {
        match target {
            Target::Function(bdf) => names.push(bdf.to_string()),
            Target::VirtualFunction { pf, index } => vfs.entry(*pf).or_default().push(index.0),
        }
    }
    names.sort_unstable();
    names.dedup();
    let rest = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    if rest > 0 {
        names.push(format!("and {rest} more"));
    }
    names.extend(vfs.iter().map(|(pf, indices)| format!("{pf} VF {}", ranges(indices))));
    names.join(", ")
}

/// `0-3,5`
fn ranges(indices: &[u16]) -> String {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for index in sorted {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(index) => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    let text = ranges.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pci::VfIndex;

    #[test]
    fn neighbouring_vfs_are_a_range() {
        assert_eq!(ranges(&[3, 0, 1, 2, 5, 7, 8]), "0-3,5,7-8");
        assert_eq!(ranges(&[65535]), "65535");
    }

    #[test]
    fn functions_beyond_the_third_are_counted() {
        let function = |n: u16| Target::Function(format!("0000:01:00.{n}").parse().unwrap());
        let pf = "0000:02:00.0".parse().unwrap();
        let vf = |n| Target::VirtualFunction { pf, index: VfIndex(n) };
        let targets = [function(0), function(1), function(2), function(3), vf(0), vf(1)];
        let text = "0000:01:00.0, 0000:01:00.1, 0000:01:00.2, and 1 more, 0000:02:00.0 VF 0-1";
        assert_eq!(list(&targets), text);
    }
}
