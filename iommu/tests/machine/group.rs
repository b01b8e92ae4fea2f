use crate::bench::{Engine, Status, bdf, bytes, memory};
use iommu::group::GroupSpace;
use iommu::space::MapOptions;
use iommu::{Error, Iova};
use pci::GroupId;
use std::sync::Arc;
use vfio_core::fake::{Copier, Machine};
use vfio_core::{Access, ContainerPath, ErrorKind};

const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));

fn machine() -> Machine {
    Machine::builder()
        .device(bdf(0), GroupId(7), Copier::new())
        .device(bdf(1), GroupId(7), Copier::new())
        .device(bdf(2), GroupId(8), Copier::new())
        .device(bdf(3), GroupId(9), Copier::new())
        .bystander(bdf(4), GroupId(9))
        .build()
}

#[test]
fn all_devices_of_all_groups_share_one_space() {
    let machine = machine();
    let mut groups = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[GroupId(7)]).unwrap();
    groups.add(GroupId(8)).unwrap();
    let pages = memory(1);
    let mapping = groups.space().map(&pages, 0..4096, BOTH).unwrap();
    for function in 0..3 {
        let device = groups.device(bdf(function), None).unwrap();
        device.config().unwrap().set_bus_master(true).unwrap();
        let at = Iova(mapping.iova().0 + u64::from(function));
        assert_eq!(Engine(device).fill(at, 1, function + 1), Status::Done);
    }
    assert_eq!(bytes(&pages, 0, 3), [1, 2, 3]);
    let Err(Error::Kernel(error)) = groups.device(bdf(3), None) else {
        panic!("a device of no group")
    };
    assert!(matches!(error.kind, ErrorKind::NotFound(_)), "{error}");
}

#[test]
fn devices_groups_and_mappings_go_in_any_order() {
    // All orders of four things.
    let mut orders = vec![vec![]];
    for _ in 0..4 {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..4)
                    .filter(|at| !order.contains(at))
                    .map(|at| [order.as_slice(), &[at]].concat())
            })
            .collect();
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let machine = machine();
        let groups = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[GroupId(7)]).unwrap();
        let pages = memory(1);
        let one = groups.device(bdf(0), None).unwrap();
        let other = groups.device(bdf(1), None).unwrap();
        let mapping = groups.space().map(&pages, 0..4096, BOTH).unwrap();
        let mut things: [Option<Box<dyn std::any::Any>>; 4] = [
            Some(Box::new(groups)),
            Some(Box::new(one)),
            Some(Box::new(other)),
            Some(Box::new(mapping)),
        ];
        for at in &order {
            drop(things[*at].take());
        }
        assert_eq!((machine.leaks(), Arc::strong_count(&pages)), (vec![], 1));
        // The mapping's space keeps the group in the container, which would unmap everything by itself with the last one.
        assert_eq!(machine.abandoned(), Vec::<String>::new());
    }
}

#[test]
fn a_group_with_a_host_driver_in_it_is_not_opened() {
    let machine = machine();
    for ids in [vec![GroupId(9)], vec![GroupId(7), GroupId(9)]] {
        let Err(Error::Kernel(error)) = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &ids) else {
            panic!("a group that is not viable")
        };
        assert!(
            matches!(error.kind, ErrorKind::GroupNotViable { group: GroupId(9), .. }),
            "{error}"
        );
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
    assert!(matches!(
        GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[]),
        Err(Error::Invalid(_))
    ));
}
