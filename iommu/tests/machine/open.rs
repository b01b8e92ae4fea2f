use crate::bench::{Engine, Status, bdf, memory, two};
use iommu::buffer::BufferOptions;
use iommu::space::MapOptions;
use iommu::{Error, OpenOptions};
use pci::{GroupId, Sysfs};
use std::sync::Arc;
use tempfile::TempDir;
use vfio_core::fake::{Builder, Copier, Machine};
use vfio_core::{Access, Backend, ErrorKind, NumaNode, System, VfToken};

const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));
const WAYS: [Backend; 5] = [
    Backend::Iommufd,
    Backend::Type1v2,
    Backend::Type1,
    Backend::CompatType1v2,
    Backend::CompatType1,
];

/// A machine that is found by its files, which last as long as the directory.
fn found(builder: Builder) -> (Machine, System, Sysfs, TempDir) {
    let machine = builder.build();
    let root = tempfile::tempdir().unwrap();
    let (system, sysfs) = machine.write_tree(root.path()).unwrap();
    (machine, system, sysfs, root)
}

/// Two in one group, one beside them.
fn three() -> Builder {
    Machine::builder()
        .device(bdf(0), GroupId(7), Copier::new())
        .device(bdf(1), GroupId(7), Copier::new())
        .device(bdf(2), GroupId(8), Copier::new())
}

#[test]
fn a_device_is_opened_in_every_way_with_its_space() {
    for way in WAYS {
        let (machine, system, sysfs, _root) = found(two());
        let attached = OpenOptions::new(&system, &sysfs).only(way).open(bdf(0)).unwrap();
        assert_eq!(attached.space().ioas().is_some(), way == Backend::Iommufd);
        let (device, space) = (attached.device().clone(), attached.space().clone());
        assert!(
            !device.config().unwrap().bus_master().unwrap(),
            "it does nothing by itself"
        );
        device.config().unwrap().set_bus_master(true).unwrap();
        let page = memory(1);
        let mapping = space.map(&page, 0..4096, BOTH).unwrap();
        assert_eq!(Engine(device.clone()).fill(mapping.iova(), 1, 7), Status::Done, "{way}");
        drop((attached, mapping, device, space));
        assert_eq!((machine.leaks(), Arc::strong_count(&page)), (vec![], 1), "{way}");
        assert_eq!(machine.abandoned(), Vec::<String>::new(), "{way}");
    }
}

#[test]
fn only_what_a_way_needs_is_opened() {
    for way in [None, Some(Backend::Type1v2), Some(Backend::CompatType1)] {
        let (machine, system, sysfs, _root) = found(two());
        let options = OpenOptions::new(&system, &sysfs);
        let options = way.map_or(options.clone(), |way| options.only(way));
        machine.forget_calls();
        let attached = options.open(bdf(0)).unwrap();
        // The group's file opens once: who looks into it is in the way of somebody else who opens the function.
        let opened = machine.calls().iter().filter(|step| step.as_str() == "open").count();
        assert_eq!(opened, 2, "{way:?}");
        drop(attached);
    }
}

#[test]
fn the_best_way_that_is_there_is_taken() {
    let (_machine, system, sysfs, _root) = found(two());
    let options = OpenOptions::new(&system, &sysfs);
    assert!(options.open(bdf(0)).unwrap().space().ioas().is_some());
    let (_machine, system, sysfs, _root) = found(two().iommufd(false));
    let attached = OpenOptions::new(&system, &sysfs).open(bdf(0)).unwrap();
    assert!(attached.space().container().is_some());
}

#[test]
fn further_devices_share_the_space() {
    for way in WAYS {
        let (machine, system, sysfs, _root) = found(three());
        let options = OpenOptions::new(&system, &sysfs).only(way);
        let first = options.open(bdf(0)).unwrap();
        let space = first.space().clone();
        let more = [1, 2].map(|function| options.open_in(&space, bdf(function)).unwrap());
        let page = memory(1);
        let mapping = space.map(&page, 0..4096, BOTH).unwrap();
        for attached in [&first, &more[0], &more[1]] {
            assert!(attached.space().is_same(&space));
            attached.device().config().unwrap().set_bus_master(true).unwrap();
            let engine = Engine(attached.device().clone());
            assert_eq!(engine.fill(mapping.iova(), 1, 7), Status::Done, "{way}");
        }
        drop((first, more));
        // The space can still be used, by a device that comes back.
        let again = options.open_in(&space, bdf(0)).unwrap();
        drop((again, mapping, space));
        assert_eq!((machine.leaks(), Arc::strong_count(&page)), (vec![], 1), "{way}");
        assert_eq!(machine.abandoned(), Vec::<String>::new(), "{way}");
    }
}

#[test]
fn without_a_way_each_one_says_why() {
    let host = bdf(4);
    let builder = two()
        .device(bdf(3), GroupId(9), Copier::new())
        .bystander(host, GroupId(9));
    let (machine, system, sysfs, _root) = found(builder);
    let options = OpenOptions::new(&system, &sysfs);
    let error = options.open(bdf(3)).unwrap_err();
    assert_eq!(error.device(), Some(bdf(3)));
    assert!(error.fix().is_some_and(|fix| fix.contains("vfio-pci")), "{error}");
    let Error::NoWay { reasons, .. } = error else {
        panic!("{error}")
    };
    let ways: Vec<_> = reasons.iter().map(|(way, _)| *way).collect();
    assert_eq!(ways, [Backend::Iommufd, Backend::Type1v2, Backend::CompatType1v2]);
    for (way, reason) in reasons {
        let culprits = vec![host];
        let group = GroupId(9);
        assert_eq!(
            reason.kind(),
            Some(&ErrorKind::GroupNotViable { group, culprits }),
            "{way}"
        );
    }
    assert!(
        matches!(options.open(bdf(7)), Err(Error::NoWay { .. })),
        "no such function"
    );
    let unguarded = options.clone().only(Backend::NoIommu).open(bdf(0));
    let Err(Error::NoWay { reasons, .. }) = unguarded else {
        panic!("{unguarded:?}")
    };
    assert_eq!(reasons.len(), 1);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn memory_is_taken_near_a_device_whose_node_is_told() {
    let (_machine, _system, sysfs, root) = found(two());
    let options = BufferOptions::default();
    assert_eq!(options.near(&sysfs, bdf(0)).unwrap(), options, "-1 is no node");
    let file = root
        .path()
        .join("sys/bus/pci/devices")
        .join(bdf(0).to_string())
        .join("numa_node");
    std::io::Write::write_all(&mut std::fs::File::create(file).unwrap(), b"1\n").unwrap();
    assert_eq!(options.near(&sysfs, bdf(0)).unwrap().numa_node, Some(NumaNode(1)));
    assert_eq!(options.near(&sysfs, bdf(7)).unwrap_err().device(), Some(bdf(7)));
}

#[test]
fn a_token_is_for_vfs_of_a_pf_that_is_open() {
    let [pf, vf] = [bdf(0), bdf(1)];
    let builder = Machine::builder()
        .device(pf, GroupId(7), Copier::new())
        .virtual_function(vf, GroupId(8), pf, Copier::new());
    let (_machine, system, sysfs, _root) = found(builder);
    let token = VfToken([7; 16]);
    let options = OpenOptions::new(&system, &sysfs);
    let physical = options.open(pf).unwrap();
    physical.device().set_vf_token(token).unwrap();
    let refused = options.open(vf).unwrap_err();
    let Error::NoWay { reasons, .. } = &refused else {
        panic!("{refused}")
    };
    assert!(
        reasons
            .iter()
            .all(|(_, reason)| reason.kind() == Some(&ErrorKind::Token)),
        "{refused}"
    );
    let options = options.token(token);
    drop(options.open_in(physical.space(), vf).unwrap());
    drop(options.open(vf).unwrap());
}

#[test]
fn what_does_not_fit_a_space_leaves_it_as_it_was() {
    for way in [Backend::Iommufd, Backend::Type1v2] {
        let (machine, system, sysfs, _root) = found(three().bystander(bdf(4), GroupId(8)));
        let options = OpenOptions::new(&system, &sysfs).only(way);
        let first = options.open(bdf(0)).unwrap();
        assert!(
            options.open_in(first.space(), bdf(2)).is_err(),
            "its group is not viable"
        );
        assert!(options.open_in(first.space(), bdf(7)).is_err(), "no such function");
        drop(options.open_in(first.space(), bdf(1)).unwrap());
        drop(first);
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}
