//! A large machine: slots with SR-IOV NICs, SR-IOV NVMe drives and switches full of drives, in as many segments as it takes.

use super::node::{Node, Port};
use pci::{Bdf, RoutingId, Segment};

/// How many segments a machine has unless it needs more.
const SEGMENTS: usize = 4;

/// Rounds of three slots in one segment. A round takes 8 buses, so all fit.
const ROUNDS: usize = 16;

/// A machine of exactly so many functions, parents before children and PFs before their VFs.
#[must_use]
pub fn server(functions: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..).flat_map(round).take(functions).collect();
    // Each function in a group of its own, as ACS on every hop makes it.
    for (group, node) in (0..).zip(&mut nodes) {
        node.group = Some(group);
        node.numa_node = i32::from(group % 2 == 1);
    }
    nodes
}

/// A dual-port NIC with 2 × 31 VFs, an NVMe drive with 32 VFs, and a switch with four drives: 108 functions.
fn round(number: usize) -> Vec<Node> {
    let segment = number % SEGMENTS + number / (SEGMENTS * ROUNDS) * SEGMENTS;
    let segment = Segment(u32::try_from(segment).unwrap_or(u32::MAX));
    let place = u8::try_from(number / SEGMENTS % ROUNDS).unwrap_or(u8::MAX);
    let bdf = |bus, devfn| Bdf::new(segment, RoutingId::new(bus, devfn));
    let first_bus = place * 8 + 1;
    let root_port = |slot: u8, last: u8| Node {
        is_multifunction: true,
        ..Node::port(bdf(0, 8 + place * 3 + slot), None, first_bus + slot, first_bus + last)
    };
    let mut nodes = Vec::new();

    let slot = root_port(0, 0);
    let pfs = [0, 1].map(|function: u8| {
        let name = format!("ens{number}f{function}np{function}");
        let nic = Node::nic(bdf(first_bus, function), slot.bdf, &name);
        // The VFs of function 0 come first, then those of function 1.
        Node {
            is_multifunction: true,
            acs: Some(0),
            ..nic.with_room_for(31, if function == 0 { 8 } else { 38 }, 0x1889)
        }
    });
    nodes.push(slot);
    nodes.extend(pfs.clone());
    for pf in &pfs {
        nodes.extend((0..31).filter_map(|index| pf.vf(index)).map(|vf| {
            Node {
                driver: Some(
                    if vf.bdf.routing_id.0 % 4 == 0 {
                        "vfio-pci"
                    } else {
                        "iavf"
                    }
                    .to_owned(),
                ),
                ..vf
            }
        }));
    }

    let slot = root_port(1, 1);
    let pf = Node::nvme(bdf(first_bus + 1, 0), slot.bdf, number * 5).with_room_for(32, 1, 0xa824);
    nodes.push(slot);
    nodes.push(pf.clone());
    nodes.extend((0..32).filter_map(|index| pf.vf(index)));

    let slot = root_port(2, 7);
    let upstream = Node {
        port: Port::Upstream,
        acs: None,
        id: (0x1000, 0xc030),
        ..Node::port(bdf(first_bus + 2, 0), Some(slot.bdf), first_bus + 3, first_bus + 7)
    };
    nodes.push(slot);
    nodes.push(upstream.clone());
    for drive in 0..4 {
        let bus = first_bus + 4 + drive;
        let port = Node {
            id: (0x1000, 0xc030),
            ..Node::port(bdf(first_bus + 3, drive << 3), Some(upstream.bdf), bus, bus)
        };
        let drive_number = number * 5 + 1 + usize::from(drive);
        nodes.push(port.clone());
        nodes.push(Node::nvme(bdf(bus, 0), port.bdf, drive_number));
    }
    nodes
}
