//! MSI-X as the specification puts it: a table of words, a row of bits, and two bits over all.

use crate::script::Script;
use vmm_glue::interrupt::MsiMessage;
use vmm_glue::view::{ConfigView, Interrupts, Msix, Place, Vector};

/// Of how many vectors all is looked at after each write.
const SAMPLE: usize = 128;

#[derive(Debug)]
pub(super) struct Model {
    table: Place,
    bits: Place,
    words: Vec<u32>,
    pending: Vec<bool>,
}

impl Model {
    pub(super) fn new(msix: &Msix) -> Self {
        let vectors = usize::from(msix.vectors());
        let (table, bits) = (msix.table().clone(), msix.pending_bits().clone());
        assert_eq!(table.range.end - table.range.start, 16 * u64::from(msix.vectors()));
        Self {
            table,
            bits,
            words: [0, 0, 0, 1].repeat(vectors),
            pending: vec![false; vectors],
        }
    }

    /// One access or interrupt.
    pub(super) fn reach(&mut self, view: &mut ConfigView, script: &mut Script<'_>) {
        let place = if script.byte().is_multiple_of(4) {
            &self.bits
        } else {
            &self.table
        };
        let near = u64::from(script.u16()) % (place.range.end - place.range.start + 16);
        let offset = (place.range.start + near).saturating_sub(8) & !u64::from(script.byte() % 8);
        let (bar, number) = (
            place.bar,
            script.u16() % (u16::try_from(self.pending.len()).unwrap() + 1),
        );
        match script.byte() % 3 {
            0 => self.read(view, bar, offset, usize::from(script.byte() % 9)),
            1 if view.interrupts() == Interrupts::Msix => {
                let is_pending = script.flag();
                view.set_pending(number, is_pending);
                if let Some(bit) = self.pending.get_mut(usize::from(number)) {
                    *bit = is_pending;
                }
            }
            _ => self.write(view, bar, offset, script.bytes(9)),
        }
    }

    fn read(&self, view: &ConfigView, bar: u8, offset: u64, len: usize) {
        let mut bytes = vec![0xCC; len];
        let is_ours = view.msix().unwrap().read(bar, offset, &mut bytes);
        let mut touches = false;
        for (at, byte) in (offset..).zip(bytes) {
            let in_place =
                |place: &Place| (place.bar == bar && place.range.contains(&at)).then(|| at - place.range.start);
            let expected = if let Some(at) = in_place(&self.table) {
                touches = true;
                self.words[usize::try_from(at / 4).unwrap()].to_le_bytes()[usize::try_from(at % 4).unwrap()]
            } else if let Some(at) = in_place(&self.bits) {
                touches = true;
                (0..8).fold(0, |byte, bit| {
                    let pending = self.pending.get(usize::try_from(8 * at).unwrap() + bit);
                    byte | u8::from(pending.copied().unwrap_or(false)) << bit
                })
            } else if is_ours {
                0
            } else {
                0xCC
            };
            assert_eq!(byte, expected, "byte {at:#x} of BAR {bar}");
        }
        assert_eq!(is_ours, touches);
    }

    fn write(&mut self, view: &mut ConfigView, bar: u8, offset: u64, from: &[u8]) {
        let states = |view: &ConfigView| -> Vec<Vector> {
            let msix = view.msix().unwrap();
            (0..msix.vectors())
                .map(|number| msix.vector(number))
                .take(SAMPLE)
                .collect()
        };
        let before = states(view);
        let changed = view.msix_mut().unwrap().write(bar, offset, from);
        if bar == self.table.bar && self.table.range.contains(&offset) {
            let at = offset - self.table.range.start;
            if matches!(from.len(), 4 | 8) && at.is_multiple_of(u64::try_from(from.len()).unwrap()) {
                for (word, bytes) in (usize::try_from(at / 4).unwrap()..).zip(from.chunks_exact(4)) {
                    let value = u32::from_le_bytes(bytes.try_into().unwrap());
                    let meaning = [!3, u32::MAX, u32::MAX, 1];
                    self.words[word] = value & meaning[word % 4];
                }
            }
        }
        assert!(changed.is_none_or(|number| usize::from(number) < self.pending.len()));
        for (number, (before, after)) in (0..).zip(before.iter().zip(states(view))) {
            assert_eq!(changed == Some(number), *before != after, "vector {number}");
            let words = &self.words[usize::from(number) * 4..][..4];
            let message = MsiMessage {
                address: u64::from(words[1]) << 32 | u64::from(words[0]),
                data: words[2],
            };
            match after {
                Vector::Live(live) => assert_eq!((live, words[3]), (message, 0)),
                Vector::Masked | Vector::Off => {}
            }
        }
    }
}
