//! ACS on the way to the root, and address translation services, from generated configuration space.

use super::{Machine, bdf, small};
use pci::{AcsControls, Bdf, Gap, IommuKind, Isolation, Reason};
use system_tests::tree::{Node, Port};

/// Root port, switch and NIC.
fn switch() -> Vec<Node> {
    let root = Node::port(bdf(0, 8), None, 1, 3);
    let upstream = Node {
        port: Port::Upstream,
        acs: None,
        ..Node::port(bdf(1, 0), Some(root.bdf), 2, 3)
    };
    let downstream = Node::port(bdf(2, 0), Some(upstream.bdf), 3, 3);
    let nic = Node::nic(bdf(3, 0), downstream.bdf, "ens1");
    vec![root, upstream, downstream, nic]
}

/// The hops from a function to the root.
fn hops(nodes: &[Node], from: Bdf) -> Vec<(Bdf, Isolation)> {
    let machine = Machine::of(nodes);
    let hops = machine.read().isolation(&machine.tree.sysfs(), from);
    hops.into_iter().map(|hop| (hop.bdf, hop.isolation.unwrap())).collect()
}

#[test]
fn every_hop_up_to_the_root_port_is_judged() {
    let expected = [
        (bdf(3, 0), Isolation::Alone),
        (bdf(2, 0), Isolation::Enforced),
        (bdf(1, 0), Isolation::Alone),
        (bdf(0, 8), Isolation::Enforced),
    ];
    assert_eq!(hops(&switch(), bdf(3, 0)), expected);
}

#[test]
fn the_hop_that_lacks_acs_is_the_one_that_is_named() {
    let mut nodes = switch();
    nodes[2].acs = None;
    nodes[0].acs = Some(0x11);
    let hops = hops(&nodes, bdf(3, 0));
    assert_eq!(hops[1], (bdf(2, 0), Isolation::Lacking(Gap::NoCapability)));
    let off = AcsControls::REQUEST_REDIRECT | AcsControls::COMPLETION_REDIRECT;
    assert_eq!(hops[3], (bdf(0, 8), Isolation::Lacking(Gap::Off(off))));
}

#[test]
fn functions_beside_each_other_need_acs() {
    let mut nodes = switch();
    nodes.push(Node {
        bdf: bdf(3, 1),
        class_devices: Vec::new(),
        ..nodes[3].clone()
    });
    // The second function is one of several by its number, the first says so in its header.
    assert_eq!(hops(&nodes, bdf(3, 1))[0].1, Isolation::Lacking(Gap::NoCapability));
    nodes[3].is_multifunction = true;
    nodes[3].acs = Some(0x1d);
    assert_eq!(hops(&nodes, bdf(3, 0))[0].1, Isolation::Enforced);
}

#[test]
fn a_vf_is_alone_beside_its_pf() {
    assert_eq!(hops(&small(), bdf(1, 8))[0], (bdf(1, 8), Isolation::Alone));
}

#[test]
fn behind_a_bridge_to_conventional_pci_there_is_one_requester_id() {
    let root = Node::port(bdf(0, 8), None, 1, 2);
    let bridge = Node {
        port: Port::ToPci,
        acs: None,
        ..Node::port(bdf(1, 0), Some(root.bdf), 2, 2)
    };
    let card = Node {
        port: Port::Conventional,
        ..Node::new(bdf(2, 0), Some(bridge.bdf), (0x10ec, 0x8139), 0x02_0000)
    };
    let hops = hops(&[root, bridge, card], bdf(2, 0));
    assert_eq!(hops[1].1, Isolation::Lacking(Gap::SharedRequesterId));
}

#[test]
fn without_the_privilege_to_read_it_isolation_is_unknown() {
    let machine = Machine::of(&switch());
    let config = machine.tree.file(bdf(2, 0), "config");
    let whole = machine.tree.sysfs().read_bytes(&config, 4096).unwrap();
    machine.tree.write(&config, &whole[..64]).unwrap();
    let hops = machine.read().isolation(&machine.tree.sysfs(), bdf(3, 0));
    assert_eq!(*hops[1].isolation.as_ref().unwrap_err().reason(), Reason::Denied);
    assert_eq!(hops[3].isolation, Ok(Isolation::Enforced));
}

#[test]
fn a_vf_has_ats_of_its_own_and_shares_the_rest_of_its_pf() {
    let mut nodes = small();
    for node in &mut nodes[1..] {
        node.has_translation = true;
    }
    let machine = Machine::of(&nodes);
    let sysfs = machine.tree.sysfs();
    let services = machine.read().translation_services(&sysfs, bdf(1, 8)).unwrap();
    let ats = services.ats.unwrap().unwrap();
    assert!(ats.control.enable());
    assert_eq!(ats.capability.invalidate_queue_depth().requests(), 32);
    assert!(ats.capability.page_aligned_request());
    assert_eq!(services.shared_with, bdf(1, 0));
    let pri = services.pri.unwrap().unwrap();
    assert_eq!((pri.outstanding_capacity, pri.outstanding_allocation), (512, 32));
    assert!(pri.control.enable() && pri.status.response_pasid_required());
    let pasid = services.pasid.unwrap().unwrap();
    assert_eq!(pasid.capability.max_width_bits(), 20);
    assert!(pasid.control.enable() && pasid.capability.privileged_mode());

    let unit = services.iommu.unwrap().unwrap();
    assert_eq!(unit.name, "dmar0");
    let support = unit.support(&sysfs).unwrap();
    assert!(support.ats && support.pri);
    assert_eq!(support.pasid_width_bits, Some(20));
}

#[test]
fn a_function_without_services_and_without_iommu_has_none() {
    let machine = Machine::of(&switch());
    let sysfs = machine.tree.sysfs();
    let services = machine.read().translation_services(&sysfs, bdf(3, 0)).unwrap();
    assert_eq!(
        (services.ats, services.pri, services.pasid),
        (Ok(None), Ok(None), Ok(None))
    );
    assert_eq!(services.iommu, Ok(None));
    assert_eq!(pci::Iommu::read_all(&sysfs), Ok(Vec::new()));
}

#[test]
fn the_features_of_an_amd_unit_are_read_in_both_spellings() {
    for (cap, features, is_full) in [
        ("190b640f", "25bf732fa2295afe", true),
        ("190b640f", "25bf732fa2295afe:1d", true),
        ("180b640f", "25bf732fa2295afe", false),
    ] {
        let machine = Machine::of(&[]);
        let unit = "sys/devices/virtual/iommu/ivhd0";
        machine.tree.link("sys/class/iommu/ivhd0", unit).unwrap();
        machine.tree.write(format!("{unit}/amd-iommu/cap"), cap).unwrap();
        machine
            .tree
            .write(format!("{unit}/amd-iommu/features"), features)
            .unwrap();
        let sysfs = machine.tree.sysfs();
        let units = pci::Iommu::read_all(&sysfs).unwrap();
        assert!(matches!(units[0].kind, Ok(IommuKind::Amd(_))));
        let support = units[0].support(&sysfs).unwrap();
        assert_eq!(
            (support.ats, support.pri, support.pasid_width_bits),
            (is_full, is_full, Some(16))
        );
    }
}

#[test]
fn a_unit_whose_registers_make_no_sense_supports_nobody_knows_what() {
    let machine = Machine::of(&small());
    let sysfs = machine.tree.sysfs();
    let unit = "sys/devices/virtual/iommu/dmar0/intel-iommu";
    machine.tree.write(format!("{unit}/ecap"), "0xnonsense").unwrap();
    let units = pci::Iommu::read_all(&sysfs).unwrap();
    assert!(matches!(
        *units[0].support(&sysfs).unwrap_err().reason(),
        Reason::Malformed(_)
    ));
    std::fs::remove_dir_all(machine.tree.root().join(unit)).unwrap();
    let units = pci::Iommu::read_all(&sysfs).unwrap();
    assert_eq!(units[0].kind, Ok(IommuKind::Other));
    assert!(units[0].support(&sysfs).unwrap_err().is_missing());
}
