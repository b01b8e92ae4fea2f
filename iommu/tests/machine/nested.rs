use crate::bench::{Bench, bdf, memory, open, two};
use iommu::Error;
use iommu::nested::Nesting;
use iommu::space::{AddressSpace, MapOptions};
use vfio_core::fake::{Iommu, Machine};
use vfio_core::iommufd::{Iommufd, ViommuKind, VtdS1Flags, VtdS1Invalidation};
use vfio_core::{Access, BoundDevice, IommufdDevice};

/// `struct iommu_hw_info_vtd`.
fn vtd(flags: u32, capabilities: u64, extended: u64) -> Iommu {
    let bytes = [
        flags.to_ne_bytes().to_vec(),
        vec![0; 4],
        capabilities.to_ne_bytes().to_vec(),
        extended.to_ne_bytes().to_vec(),
    ];
    Iommu {
        nesting: Some(1),
        hw_info: (1, bytes.concat()),
        ..Iommu::default()
    }
}

fn start(iommu: Iommu) -> (Machine, AddressSpace, BoundDevice, IommufdDevice) {
    let machine = two().iommu(iommu).build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let object = device.iommufd_device().unwrap();
    (machine, AddressSpace::iommufd(&iommufd).unwrap(), device, object)
}

const NEST: u64 = 1 << 26;

#[test]
fn a_guests_table_of_vtd_nests_under_a_space() {
    let (machine, space, device, object) = start(vtd(1, 0, NEST));
    let nesting = Nesting::new(&space, &object).unwrap();
    assert!(nesting.forbids_read_only());
    let table = nesting.vtd_s1(&object, VtdS1Flags::empty(), 0x12_3000, 48).unwrap();
    let attachment = device.attach(table.hwpt(), None).unwrap();
    table.invalidate_all().unwrap();
    let page = VtdS1Invalidation {
        address: 0x1000,
        pages: 1,
        leaf: true,
    };
    assert_eq!(table.invalidate(&[page, page]).unwrap(), 2);
    let stopped = table
        .invalidate(&[
            page,
            VtdS1Invalidation {
                address: 0x1001,
                ..page
            },
        ])
        .unwrap_err();
    assert_eq!(stopped.handled, 1);
    // Whatever goes first.
    drop((nesting, space, table));
    attachment.detach().unwrap();
    drop((device, object));
    assert_eq!((machine.leaks(), machine.abandoned()), (vec![], vec![]));
}

#[test]
fn a_space_that_guests_tables_nest_under_refuses_what_the_hardware_would_write_to() {
    const READ: MapOptions = MapOptions::new(Access::READ);
    let page = memory(1);
    let (machine, space, _device, object) = start(vtd(1, 0, NEST));
    let read_only = space.map(&page, 0..4096, READ).unwrap();
    machine.forget_calls();
    assert!(matches!(Nesting::new(&space, &object), Err(Error::Unsupported(_))));
    assert!(!machine.calls().iter().any(|step| step.as_str() == "IOMMU_HWPT_ALLOC"));
    drop(read_only);
    let nesting = Nesting::new(&space, &object).unwrap();
    let table = nesting.vtd_s1(&object, VtdS1Flags::empty(), 0x12_3000, 48).unwrap();
    drop(nesting.clone());
    drop(nesting);
    machine.forget_calls();
    assert!(matches!(space.map(&page, 0..4096, READ), Err(Error::Unsupported(_))));
    assert!(!machine.calls().iter().any(|step| step.as_str() == "IOMMU_IOAS_MAP"));
    drop(
        space
            .map(&page, 0..4096, MapOptions::new(Access::READ | Access::WRITE))
            .unwrap(),
    );
    drop(table);
    drop(space.map(&page, 0..4096, READ).unwrap());
    // Without the erratum there is nothing to refuse.
    let (_machine, space, _device, object) = start(vtd(0, 0, NEST));
    let _nesting = Nesting::new(&space, &object).unwrap();
    drop(space.map(&page, 0..4096, READ).unwrap());
}

#[test]
fn tables_that_the_hardware_cannot_walk_are_refused() {
    let (_machine, space, _device, object) = start(vtd(0, 0, NEST));
    let nesting = Nesting::new(&space, &object).unwrap();
    let table = |address, width| nesting.vtd_s1(&object, VtdS1Flags::empty(), address, width);
    assert!(matches!(table(0x1001, 48), Err(Error::Invalid(_))));
    assert!(matches!(table(0x1000, 39), Err(Error::Invalid(_))));
    assert!(matches!(table(0x1000, 57), Err(Error::Unsupported(_))));
    let (_machine, space, _device, object) = start(vtd(0, 1 << 60, NEST));
    let five = Nesting::new(&space, &object).unwrap();
    five.vtd_s1(&object, VtdS1Flags::empty(), 0x1000, 57).unwrap();
}

#[test]
fn an_iommu_that_does_not_nest_says_so() {
    let (_machine, space, _device, object) = start(vtd(0, 0, 0));
    assert!(matches!(Nesting::new(&space, &object), Err(Error::Unsupported(_))));
    let (_machine, space, _device, object) = start(Iommu::default());
    assert!(Nesting::new(&space, &object).is_err());
    let type1 = Bench::type1(two());
    assert!(matches!(
        Nesting::new(&type1.space, &object),
        Err(Error::Unsupported(_))
    ));
}

#[test]
fn a_guests_table_of_amd_belongs_to_its_iommu() {
    // `struct iommu_hw_info_amd`.
    let bytes = [0_u64, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let amd = Iommu {
        nesting: Some(3),
        viommu: Some(4),
        hw_info: (4, bytes),
        ..Iommu::default()
    };
    let (machine, space, device, object) = start(amd);
    let nesting = Nesting::new(&space, &object).unwrap();
    let viommu = nesting.viommu(&object, ViommuKind(4), &mut []).unwrap();
    let table = nesting.amd(&object, &viommu, [0; 4]).unwrap();
    let vtd = nesting.vtd_s1(&object, VtdS1Flags::empty(), 0x1000, 48);
    assert!(matches!(vtd, Err(Error::Unsupported(_))));
    drop((viommu, nesting, space, table, object, device));
    assert_eq!((machine.leaks(), machine.abandoned()), (vec![], vec![]));
    assert!(machine.cdev_path(bdf(0)).is_some());
}
