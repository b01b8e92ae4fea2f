//! What is done and what goes wrong, as bytes say.

use drivers::fake::nvme::{self, Abilities, Fault, Format, Interrupts, NamespaceOptions, Status, When};

/// What is done, taken from bytes; zeroes once there are none.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl Script<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *byte
    }

    pub(super) fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit.max(1)
    }

    pub(super) fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }
}

/// A controller.
pub(super) fn device(script: &mut Script<'_>) -> nvme::Options {
    let format = |lba_bytes, metadata| Format { lba_bytes, metadata };
    let interrupts = match script.below(4) {
        0 => Interrupts::Intx,
        1 => Interrupts::Msi(4),
        count => Interrupts::Msix(u16::from(count)),
    };
    let latency = u64::from(script.below(8));
    let options = nvme::Options {
        entries: 2 + u32::from(script.below(64)),
        stride: script.below(3),
        timeout: 1,
        page_min: script.below(2),
        page_max: script.below(3),
        max_transfer: script.below(6),
        queues: 1 + u16::from(script.below(4)),
        interrupts,
        latency: latency..latency + 1 + u64::from(script.below(8)),
        seed: script.number().into(),
        abilities: Abilities::from_bits_truncate(u32::from(script.number()) ^ 0x7ff),
        event_requests: 1 + script.below(4),
        formats: vec![format(512, 0), format(4096, 0), format(512, 8)],
        namespaces: vec![NamespaceOptions {
            blocks: 4096,
            format: script.below(3),
            extended: script.flag(),
        }],
        ..nvme::Options::default()
    };
    nvme::Options {
        // Now and then so small that not all queues find room.
        buffer: match options.seed % 8 {
            0 => 1 << 20,
            1 => 8192,
            _ => 0,
        },
        ..options
    }
}

/// What goes wrong with it, and when.
pub(super) fn fault(script: &mut Script<'_>) -> (When, Fault) {
    let fault = match script.below(18) {
        0 => Fault::Fatal,
        1 => Fault::NeverReady,
        2 => Fault::NeverStops,
        3 => Fault::NeverShutDown,
        4 => Fault::AllOnes(script.flag().then_some(u64::from(script.byte()) * 16)),
        5 => Fault::UnknownId,
        6 => Fault::Duplicate,
        7 => Fault::StalePhase,
        8 => Fault::PhaseFirst,
        9 => Fault::InParts,
        10 => Fault::WrongQueue,
        11 => Fault::WrongHead,
        12 => Fault::Lost,
        13 => Fault::Stuck,
        14 => Fault::Slow(u64::from(script.byte()) * 8),
        15 => Fault::Status(Status(script.number() & 0x7fff)),
        16 => Fault::Garbage,
        _ => Fault::WrongPage(script.below(8).into()),
    };
    let when = match script.below(5) {
        0 => When::Now,
        1 => When::Admin(script.byte()),
        2 => When::Io(script.below(16)),
        3 => When::NthAdmin(script.below(8).into()),
        _ => When::NthIo(script.below(16).into()),
    };
    (when, fault)
}
