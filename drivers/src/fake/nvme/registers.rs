//! The register file, and the controller's life cycle: enable, ready, fatal, shut down.
//!
//! NVM Express PCIe Transport Specification 1.0 §3.1, Base Specification 2.0 §3.1.3, §3.5, §3.6. A write only records: what it sets off is done, in order,
//! when the device is poked.

use super::bytes::{high32, low32};
use super::controller::Controller;
use super::fault::Fault;
use super::host::Host;
use super::options::Abilities;

/// Values of registers, and where the life cycle is.
#[derive(Debug, Default)]
pub(super) struct Registers {
    pub(super) masked: u32,
    /// As written.
    cc: u32,
    /// As it has taken effect.
    applied: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// Controller Memory Buffer Memory Space Control.
    cmbmsc: u64,
    /// The address that it has taken from it.
    buffer_at: Option<u64>,
    is_ready: bool,
    /// CSTS.CFS, and whether it does not even end what it has begun.
    is_fatal: bool,
    is_halted: bool,
    shutdown: Shutdown,
    /// When a change of `is_ready` is due.
    change: Option<(u64, bool)>,
    /// While reads are all ones: until when.
    pub(super) ones: Option<Option<u64>>,
    never: Never,
}

bitflags::bitflags! {
    /// What it does not do any more.
    #[derive(Debug, Default, Clone, Copy)]
    struct Never: u8 {
        const READY = 1;
        const STOPS = 2;
        const SHUTS_DOWN = 4;
        const TAKES_BUFFER = 8;
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    #[default]
    Normal,
    /// Until when.
    UnderWay(u64),
    Complete,
}

const CC: u64 = 0x14;
/// Where doorbells begin, and where they end in this device's BAR.
pub(super) const DOORBELLS: u64 = 0x1000;
const DOORBELLS_END: u64 = 0xc000;
const ENABLE: u32 = 1;

impl Controller {
    pub(super) fn read_register(&self, offset: u64, width: u32) -> u64 {
        if self.registers.ones.is_some() {
            return u64::MAX;
        }
        let whole = u64::from(self.register(offset & !7)) | u64::from(self.register(offset & !7 | 4)) << 32;
        let value = whole >> (8 * (offset & 7));
        match width {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            0x00 => low32(self.capabilities()),
            0x04 => high32(self.capabilities()),
            0x08 => VERSION,
            0x0c | 0x10 => registers.masked,
            CC => registers.cc,
            0x1c => registers.status(),
            0x24 => registers.aqa,
            0x28 => low32(registers.asq),
            0x2c => high32(registers.asq),
            0x30 => low32(registers.acq),
            0x34 => high32(registers.acq),
            0x38 if self.has_visible_buffer() => self.buffer_told().0,
            0x3c if self.has_visible_buffer() => self.buffer_told().1,
            0x50 => low32(registers.cmbmsc),
            0x54 => high32(registers.cmbmsc),
            0x58 => u32::from(registers.cmbmsc & 3 == 3 && registers.buffer_at.is_none()),
            _ => 0,
        }
    }

    /// BAR 2 from its beginning; counted in units of 4 KiB, for submission queues, PRPs and data both ways.
    fn buffer_told(&self) -> (u32, u32) {
        let size = low32(self.options.buffer >> 12) << 12 | 1 | 1 << 2 | 1 << 3 | 1 << 4;
        self.options.buffer_told.unwrap_or((2, size))
    }

    /// Its buffer's place is told once the host has asked for it (CMBMSC.CRE).
    fn has_visible_buffer(&self) -> bool {
        self.options.buffer != 0 && self.registers.cmbmsc & 1 != 0
    }

    fn capabilities(&self) -> u64 {
        let options = &self.options;
        u64::from(options.entries - 1)
            | 1 << 16
            | u64::from(options.timeout) << 24
            | u64::from(options.stride) << 32
            // The NVM command set, and others that Identify tells of.
            | (1 << 37 | 1 << 43)
            | u64::from(options.page_min) << 48
            | u64::from(options.page_max) << 52
            | u64::from(options.buffer != 0) << 57
    }

    pub(super) fn write_register(&mut self, offset: u64, width: u32, value: u64) {
        if self.registers.ones.is_some() {
            return;
        }
        match (width, offset % 4) {
            (4, 0) => self.set_register(offset, low32(value)),
            (8, 0) if offset < DOORBELLS => {
                self.set_register(offset, low32(value));
                self.set_register(offset + 4, high32(value));
            }
            _ => self.mistake(format!("a write of {width} bytes at {offset:#x}")),
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let is_enabled = self.registers.cc & ENABLE != 0;
        if matches!(offset, 0x50 | 0x54) && self.has_queue_in_buffer() {
            return self.mistake("CMBMSC is written while the buffer has a queue".to_owned());
        }
        let registers = &mut self.registers;
        match offset {
            0x0c => registers.masked |= value,
            0x10 => registers.masked &= !value,
            CC => {
                registers.cc = value;
                self.record(offset, value);
            }
            0x24 | 0x28 | 0x2c | 0x30 | 0x34 if is_enabled => {
                self.mistake(format!("{offset:#x} is written while the controller is enabled"));
            }
            0x24 => registers.aqa = value,
            0x28 => registers.asq = registers.asq & !LOW | u64::from(value),
            0x2c => registers.asq = registers.asq & LOW | u64::from(value) << 32,
            0x30 => registers.acq = registers.acq & !LOW | u64::from(value),
            0x34 => registers.acq = registers.acq & LOW | u64::from(value) << 32,
            0x50 | 0x54 if self.options.buffer != 0 => {
                let before = registers.cmbmsc;
                registers.cmbmsc = if offset == 0x50 {
                    before & !LOW | u64::from(value)
                } else {
                    before & LOW | u64::from(value) << 32
                };
                let takes = registers.cmbmsc & 3 == 3 && !registers.never.contains(Never::TAKES_BUFFER);
                registers.buffer_at = takes.then_some(registers.cmbmsc & !0xfff);
            }
            DOORBELLS..DOORBELLS_END => self.record(offset, value),
            _ => self.mistake(format!("a write of {offset:#x}, which is no register to be written")),
        }
    }

    /// Goes on with the life cycle: what was written, what is due, what goes wrong.
    pub(super) fn live(&mut self, host: &Host<'_>) {
        for fault in self.script.now() {
            self.suffer(fault);
        }
        if let Some(Some(until)) = self.registers.ones
            && until <= self.pokes
        {
            self.reset();
        }
        if self.registers.ones.is_some() {
            self.writes.clear();
            return;
        }
        // A secondary controller that was taken offline.
        if self.works() && !self.is_online() {
            self.halt();
        }
        while let Some((offset, value)) = self.writes.pop_front() {
            match offset {
                CC => self.configure(value),
                _ => self.doorbell(offset, value),
            }
        }
        if let Some((due, is_ready)) = self.registers.change
            && due <= self.pokes
        {
            self.registers.change = None;
            if is_ready {
                self.start(host);
            } else {
                self.stop();
            }
        }
        if let Shutdown::UnderWay(until) = self.registers.shutdown
            && until <= self.pokes
            && !self.registers.never.contains(Never::SHUTS_DOWN)
        {
            self.registers.shutdown = Shutdown::Complete;
        }
    }

    /// A fault of the controller itself happens.
    pub(super) fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Fatal => self.registers.is_fatal = true,
            Fault::NeverReady => self.registers.never |= Never::READY,
            Fault::NeverStops => self.registers.never |= Never::STOPS,
            Fault::NeverShutDown => self.registers.never |= Never::SHUTS_DOWN,
            Fault::NeverTakesBuffer => self.registers.never |= Never::TAKES_BUFFER,
            Fault::AllOnes(pokes) => {
                self.registers.ones = Some(pokes.map(|pokes| self.pokes.saturating_add(pokes)));
            }
            _ => {}
        }
    }

    fn configure(&mut self, value: u32) {
        let was = std::mem::replace(&mut self.registers.applied, value);
        let at = self.pokes + self.options.ready;
        if was & !value & ENABLE != 0 {
            // Until it says that it is not ready, it goes on with what it has begun.
            self.registers.change = (!self.registers.never.contains(Never::STOPS)).then_some((at, false));
        } else if !was & value & ENABLE != 0 {
            if self.registers.is_ready {
                self.mistake("enabled before it said that it is not ready any more".to_owned());
            }
            self.registers.shutdown = Shutdown::Normal;
            self.registers.change = (!self.registers.never.contains(Never::READY)).then_some((at, true));
        }
        let (before, after) = (was >> 14 & 3, value >> 14 & 3);
        if before == 0 && after != 0 {
            self.registers.shutdown = Shutdown::UnderWay(at);
        }
    }

    fn stop(&mut self) {
        self.forget();
        (
            self.registers.is_ready,
            self.registers.is_fatal,
            self.registers.is_halted,
        ) = (false, false, false);
        self.registers.shutdown = Shutdown::Normal;
        self.registers.masked = 0;
    }

    /// Nothing that it has begun is ended any more: its queues cannot be reached.
    pub(super) fn halt(&mut self) {
        (self.registers.is_fatal, self.registers.is_halted) = (true, true);
    }

    fn start(&mut self, host: &Host<'_>) {
        match self.sound_configuration() {
            Some((submissions, completions)) => {
                let (asq, acq) = (self.registers.asq, self.registers.acq);
                self.begin(asq, submissions, acq, completions);
                self.registers.is_ready = true;
            }
            None => {
                tracing::debug!(
                    page = host.page,
                    "the fake controller is enabled with what it cannot do"
                );
                self.registers.is_fatal = true;
            }
        }
    }

    /// Sizes of the admin queues, if everything is as the controller can do.
    fn sound_configuration(&self) -> Option<(u32, u32)> {
        let registers = &self.registers;
        let (submissions, completions) = ((registers.aqa & 0xfff) + 1, (registers.aqa >> 16 & 0xfff) + 1);
        let page = self.page();
        let pages = u32::from(self.options.page_min)..=u32::from(self.options.page_max);
        let set = registers.applied >> 4 & 7;
        let is_sound = pages.contains(&(registers.applied >> 7 & 0xf))
            && submissions >= 2
            && completions >= 2
            && registers.asq.is_multiple_of(page)
            && registers.acq.is_multiple_of(page)
            && matches!(set, 0 | 6)
            && registers.applied >> 11 & 7 == 0
            && self.is_online();
        is_sound.then_some((submissions, completions))
    }

    /// Whether commands are looked for.
    pub(super) fn fetches(&self) -> bool {
        self.works() && !self.registers.is_fatal && self.registers.applied & ENABLE != 0
    }

    /// Whether commands that were found are done. One that says that it has failed, or that is being disabled, may do so, too.
    pub(super) fn works(&self) -> bool {
        let registers = &self.registers;
        let is_there = registers.is_ready && registers.ones.is_none();
        is_there && !registers.is_halted && registers.shutdown != Shutdown::Complete
    }

    /// Whether a doorbell can be rung: one that has failed hears none, which is no mistake.
    pub(super) fn is_deaf(&self) -> bool {
        !self.registers.is_ready && !self.registers.is_fatal
    }

    /// Whether CSTS.CFS is set.
    pub(super) fn is_fatal(&self) -> bool {
        self.registers.is_fatal
    }

    /// Bytes of a memory page.
    pub(super) fn page(&self) -> u64 {
        4096 << (self.registers.applied >> 7 & 0xf)
    }

    /// Sizes of I/O queue entries, as powers of two: submissions, completions.
    pub(super) fn entry_sizes(&self) -> (u32, u32) {
        (self.registers.applied >> 16 & 0xf, self.registers.applied >> 20 & 0xf)
    }

    /// Where the controller memory buffer is in the controller's address space (CMBMSC.CBA), if it is there (CMSE).
    pub(super) fn buffer_at(&self) -> Option<u64> {
        self.registers.buffer_at
    }

    /// Whether memory begins in the controller memory buffer; and whether it ends there, too.
    pub(super) fn in_buffer(&self, at: u64, len: u64) -> (bool, bool) {
        let Some(start) = self.buffer_at() else {
            return (false, false);
        };
        let is_inside = |at: u64| at >= start && at - start < self.options.buffer;
        (is_inside(at), is_inside(at.saturating_add(len.saturating_sub(1))))
    }

    fn has_queue_in_buffer(&self) -> bool {
        let mut queues = self.submissions.values();
        queues.any(|queue| self.in_buffer(queue.base, 1).0)
    }

    /// Bytes from a doorbell to the next.
    pub(super) fn stride(&self) -> u64 {
        4 << self.options.stride
    }

    pub(super) fn has_ability(&self, ability: Abilities) -> bool {
        self.options.can(ability)
    }
}

impl Registers {
    /// What is wrong with it lasts until its next reset at most.
    pub(super) fn heal(&mut self) {
        self.never = Never::empty();
        if let Some(until) = &mut self.ones {
            *until = Some(0);
        }
    }

    fn status(&self) -> u32 {
        let shutdown = match self.shutdown {
            Shutdown::Normal => 0,
            Shutdown::UnderWay(_) => 1,
            Shutdown::Complete => 2,
        };
        u32::from(self.is_ready) | u32::from(self.is_fatal) << 1 | shutdown << 2
    }
}

const LOW: u64 = 0xffff_ffff;
/// NVMe 2.0.
pub(super) const VERSION: u32 = 2 << 16;
