//! Admin commands: which there are, queues, aborts and doorbell buffers.
//!
//! NVM Express Base Specification 2.0 §5.

use super::Abilities;
use super::bytes::{high16, low16};
use super::command::{Command, Status};
use super::controller::{Controller, Outcome};
use super::queue::{Completions, Submissions};
use super::transfer::Transfer;

/// An answer without a number.
type Result<T = ()> = std::result::Result<T, Status>;

impl Controller {
    pub(super) fn admin(&mut self, transfer: &Transfer<'_, '_>) -> Outcome {
        let command = transfer.command;
        if command.psdt() != 0 {
            // SGLs are not for admin commands over PCIe.
            return Outcome::Done(Status::INVALID_FIELD, 0);
        }
        if self.subsystem().is_sanitizing() && !matches!(command.opcode(), 0x00..=0x02 | 0x04..=0x06 | 0x08..=0x0c) {
            return Outcome::Done(Status::SANITIZE_IN_PROGRESS, 0);
        }
        let done = match command.opcode() {
            0x00 => self.delete_submissions(command),
            0x01 => self.create_submissions(command),
            0x02 => self.log_page(transfer),
            0x04 => self.delete_completions(command),
            0x05 => self.create_completions(command),
            0x06 => self.identify(transfer),
            0x08 => return self.abort_command(command),
            0x09 => return result(self.set_feature(command)),
            0x0a => return result(self.get_feature(command)),
            0x0c => return self.event_request(command),
            0x0d if self.has_ability(Abilities::NAMESPACES) => return result(self.manage_namespace(transfer)),
            0x15 if self.has_ability(Abilities::NAMESPACES) => self.attach_namespace(transfer),
            0x1c if self.options.functions != 0 => return result(self.manage_virtualization(command)),
            0x7c if self.has_ability(Abilities::DOORBELL_BUFFERS) => self.set_doorbell_buffers(command),
            0x80 if self.has_ability(Abilities::FORMAT) => self.format(command),
            0x84 if self.has_ability(Abilities::SANITIZE) => self.begin_sanitize(command),
            _ => Err(Status::INVALID_OPCODE),
        };
        result(done.map(|()| 0))
    }

    fn create_completions(&mut self, command: &Command) -> Result {
        let (id, size) = (low16(command.dword(10)), u32::from(high16(command.dword(10))) + 1);
        let flags = command.dword(11);
        if id == 0 || id > self.queue_limit().1 || self.completions.contains_key(&id) {
            return Err(Status::INVALID_QUEUE);
        }
        if size < 2 || size > self.options.entries || self.entry_sizes().1 != 4 {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        self.place(command, flags)?;
        if self.in_buffer(command.prp1(), 16 * u64::from(size)) != (false, false) {
            return Err(Status::INVALID_BUFFER);
        }
        let has_interrupt = flags & 2 != 0;
        let vector = high16(flags);
        if has_interrupt && vector >= self.vector_limit() {
            return Err(Status::INVALID_VECTOR);
        }
        let queue = Completions::new(command.prp1(), size, has_interrupt.then_some(vector));
        self.completions.insert(id, queue);
        Ok(())
    }

    fn create_submissions(&mut self, command: &Command) -> Result {
        let (id, size) = (low16(command.dword(10)), u32::from(high16(command.dword(10))) + 1);
        let flags = command.dword(11);
        if id == 0 || id > self.queue_limit().0 || self.submissions.contains_key(&id) {
            return Err(Status::INVALID_QUEUE);
        }
        if size < 2 || size > self.options.entries || self.entry_sizes().0 != 6 {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        self.place(command, flags)?;
        // All of it, or nothing (CMBLOC.CQMMS).
        let (begins, ends) = self.in_buffer(command.prp1(), 64 * u64::from(size));
        if begins != ends {
            return Err(Status::INVALID_BUFFER);
        }
        let completions = high16(flags);
        if completions == 0 || !self.completions.contains_key(&completions) {
            return Err(Status::NO_COMPLETION_QUEUE);
        }
        self.submissions
            .insert(id, Submissions::new(command.prp1(), size, completions));
        Ok(())
    }

    /// Queues are contiguous (CAP.CQR), and begin with a page.
    fn place(&self, command: &Command, flags: u32) -> Result {
        if flags & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        if !command.prp1().is_multiple_of(self.page()) {
            return Err(Status::PRP_OFFSET);
        }
        Ok(())
    }

    fn delete_submissions(&mut self, command: &Command) -> Result {
        let id = low16(command.dword(10));
        if id == 0 || !self.submissions.contains_key(&id) {
            return Err(Status::INVALID_QUEUE);
        }
        self.drain(id);
        self.submissions.remove(&id);
        Ok(())
    }

    fn delete_completions(&mut self, command: &Command) -> Result {
        let id = low16(command.dword(10));
        if id == 0 || !self.completions.contains_key(&id) {
            return Err(Status::INVALID_QUEUE);
        }
        if self.submissions.values().any(|queue| queue.completions == id) {
            self.mistake(format!("completion queue {id} is deleted before its submission queues"));
            return Err(Status::QUEUE_IN_USE);
        }
        self.completions.remove(&id);
        Ok(())
    }

    fn abort_command(&mut self, command: &Command) -> Outcome {
        let (queue, id) = (low16(command.dword(10)), high16(command.dword(10)));
        if !self.submissions.contains_key(&queue) {
            return Outcome::Done(Status::INVALID_FIELD, 1);
        }
        let is_aborted = self.abort(queue, id) || queue == 0 && self.abort_event_request(id);
        Outcome::Done(Status::SUCCESS, u32::from(!is_aborted))
    }

    fn set_doorbell_buffers(&mut self, command: &Command) -> Result {
        let (doorbells, events) = (command.prp1(), command.prp2());
        if !doorbells.is_multiple_of(self.page()) || !events.is_multiple_of(self.page()) {
            return Err(Status::INVALID_FIELD);
        }
        self.doorbell_buffers = Some((doorbells, events));
        self.submissions.values_mut().for_each(|queue| queue.awake = true);
        Ok(())
    }
}

fn result(done: Result<u32>) -> Outcome {
    match done {
        Ok(result) => Outcome::Done(Status::SUCCESS, result),
        Err(status) => Outcome::Done(status, 0),
    }
}
