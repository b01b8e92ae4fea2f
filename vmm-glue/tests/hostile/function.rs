//! A function as its holder keeps it, who looks after every access whether he was told all.

use super::device::{device, presentation};
use super::msix::Model;
use crate::script::Script;
use pci::{BarIndex, ConfigSpace};
use std::ops::Range;
use std::sync::Mutex;
use vmm_glue::pci::{BusEvent, Function, Windows};
use vmm_glue::view::{ConfigView, Device, Effect, Effects, Interrupts, PowerStateCode, Presentation, Unlisted, Vector};

#[derive(Debug)]
pub(super) struct Shown {
    device: Device,
    options: Presentation,
    /// What is hidden, or in no capability: zeros, and nothing of it is ever asked of the function.
    nothing: Vec<Range<u16>>,
    state: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    view: ConfigView,
    windows: Windows,
    model: Option<Model>,
}

/// What the function itself answers to everything.
const OWN: u8 = 0xEE;

/// All that a holder acts upon.
#[derive(Debug, PartialEq)]
struct Acted {
    decoded: Vec<(BarIndex, Range<u64>)>,
    command: u16,
    power: PowerStateCode,
    interrupts: Interrupts,
    vectors: Vec<Vector>,
}

impl Acted {
    fn of(view: &ConfigView) -> Self {
        Self {
            decoded: view.decoded().collect(),
            command: view.command(),
            power: view.power(),
            interrupts: view.interrupts(),
            vectors: (0..view.vectors().min(64) + 1)
                .map(|number| view.vector(number))
                .collect(),
        }
    }
}

impl Held {
    fn change(&mut self, change: impl FnOnce(&mut ConfigView) -> Effects) -> Effects {
        let before = Acted::of(&self.view);
        let effects = change(&mut self.view);
        let after = Acted::of(&self.view);
        let told = |effect| effects.iter().any(|other| other == effect);
        assert_eq!(told(Effect::Bars), before.decoded != after.decoded, "{effects:?}");
        assert_eq!(
            told(Effect::Command(after.command)),
            before.command != after.command,
            "{effects:?}"
        );
        assert_eq!(
            told(Effect::Power(after.power)),
            before.power != after.power,
            "{effects:?}"
        );
        assert_eq!(
            told(Effect::Interrupts),
            before.interrupts != after.interrupts,
            "{effects:?}"
        );
        if before.vectors != after.vectors {
            let told = told(Effect::Interrupts) || told(Effect::Msi) || told(Effect::Msix);
            assert!(told, "{before:?} {after:?}");
        }
        if told(Effect::Reset) || told(Effect::BusReset) {
            self.forget();
        }
        effects
    }

    fn forget(&mut self) {
        self.model = self.view.msix().map(Model::new);
    }
}

impl Shown {
    /// `None` for an image that is refused.
    pub(super) fn new(script: &mut Script<'_>) -> Option<Self> {
        let device = device(script);
        let options = presentation(script);
        let view = ConfigView::new(&device, &options).ok()?;
        let model = view.msix().map(Model::new);
        if let Some(msix) = view.msix() {
            for place in [msix.table(), msix.pending_bits()] {
                assert!(place.range.end <= device.bar_sizes[usize::from(place.bar)]);
            }
        }
        let nothing = nothing(&device, &options, &view);
        let state = Mutex::new(Held {
            view,
            windows: Windows::NONE,
            model,
        });
        let shown = Self {
            device,
            options,
            nothing,
            state,
        };
        shown.check_image();
        Some(shown)
    }

    pub(super) fn reach_msix(&self, script: &mut Script<'_>) {
        let held = &mut *self.state.lock().unwrap();
        if let Some(model) = &mut held.model {
            model.reach(&mut held.view, script);
        }
    }

    pub(super) fn check(&self) {
        let held = self.state.lock().unwrap();
        let decoded: Vec<_> = held.view.decoded().collect();
        for (number, (bar, range)) in decoded.iter().enumerate() {
            assert!(
                held.windows.contain(range),
                "{bar:?} at {range:x?} in {:x?}",
                held.windows
            );
            let len = range.end - range.start;
            assert!(len.is_power_of_two() && range.start % len == 0);
            let others = decoded.iter().skip(number + 1);
            for (other, taken) in others {
                assert!(
                    range.end <= taken.start || taken.end <= range.start,
                    "{bar:?} {range:x?} and {other:?} {taken:x?}"
                );
            }
        }
        if held.view.command() & 2 == 0 || held.view.power() != PowerStateCode::D0 {
            assert!(decoded.is_empty());
        }
    }

    /// All of it, as the guest reads it.
    pub(super) fn check_image(&self) {
        let held = self.state.lock().unwrap();
        let mut image = vec![0; 4096];
        for (offset, word) in (0..).step_by(4).zip(image.chunks_exact_mut(4)) {
            held.view.read(offset, word, |own| {
                assert!(
                    !is_within(&self.nothing, &(offset..offset + 4)),
                    "{offset:#x} is asked for"
                );
                own.fill(OWN);
            });
        }
        for range in &self.nothing {
            let bytes = &image[usize::from(range.start)..usize::from(range.end)];
            // A list that begins with something hidden still has its beginning.
            let skipped = if range.start == 0x100 { 4 } else { 0 };
            assert!(
                bytes.iter().skip(skipped).all(|byte| *byte == 0),
                "{range:x?}: {bytes:x?}"
            );
        }
        let space = ConfigSpace::new(image);
        assert_eq!(space.u8(0x0E), Some(0x80));
        for walk in [space.capabilities(), space.extended_capabilities()] {
            assert!(walk.end.is_complete(), "{:?}", walk.end);
            for capability in walk.items {
                let is_start = capability.offset() == 0x100 && capability.id() == pci::CapabilityId::EXTENDED_NULL;
                assert!(
                    is_start || self.options.shown.contains(&capability.id()),
                    "{:?}",
                    capability.id()
                );
                let walks = [
                    self.device.config.capabilities(),
                    self.device.config.extended_capabilities(),
                ];
                let mut own = walks.iter().flat_map(|walk| &walk.items);
                assert!(is_start || own.any(|own| (own.id(), own.offset()) == (capability.id(), capability.offset())));
            }
        }
    }
}

fn is_within(nothing: &[Range<u16>], range: &Range<u16>) -> bool {
    nothing
        .iter()
        .any(|other| other.start <= range.start && range.end <= other.end)
}

/// The places where no capability is that the guest's lists have; taken from where the function has capabilities.
fn nothing(device: &Device, options: &Presentation, view: &ConfigView) -> Vec<Range<u16>> {
    let mut listed = Vec::new();
    let mut at = 0x34;
    for _ in 0..48 {
        let mut link = [0];
        view.read(at, &mut link, |_| panic!("a link is fixed"));
        if link[0] == 0 {
            break;
        }
        listed.push(u16::from(link[0]));
        at = u16::from(link[0]) + 1;
    }
    let walks = [device.config.capabilities(), device.config.extended_capabilities()];
    let mut nothing = Vec::new();
    for walk in &walks {
        for capability in &walk.items {
            let is_hidden = match capability.id().is_extended() {
                false => !listed.contains(&capability.offset()),
                true => !options.shown.contains(&capability.id()),
            };
            if is_hidden {
                // No capability is shorter than this.
                let end = capability.offset() + u16::try_from(capability.bytes().len()).unwrap().min(4);
                nothing.push(capability.offset()..end);
            }
        }
    }
    if options.unlisted == Unlisted::Hidden {
        let mut own: Vec<_> = walks.iter().flat_map(|walk| &walk.items).collect();
        own.sort_by_key(|capability| capability.offset());
        let mut from = 0x40;
        for capability in own {
            nothing.push(from.min(capability.offset())..capability.offset());
            from = capability.offset() + u16::try_from(capability.bytes().len()).unwrap();
        }
        nothing.push(from.min(4096)..4096);
    }
    nothing.retain(|range| !range.is_empty());
    nothing
}

impl Function for Shown {
    fn config_read(&self, offset: u16, to: &mut [u8]) {
        assert!(matches!(to.len(), 1 | 2 | 4) && usize::from(offset % 4) + to.len() <= 4 && offset < 4096);
        self.state.lock().unwrap().view.read(offset, to, |own| own.fill(OWN));
    }

    fn config_write(&self, offset: u16, from: &[u8]) {
        assert!(matches!(from.len(), 1 | 2 | 4) && usize::from(offset % 4) + from.len() <= 4 && offset < 4096);
        let effects = self.state.lock().unwrap().change(|view| view.write(offset, from));
        for effect in effects {
            if let Effect::Forward(forward) = effect {
                let len = u16::try_from(forward.bytes().len()).unwrap();
                let range = forward.offset()..forward.offset() + len;
                assert!(len > 0 && offset <= range.start && range.end <= offset + 4);
                assert!(
                    range.start >= 0x40 || range == (7..8),
                    "the header is not forwarded: {range:x?}"
                );
                for byte in range {
                    assert!(!is_within(&self.nothing, &(byte..byte + 1)), "{byte:#x} is written");
                }
            }
        }
    }

    fn bus_event(&self, event: BusEvent) {
        let mut held = self.state.lock().unwrap();
        if let BusEvent::Windows(windows) = event {
            held.windows = windows;
        }
        let effects = held.change(|view| view.bus_event(event));
        for (effect, of) in [(Effect::Reset, BusEvent::Reset), (Effect::BusReset, BusEvent::BusReset)] {
            assert_eq!(effects.iter().any(|found| found == effect), event == of);
        }
        if event == BusEvent::Down {
            assert_eq!(held.view.interrupts(), Interrupts::None);
            held.forget();
        }
    }
}
