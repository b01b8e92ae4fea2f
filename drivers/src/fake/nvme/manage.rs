//! Making, attaching, formatting and sanitizing of namespaces.
//!
//! NVM Express Base Specification 2.0 §5.14 (Format NVM), §5.19, §5.20 (namespaces), §5.24 (Sanitize).

use super::bytes::{low8, u8_at, u16_at, u64_at};
use super::command::{Command, Status};
use super::controller::Controller;
use super::events::Event;
use super::io::ALL;
use super::namespace::Namespace;
use super::subsystem::{MOST, Subsystem};
use super::transfer::Transfer;

type Result<T = ()> = std::result::Result<T, Status>;

impl Controller {
    pub(super) fn manage_namespace(&self, transfer: &Transfer<'_, '_>) -> Result<u32> {
        match transfer.command.dword(10) & 0xf {
            0 => self.create_namespace(transfer),
            1 => self.delete_namespaces(transfer.command.namespace()).map(|()| 0),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn create_namespace(&self, transfer: &Transfer<'_, '_>) -> Result<u32> {
        let wish = transfer.bring(4096)?;
        let (blocks, capacity) = (u64_at(&wish, 0), u64_at(&wish, 8));
        let (formatted, protection) = (u8_at(&wish, 26), u8_at(&wish, 29));
        let format = formatted & 0xf | (formatted >> 5 & 3) << 4;
        let layout = self.options.format(format).ok_or(Status::INVALID_FORMAT)?;
        if blocks == 0 || capacity != blocks || protection != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let is_shared = u8_at(&wish, 30) & 1 != 0;
        let namespace = Namespace::new(blocks, format, layout, formatted & 1 << 4 != 0, is_shared);
        let mut subsystem = self.subsystem();
        let bytes = u128::from(blocks) * namespace.stored_bytes() as u128;
        if bytes > u128::from(subsystem.capacity().1) {
            return Err(Status::NO_CAPACITY);
        }
        let free = (1..=MOST).find(|id| !subsystem.namespaces.contains_key(id));
        let id = free.ok_or(Status::NO_NAMESPACE_ID)?;
        subsystem.namespaces.insert(id, namespace);
        Ok(id)
    }

    fn delete_namespaces(&self, id: u32) -> Result {
        let mut subsystem = self.subsystem();
        for id in chosen(&subsystem, id)? {
            if let Some(namespace) = subsystem.namespaces.remove(&id) {
                subsystem.notice(namespace.attached, id);
            }
        }
        Ok(())
    }

    pub(super) fn attach_namespace(&self, transfer: &Transfer<'_, '_>) -> Result {
        let id = transfer.command.namespace();
        let list = transfer.bring(4096)?;
        let count = usize::from(u16_at(&list, 0));
        let mut subsystem = self.subsystem();
        let there = subsystem.controllers();
        let wanted: Vec<u16> = (1..=count.min(2047)).map(|at| u16_at(&list, 2 * at)).collect();
        let is_sound = count != 0 && count <= 2047 && wanted.is_sorted_by(|a, b| a < b);
        if !is_sound || wanted.iter().any(|id| !there.contains(id)) {
            return Err(Status::CONTROLLER_LIST);
        }
        let namespace = subsystem.namespaces.get_mut(&id).ok_or(Status::INVALID_NAMESPACE)?;
        let attached = &mut namespace.attached;
        match transfer.command.dword(10) & 0xf {
            0 => {
                if wanted.iter().any(|controller| attached.contains(controller)) {
                    return Err(Status::ATTACHED);
                }
                if !namespace.is_shared && attached.len() + wanted.len() > 1 {
                    return Err(Status::PRIVATE);
                }
                attached.extend(&wanted);
            }
            1 => {
                if wanted.iter().any(|controller| !attached.contains(controller)) {
                    return Err(Status::NOT_ATTACHED);
                }
                attached.retain(|controller| !wanted.contains(controller));
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        subsystem.notice(wanted, id);
        Ok(())
    }

    pub(super) fn format(&self, command: &Command) -> Result {
        let how = command.dword(10);
        let format = low8(how) & 0xf | (low8(how >> 12) & 3) << 4;
        let layout = self.options.format(format).ok_or(Status::INVALID_FORMAT)?;
        // No protection information; erasing of users' data at most.
        if how >> 5 & 7 != 0 || how >> 9 & 7 > 1 {
            return Err(Status::INVALID_FIELD);
        }
        let mut subsystem = self.subsystem();
        for id in chosen(&subsystem, command.namespace())? {
            let Some(namespace) = subsystem.namespaces.get_mut(&id) else {
                continue;
            };
            namespace.format(format, layout, how & 1 << 4 != 0);
            // The controller that was asked knows.
            let others: Vec<u16> = namespace
                .attached
                .iter()
                .copied()
                .filter(|other| *other != self.id)
                .collect();
            subsystem.notice(others, id);
        }
        Ok(())
    }

    pub(super) fn begin_sanitize(&self, command: &Command) -> Result {
        // Leaving failure mode, block erase, overwrite; no crypto erase.
        match command.dword(10) & 7 {
            1 => Ok(()),
            2 | 3 => {
                let until = self.pokes + self.options.sanitize;
                self.subsystem().begin_sanitize(self.id, self.pokes, until);
                Ok(())
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    pub(super) fn sanitize(&mut self) {
        let (id, now) = (self.id, self.pokes);
        let has_ended = self.subsystem().go_on_sanitizing(id, now);
        if has_ended {
            self.report(Event::SANITIZED);
        }
    }
}

/// The namespace that a command names, or all.
fn chosen(subsystem: &Subsystem, id: u32) -> Result<Vec<u32>> {
    if id == ALL {
        return Ok(subsystem.namespaces.keys().copied().collect());
    }
    let is_there = subsystem.namespaces.contains_key(&id);
    is_there.then(|| vec![id]).ok_or(Status::INVALID_NAMESPACE)
}
