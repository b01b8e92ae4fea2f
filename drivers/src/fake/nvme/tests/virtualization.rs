//! Virtual functions: their resources, and that they work once they are online.

use super::*;
use pci::{Bdf, GroupId, RoutingId, Segment};
use vfio_core::fake::Machine;

/// Both functions, each its own device for the kernel: who holds the other one's token is not the matter here.
fn machine() -> (Host, Host) {
    let nvme = Nvme::new(Options {
        functions: 2,
        ..Options::default()
    });
    let bdf = |number: u16| Bdf::new(Segment(0), RoutingId(0x100 + number));
    let vf = nvme.function(1).unwrap();
    assert!(nvme.function(3).is_none());
    let machine = Machine::builder()
        .device(bdf(0), GroupId(1), nvme.clone())
        .device(bdf(1), GroupId(2), vf.clone())
        .build();
    let open = |bdf| FakeBacking::open(&machine, bdf, Interface::Iommufd).unwrap();
    let mut host = Host::over(nvme, open(bdf(0)));
    let function = Host::over(vf, open(bdf(1)));
    assert!(host.enable());
    (host, function)
}

#[test]
fn a_function_works_once_it_has_resources_and_is_online() {
    let (mut host, mut function) = machine();
    assert!(!function.enable());
    assert_eq!(function.status(), 2);
    let page = host.identify(0x14, 0).unwrap();
    assert_eq!((page[4], page[32], page[64]), (3, 8, 8));
    let page = host.identify(0x15, 0).unwrap();
    assert_eq!((page[0], page[32], page[36], page[40], page[64]), (2, 1, 0, 1, 2));
    assert_eq!(
        host.admin(0x1c, 0, 0, 0, [9 | 1 << 16, 0]).status,
        0x120 | DNR,
        "it has nothing"
    );
    assert_eq!(host.admin(0x1c, 0, 0, 0, [8 | 1 << 16, 3]).result, 3);
    assert_eq!(host.admin(0x1c, 0, 0, 0, [8 | 1 << 8 | 1 << 16, 3]).result, 3);
    assert_eq!(host.admin(0x1c, 0, 0, 0, [8 | 1 << 16, 99]).status, 0x121 | DNR);
    assert_eq!(host.admin(0x1c, 0, 0, 0, [8 | 9 << 16, 1]).status, 0x11f | DNR);
    assert_eq!(host.admin(0x1c, 0, 0, 0, [8 | 2 << 8 | 1 << 16, 1]).status, 0x122 | DNR);
    assert_eq!(host.admin(0x1c, 0, 0, 0, [9 | 1 << 16, 0]).status, 0);
    assert_eq!(
        host.admin(0x1c, 0, 0, 0, [8 | 1 << 16, 2]).status,
        0x120 | DNR,
        "it is online"
    );
    function.write(0x14, 0);
    function.poke(10);
    assert!(function.enable());
    assert_eq!(function.admin(0x09, 0, 0, 0, [7, 0x0009_0009]).result, 1 | 1 << 16);
    let page = function.identify(1, 0).unwrap();
    assert_eq!(page[78], 1);
    function.create(1, 4);
    let memory = buffer(&function.backing, 4096);
    assert_eq!(function.io(WRITE, memory.iova().0, 0, 3, 1).status, 0);
    host.create(1, 4);
    let memory = buffer(&host.backing, 4096);
    assert_eq!(
        host.io(READ, memory.iova().0, 0, 3, 1).status,
        0,
        "of the same namespace"
    );
}

#[test]
fn a_function_that_is_taken_offline_fails() {
    let (mut host, mut function) = machine();
    host.admin(0x1c, 0, 0, 0, [8 | 1 << 16, 2]);
    host.admin(0x1c, 0, 0, 0, [8 | 1 << 8 | 1 << 16, 1]);
    host.admin(0x1c, 0, 0, 0, [9 | 1 << 16, 0]);
    assert!(function.enable());
    assert_eq!(host.admin(0x1c, 0, 0, 0, [7 | 1 << 16, 0]).status, 0);
    function.poke(1);
    assert_eq!(function.status() & 2, 2);
}
