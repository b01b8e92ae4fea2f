//! Log pages (Base §5.1.12.1). Fields have the specification's names.

use super::{Opcode, Status, text};
use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Log page identifiers.
pub mod lid {
    /// Error information.
    pub const ERROR: u8 = 0x01;
    /// SMART and health.
    pub const HEALTH: u8 = 0x02;
    /// Firmware slots.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed namespaces.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and effects.
    pub const COMMANDS: u8 = 0x05;
    /// Sanitize status.
    pub const SANITIZE: u8 = 0x81;
}

/// An entry of the error log (Base §5.1.12.1.2), newest first.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ErrorEntry {
    /// Number of this error since the controller was made; 0 if there is no error here.
    pub error_count: U64,
    /// The submission queue.
    pub sqid: U16,
    /// The command.
    pub cid: U16,
    /// Phase tag and status, as in the completion.
    pub status: U16,
    /// Where in the command: bits 7:0 the byte, 10:8 the bit; ffffh if it is nowhere.
    pub location: U16,
    /// The first logical block of the error.
    pub lba: U64,
    /// The namespace.
    pub nsid: U32,
    /// The vendor's log page about it; 0 for none.
    pub vendor: u8,
    /// Transport.
    pub trtype: u8,
    /// Command set.
    pub csi: u8,
    /// Opcode.
    pub opcode: u8,
    /// Specific to the command.
    pub command: U64,
    /// Specific to the transport.
    pub transport: U16,
    reserved_42: [u8; 21],
    /// Version of the entry: 0 has neither opcode nor command set.
    pub version: u8,
}

/// SMART and health information (Base §5.1.12.1.3).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Health {
    /// Warnings.
    pub critical_warning: u8,
    /// Temperature in kelvin.
    pub temperature: U16,
    /// Percent of spare memory.
    pub spare: u8,
    /// Percent of spare memory below which it warns.
    pub spare_threshold: u8,
    /// Percent of its life that is used; can exceed 100.
    pub used: u8,
    /// Warnings of endurance groups.
    pub endurance_groups: u8,
    reserved_7: [u8; 25],
    /// Data read, in 512,000 bytes.
    pub data_read: U128,
    /// Data written, in 512,000 bytes.
    pub data_written: U128,
    /// Read commands.
    pub reads: U128,
    /// Write commands.
    pub writes: U128,
    /// Minutes busy with I/O.
    pub busy_minutes: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Hours of power.
    pub power_on_hours: U128,
    /// Losses of power without a shutdown.
    pub unsafe_shutdowns: U128,
    /// Errors of media or data integrity.
    pub media_errors: U128,
    /// Entries that the error log ever had.
    pub errors: U128,
    /// Minutes above the warning temperature.
    pub warning_minutes: U32,
    /// Minutes above the critical temperature.
    pub critical_minutes: U32,
    /// Sensors in kelvin; 0 of one that is not there.
    pub sensors: [U16; 8],
    /// Times that thermal management throttled lightly and heavily.
    pub throttled: [U32; 2],
    /// Seconds that thermal management throttled lightly and heavily.
    pub throttled_seconds: [U32; 2],
    reserved_232: [u8; 280],
}

bitflags! {
    /// Warnings of [`Health`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Warnings: u8 {
        /// Spare memory is low.
        const SPARE = 1 << 0;
        /// A temperature is above or below its threshold.
        const TEMPERATURE = 1 << 1;
        /// The subsystem is not reliable any more.
        const RELIABILITY = 1 << 2;
        /// All media are read-only.
        const READ_ONLY = 1 << 3;
        /// The backup of volatile memory has failed.
        const VOLATILE_MEMORY = 1 << 4;
        /// The persistent memory region is read-only or unreliable.
        const PERSISTENT_MEMORY = 1 << 5;
        const _ = !0;
    }
}

/// Firmware slots (Base §5.1.12.1.4).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FirmwareSlots {
    /// Bits 2:0 the slot that runs, 6:4 the one that runs after the next reset; 0 if not said.
    pub afi: u8,
    reserved_1: [u8; 7],
    /// Revisions: ASCII, zeros of an empty slot.
    pub revisions: [[u8; 8]; 7],
    reserved_64: [u8; 448],
}

/// Commands supported and effects (Base §5.1.12.1.6).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Commands {
    /// Admin commands by opcode.
    pub admin: [U32; 256],
    /// I/O commands by opcode.
    pub io: [U32; 256],
    reserved_2048: [u8; 2048],
}

bitflags! {
    /// What a command does beside its own.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Effects: u32 {
        /// The command is supported.
        const SUPPORTED = 1 << 0;
        /// Logical blocks change.
        const BLOCKS = 1 << 1;
        /// What a namespace can do changes.
        const NAMESPACE = 1 << 2;
        /// Namespaces come or go.
        const INVENTORY = 1 << 3;
        /// What the controller can do changes.
        const CONTROLLER = 1 << 4;
        const _ = !0;
    }
}

/// Sanitize status (Base §5.1.12.1.33).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SanitizeStatus {
    /// Progress: this many 65536ths are done; ffffh if nothing runs.
    pub sprog: U16,
    /// Bits 2:0 the last operation, 7:3 passes of an overwrite, bit 8 that nothing was written since.
    pub sstat: U16,
    /// CDW10 of the last Sanitize.
    pub cdw10: U32,
    /// Seconds that an overwrite, a block erase and a crypto erase will take; ffffffffh if not said.
    pub estimates: [U32; 3],
    /// The same without deallocating.
    pub estimates_without_deallocation: [U32; 3],
    reserved_32: [u8; 480],
}

/// What became of the last Sanitize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SanitizeState {
    /// There was none.
    Never,
    /// It is done.
    Done,
    /// It runs.
    Running,
    /// It has failed; only what Sanitize's exit allows works.
    Failed,
    /// A value that is not known here.
    Other(u8),
}

const _: () = assert!(
    size_of::<ErrorEntry>() == 64
        && size_of::<Health>() == 512
        && size_of::<FirmwareSlots>() == 512
        && size_of::<Commands>() == 4096
        && size_of::<SanitizeStatus>() == 512
);

impl ErrorEntry {
    /// Whether there is an error here.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.error_count.get() != 0
    }

    /// The status of the command.
    #[must_use]
    pub fn status(&self) -> Status {
        Status(self.status.get() >> 1)
    }
}

impl Health {
    /// Warnings.
    #[must_use]
    pub fn warnings(&self) -> Warnings {
        Warnings::from_bits_retain(self.critical_warning)
    }
}

impl FirmwareSlots {
    /// Revisions by slot, from 1; the empty ones are left out.
    pub fn slots(&self) -> impl Iterator<Item = (u8, String)> {
        let slots = (1_u8..).zip(&self.revisions);
        slots
            .filter(|(_, revision)| **revision != [0; 8])
            .map(|(slot, revision)| (slot, text(revision)))
    }

    /// The slot that runs; `None` if not said.
    #[must_use]
    pub fn active(&self) -> Option<u8> {
        Some(self.afi & 7).filter(|slot| *slot != 0)
    }
}

impl Commands {
    /// Of an admin command.
    #[must_use]
    pub fn admin(&self, opcode: Opcode) -> Effects {
        effects(&self.admin, opcode)
    }

    /// Of an I/O command.
    #[must_use]
    pub fn io(&self, opcode: Opcode) -> Effects {
        effects(&self.io, opcode)
    }
}

fn effects(table: &[U32; 256], opcode: Opcode) -> Effects {
    let bits = table.get(usize::from(opcode.0)).map_or(0, |bits| bits.get());
    Effects::from_bits_retain(bits)
}

impl SanitizeStatus {
    /// What became of the last Sanitize.
    #[must_use]
    pub fn state(&self) -> SanitizeState {
        match self.sstat.get() & 7 {
            0 => SanitizeState::Never,
            1 | 4 => SanitizeState::Done,
            2 => SanitizeState::Running,
            3 => SanitizeState::Failed,
            other => SanitizeState::Other(u8::try_from(other).unwrap_or(u8::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let places = [
            (offset_of!(ErrorEntry, lba), 16),
            (offset_of!(ErrorEntry, nsid), 24),
            (offset_of!(ErrorEntry, command), 32),
            (offset_of!(ErrorEntry, version), 63),
            (offset_of!(Health, data_read), 32),
            (offset_of!(Health, power_on_hours), 128),
            (offset_of!(Health, warning_minutes), 192),
            (offset_of!(Health, sensors), 200),
            (offset_of!(Health, throttled_seconds), 224),
            (offset_of!(FirmwareSlots, revisions), 8),
            (offset_of!(Commands, io), 1024),
            (offset_of!(SanitizeStatus, estimates), 8),
        ];
        for (place, expected) in places {
            assert_eq!(place, expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_log_pages(bytes in proptest::collection::vec(any::<u8>(), 4096), opcode: u8) {
            let health = Health::ref_from_bytes(&bytes[..512]).unwrap();
            prop_assert_eq!(health.warnings().bits(), bytes[0]);
            let slots = FirmwareSlots::ref_from_bytes(&bytes[..512]).unwrap();
            prop_assert!(slots.slots().all(|(slot, _)| (1..=7).contains(&slot)));
            prop_assert!(slots.active() != Some(0));
            let commands = Commands::ref_from_bytes(&bytes).unwrap();
            let place = usize::from(opcode) * 4;
            prop_assert_eq!(commands.admin(Opcode(opcode)).contains(Effects::SUPPORTED), bytes[place] & 1 != 0);
            prop_assert_eq!(commands.io(Opcode(opcode)).contains(Effects::SUPPORTED), bytes[1024 + place] & 1 != 0);
            for entry in <[ErrorEntry]>::ref_from_bytes(&bytes).unwrap() {
                let _text: String = entry.status().to_string();
            }
            let _state: SanitizeState = SanitizeStatus::ref_from_bytes(&bytes[..512]).unwrap().state();
        }
    }
}
