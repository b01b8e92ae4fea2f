//! The guest's view of a function that it is given: configuration space, BARs and interrupts. Knows neither KVM nor VFIO.
//!
//! [`ConfigView`] answers what is the guest's own affair, or the host's, and says by [`Effects`] what has to be done to the function; the rest is the
//! function's own. What is shown is made from the function's image once ([`Device`], [`Presentation`]), and an image is not trusted: whatever it
//! holds, the lists of capabilities are finite, what is hidden is not there, and no structure is used that is not wholly within its place.
//!
//! What was made of accesses that make no sense:
//!
//! | the guest | is answered by |
//! |---|---|
//! | reads or writes a hidden capability by its offset, or what is in no capability | zeros; the write is lost |
//! | links capabilities anew, or changes identity, class, header type | nothing changes |
//! | puts a BAR over RAM, an interrupt controller, or beyond the port's windows | it is not decoded |
//! | puts two BARs at one address | the one with the lower number is decoded |
//! | puts a BAR at the end of the address space | it is not decoded, nothing wraps around |
//! | moves half of a 64-bit address while decoding | it is decoded where both halves say, if that is in a window |
//! | starts a self test, sets the latency timer, enables I/O | nothing happens |
//! | enters D1 or D2, which are not supported | the state stays |
//! | reaches for memory in D3hot, or writes to the function | nothing is decoded; what is answered here is written |
//! | writes vital product data, or registers of a vendor's capability | the write is lost, if the latter is not allowed |
//! | asks for more MSI vectors than there are | it gets those that there are |
//! | enables MSI and MSI-X together | MSI-X is used |
//! | writes single bytes, or across entries, into the MSI-X table | the write is lost |
//! | writes pending bits | the write is lost |
//! | sends messages to where no interrupt controller is | they are not delivered ([`MsiMessage::is_deliverable`](crate::interrupt::MsiMessage::is_deliverable)) |
//! | resets the function while it is used | all is as after power-on, and only then the function is reset |
//!
//! | the image | is shown with |
//! |---|---|
//! | a list of capabilities that loops, or leads into the header or beyond the end | the capabilities before that |
//! | a capability that is cut off by the next one or by the end | not that capability |
//! | a second MSI, MSI-X, PCI Express or power management capability | the first one |
//! | an MSI-X table beyond its BAR, in none, or over the pending bits | not MSI-X |
//! | MSI for 64 or 128 vectors | MSI for 32 |
//! | a 64-bit BAR in the last register, one of a reserved type or for I/O, or too large for its kind | not that BAR |
//! | a BAR of a size that is not a power of two | the next larger size |
//! | an endpoint integrated in the root complex, or the type of a port | an endpoint with a link |
//! | a bridge, all ones, or less than a header | nothing: it is refused |

mod bars;
mod chain;
mod control;
mod effect;
mod header;
mod interrupts;
mod msi;
mod msix;
mod patches;
mod presentation;
#[cfg(test)]
mod tests;
mod vector;

pub use effect::{Effect, Effects, Forward};
pub use interrupts::Interrupts;
pub use msix::{Msix, Place};
pub use pci::cap::PowerStateCode;
pub use presentation::{Device, Presentation, Unlisted};
pub use vector::Vector;

use crate::pci::layout::Need;
use crate::pci::{BusEvent, Windows};
use crate::{Error, ErrorKind, Result};
use bars::Bars;
use chain::Found;
use control::ResetBit;
use msi::Msi;
use patches::Patches;
use pci::{BarIndex, CapabilityId};
use std::ops::Range;

/// A function's configuration space as the guest sees it, and the state that follows from what the guest does there.
///
/// A read neither allocates nor changes anything.
#[derive(Debug)]
pub struct ConfigView {
    patches: Patches,
    bars: Bars,
    msi: Option<Msi>,
    msix: Option<Msix>,
    /// Where the power state is written.
    power_at: Option<u16>,
    power: PowerStateCode,
    resets: [Option<ResetBit>; 2],
    windows: Windows,
    /// It has no power, or no link.
    is_down: bool,
}

/// All of configuration space.
const ALL: Range<u16> = 0..0x1000;

fn meet(one: &Range<u16>, other: &Range<u16>) -> bool {
    one.start < other.end && other.start < one.end
}

/// What others act upon.
#[derive(Clone, Copy)]
struct State {
    command: u16,
    power: PowerStateCode,
    interrupts: Interrupts,
}

impl ConfigView {
    /// The view of a function, as after power-on. Nothing is decoded before it knows of [windows](BusEvent::Windows).
    ///
    /// # Errors
    ///
    /// The image is that of a bridge, too short for a header, or nothing but ones.
    pub fn new(device: &Device, options: &Presentation) -> Result<Self> {
        if let Some(why) = header::refusal(&device.config) {
            return Err(Error::new(
                "show the function to the guest",
                ErrorKind::Malformed(why.into()),
            ));
        }
        let mut patches = Patches::new(device.config.bytes());
        header::patch(device, options, &mut patches);
        let bars = Bars::new(device, options.are_wide_bars_prefetchable, &mut patches);
        let mut view = Self {
            patches,
            bars,
            msi: None,
            msix: None,
            power_at: None,
            power: PowerStateCode::D0,
            resets: [None; 2],
            windows: Windows::NONE,
            is_down: false,
        };
        let has_extended = view.add_standard(device, options);
        view.add_extended(device, options, has_extended);
        Ok(view)
    }

    /// Says whether it is PCI Express, and so has extended configuration space.
    fn add_standard(&mut self, device: &Device, options: &Presentation) -> bool {
        let (mut shown, mut hidden): (Vec<Found>, Vec<Found>) = (Vec::new(), Vec::new());
        for capability in device.config.capabilities().items {
            let found = Found::new(&capability);
            let is_known = [
                CapabilityId::MSI,
                CapabilityId::MSI_X,
                CapabilityId::EXPRESS,
                CapabilityId::POWER_MANAGEMENT,
                CapabilityId::ADVANCED_FEATURES,
            ];
            let is_second = is_known.contains(&found.id) && shown.iter().any(|other| other.id == found.id);
            let is_wanted = options.shown.contains(&found.id) && !is_second;
            let list = if is_wanted && self.take(&found, device, options.is_resettable) {
                &mut shown
            } else {
                &mut hidden
            };
            list.push(found);
        }
        if options.unlisted == Unlisted::Hidden {
            chain::blank_unlisted(&mut self.patches, 0x40..0x100, &shown);
        }
        chain::link_standard(&mut self.patches, &shown, &hidden);
        self.protect_vendors(&shown, options);
        shown.iter().any(|found| found.id == CapabilityId::EXPRESS)
    }

    /// Takes over what is answered here; false for what is malformed.
    fn take(&mut self, found: &Found, device: &Device, is_resettable: bool) -> bool {
        let patches = &mut self.patches;
        let [express, features] = &mut self.resets;
        match found.id {
            CapabilityId::MSI => {
                self.msi = Msi::new(found, patches);
                self.msi.is_some()
            }
            CapabilityId::MSI_X => {
                self.msix = Msix::new(found, device, |bar| self.bars.has(bar), patches);
                self.msix.is_some()
            }
            CapabilityId::EXPRESS if control::is_express(found) => {
                *express = control::patch_express(found, is_resettable, patches);
                true
            }
            CapabilityId::ADVANCED_FEATURES if found.len >= 6 => {
                *features = control::patch_features(found, is_resettable, patches);
                true
            }
            CapabilityId::POWER_MANAGEMENT if found.len >= 8 => {
                self.power_at = Some(control::patch_power(found, patches));
                true
            }
            CapabilityId::VPD if found.len >= 8 => {
                control::patch_vital_data(found, patches);
                true
            }
            CapabilityId::EXPRESS
            | CapabilityId::ADVANCED_FEATURES
            | CapabilityId::POWER_MANAGEMENT
            | CapabilityId::VPD => false,
            _ => true,
        }
    }

    fn add_extended(&mut self, device: &Device, options: &Presentation, has_extended: bool) {
        if !has_extended {
            self.patches.blank(0x100, 0xF00);
            return;
        }
        let found = device.config.extended_capabilities().items;
        let (shown, hidden): (Vec<_>, Vec<_>) = found
            .iter()
            .map(Found::new)
            .partition(|found| options.shown.contains(&found.id));
        if options.unlisted == Unlisted::Hidden {
            chain::blank_unlisted(&mut self.patches, 0x100..0x1000, &shown);
        }
        chain::link_extended(&mut self.patches, &shown, &hidden);
        self.protect_vendors(&shown, options);
        for ari in shown
            .iter()
            .filter(|found| found.id == CapabilityId::ARI && found.len >= 8)
        {
            self.patches.fix(ari.offset + 5, &[options.next_function]);
        }
    }

    fn protect_vendors(&mut self, shown: &[Found], options: &Presentation) {
        let vendors = [CapabilityId::VENDOR_SPECIFIC, CapabilityId::VSEC, CapabilityId::DVSEC];
        let found = shown.iter().filter(|found| vendors.contains(&found.id));
        for found in found.filter(|_| !options.are_vendor_registers_writable) {
            self.patches.protect(found.offset, found.own_len);
        }
    }

    /// Reads as the guest does. `device` reads the same bytes of the function itself; it is called only where some bits are its own.
    pub fn read(&self, offset: u16, to: &mut [u8], device: impl FnOnce(&mut [u8])) {
        self.patches.read(offset, to, device);
    }

    /// Writes as the guest does: 1, 2 or 4 bytes.
    pub fn write(&mut self, offset: u16, from: &[u8]) -> Effects {
        let from = from.get(..4).unwrap_or(from);
        let before = self.state();
        if self.resets.iter().flatten().any(|bit| bit.is_set(offset, from)) {
            return self.reset_from(before, Effect::Reset);
        }
        let mut effects = Effects::default();
        self.patches.write(offset, from, &mut effects);
        if before.power != PowerStateCode::D0 {
            // A function that sleeps would lose it.
            effects = Effects::default();
        }
        let len = u16::try_from(from.len()).unwrap_or(u16::MAX);
        self.settle(before, &mut effects, &(offset..offset.saturating_add(len)));
        effects
    }

    /// What has happened to the bus that the function is on.
    pub fn bus_event(&mut self, event: BusEvent) -> Effects {
        let before = self.state();
        let mut effects = Effects::default();
        match event {
            BusEvent::Reset | BusEvent::BusReset => {
                self.is_down = false;
                let is_bus_reset = event == BusEvent::BusReset;
                return self.reset_from(before, if is_bus_reset { Effect::BusReset } else { Effect::Reset });
            }
            BusEvent::Down => {
                self.is_down = true;
                self.clear();
            }
            BusEvent::Windows(windows) => self.windows = windows,
        }
        self.settle(before, &mut effects, &ALL);
        effects
    }

    /// Resets what the guest sees, and lets the function be reset.
    pub fn reset(&mut self) -> Effects {
        self.reset_from(self.state(), Effect::Reset)
    }

    fn reset_from(&mut self, before: State, reset: Effect) -> Effects {
        let mut effects = Effects::default();
        self.clear();
        self.settle(before, &mut effects, &ALL);
        effects.push(reset);
        effects
    }

    fn clear(&mut self) {
        self.patches.reset();
        if let Some(msi) = &mut self.msi {
            msi.reset(&mut self.patches);
        }
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
    }

    /// What memory it needs, for [`layout::plan`](crate::pci::layout::plan).
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        self.bars.needs()
    }

    /// Gives a BAR an address, as firmware would; the guest still has to let it decode.
    pub fn place(&mut self, bar: BarIndex, address: u64) -> Effects {
        let before = self.state();
        let mut effects = Effects::default();
        self.bars.place(bar, address, &mut self.patches);
        self.settle(before, &mut effects, &ALL);
        effects
    }

    /// Which BARs, and the ROM, the guest reaches by which addresses. They lie in the windows and do not overlap; those of other functions may be
    /// in the way.
    pub fn decoded(&self) -> impl Iterator<Item = (BarIndex, Range<u64>)> {
        self.bars.decoded()
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        header::command(&self.patches)
    }

    /// The power state.
    #[must_use]
    pub const fn power(&self) -> PowerStateCode {
        self.power
    }

    fn state(&self) -> State {
        State {
            command: self.command(),
            power: self.power,
            interrupts: self.interrupts(),
        }
    }

    /// Lets follow what follows from what was `written`, and says what others have to do. Most accesses are to a few registers: the others are not looked at
    /// again.
    fn settle(&mut self, before: State, effects: &mut Effects, written: &Range<u16>) {
        if let Some(at) = self.power_at {
            self.power = control::power(&mut self.patches, at, before.power);
        }
        let msi = self.msi.as_mut().filter(|msi| meet(&msi.registers(), written));
        let has_msi_changed = msi.is_some_and(|msi| msi.look(&self.patches));
        let has_msix_changed = self.msix.as_mut().is_some_and(|msix| msix.look(&self.patches));
        let after = self.state();
        let is_awake = after.power == PowerStateCode::D0;
        let is_reached = after.command & header::COMMAND_MEMORY != 0 && is_awake && !self.is_down;
        let windows = if is_reached { self.windows } else { Windows::NONE };
        let have_bars_moved = self
            .bars
            .decode(&self.patches, windows, meet(&bars::REGISTERS, written));
        if before.power != after.power && is_awake {
            effects.push(Effect::Power(after.power));
        }
        if have_bars_moved && !is_reached {
            effects.push(Effect::Bars);
        }
        // It does DMA only when all is where it belongs.
        let without_dma = after.command & (!header::COMMAND_BUS_MASTER | before.command);
        let comes_up = have_bars_moved && is_reached;
        if comes_up && without_dma != before.command {
            effects.push(Effect::Command(without_dma));
        }
        if comes_up {
            effects.push(Effect::Bars);
        }
        let told = if comes_up { without_dma } else { before.command };
        if told != after.command {
            effects.push(Effect::Command(after.command));
        }
        match after.interrupts {
            after if after != before.interrupts => effects.push(Effect::Interrupts),
            Interrupts::Msi if has_msi_changed => effects.push(Effect::Msi),
            Interrupts::Msix if has_msix_changed => effects.push(Effect::Msix),
            _ => {}
        }
        if before.power != after.power && !is_awake {
            effects.push(Effect::Power(after.power));
        }
    }
}
