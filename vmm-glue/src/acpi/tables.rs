//! The tables of fixed form.

use super::{OEM, OEM_TABLE, PM_TIMER, PM1_CONTROL, PM1_EVENT, RESET, RESET_PORT, SCI, serialized};
use crate::memory::{ECAM, IOAPIC, LAPIC, Ram};
use crate::topology::Topology;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;

const HEADER: u32 = 36;
/// The identifier of the I/O APIC, which no processor has.
const IOAPIC_ID: u8 = 254;

/// `IAPC_BOOT_ARCH` (§5.2.9.3): there are devices of old (COM1), no keyboard controller to drive, no VGA, no ASPM to control, no clock with a battery.
const BOOT_ARCH: u16 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5;

/// Fixed ACPI description table (§5.2.9).
pub(super) fn fadt(dsdt: u64) -> Vec<u8> {
    let io = |port: u16, len_bytes: u8, size| GAS::new(AddressSpace::SystemIo, len_bytes * 8, 0, size, port.into());
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1)
        .flag(Flags::Wbinvd)
        // No buttons in fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        // All 32 bits of the timer count.
        .flag(Flags::TmrValExt)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.dsdt = u32::try_from(dsdt).unwrap_or(0).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(SCI).into();
    // No SMI command: the machine is in ACPI mode from the beginning.
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = io(PM1_EVENT, 4, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = io(PM1_CONTROL, 2, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = io(PM_TIMER, 4, AccessSize::DwordAccess);
    // Beyond what the kinds of idle sleep may take: there are none.
    fadt.p_lvl2_lat = 0xFFFF.into();
    fadt.p_lvl3_lat = 0xFFFF.into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = io(RESET_PORT, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET;
    serialized(&fadt.finalize())
}

/// Differentiated system description table: a header for its code.
pub(super) fn dsdt(code: &[u8]) -> Vec<u8> {
    table(*b"DSDT", 6, code)
}

/// Extended system description table (§5.2.8).
pub(super) fn xsdt(listed: &[u64]) -> Vec<u8> {
    let listed: Vec<u8> = listed.iter().flat_map(|address| address.to_le_bytes()).collect();
    table(*b"XSDT", 1, &listed)
}

/// Multiple APIC description table (§5.2.12).
pub(super) fn madt(topology: &Topology) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
    let mut body = Body::default();
    body.number(address(LAPIC)).number(PCAT_COMPAT);
    for vcpu in topology.vcpus() {
        // An 8-bit identifier has 8 bits because there are no more processors than that.
        let id = u8::try_from(vcpu.apic_id).unwrap_or(u8::MAX);
        body.bytes(&[0, 8, id, id]).number(1_u32);
    }
    body.bytes(&[1, 12, IOAPIC_ID, 0]).number(address(IOAPIC)).number(0_u32);
    body.bytes(&[2, 10, 0, SCI])
        .number(u32::from(SCI))
        .number(ACTIVE_HIGH_LEVEL);
    table(*b"APIC", 5, &body.0)
}

/// Where configuration space is (PCI Firmware Specification 3.3 §4.1.2).
pub(super) fn mcfg(last_bus: u8) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, 1);
    mcfg.add_ecam(ECAM.start, 0, 0, last_bus);
    serialized(&mcfg)
}

/// System resource affinity table (§5.2.16).
pub(super) fn srat(topology: &Topology, ram: &[Ram]) -> Vec<u8> {
    const ENABLED: u32 = 1;
    let mut body = Body::default();
    body.number(1_u32).number(0_u64);
    for vcpu in topology.vcpus() {
        let id = u8::try_from(vcpu.apic_id).unwrap_or(u8::MAX);
        let [low, high @ ..] = vcpu.node.to_le_bytes();
        body.bytes(&[0, 16, low, id]).number(ENABLED);
        body.bytes(&[0]).bytes(&high).number(0_u32);
    }
    for ram in ram {
        let range = ram.range();
        body.bytes(&[1, 40]).number(ram.node).number(0_u16);
        body.number(range.start).number(range.end - range.start).number(0_u32);
        body.number(ENABLED).number(0_u64);
    }
    table(*b"SRAT", 3, &body.0)
}

/// System locality information table (§5.2.17): all other nodes are twice as far.
pub(super) fn slit(nodes: u32) -> Vec<u8> {
    let mut body = Body::default();
    body.number(u64::from(nodes));
    for from in 0..nodes {
        for to in 0..nodes {
            body.bytes(&[if from == to { 10 } else { 20 }]);
        }
    }
    table(*b"SLIT", 1, &body.0)
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, 1);
    table.append_slice(body);
    table.as_slice().to_vec()
}

fn address(fixed: u64) -> u32 {
    u32::try_from(fixed).unwrap_or(0)
}

/// What follows a header.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn number(&mut self, number: impl Number) -> &mut Self {
        number.append(&mut self.0);
        self
    }
}

/// Little-endian.
trait Number {
    fn append(self, to: &mut Vec<u8>);
}

impl Number for u16 {
    fn append(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_le_bytes());
    }
}

impl Number for u32 {
    fn append(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_le_bytes());
    }
}

impl Number for u64 {
    fn append(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_le_bytes());
    }
}
