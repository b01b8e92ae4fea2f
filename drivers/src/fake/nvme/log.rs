//! Log pages.
//!
//! NVM Express Base Specification 2.0 §5.16.

use super::bytes::{high16, low8, low16, put, size};
use super::command::Status;
use super::controller::Controller;
use super::io;
use super::transfer::Transfer;

impl Controller {
    pub(super) fn log_page(&mut self, transfer: &Transfer<'_, '_>) -> Result<(), Status> {
        let command = transfer.command;
        let words = u32::from(high16(command.dword(10))) | u32::from(low16(command.dword(11))) << 16;
        let len = 4 * (u64::from(words) + 1);
        let offset = u64::from(command.dword(12)) | u64::from(command.dword(13)) << 32;
        let log = low8(command.dword(10));
        let page = match log {
            0x00 => supported(),
            0x01 => self.events.error_log(),
            0x02 => self.health(),
            0x03 => firmware(),
            0x04 => self.changed_namespaces(),
            0x05 => self.effects(),
            0x81 => self.sanitize_log(),
            _ => return Err(Status::INVALID_LOG),
        };
        if !offset.is_multiple_of(4) || offset > page.len() as u64 {
            return Err(Status::INVALID_FIELD);
        }
        if !self.fits(len) {
            return Err(Status::INVALID_FIELD);
        }
        let mut answer = vec![0; size(len)];
        put(&mut answer, 0, page.get(size(offset)..).unwrap_or_default());
        transfer.answer(&answer, &mut self.chance)?;
        // Retain Asynchronous Event.
        if command.dword(10) >> 15 & 1 == 0 {
            self.events.log_was_read(log);
        }
        Ok(())
    }

    fn health(&self) -> Vec<u8> {
        let mut page = vec![0; 512];
        put(&mut page, 1, &300_u16.to_le_bytes());
        put(&mut page, 3, &[100, 10, 0]);
        // In thousands of 512 bytes, rounded up.
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000));
        put(&mut page, 32, &units(self.counts.bytes_read).to_le_bytes());
        put(&mut page, 48, &units(self.counts.bytes_written).to_le_bytes());
        put(&mut page, 64, &u128::from(self.counts.reads).to_le_bytes());
        put(&mut page, 80, &u128::from(self.counts.writes).to_le_bytes());
        put(&mut page, 112, &1_u128.to_le_bytes());
        put(&mut page, 176, &u128::from(self.events.error_count()).to_le_bytes());
        page
    }

    fn changed_namespaces(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let changed = &self.events.changed;
        if changed.len() > 1024 {
            put(&mut page, 0, &[0xff; 4]);
        } else {
            for (at, namespace) in changed.iter().enumerate() {
                put(&mut page, 4 * at, &namespace.to_le_bytes());
            }
        }
        page
    }

    /// Commands that there are, and what they do: 1 is supported, 2 changes blocks, 4 a namespace, 8 which namespaces there are.
    fn effects(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let admin = [0x00_u8, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c];
        let mut entry = |at: usize, effects: u32| put(&mut page, 4 * at, &effects.to_le_bytes());
        for opcode in admin {
            entry(opcode.into(), 1);
        }
        for (ability, opcode, effects) in [
            (super::Abilities::NAMESPACES, 0x0d, 1 | 8),
            (super::Abilities::NAMESPACES, 0x15, 1 | 8),
            (super::Abilities::DOORBELL_BUFFERS, 0x7c, 1),
            (super::Abilities::FORMAT, 0x80, 1 | 2 | 4),
            (super::Abilities::SANITIZE, 0x84, 1 | 2),
        ] {
            if self.has_ability(ability) {
                entry(opcode, effects);
            }
        }
        if self.options.functions != 0 {
            entry(0x1c, 1);
        }
        for (opcode, changes) in [
            (io::FLUSH, false),
            (io::WRITE, true),
            (io::READ, false),
            (io::COMPARE, false),
            (io::WRITE_ZEROES, true),
            (io::DSM, true),
            (io::VERIFY, false),
        ] {
            if self.has_io(opcode) {
                entry(256 + usize::from(opcode), 1 | u32::from(changes) << 1);
            }
        }
        page
    }

    fn sanitize_log(&self) -> Vec<u8> {
        let (progress, status) = self.subsystem().sanitize_state(self.pokes);
        let mut page = vec![0; 512];
        put(&mut page, 0, &progress.to_le_bytes());
        put(&mut page, 2, &status.to_le_bytes());
        // No estimates of how long it takes.
        put(&mut page, 8, &[0xff; 24]);
        page
    }
}

fn supported() -> Vec<u8> {
    let mut page = vec![0; 1024];
    for log in [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x81] {
        put(&mut page, 4 * log, &1_u32.to_le_bytes());
    }
    page
}

fn firmware() -> Vec<u8> {
    let mut page = vec![0; 512];
    put(&mut page, 0, &[1]);
    put(&mut page, 8, b"1.0     ");
    page
}
