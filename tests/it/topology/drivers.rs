//! Drivers of the bus.

use super::{Machine, small};
use pci::{Driver, Reason};

#[test]
fn a_driver_has_its_name_and_module() {
    let machine = Machine::of(&small());
    let sysfs = machine.tree.sysfs();
    let driver = Driver::read(&sysfs, "vfio-pci").unwrap().unwrap();
    assert_eq!(
        (driver.name.as_str(), driver.module.as_deref()),
        ("vfio-pci", Some("vfio_pci"))
    );
    let names: Vec<_> = Driver::read_all(&sysfs)
        .unwrap()
        .into_iter()
        .map(|driver| driver.name)
        .collect();
    assert_eq!(names, ["ice", "pcieport", "vfio-pci"]);
}

#[test]
fn a_driver_without_a_module_is_built_in() {
    let machine = Machine::of(&small());
    let module = machine.tree.root().join("sys/bus/pci/drivers/ice/module");
    std::fs::remove_file(&module).unwrap();
    assert_eq!(
        Driver::read(&machine.tree.sysfs(), "ice").unwrap().unwrap().module,
        None
    );
    machine.tree.write("sys/bus/pci/drivers/ice/module", "no link").unwrap();
    let unknown = Driver::read(&machine.tree.sysfs(), "ice").unwrap_err();
    assert!(matches!(unknown.reason(), Reason::Malformed(_)));
}

#[test]
fn what_is_not_registered_is_no_driver() {
    let machine = Machine::of(&small());
    for name in ["igb", "", ".", "..", "../devices", "/etc", "ice/module"] {
        assert_eq!(Driver::read(&machine.tree.sysfs(), name), Ok(None), "{name:?}");
    }
}
