//! A machine in memory that is also a tree of files.

use pci::{GroupId, Topology};
use std::collections::BTreeMap;
use vfio_core::fake::{Copier, Machine, Plain};
use vfio_core::iommufd::Iommufd;
use vfio_core::{Backend, CdevFile, ErrorKind, Group};

#[test]
fn a_machine_is_found_by_address() {
    let [pf, vf, spoiled, host] =
        ["0000:01:00.0", "0000:01:10.0", "0000:02:00.0", "0000:02:00.1"].map(|bdf| bdf.parse().unwrap());
    let machine = Machine::builder()
        .device(pf, GroupId(7), Plain::default())
        .virtual_function(vf, GroupId(8), pf, Copier::new())
        .device(spoiled, GroupId(9), Copier::new())
        .bystander(host, GroupId(9))
        .build();
    let root = tempfile::tempdir().unwrap();
    let (system, sysfs) = machine.write_tree(root.path()).unwrap();
    let topology = Topology::read(&sysfs).unwrap();
    let names: Vec<_> = topology.functions().map(|function| function.bdf).collect();
    assert_eq!(names, [pf, vf, spoiled, host]);
    let iommufd = Iommufd::open(&system).unwrap();
    let device = CdevFile::open_bdf(&system, &sysfs, pf)
        .unwrap()
        .bind(&iommufd, None)
        .unwrap();
    assert_eq!(device.bdf(), Some(pf));
    drop(device);
    let by_path = CdevFile::open(&system, root.path().join("dev/vfio/devices/vfio2")).unwrap();
    let refused = by_path.bind(&iommufd, None).unwrap_err();
    assert_eq!(refused.device, Some(spoiled), "found by the name of its file");
    assert!(refused.to_string().contains(&host.to_string()), "{refused}");
    drop(by_path);
    let refused = CdevFile::open_bdf(&system, &sysfs, spoiled)
        .unwrap()
        .bind(&iommufd, None);
    let group = GroupId(9);
    let culprits = vec![host];
    assert_eq!(refused.unwrap_err().kind, ErrorKind::GroupNotViable { group, culprits });
    assert_eq!(Group::open(&system, group).unwrap().culprits(), [host]);
    let usable: BTreeMap<_, _> = Backend::probe(&system, &sysfs, Some(pf)).into_iter().collect();
    assert!(
        usable
            .iter()
            .all(|(backend, usable)| usable.is_ok() == (*backend != Backend::NoIommu)),
        "{usable:?}"
    );
    let none = Backend::probe(&system, &sysfs, Some(spoiled));
    assert!(
        none.iter()
            .filter(|(backend, _)| *backend != Backend::Iommufd)
            .all(|(_, usable)| usable.is_err())
    );
    drop(iommufd);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn an_address_has_one_function() {
    let [one, other] = ["0000:01:00.0", "0000:01:00.1"].map(|bdf| bdf.parse().unwrap());
    let builder = || Machine::builder().device(one, GroupId(7), Plain::default());
    let twice: [fn(_, _) -> _; 3] = [
        |builder: vfio_core::fake::Builder, bdf| builder.device(bdf, GroupId(8), Plain::default()),
        |builder, bdf| builder.device_without_iommu(bdf, GroupId(8), Plain::default()),
        |builder, bdf| builder.bystander(bdf, GroupId(8)),
    ];
    for add in twice {
        let panic = std::panic::catch_unwind(|| add(builder(), one)).unwrap_err();
        let said = panic.downcast_ref::<String>().unwrap();
        assert_eq!(said, "the machine has a function 0000:01:00.0 already");
        drop(add(builder(), other).build());
    }
    let of_none = || builder().virtual_function(other, GroupId(8), other, Plain::default());
    assert!(std::panic::catch_unwind(of_none).is_err());
}
