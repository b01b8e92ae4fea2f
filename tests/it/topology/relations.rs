//! What is read is what was generated, and relations point both ways.

use super::{Machine, bdf, small};
use pci::{
    BarIndex, ClassDevice, DeviceId, Fields, GroupId, LinkSpeed, PowerState, Reason, ResetMethod, Topology, VendorId,
    VfIndex,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use system_tests::tree::{Node, Role, server};

/// Compares a snapshot with what its tree was made of.
fn assert_matches(topology: &Topology, nodes: &[Node]) {
    assert_eq!(topology.functions().len(), nodes.len());
    assert!(topology.oddities().is_empty(), "{:?}", topology.oddities());
    assert!(topology.functions().is_sorted_by_key(|function| function.bdf));
    for node in nodes {
        let function = topology.function(node.bdf).expect("every node");
        assert_eq!(function.parent, node.parent);
        assert_eq!(function.vendor, Ok(VendorId(node.id.0)));
        assert_eq!(function.device, Ok(DeviceId(node.id.1)));
        assert_eq!(function.class.as_ref().unwrap().0, node.class);
        assert_eq!(function.driver, Ok(node.driver.clone()));
        assert_eq!(function.iommu_group, Ok(node.group.map(GroupId)));
        assert_eq!(function.numa_node, Ok(u32::try_from(node.numa_node).ok()));
        let subsystem = function.subsystem.as_ref().unwrap();
        let expected = (node.subsystem.0 != 0).then_some(node.subsystem);
        assert_eq!(subsystem.map(|id| (id.vendor.0, id.device.0)), expected);
        let expected = node
            .class_devices
            .iter()
            .map(|device| (device.class, device.path.rsplit('/').next().unwrap()));
        let found = function.class_devices.as_ref().unwrap();
        let found: BTreeSet<_> = found
            .iter()
            .map(|device| (device.class.as_str(), device.name.as_str()))
            .collect();
        assert_eq!(found, expected.collect());
        match node.sriov {
            Role::Plain => assert_eq!((&function.sriov, &function.vf_of), (&Ok(None), &Ok(None))),
            Role::Physical { total, offset, .. } => {
                let sriov = function.sriov.as_ref().unwrap().as_ref().expect("a PF");
                assert_eq!((&sriov.total, &sriov.offset), (&Ok(total), &Ok(offset)));
                assert_eq!(function.vf_of, Ok(None));
            }
            Role::Virtual { pf, index } => {
                let vf_of = function.vf_of.as_ref().unwrap().as_ref().expect("a VF");
                assert_eq!((vf_of.pf, &vf_of.index), (pf, &Ok(VfIndex(index))));
                assert_eq!(function.sriov, Ok(None));
            }
        }
    }
    assert_relations(topology);
}

/// What holds in every snapshot, whatever was read.
pub(super) fn assert_relations(topology: &Topology) {
    let mut below = 0;
    for parent in topology.functions().map(|f| Some(f.bdf)).chain([None]) {
        let children: Vec<_> = topology.children(parent).collect();
        assert!(children.iter().all(|child| child.parent == parent));
        assert!(children.is_sorted_by_key(|child| child.bdf));
        below += children.len();
    }
    assert_eq!(below, topology.functions().len(), "everything is below something, once");
    for function in topology.functions() {
        let parents: Vec<_> = topology.parents(function.bdf).collect();
        assert_eq!(parents.first().map(|parent| parent.bdf), function.parent);
        assert!(parents.last().is_none_or(|root_port| root_port.parent.is_none()));
        for (index, vf) in topology.virtual_functions(function.bdf).enumerate() {
            let vf_of = vf.vf_of.as_ref().unwrap().as_ref().unwrap();
            assert_eq!(vf_of.pf, function.bdf);
            assert_eq!(vf_of.index, Ok(VfIndex(u16::try_from(index).unwrap())));
        }
        if let Ok(Some(id)) = function.iommu_group {
            assert!(topology.group(id).unwrap().functions.contains(&function.bdf));
        }
    }
}

#[test]
fn a_large_machine_is_read_as_it_was_generated() {
    // More than one thread's worth, and several segments.
    let nodes = server(700);
    assert!(nodes.iter().any(|node| node.bdf.segment.0 == 3));
    assert_matches(&Machine::of(&nodes).read(), &nodes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_machine_of_any_size_is_read_as_it_was_generated(functions in 0_usize..130) {
        let nodes = server(functions);
        assert_matches(&Machine::of(&nodes).read(), &nodes);
    }
}

#[test]
fn every_field_of_a_pf_is_read() {
    let machine = Machine::of(&small());
    let topology = machine.read();
    let pf = topology.function(bdf(1, 0)).unwrap();
    assert_eq!(
        pf.path.to_str(),
        Some("sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0")
    );
    assert_eq!(pf.revision, Ok(1));
    assert_eq!(pf.ari, Ok(Some(false)));
    assert_eq!(pf.reset_methods, Ok(vec![ResetMethod::Flr, ResetMethod::Bus]));
    assert_eq!(pf.power_state, Ok(PowerState::D0));
    let link = pf.link.clone().unwrap().unwrap();
    assert_eq!((link.current.speed, link.max.width), (Some(LinkSpeed(160)), Some(16)));
    let bars: Vec<_> = pf
        .bars
        .as_ref()
        .unwrap()
        .iter()
        .map(|bar| (bar.index, bar.len_bytes))
        .collect();
    assert_eq!(bars, [(BarIndex::Bar(0), 32 << 20), (BarIndex::VfBar(0), 128 << 20)]);
    let sriov = pf.sriov.clone().unwrap().unwrap();
    assert_eq!((sriov.total, sriov.stride), (Ok(4), Ok(1)));
    assert_eq!(
        (sriov.vf_device, sriov.drivers_autoprobe),
        (Ok(DeviceId(0x1889)), Ok(true))
    );
    let vfs: Vec<_> = sriov.virtual_functions.iter().map(|vf| (vf.index.0, vf.bdf)).collect();
    assert_eq!(vfs, [(0, bdf(1, 8)), (1, bdf(1, 9))]);

    let vf = topology.function(bdf(1, 9)).unwrap();
    let link = vf.link.clone().unwrap().unwrap();
    assert_eq!((link.current.speed, link.current.width), (None, None));
}

#[test]
fn fields_that_were_not_asked_for_say_so() {
    let machine = Machine::of(&small());
    let topology = Topology::read_fields(&machine.tree.sysfs(), Fields::DRIVER).unwrap();
    assert_eq!(topology.functions().len(), 4);
    for function in topology.functions() {
        assert!(function.driver.is_ok());
        assert_eq!(*function.vendor.as_ref().unwrap_err().reason(), Reason::NotRead);
        assert_eq!(*function.bars.as_ref().unwrap_err().reason(), Reason::NotRead);
        assert_eq!(*function.vf_of.as_ref().unwrap_err().reason(), Reason::NotRead);
        assert_eq!(*function.class_devices.as_ref().unwrap_err().reason(), Reason::NotRead);
    }
}

#[test]
fn block_devices_are_found_where_they_are_shared_and_partitions_are_not() {
    let port = Node::port(bdf(0, 8), None, 1, 2);
    let drives = [1, 2].map(|bus| Node::nvme(bdf(bus, 0), port.bdf, usize::from(bus)));
    let machine = Machine::of(&[vec![port], drives.to_vec()].concat());
    let tree = &machine.tree;
    let block = |name: &str, place: &str| tree.link(format!("sys/class/block/{name}"), place).unwrap();
    // A partition of the first drive, and a namespace that both share.
    let disk = tree.file(bdf(1, 0), "nvme/nvme1/nvme1n1");
    block("nvme1n1p1", disk.join("nvme1n1p1").to_str().unwrap());
    let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    block("nvme0n9", &format!("{subsystem}/nvme0n9"));
    for (bus, name) in [(1, "nvme1"), (2, "nvme2")] {
        let controller = tree.file(bdf(bus, 0), &format!("nvme/{name}"));
        tree.link(format!("{subsystem}/{name}"), controller).unwrap();
    }

    let topology = machine.read();
    let blocks = |bus| -> Vec<String> {
        let devices = topology.function(bdf(bus, 0)).unwrap().class_devices.clone().unwrap();
        let blocks = devices.into_iter().filter(|device| device.class == "block");
        blocks.map(|ClassDevice { name, .. }| name).collect()
    };
    assert_eq!(blocks(1), ["nvme0n9", "nvme1n1"]);
    assert_eq!(blocks(2), ["nvme0n9", "nvme2n1"]);
}
