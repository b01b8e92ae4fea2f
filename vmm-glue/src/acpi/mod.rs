//! What the guest is told of its machine (ACPI Specification 6.5).
//!
//! One block of tables for the place where firmware keeps them, beginning with the RSDP. The machine has fixed hardware: PM1 blocks, a timer,
//! and an SCI, which it never raises.

mod dsdt;
mod tables;

use crate::memory::{GuestMemory, Ram};
use crate::topology::Topology;
use crate::{Error, ErrorKind, Result};
use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use std::ops::Range;

/// Where the tables are looked for by those whom nobody tells.
pub(crate) const PLACE: Range<u64> = 0xE_0000..0x10_0000;

/// The interrupt of the fixed hardware.
const SCI: u8 = 9;
/// PM1a event and control block.
pub(crate) const PM1_EVENT: u16 = 0x600;
pub(crate) const PM1_CONTROL: u16 = 0x604;
/// The timer's register.
pub(crate) const PM_TIMER: u16 = 0x608;
/// The kind of sleep that is power-off (`_S5`).
pub(crate) const SLEEP_TYPE_OFF: u16 = 5;
/// What is written to the reset register.
const RESET: u8 = 6;
/// The reset register.
pub(crate) const RESET_PORT: u16 = 0xCF9;

const OEM: [u8; 6] = *b"SRIOV ";
const OEM_TABLE: [u8; 8] = *b"VMMGLUE ";

/// The pin of the I/O APIC that a pin (0 is INTA#) of a device on bus 0 leads to, and that of device 0 behind it. Level-triggered, as PCI has it.
#[must_use]
pub fn intx(device: u8, pin: u8) -> u32 {
    16 + (u32::from(device) + u32::from(pin)) % 8
}

/// What there is to tell.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub topology: &'a Topology,
    pub ram: &'a [Ram],
    /// What BARs above 4 GiB are placed in; may be empty.
    pub window_64: Range<u64>,
    /// The last bus that there is. Linux looks for devices on all that it is told of, and each look is an exit.
    pub last_bus: u8,
    /// The node that all functions are near to.
    pub pci_node: Option<u32>,
}

/// Writes all tables to their [place](PLACE), which begins with the RSDP.
pub(crate) fn write(told: &Told<'_>, memory: &GuestMemory) -> Result<()> {
    let tables = tables(told);
    let room = usize::try_from(PLACE.end - PLACE.start).unwrap_or(0);
    if tables.len() > room {
        let kind = ErrorKind::Exhausted("room for ACPI tables: fewer processors or nodes, please");
        return Err(Error::new("write ACPI tables", kind));
    }
    memory.write(PLACE.start, &tables)
}

/// The tables one after another, for their place.
fn tables(told: &Told<'_>) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len()];
    let dsdt = append(&mut bytes, &tables::dsdt(&dsdt::code(told)));
    let mut listed = vec![
        append(&mut bytes, &tables::fadt(dsdt)),
        append(&mut bytes, &tables::madt(told.topology)),
        append(&mut bytes, &tables::mcfg(told.last_bus)),
    ];
    let nodes = told.ram.last().map_or(0, |ram| ram.node) + 1;
    if nodes > 1 {
        listed.push(append(&mut bytes, &tables::srat(told.topology, told.ram)));
        listed.push(append(&mut bytes, &tables::slit(nodes)));
    }
    let xsdt = append(&mut bytes, &tables::xsdt(&listed));
    let rsdp = serialized(&Rsdp::new(OEM, xsdt));
    for (place, byte) in bytes.iter_mut().zip(rsdp) {
        *place = byte;
    }
    bytes
}

/// Appends a table; gives its address.
fn append(bytes: &mut Vec<u8>, table: &[u8]) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    bytes.extend_from_slice(table);
    PLACE.start.saturating_add(offset)
}

fn serialized(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Node;
    use vfio_core::PageSize;

    fn told_of(nodes: &[Node]) -> Vec<u8> {
        let memory = GuestMemory::new(nodes, PageSize::Base).unwrap();
        let told = Told {
            topology: &Topology::new(nodes).unwrap(),
            ram: memory.ram(),
            window_64: memory.window_64(40),
            last_bus: 4,
            pci_node: (nodes.len() > 1).then_some(1),
        };
        tables(&told)
    }

    fn node(vcpus: u32) -> Node {
        Node {
            len_bytes: 16 << 20,
            vcpus,
            host: None,
        }
    }

    fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
        let mut number = [0; 8];
        number[..len].copy_from_slice(&bytes[offset..offset + len]);
        u64::from_le_bytes(number)
    }

    /// Follows the addresses from the RSDP on, as a guest does.
    fn walk(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let sums_to_zero = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0;
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert!(sums_to_zero(&bytes[..20]) && sums_to_zero(&bytes[..36]));
        let table = |address: u64| {
            let start = usize::try_from(address - PLACE.start).unwrap();
            let len = usize::try_from(number(bytes, start + 4, 4)).unwrap();
            let table = bytes[start..start + len].to_vec();
            assert!(sums_to_zero(&table));
            (String::from_utf8(table[..4].to_vec()).unwrap(), table)
        };
        let (signature, xsdt) = table(number(bytes, 24, 8));
        assert_eq!(signature, "XSDT");
        let mut found: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|address| table(number(address, 0, 8)))
            .collect();
        let fadt = &found[0].1;
        assert_eq!(number(fadt, 40, 4), number(fadt, 140, 8), "both say where the DSDT is");
        found.push(table(number(fadt, 140, 8)));
        found
    }

    #[test]
    fn every_table_is_found_and_sums_to_zero() {
        let names = |bytes: &[u8]| walk(bytes).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&told_of(&[node(2)])), ["FACP", "APIC", "MCFG", "DSDT"]);
        let numa = told_of(&[node(2), node(1)]);
        assert_eq!(names(&numa), ["FACP", "APIC", "MCFG", "SRAT", "SLIT", "DSDT"]);
        let most = told_of(&[node(127), node(127)]);
        assert!(most.len() < 0x2_0000, "{}", most.len());
    }

    #[test]
    fn processors_and_distances_are_told() {
        let tables = walk(&told_of(&[node(2), node(1)]));
        let find = |name: &str| &tables.iter().find(|(found, _)| found == name).unwrap().1;
        let madt = find("APIC");
        // Type 0, length 8, processor, APIC, enabled.
        assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(madt[60..68], [0, 8, 2, 2, 1, 0, 0, 0]);
        assert_eq!(madt[68..72], [1, 12, 254, 0], "the I/O APIC");
        let fadt = find("FACP");
        assert_eq!((number(fadt, 76, 4), fadt[91]), (0x608, 4), "PM_TMR_BLK");
        assert_eq!(number(fadt, 112, 4) >> 8 & 1, 1, "TMR_VAL_EXT");
        // I/O ports, 32 bits, by double words.
        assert_eq!((&fadt[208..212], number(fadt, 212, 8)), (&[1, 32, 0, 3][..], 0x608));
        // The name, and the number in one byte: One.
        let is_near = |dsdt: &[u8]| dsdt.windows(6).any(|bytes| bytes == b"\x08_PXM\x01");
        assert!(is_near(find("DSDT")));
        assert!(!is_near(&told_of(&[node(2)])));
        let slit = find("SLIT");
        assert_eq!((number(slit, 36, 8), &slit[44..48]), (2, &[10, 20, 20, 10][..]));
        let srat = find("SRAT");
        let affinity = &srat[48 + 2 * 16..][..16];
        assert_eq!(
            (affinity[2], affinity[3]),
            (1, 2),
            "the third processor is on the second node"
        );
    }
}
