//! Resources of virtual functions: what a primary controller tells of them and does with them.
//!
//! NVM Express Base Specification 2.0 §5.17.2.14, §5.17.2.15 (lists), §5.28 (Virtualization Management), §8.26.

use super::bytes::{high16, low16, put};
use super::command::{Command, Status};
use super::controller::Controller;
use super::subsystem::{Pool, Subsystem};

const PAGE: usize = 4096;
/// Entries of a list of secondary controllers.
const ENTRIES: usize = 127;

impl Controller {
    pub(super) fn primary_capabilities(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let subsystem = self.subsystem();
        put(&mut page, 0, &self.id.to_le_bytes());
        // Flexible queues and vectors.
        put(&mut page, 4, &[0b11]);
        let private = [self.options.queues + 1, self.options.vectors()];
        let kinds = [
            subsystem.pool(false, private.first().copied()),
            subsystem.pool(true, private.last().copied()),
        ];
        for (at, (pool, assigned, private)) in [32, 64].into_iter().zip(kinds) {
            put(&mut page, at, &u32::from(pool.total).to_le_bytes());
            put(&mut page, at + 4, &u32::from(assigned).to_le_bytes());
            put(&mut page, at + 8, &pool.primary.to_le_bytes());
            put(&mut page, at + 10, &private.to_le_bytes());
            put(&mut page, at + 12, &pool.most.to_le_bytes());
            put(&mut page, at + 14, &1_u16.to_le_bytes());
        }
        page
    }

    pub(super) fn secondary_list(&self, from: u16) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let subsystem = self.subsystem();
        let all = (1_u16..).zip(&subsystem.secondary);
        let mut count = 0;
        for (at, (id, secondary)) in all.filter(|(id, _)| *id >= from).take(ENTRIES).enumerate() {
            let at = 32 * (at + 1);
            put(&mut page, at, &id.to_le_bytes());
            put(&mut page, at + 4, &[u8::from(secondary.is_online)]);
            put(&mut page, at + 8, &id.to_le_bytes());
            put(&mut page, at + 10, &secondary.queues.to_le_bytes());
            put(&mut page, at + 12, &secondary.vectors.to_le_bytes());
            count += 1;
        }
        put(&mut page, 0, &[count]);
        page
    }

    pub(super) fn manage_virtualization(&self, command: &Command) -> Result<u32, Status> {
        let (how, number) = (command.dword(10), low16(command.dword(11)));
        if self.id != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let is_vectors = match how >> 8 & 7 {
            0 => false,
            1 => true,
            _ => return Err(Status::RESOURCE_ID),
        };
        let mut subsystem = self.subsystem();
        let controller = high16(how);
        match how & 0xf {
            1 => subsystem.set_primary(controller, is_vectors, number),
            7 => subsystem.set_online(controller, false),
            8 => subsystem.assign(controller, is_vectors, number),
            9 => subsystem.set_online(controller, true),
            _ => Err(Status::INVALID_FIELD),
        }
    }
}

impl Subsystem {
    /// A kind of resource, how many of it secondary controllers have, and how many are the primary one's own.
    fn pool(&self, is_vectors: bool, private: Option<u16>) -> (Pool, u16, u16) {
        let pool = if is_vectors {
            self.resources.vectors
        } else {
            self.resources.queues
        };
        let of = self
            .secondary
            .iter()
            .map(|one| if is_vectors { one.vectors } else { one.queues });
        (pool, of.fold(0, u16::saturating_add), private.unwrap_or_default())
    }

    fn set_primary(&mut self, controller: u16, is_vectors: bool, number: u16) -> Result<u32, Status> {
        let (pool, assigned, _) = self.pool(is_vectors, None);
        if controller != 0 {
            return Err(Status::INVALID_CONTROLLER);
        }
        if number > pool.total.saturating_sub(assigned) {
            return Err(Status::RESOURCE_COUNT);
        }
        let pools = &mut self.resources;
        let pool = if is_vectors {
            &mut pools.vectors
        } else {
            &mut pools.queues
        };
        pool.primary_next = number;
        Ok(number.into())
    }

    fn assign(&mut self, controller: u16, is_vectors: bool, number: u16) -> Result<u32, Status> {
        let (pool, assigned, _) = self.pool(is_vectors, None);
        let at = controller.checked_sub(1).ok_or(Status::INVALID_CONTROLLER)?;
        let secondary = self.secondary.get_mut(usize::from(at));
        let secondary = secondary.ok_or(Status::INVALID_CONTROLLER)?;
        if secondary.is_online {
            return Err(Status::SECONDARY_STATE);
        }
        let has = if is_vectors {
            &mut secondary.vectors
        } else {
            &mut secondary.queues
        };
        let free = pool.total.saturating_sub(pool.primary.max(pool.primary_next));
        let free = free.saturating_sub(assigned).saturating_add(*has);
        if number > free || number > pool.most {
            return Err(Status::RESOURCE_COUNT);
        }
        *has = number;
        Ok(number.into())
    }

    fn set_online(&mut self, controller: u16, is_online: bool) -> Result<u32, Status> {
        let at = controller.checked_sub(1).ok_or(Status::INVALID_CONTROLLER)?;
        let secondary = self.secondary.get_mut(usize::from(at));
        let secondary = secondary.ok_or(Status::INVALID_CONTROLLER)?;
        // The admin queue and one for I/O, and a vector.
        if is_online && (secondary.queues < 2 || secondary.vectors < 1) {
            return Err(Status::SECONDARY_STATE);
        }
        secondary.is_online = is_online;
        Ok(0)
    }
}
