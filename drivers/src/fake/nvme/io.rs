//! I/O commands.
//!
//! NVM Command Set Specification 1.0 §3.2.

use super::Abilities;
use super::bytes::{low8, low16, size, u32_at, u64_at};
use super::command::{Command, Status};
use super::controller::Controller;
use super::namespace::Namespace;
use super::transfer::Transfer;

pub(super) const FLUSH: u8 = 0x00;
pub(super) const WRITE: u8 = 0x01;
pub(super) const READ: u8 = 0x02;
pub(super) const COMPARE: u8 = 0x05;
pub(super) const WRITE_ZEROES: u8 = 0x08;
pub(super) const DSM: u8 = 0x09;
pub(super) const VERIFY: u8 = 0x0c;
/// All namespaces.
pub(super) const ALL: u32 = u32::MAX;

impl Controller {
    pub(super) fn has_io(&self, opcode: u8) -> bool {
        match opcode {
            FLUSH | WRITE | READ => true,
            COMPARE => self.has_ability(Abilities::COMPARE),
            WRITE_ZEROES => self.has_ability(Abilities::WRITE_ZEROES),
            DSM => self.has_ability(Abilities::DSM),
            VERIFY => self.has_ability(Abilities::VERIFY),
            _ => false,
        }
    }

    /// Whether a transfer is not longer than the controller allows (MDTS).
    pub(super) fn fits(&self, len: u64) -> bool {
        let page = 4096_u64 << self.options.page_min;
        let shift = u32::from(self.options.max_transfer);
        shift == 0 || page.checked_shl(shift).is_none_or(|most| len <= most)
    }

    /// Does an I/O command, alone or one of two.
    pub(super) fn io(&mut self, transfer: &Transfer<'_, '_>, is_fused: bool) -> Status {
        let command = transfer.command;
        let opcode = command.opcode();
        if !self.has_io(opcode) {
            return Status::INVALID_OPCODE;
        }
        if is_fused && !self.is_fit_to_fuse(command) {
            return Status::INVALID_FIELD;
        }
        if self.subsystem().is_sanitizing() {
            return Status::SANITIZE_IN_PROGRESS;
        }
        let done = match opcode {
            FLUSH => self.flush(command),
            DSM => self.deallocate(transfer),
            WRITE => self.write_blocks(transfer),
            READ => self.read_blocks(transfer),
            COMPARE => self.compare(transfer),
            _ => self.without_data(command),
        };
        done.err().unwrap_or(Status::SUCCESS)
    }

    /// The first of two compares, the second writes.
    fn is_fit_to_fuse(&self, command: &Command) -> bool {
        let opcode = if command.fuse() == 1 { COMPARE } else { WRITE };
        self.has_ability(Abilities::FUSED) && command.opcode() == opcode
    }

    /// Calls `act` with the command's namespace, if the controller has it.
    fn in_namespace<T>(
        &self,
        command: &Command,
        act: impl FnOnce(&mut Namespace) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut subsystem = self.subsystem();
        let namespace = subsystem.namespaces.get_mut(&command.namespace());
        let namespace = namespace.filter(|namespace| namespace.attached.contains(&self.id));
        act(namespace.ok_or(Status::INVALID_NAMESPACE)?)
    }

    fn flush(&self, command: &Command) -> Result<(), Status> {
        if command.namespace() == ALL {
            return Ok(());
        }
        self.in_namespace(command, |_| Ok(()))
    }

    /// How the command's blocks lie in memory, checked.
    fn shape(&self, command: &Command) -> Result<Shape, Status> {
        let count = u64::from(low16(command.dword(12))) + 1;
        let shape = self.in_namespace(command, |namespace| {
            if !namespace.has(command.lba(), count) {
                return Err(Status::LBA_RANGE);
            }
            Ok(Shape {
                lba: command.lba(),
                count,
                data: namespace.transferred_bytes(),
                separate: namespace.stored_bytes() - namespace.transferred_bytes(),
            })
        })?;
        if self.fits(shape.data_bytes()) {
            Ok(shape)
        } else {
            Err(Status::INVALID_FIELD)
        }
    }

    /// Data and metadata of the command's blocks, from memory.
    fn bring_blocks(&self, transfer: &Transfer<'_, '_>, shape: &Shape) -> Result<Vec<u8>, Status> {
        let data = transfer.bring(shape.data_bytes())?;
        if shape.separate == 0 {
            return Ok(data);
        }
        let pieces = transfer.host.metadata(transfer.command, shape.metadata_bytes())?;
        let mut metadata = vec![0; size(shape.metadata_bytes())];
        transfer.host.gather(&pieces, &mut metadata)?;
        let blocks = data.chunks_exact(shape.data).zip(metadata.chunks_exact(shape.separate));
        Ok(blocks
            .flat_map(|(data, metadata)| data.iter().chain(metadata))
            .copied()
            .collect())
    }

    fn write_blocks(&mut self, transfer: &Transfer<'_, '_>) -> Result<(), Status> {
        let shape = self.shape(transfer.command)?;
        let all = self.bring_blocks(transfer, &shape)?;
        self.in_namespace(transfer.command, |namespace| {
            namespace.write(shape.lba, &all);
            Ok(())
        })?;
        self.counts.writes += 1;
        self.counts.bytes_written += shape.data_bytes();
        Ok(())
    }

    fn read_blocks(&mut self, transfer: &Transfer<'_, '_>) -> Result<(), Status> {
        let shape = self.shape(transfer.command)?;
        let all = self.in_namespace(transfer.command, |namespace| Ok(namespace.read(shape.lba, shape.count)))?;
        if shape.separate == 0 {
            transfer.answer(&all, &mut self.chance)?;
        } else {
            let (mut data, mut metadata) = (Vec::new(), Vec::new());
            for block in all.chunks_exact(shape.data + shape.separate) {
                let (first, second) = block.split_at(shape.data);
                data.extend_from_slice(first);
                metadata.extend_from_slice(second);
            }
            let pieces = transfer.host.metadata(transfer.command, shape.metadata_bytes())?;
            transfer.answer(&data, &mut self.chance)?;
            transfer.host.scatter(&pieces, &metadata)?;
        }
        self.counts.reads += 1;
        self.counts.bytes_read += shape.data_bytes();
        Ok(())
    }

    fn compare(&self, transfer: &Transfer<'_, '_>) -> Result<(), Status> {
        let shape = self.shape(transfer.command)?;
        let expected = self.bring_blocks(transfer, &shape)?;
        let all = self.in_namespace(transfer.command, |namespace| Ok(namespace.read(shape.lba, shape.count)))?;
        if all == expected { Ok(()) } else { Err(Status::COMPARE) }
    }

    /// Write Zeroes and Verify: no transfer, and no limit of one.
    fn without_data(&self, command: &Command) -> Result<(), Status> {
        let count = u64::from(low16(command.dword(12))) + 1;
        self.in_namespace(command, |namespace| {
            if !namespace.has(command.lba(), count) {
                return Err(Status::LBA_RANGE);
            }
            if command.opcode() == WRITE_ZEROES {
                namespace.clear(command.lba(), count);
            }
            Ok(())
        })
    }

    fn deallocate(&self, transfer: &Transfer<'_, '_>) -> Result<(), Status> {
        let command = transfer.command;
        let count = u64::from(low8(command.dword(10))) + 1;
        let list = transfer.bring(16 * count)?;
        let (ranges, _) = list.as_chunks::<16>();
        let ranges = ranges
            .iter()
            .map(|range| (u64_at(range, 8), u64::from(u32_at(range, 4))));
        self.in_namespace(command, |namespace| {
            if ranges.clone().any(|(lba, count)| !namespace.has(lba, count)) {
                return Err(Status::LBA_RANGE);
            }
            // Other attributes are hints.
            if command.dword(11) & 4 != 0 {
                ranges.for_each(|(lba, count)| namespace.clear(lba, count));
            }
            Ok(())
        })
    }
}

/// Blocks of a command.
struct Shape {
    lba: u64,
    count: u64,
    /// Bytes of a block in the data, and in a buffer for metadata.
    data: usize,
    separate: usize,
}

impl Shape {
    fn data_bytes(&self) -> u64 {
        self.count * self.data as u64
    }

    fn metadata_bytes(&self) -> u64 {
        self.count * self.separate as u64
    }
}
