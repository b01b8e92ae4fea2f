//! The nodes of a guest: what of its CPUs and memory is on which, from `--cpus`, `--memory` and `--numa`.

use crate::args::{HugePages, MemorySize, Numa, NumaNode, Run};
use crate::command::vm::Node;
use crate::exit::Exit;
use crate::failure::Failure;
use pci::Sysfs;

/// As many as interrupts can name: identifiers of 8 bits, but for those of the I/O APIC and of all.
pub(super) const MOST_CPUS: u16 = 254;
/// As many as Linux knows unless it is built for more.
const MOST_NODES: usize = 64;
const MEMORY: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// The nodes of the host that have memory; `None` where it does not say.
pub(super) fn of_host(sysfs: &Sysfs) -> Option<Vec<u32>> {
    let text = sysfs.read("sys/devices/system/node/has_memory").ok()?;
    let mut nodes = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // More than the kernel can have (`NODES_SHIFT`) are nonsense.
        nodes.extend((first..=last).take(1 << 10));
    }
    Some(nodes)
}

/// The guest's nodes; one that the guest is not told of where none are asked for.
pub(super) fn plan(args: &Run, host: Option<&[u32]>) -> Result<Vec<Node>, Failure> {
    let nodes = wanted(&args.numa)?;
    if nodes.len() > MOST_NODES {
        return Err(Failure::usage(format!(
            "--numa: a guest has at most {MOST_NODES} nodes"
        )));
    }
    let cpus = cpus(&nodes, args.cpus)?;
    let memory = memory(&nodes, args.memory, args.hugepages)?;
    for node in nodes.iter().filter_map(|node| node.host) {
        check_host(node, host)?;
    }
    let nodes = nodes.iter().zip(cpus).zip(memory);
    let nodes = nodes.map(|((node, cpus), memory_bytes)| Node {
        memory_bytes,
        cpus: cpus.into(),
        host: node.host,
    });
    Ok(nodes.collect())
}

/// The node of the guest that all functions are near to, of which these are the host's nodes.
pub(super) fn of_functions(functions: &[Option<u32>], nodes: &[Node]) -> Option<u32> {
    let near = |of_host: &Option<u32>| {
        let at = nodes
            .iter()
            .position(|node| node.host.is_some() && node.host == *of_host);
        at.and_then(|at| u32::try_from(at).ok())
    };
    let mut all = functions.iter().map(near);
    let first = all.next()??;
    all.all(|node| node == Some(first)).then_some(first)
}

fn wanted(numa: &[Numa]) -> Result<Vec<NumaNode>, Failure> {
    match numa {
        [] => return Ok(vec![NumaNode::default()]),
        [Numa::Even(0)] => return Err(Failure::usage("--numa: a guest has at least one node")),
        [Numa::Even(count)] => return Ok(vec![NumaNode::default(); usize::from(*count)]),
        _ => {}
    }
    let of = |numa: &Numa| match numa {
        Numa::Node(node) => Ok(node.clone()),
        Numa::Even(count) => Err(Failure::usage(format!(
            "--numa {count} is all nodes, and there is another --numa"
        ))),
    };
    numa.iter().map(of).collect()
}

/// The CPUs of each node, which are numbered through.
fn cpus(nodes: &[NumaNode], wanted: Option<u16>) -> Result<Vec<u16>, Failure> {
    if nodes.iter().all(|node| node.cpus.is_none()) {
        return Ok(shares(u64::from(wanted.unwrap_or(1)), nodes.len())
            .map(|share| u16::try_from(share).unwrap_or(u16::MAX))
            .collect());
    }
    let mut next = 0;
    let mut cpus = Vec::new();
    for (first, last) in nodes.iter().map(|node| node.cpus.unwrap_or((1, 0))) {
        // A node of memory alone.
        if first > last {
            cpus.push(0);
            continue;
        }
        if first != next {
            let (cpu, what) = match first > next {
                true => (next, "is on no node"),
                false => (first, "is on two nodes"),
            };
            let failure = Failure::usage(format!("--numa: CPU {cpu} {what}"));
            return Err(failure.fix("let the CPUs of each node follow those of the node before, from 0 on"));
        }
        if last >= MOST_CPUS {
            return Err(Failure::usage(format!("--numa: a guest has at most {MOST_CPUS} CPUs")));
        }
        cpus.push(last - first + 1);
        next = last + 1;
    }
    match wanted.filter(|wanted| *wanted != next) {
        Some(wanted) => Err(Failure::usage(format!(
            "--numa: the nodes have {next} CPUs, and --cpus says {wanted}"
        ))),
        None => Ok(cpus),
    }
}

/// The memory of each node in bytes, in whole pages.
fn memory(nodes: &[NumaNode], wanted: Option<MemorySize>, hugepages: Option<HugePages>) -> Result<Vec<u64>, Failure> {
    // Nodes do not share a page of 2 MiB either way: the kernel may join smaller ones.
    let (page, name) = match hugepages {
        Some(HugePages::OneGib) => (1 << 30, "1 GiB"),
        Some(HugePages::TwoMib) | None => (2 * MIB, "2 MiB"),
    };
    let mib = |bytes: u64| format!("{}M", bytes / MIB);
    let said: Vec<u64> = nodes
        .iter()
        .filter_map(|node| node.memory)
        .map(MemorySize::bytes)
        .collect();
    let memory = if said.is_empty() {
        let all = wanted.map_or(MEMORY, MemorySize::bytes);
        let shares = shares(all / page, nodes.len()).map(|pages| pages * page);
        // What is no whole page is refused with the last one.
        let mut shares: Vec<u64> = shares.collect();
        if let Some(last) = shares.last_mut() {
            *last += all % page;
        }
        shares
    } else if said.len() == nodes.len() {
        let sum = said.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        if let Some(wanted) = wanted.filter(|wanted| wanted.bytes() != sum) {
            return Err(Failure::usage(format!(
                "--numa: the nodes have {}, and --memory says {wanted}",
                mib(sum)
            )));
        }
        said
    } else {
        return Err(Failure::usage("--numa: memory= is of every node or of none"));
    };
    match memory.iter().find(|bytes| **bytes == 0 || **bytes % page != 0) {
        Some(bytes) => {
            let failure = Failure::usage(format!("a node cannot have {} of memory", mib(*bytes)));
            Err(failure.fix(format!("give each node a multiple of {name}, at least one")))
        }
        None => Ok(memory),
    }
}

/// Shares of a number of things, of which the first ones are larger by one.
fn shares(all: u64, count: usize) -> impl Iterator<Item = u64> {
    let number = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    (0..number).map(move |share| all / number + u64::from(share < all % number))
}

fn check_host(node: u32, host: Option<&[u32]>) -> Result<(), Failure> {
    let Some(host) = host.filter(|host| !host.contains(&node)) else {
        return Ok(());
    };
    let list: Vec<String> = host.iter().map(u32::to_string).collect();
    let failure = Failure::new(
        Exit::Failed,
        "no_node",
        format!("the host has no memory on a NUMA node {node}"),
    );
    let failure = failure.step("run");
    Err(failure.fix(format!("name one of its nodes: host={}", list.join(" or host="))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    /// Memory in MiB, CPUs and host node of each.
    fn planned(options: &str) -> Result<Vec<(u64, u32, Option<u32>)>, String> {
        let words = ["sriovctl", "run", "01:10.0"]
            .into_iter()
            .chain(options.split_whitespace());
        let Command::Run(args) = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command else {
            panic!("not run")
        };
        let planned = plan(&args, Some(&[0, 1])).map_err(|failure| failure.message.clone())?;
        Ok(planned
            .iter()
            .map(|node| (node.memory_bytes / MIB, node.cpus, node.host))
            .collect())
    }

    #[test]
    fn a_guest_without_a_word_of_nodes_has_one() {
        assert_eq!(planned(""), Ok(vec![(1024, 1, None)]));
        assert_eq!(planned("--cpus 4 --memory 2G"), Ok(vec![(2048, 4, None)]));
        assert_eq!(planned("--numa host=1 --cpus 2"), Ok(vec![(1024, 2, Some(1))]));
    }

    #[test]
    fn what_is_not_said_is_shared_evenly() {
        let even = planned("--numa 3 --cpus 4 --memory 1G");
        assert_eq!(even, Ok(vec![(342, 2, None), (342, 1, None), (340, 1, None)]));
        let bound = planned("--numa host=0 --numa host=1 --cpus 2");
        assert_eq!(bound, Ok(vec![(512, 1, Some(0)), (512, 1, Some(1))]));
        assert_eq!(planned("--numa 2"), Ok(vec![(512, 1, None), (512, 0, None)]));
        let huge = planned("--numa 2 --memory 3G --hugepages 1G");
        assert_eq!(huge, Ok(vec![(2048, 1, None), (1024, 0, None)]));
    }

    #[test]
    fn nodes_may_differ() {
        let nodes = planned("--numa cpus=0-1,memory=512M,host=0 --numa memory=256M --numa cpus=2,memory=1G,host=1");
        assert_eq!(nodes, Ok(vec![(512, 2, Some(0)), (256, 0, None), (1024, 1, Some(1))]));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        for (options, why) in [
            ("--numa 0", "at least one node"),
            ("--numa 65", "at most 64 nodes"),
            ("--numa 2 --numa host=0", "another --numa"),
            ("--numa cpus=0-1 --numa cpus=3", "CPU 2 is on no node"),
            ("--numa cpus=1", "CPU 0 is on no node"),
            ("--numa cpus=0-1 --numa cpus=1-2", "CPU 1 is on two nodes"),
            ("--numa cpus=0-254", "at most 254 CPUs"),
            ("--numa cpus=0-3 --cpus 2", "4 CPUs, and --cpus says 2"),
            ("--numa memory=512M --numa host=0", "every node or of none"),
            (
                "--numa memory=512M --numa memory=512M --memory 2G",
                "1024M, and --memory says 2048M",
            ),
            ("--numa memory=512M --hugepages 1G", "cannot have 512M"),
            ("--memory 3M", "cannot have 3M"),
            ("--numa 4 --memory 4M", "cannot have 0M"),
            ("--numa host=2", "no memory on a NUMA node 2"),
            ("--cpus 255", "255 is not in 1..=254"),
        ] {
            let refused = planned(options).unwrap_err();
            assert!(refused.contains(why), "{options}: {refused}");
        }
    }

    #[test]
    fn functions_are_near_to_a_node_when_all_are() {
        let nodes = planned_nodes("--numa host=1 --numa host=0 --cpus 2");
        assert_eq!(of_functions(&[Some(0), Some(0)], &nodes), Some(1));
        assert_eq!(of_functions(&[Some(0), Some(1)], &nodes), None);
        assert_eq!(of_functions(&[None], &nodes), None);
        assert_eq!(of_functions(&[Some(7)], &nodes), None);
        assert_eq!(of_functions(&[], &nodes), None);
        assert_eq!(of_functions(&[None], &planned_nodes("--numa 2")), None);
    }

    fn planned_nodes(options: &str) -> Vec<Node> {
        let planned = planned(options).unwrap().into_iter();
        planned
            .map(|(mib, cpus, host)| Node {
                memory_bytes: mib * MIB,
                cpus,
                host,
            })
            .collect()
    }
}
