//! The functions that a script makes up.

use crate::script::Script;
use pci::{CapabilityId, ConfigSpace};
use vmm_glue::view::{Device, Presentation, Unlisted};

const KNOWN: [u8; 8] = [0x01, 0x03, 0x05, 0x09, 0x10, 0x10, 0x11, 0x13];
const KNOWN_EXTENDED: [u16; 10] = [0x01, 0x03, 0x0B, 0x0E, 0x0F, 0x10, 0x13, 0x15, 0x1B, 0x23];

/// A function: mostly one that makes sense, with any damage.
pub(super) fn device(script: &mut Script<'_>) -> Device {
    let mut image = vec![0; [4096, 4096, 256, 64, 100, 4095][usize::from(script.byte() % 6)]];
    let poke = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        for (to, from) in image.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    poke(&mut image, 0, &[0x86, 0x80, 0xCA, 0x10, 0, 0, 0x10]);
    for bar in 0..6 {
        poke(&mut image, 0x10 + 4 * bar, &[script.byte() & 0x0F]);
    }
    let mut link = 0x34;
    let mut at = 0x40_u8;
    for _ in 0..script.byte() % 6 {
        let id = KNOWN[usize::from(script.byte() % 8)];
        poke(&mut image, link, &[at]);
        poke(&mut image, at.into(), &[id, 0]);
        poke(&mut image, usize::from(at) + 2, script.bytes(24));
        link = usize::from(at) + 1;
        at = at.saturating_add(script.byte() & 0x3C);
    }
    let mut at = 0x100_u16;
    let mut last = None;
    for _ in 0..script.byte() % 6 {
        let id = KNOWN_EXTENDED[usize::from(script.byte() % 10)];
        let header = 0x1_0000 | u32::from(id);
        if let Some((place, header)) = last {
            poke(&mut image, place, &u32::to_le_bytes(header | u32::from(at) << 20));
        }
        poke(&mut image, at.into(), &header.to_le_bytes());
        poke(&mut image, usize::from(at) + 4, script.bytes(32));
        last = Some((at.into(), header));
        at = (at + (script.u16() & 0x1FC)).min(0xFFC);
    }
    for _ in 0..script.byte() % 4 {
        let at = usize::from(script.u16() % 4096);
        poke(&mut image, at, script.bytes(8));
    }
    let mut bar_sizes = [0; 6];
    for size in &mut bar_sizes {
        *size = self::size(script.byte());
    }
    Device {
        config: ConfigSpace::new(image),
        bar_sizes,
        rom_size: size(script.byte()),
    }
}

/// Mostly a power of two.
fn size(byte: u8) -> u64 {
    match byte {
        0..=63 => 1 << byte,
        64 => u64::MAX,
        65 => 3 << 20,
        66..=100 => 0,
        _ => 1 << (12 + byte % 12),
    }
}

pub(super) fn presentation(script: &mut Script<'_>) -> Presentation {
    let mut options = Presentation {
        is_multi_function: true,
        has_intx: script.flag(),
        is_resettable: script.flag(),
        are_wide_bars_prefetchable: script.flag(),
        are_vendor_registers_writable: script.flag(),
        unlisted: if script.byte().is_multiple_of(4) {
            Unlisted::Shown
        } else {
            Unlisted::Hidden
        },
        ..Presentation::default()
    };
    for _ in 0..script.byte() % 3 {
        let id = CapabilityId::Extended(KNOWN_EXTENDED[usize::from(script.byte() % 10)]);
        options = options.show(id);
    }
    for _ in 0..script.byte() % 3 {
        let id = CapabilityId::Standard(KNOWN[usize::from(script.byte() % 8)]);
        options = options.hide(id);
    }
    options
}
