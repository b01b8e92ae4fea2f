//! IOMMU groups: members, details, and who keeps a group from being handed out.

use super::{Machine, bdf};
use pci::{Bdf, Fields, GroupId, Reason, ReservedKind, Topology, Viability};
use system_tests::tree::{ClassNode, Node};

/// A root port, an unbound NIC and one on the given driver, all in group 7.
fn shared_group(driver: &str) -> Vec<Node> {
    let port = Node::port(bdf(0, 8), None, 1, 1);
    let unbound = Node {
        driver: None,
        ..Node::nic(bdf(1, 0), port.bdf, "ens1")
    };
    let bound = Node {
        driver: Some(driver.to_owned()),
        ..Node::nic(bdf(1, 1), port.bdf, "ens2")
    };
    [port, unbound, bound]
        .map(|node| Node { group: Some(7), ..node })
        .into()
}

fn spoilers(topology: &Topology) -> Vec<Bdf> {
    match topology.viability(topology.group(GroupId(7)).unwrap()) {
        Viability::Viable => Vec::new(),
        Viability::Spoiled(spoilers) => spoilers.into_iter().map(|spoiler| spoiler.bdf).collect(),
    }
}

#[test]
fn bridges_unbound_functions_and_vfio_drivers_do_not_spoil_a_group() {
    for driver in ["vfio-pci", "mlx5_vfio_pci", "pci-stub"] {
        let topology = Machine::of(&shared_group(driver)).read();
        assert_eq!(
            topology.group(GroupId(7)).unwrap().functions,
            [bdf(0, 8), bdf(1, 0), bdf(1, 1)]
        );
        assert_eq!(spoilers(&topology), [], "{driver}");
    }
}

#[test]
fn a_host_driver_spoils_a_group() {
    let topology = Machine::of(&shared_group("ice")).read();
    assert_eq!(spoilers(&topology), [bdf(1, 1)]);
    let Viability::Spoiled(spoilers) = topology.viability(topology.group(GroupId(7)).unwrap()) else {
        panic!("viable");
    };
    assert_eq!(spoilers[0].driver, Ok(Some("ice".to_owned())));
}

#[test]
fn a_driver_with_a_vfio_device_is_a_vfio_driver_whatever_its_name() {
    let mut nodes = shared_group("some-variant");
    nodes[2].class_devices = vec![ClassNode {
        path: "vfio-dev/vfio0".to_owned(),
        class: "vfio-dev",
    }];
    assert_eq!(spoilers(&Machine::of(&nodes).read()), []);
}

#[test]
fn a_member_whose_driver_is_not_known_spoils_the_group() {
    let machine = Machine::of(&shared_group("vfio-pci"));
    let path = machine.tree.file(bdf(1, 1), "driver");
    std::fs::remove_file(machine.tree.root().join(&path)).unwrap();
    machine.tree.write(&path, "no link").unwrap();
    assert_eq!(spoilers(&machine.read()), [bdf(1, 1)]);

    // A member that is on no bus.
    let machine = Machine::of(&shared_group("vfio-pci"));
    machine
        .tree
        .write("sys/kernel/iommu_groups/7/devices/0000:05:00.0", "")
        .unwrap();
    assert_eq!(spoilers(&machine.read()), [bdf(5, 0)]);
}

#[test]
fn details_of_groups_are_read_where_they_are_wanted() {
    let machine = Machine::of(&shared_group("ice"));
    let regions = "0x0000000000000000 0x0000000000ffffff direct\n0x00000000fee00000 0x00000000feefffff msi\n";
    machine
        .tree
        .write("sys/kernel/iommu_groups/7/reserved_regions", regions)
        .unwrap();
    machine
        .tree
        .write("sys/kernel/iommu_groups/7/devices/uart:01", "")
        .unwrap();
    let topology = machine.read();
    let group = topology.group(GroupId(7)).unwrap();
    assert_eq!(group.domain_type, Ok("DMA-FQ".to_owned()));
    assert_eq!(group.others, ["uart:01"]);
    let kinds: Vec<_> = group
        .reserved_regions
        .as_ref()
        .unwrap()
        .iter()
        .map(|region| &region.kind)
        .collect();
    assert_eq!(kinds, [&ReservedKind::Direct, &ReservedKind::Msi]);

    let topology = Topology::read_fields(&machine.tree.sysfs(), Fields::GROUP).unwrap();
    let group = topology.group(GroupId(7)).unwrap();
    assert_eq!(group.functions.len(), 3);
    assert_eq!(*group.domain_type.as_ref().unwrap_err().reason(), Reason::NotRead);
}

#[test]
fn a_group_that_makes_no_sense_is_reported() {
    let machine = Machine::of(&shared_group("ice"));
    machine.tree.write("sys/kernel/iommu_groups/nonsense/type", "").unwrap();
    machine.tree.write("sys/kernel/iommu_groups/9", "").unwrap();
    let topology = machine.read();
    let odd = topology
        .oddities()
        .iter()
        .map(|odd| odd.path().file_name().unwrap().to_str().unwrap());
    let mut odd: Vec<_> = odd.collect();
    odd.sort_unstable();
    assert_eq!(odd, ["9", "nonsense"]);
    assert_eq!(topology.groups().len(), 1);
}

#[test]
fn without_an_iommu_there_are_no_groups() {
    let nodes: Vec<_> = shared_group("ice")
        .into_iter()
        .map(|node| Node { group: None, ..node })
        .collect();
    let topology = Machine::of(&nodes).read();
    assert_eq!(topology.groups().len(), 0);
    assert!(topology.functions().all(|function| function.iommu_group == Ok(None)));
}
