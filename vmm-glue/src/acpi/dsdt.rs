//! The code of the DSDT: the PCI Express host bridge, COM1, and how to power off.

use super::{SLEEP_TYPE_OFF, Told, intx};
use crate::memory::{ECAM, WINDOW_32};
use crate::serial::{COM1, COM1_IRQ};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If, Interrupt,
    Memory32Fixed, Method, Name, NotEqual, Or, Package, PackageBuilder, Path, ResourceTemplate, Return, Uuid, ZERO,
};

/// Host bridge devices (PCI Firmware Specification 3.3 §4.5.1).
const PCI_HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// `_OSC`: the caller's revision is not known.
const UNKNOWN_REVISION: u8 = 1 << 3;
/// `_OSC`: what is asked is not known.
const UNKNOWN_UUID: u8 = 1 << 2;
/// `_PRT`: whatever function.
const ANY_FUNCTION: u32 = 0xFFFF;

/// All of it.
pub(super) fn code(told: &Told<'_>) -> Vec<u8> {
    let mut code = Vec::new();
    host_bridge(told, &mut code);
    com1(&mut code);
    motherboard(&mut code);
    let off = u8::try_from(SLEEP_TYPE_OFF).unwrap_or(0);
    let sleep = Package::new(vec![&off, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &sleep).to_aml_bytes(&mut code);
    code
}

fn host_bridge(told: &Told<'_>, code: &mut Vec<u8>) {
    let window_64 = &told.window_64;
    let buses = AddressSpace::<u16>::new_bus_number(0, told.last_bus.into());
    // All ports but those of configuration space.
    let below = AddressSpace::<u16>::new_io(0, 0xCF7, None);
    let above = AddressSpace::<u16>::new_io(0xD00, 0xFFFF, None);
    let [start, last] = [WINDOW_32.start, WINDOW_32.end - 1].map(|address| u32::try_from(address).unwrap_or(0));
    let low = AddressSpace::<u32>::new_memory(AddressSpaceCacheable::NotCacheable, true, start, last, None);
    let last = window_64.end.saturating_sub(1);
    let high = AddressSpace::<u64>::new_memory(AddressSpaceCacheable::PreFetchable, true, window_64.start, last, None);
    let mut resources: Vec<&dyn Aml> = vec![&buses, &below, &above, &low];
    if !window_64.is_empty() {
        resources.push(&high);
    }

    let mut routing = PackageBuilder::new();
    for device in 1..32 {
        for pin in 0..4 {
            let address = u32::from(device) << 16 | ANY_FUNCTION;
            routing.add_element(&Package::new(vec![&address, &pin, &ZERO, &intx(device, pin)]));
        }
    }

    // Linux asks the host bridge alone, whatever else has a node.
    let node = told.pci_node.map(|node| name("_PXM", &node));
    let names = [
        name("_HID", &EISAName::new("PNP0A08")),
        name("_CID", &EISAName::new("PNP0A03")),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        name("_CRS", &ResourceTemplate::new(resources)),
        name("_PRT", &routing),
    ];
    let names = names.iter().chain(&node);
    let mut children: Vec<&dyn Aml> = names.map(|name| -> &dyn Aml { name }).collect();

    // The guest is given control of all that it asks for: its words come back as they are.
    let (status, uuid) = (Path::new("CDW1"), Uuid::new(PCI_HOST_BRIDGE));
    let field = CreateDWordField::new(&status, &Arg(3), &ZERO);
    let (is_host_bridge, is_other_revision) = (Equal::new(&Arg(0), &uuid), NotEqual::new(&Arg(1), &1_u8));
    let no_revision = Or::new(&status, &status, &UNKNOWN_REVISION);
    let no_uuid = Or::new(&status, &status, &UNKNOWN_UUID);
    let check_revision = If::new(&is_other_revision, vec![&no_revision]);
    let check_uuid = If::new(&is_host_bridge, vec![&check_revision]);
    let otherwise = Else::new(vec![&no_uuid]);
    let result = Return::new(&Arg(3));
    let control = Method::new("_OSC".into(), 4, true, vec![&field, &check_uuid, &otherwise, &result]);
    children.push(&control);
    Device::new("_SB_.PCI0".into(), children).to_aml_bytes(code);
}

fn com1(code: &mut Vec<u8>) {
    let ports = IO::new(COM1, COM1, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, COM1_IRQ);
    let names = [
        name("_HID", &EISAName::new("PNP0501")),
        name("_UID", &ZERO),
        name("_CRS", &ResourceTemplate::new(vec![&ports, &interrupt])),
    ];
    let children = names.iter().map(|name| -> &dyn Aml { name }).collect();
    Device::new("_SB_.COM1".into(), children).to_aml_bytes(code);
}

/// Configuration space belongs to nobody else.
fn motherboard(code: &mut Vec<u8>) {
    let [start, len] = [ECAM.start, ECAM.end - ECAM.start].map(|number| u32::try_from(number).unwrap_or(0));
    let ecam = Memory32Fixed::new(true, start, len);
    let names = [
        name("_HID", &EISAName::new("PNP0C02")),
        name("_UID", &ZERO),
        name("_CRS", &ResourceTemplate::new(vec![&ecam])),
    ];
    let children = names.iter().map(|name| -> &dyn Aml { name }).collect();
    Device::new("_SB_.MBRD".into(), children).to_aml_bytes(code);
}

fn name(name: &str, value: &dyn Aml) -> Name {
    Name::new(name.into(), value)
}
