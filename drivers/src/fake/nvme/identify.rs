//! What Identify answers.
//!
//! NVM Express Base Specification 2.0 §5.17, NVM Command Set Specification 1.0 §4.1.5.

use super::bytes::{high16, low8, put, put_text};
use super::command::{Command, Status};
use super::controller::Controller;
use super::events::ERRORS;
use super::io::{ALL, COMPARE, DSM, VERIFY, WRITE_ZEROES};
use super::namespace::Namespace;
use super::registers::VERSION;
use super::transfer::Transfer;
use super::{Abilities, NQN, SERIAL};

/// Bytes of every answer.
const PAGE: usize = 4096;
/// Numbers of a list of controllers, and of one of namespaces.
const CONTROLLERS: usize = 2047;
const NAMESPACES: usize = 1024;

type Result<T = Vec<u8>> = std::result::Result<T, Status>;

impl Controller {
    pub(super) fn identify(&mut self, transfer: &Transfer<'_, '_>) -> Result<()> {
        let command = transfer.command;
        let controller = high16(command.dword(10));
        let is_nvm = command.dword(11) >> 24 == 0;
        let has_management = self.has_ability(Abilities::NAMESPACES);
        let answer = match low8(command.dword(10)) {
            0x00 => self.identify_namespace(command.namespace(), true),
            0x01 => Ok(self.identify_controller()),
            0x02 => self.namespaces(command, true),
            0x03 => self.descriptors(command.namespace()),
            // Of the NVM command set: nothing that protection information would need.
            0x05 if is_nvm => self.known(command.namespace(), true).map(|()| vec![0; PAGE]),
            // Commands without a transfer know no limit.
            0x06 if is_nvm => Ok(vec![0; PAGE]),
            0x07 if is_nvm => self.namespaces(command, true),
            0x08 => self.identify_independently(command.namespace()),
            0x10 if has_management => self.namespaces(command, false),
            0x11 if has_management => self.identify_namespace(command.namespace(), false),
            0x12 if has_management => self.attached(command.namespace(), controller),
            0x13 if has_management => Ok(controllers(self.subsystem().controllers(), controller)),
            0x14 if self.options.functions != 0 => Ok(self.primary_capabilities()),
            0x15 if self.options.functions != 0 => Ok(self.secondary_list(controller)),
            // I/O command sets: combination 0 is the NVM set alone.
            0x1c => Ok(list([1_u8])),
            _ => Err(Status::INVALID_FIELD),
        };
        transfer.answer(&answer?, &mut self.chance)
    }

    fn identify_controller(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let options = &self.options;
        let mut set = |at: usize, bytes: &[u8]| put(&mut page, at, bytes);
        let if_able = |ability: Abilities, bit: u16| u16::from(self.has_ability(ability)) << bit;
        let if_io = |opcode: u8, bit: u16| u16::from(self.has_io(opcode)) << bit;
        set(0, &0x1b36_u16.to_le_bytes());
        set(2, &0x1af4_u16.to_le_bytes());
        // Several controllers, of SR-IOV functions.
        set(76, &[if options.functions == 0 { 0 } else { 0b110 }]);
        set(77, &[options.max_transfer]);
        set(78, &self.id.to_le_bytes());
        set(80, &VERSION.to_le_bytes());
        // Namespace attribute notices.
        set(92, &(1_u32 << 8).to_le_bytes());
        // An I/O controller.
        set(111, &[1]);
        let admin = if_able(Abilities::FORMAT, 1)
            | if_able(Abilities::NAMESPACES, 3)
            | u16::from(options.functions != 0) << 7
            | if_able(Abilities::DOORBELL_BUFFERS, 8);
        set(256, &admin.to_le_bytes());
        // Aborts at a time, event requests at a time, one firmware slot that is read only.
        set(258, &[3, options.event_requests - 1, 0b11]);
        // Effects of commands, offsets into log pages, the page of supported ones.
        set(261, &[1 << 1 | 1 << 2 | 1 << 5, ERRORS - 1]);
        set(266, &343_u16.to_le_bytes());
        set(268, &373_u16.to_le_bytes());
        let (capacity, free) = self.subsystem().capacity();
        set(280, &u128::from(capacity).to_le_bytes());
        set(296, &u128::from(free).to_le_bytes());
        // Block erase and overwrite, if anything.
        set(
            328,
            &(u32::from(if_able(Abilities::SANITIZE, 1)) | u32::from(if_able(Abilities::SANITIZE, 2))).to_le_bytes(),
        );
        set(512, &[0x66, 0x44]);
        set(516, &super::subsystem::MOST.to_le_bytes());
        let optional = if_io(COMPARE, 0) | if_io(DSM, 2) | if_io(WRITE_ZEROES, 3) | if_io(VERIFY, 7);
        set(520, &optional.to_le_bytes());
        set(522, &if_able(Abilities::FUSED, 0).to_le_bytes());
        // A cache; Flush takes all namespaces at once.
        set(
            525,
            &[if self.has_ability(Abilities::CACHE) {
                0b111
            } else {
                0b110
            }],
        );
        let sgl = if self.has_ability(Abilities::SGL) {
            1_u32 | 1 << 16
        } else {
            0
        };
        set(536, &sgl.to_le_bytes());
        set(540, &super::subsystem::MOST.to_le_bytes());
        set(768, NQN.as_bytes());
        // Power state 0.
        set(2048, &2500_u16.to_le_bytes());
        put_text(&mut page, 4, 20, SERIAL);
        put_text(&mut page, 24, 40, "fake NVMe controller");
        put_text(&mut page, 64, 8, "1.0");
        page
    }

    /// Calls `act` with a namespace that there is, and that is the controller's where `is_active` asks for that.
    fn with<T>(&self, id: u32, is_active: bool, act: impl FnOnce(&Namespace) -> T) -> Result<Option<T>> {
        if id == 0 || id > super::subsystem::MOST {
            return Err(Status::INVALID_NAMESPACE);
        }
        let subsystem = self.subsystem();
        let namespace = subsystem.namespaces.get(&id);
        let namespace = namespace.filter(|namespace| !is_active || namespace.attached.contains(&self.id));
        Ok(namespace.map(act))
    }

    fn known(&self, id: u32, is_active: bool) -> Result<()> {
        self.with(id, is_active, |_| ())?.ok_or(Status::INVALID_NAMESPACE)
    }

    fn identify_namespace(&self, id: u32, is_active: bool) -> Result {
        if id == ALL && self.has_ability(Abilities::NAMESPACES) {
            // What all namespaces have in common.
            let layout = self.options.format(0).ok_or(Status::INTERNAL)?;
            return Ok(self.describe(&Namespace::new(0, 0, layout, false, false), 0));
        }
        // One that is not the controller's is all zeroes.
        let page = self.with(id, is_active, |namespace| self.describe(namespace, id))?;
        Ok(page.unwrap_or_else(|| vec![0; PAGE]))
    }

    fn describe(&self, namespace: &Namespace, id: u32) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let mut set = |at: usize, bytes: &[u8]| put(&mut page, at, bytes);
        set(0, &namespace.blocks.to_le_bytes());
        set(8, &namespace.blocks.to_le_bytes());
        set(16, &namespace.used().to_le_bytes());
        let formats = low8(u32::try_from(self.options.formats.len()).unwrap_or(1)) - 1;
        let (low, high) = (namespace.format & 0xf, namespace.format >> 4);
        // Deallocated blocks are told of; both places of metadata.
        set(
            24,
            &[
                1 << 2,
                formats,
                low | u8::from(namespace.extended) << 4 | high << 5,
                0b11,
            ],
        );
        set(30, &[u8::from(namespace.is_shared)]);
        // Deallocated blocks read as zeroes, and Write Zeroes deallocates.
        set(33, &[0b1001]);
        let bytes = u128::from(namespace.blocks) * namespace.stored_bytes() as u128;
        set(48, &bytes.to_le_bytes());
        if id != 0 {
            set(104, &nguid(id));
            set(120, &eui64(id));
        }
        for (at, format) in self.options.formats.iter().enumerate() {
            let shift = low8(format.lba_bytes.trailing_zeros());
            set(128 + 4 * at, &format.metadata.to_le_bytes());
            set(130 + 4 * at, &[shift, 0]);
        }
        page
    }

    fn identify_independently(&self, id: u32) -> Result {
        let page = self.with(id, true, |namespace| {
            let mut page = vec![0; PAGE];
            put(&mut page, 1, &[u8::from(namespace.is_shared)]);
            // It is ready.
            put(&mut page, 14, &[1]);
            page
        })?;
        Ok(page.unwrap_or_else(|| vec![0; PAGE]))
    }

    fn namespaces(&self, command: &Command, is_active: bool) -> Result {
        if command.namespace() >= ALL - 1 {
            return Err(Status::INVALID_NAMESPACE);
        }
        let subsystem = self.subsystem();
        let there = subsystem.namespaces.range(command.namespace() + 1..);
        let ids = there.filter(|(_, namespace)| !is_active || namespace.attached.contains(&self.id));
        Ok(list(ids.take(NAMESPACES).flat_map(|(id, _)| id.to_le_bytes())))
    }

    fn descriptors(&self, id: u32) -> Result {
        self.known(id, true)?;
        let eui64 = [1, 8, 0, 0].into_iter().chain(eui64(id));
        let nguid = [2, 16, 0, 0].into_iter().chain(nguid(id));
        // The NVM command set.
        Ok(list(eui64.chain(nguid).chain([4, 1, 0, 0, 0])))
    }

    fn attached(&self, id: u32, from: u16) -> Result {
        let ids = self.with(id, false, |namespace| {
            namespace.attached.iter().copied().collect::<Vec<_>>()
        })?;
        Ok(controllers(ids.unwrap_or_default(), from))
    }
}

/// A page that begins with these bytes.
fn list(bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut page: Vec<u8> = bytes.into_iter().take(PAGE).collect();
    page.resize(PAGE, 0);
    page
}

/// A controller list of those from `from` on.
fn controllers(ids: impl IntoIterator<Item = u16>, from: u16) -> Vec<u8> {
    let ids: Vec<u16> = ids.into_iter().filter(|id| *id >= from).take(CONTROLLERS).collect();
    let count = u16::try_from(ids.len()).unwrap_or_default();
    list(std::iter::once(count).chain(ids).flat_map(u16::to_le_bytes))
}

fn nguid(id: u32) -> [u8; 16] {
    let mut bytes = *b"fake nguid\0\0\0\0\0\0";
    put(&mut bytes, 12, &id.to_be_bytes());
    bytes
}

fn eui64(id: u32) -> [u8; 8] {
    let mut bytes = *b"fake\0\0\0\0";
    put(&mut bytes, 4, &id.to_be_bytes());
    bytes
}
