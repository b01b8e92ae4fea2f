//! What an assigned function is, and what is done when the guest's view of it changes.

use super::bars::{Bar, Places};
use super::intx::Intx;
use super::notify::Notices;
use super::peer::Peers;
use super::registers::{Held, Msix, Registers};
use super::reset::{self, Quiet};
use super::rom::Rom;
use super::shared_bus::SharedBus;
use super::told::{Matter, Told};
use super::vectors::Vectors;
use super::{NO_FUNCTION, Options, Wiring};
use crate::bus::Heir;
use crate::interrupt::MsiMessage;
use crate::view::{ConfigView, Device, Effect, Effects, Interrupts, Place, Vector};
use crate::{Error, Result};
use ::pci::{BarIndex, Bdf, ConfigSpace};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use vfio_core::info::DeviceFlags;
use vfio_core::{BoundDevice, IrqIndex, Region, RegionIndex};

/// What the guest sees of a function, and the function as long as the guest has it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) view: ConfigView,
    live: Option<Live>,
}

/// Everything of a function that is the kernel's.
#[derive(Debug)]
pub(super) struct Live {
    // Fields drop in this order: interrupts off, BARs gone, no DMA; then the device may be closed.
    notices: Notices,
    msix: Option<Vectors>,
    msi: Option<Vectors>,
    intx: Option<Intx>,
    pub(super) bars: Vec<Bar>,
    pub(super) quiet: Quiet,
    pub(super) places: Places,
    pub(super) power_control: Option<u16>,
    pub(super) bus: Option<(Arc<SharedBus>, Bdf)>,
    pub(super) device: BoundDevice,
}

/// Decoding memory, and bus mastering: a driver uses the function.
const IN_USE: u16 = 0b110;

impl State {
    pub(super) fn new(device: &BoundDevice, wiring: &Wiring, options: &Options) -> Result<Arc<Mutex<Self>>> {
        if !device.info().flags.contains(DeviceFlags::PCI) {
            return Err(Error::new("assign", NO_FUNCTION));
        }
        if !device.info().flags.contains(DeviceFlags::RESET) {
            tracing::warn!(device = ?device.bdf(), "it has no reset of its own: what a guest leaves in it outlasts reboots, and the guest");
        }
        let config = device.config()?;
        let image = config.image()?;
        let regions = regions(device, &image, options.is_rom_hidden)?;
        let mut presentation = options.presentation.clone();
        presentation.has_intx &= options.gsi.is_some();
        presentation.is_resettable &= device.info().flags.contains(DeviceFlags::RESET);
        let view = ConfigView::new(&described(&image, &regions), &presentation)?;
        let quiet = Quiet(config);
        quiet.enforce()?;
        let intx = options.gsi.map(|gsi| Intx::new(device, gsi, &wiring.irqs));
        let vectors = |index| Vectors::new(device, index, &wiring.irqs);
        let mut live = Live {
            notices: Notices::new(device)?,
            msix: vectors(IrqIndex::Msix)?,
            msi: vectors(IrqIndex::Msi)?,
            intx: intx.transpose()?.flatten(),
            bars: Vec::new(),
            quiet,
            places: Places {
                slots: Arc::clone(&wiring.slots),
                memory: Arc::clone(&wiring.memory),
                peers: wiring.peers.as_ref().map(Peers::new),
                told: Told::default(),
                function: Weak::new(),
            },
            power_control: reset::power_control(&image),
            bus: options.bus.clone(),
            device: device.clone(),
        };
        live.set_command(view.command())?;
        Ok(Arc::new_cyclic(|function| {
            live.places.function = Weak::clone(function);
            live.bars = regions.iter().map(|region| bar(region, &view, function)).collect();
            let live = Some(live);
            Mutex::new(Self { view, live })
        }))
    }

    /// Takes the function away: whoever comes later finds none.
    pub(super) fn take(&mut self) -> Option<Live> {
        self.live.take()
    }

    /// It goes down: a reset of its bus before that was another one.
    pub(super) fn forget_bus_reset(&self) {
        if let Some((bus, function)) = self.live.as_ref().and_then(|live| live.bus.as_ref()) {
            bus.forget(*function);
        }
    }

    pub(super) fn notices(&self) -> Option<&Notices> {
        self.live.as_ref().map(|live| &live.notices)
    }

    /// Does what a change of the view asks for.
    pub(super) fn apply(&mut self, effects: Effects) {
        let Some(live) = &mut self.live else { return };
        for effect in effects {
            if let Err(error) = live.apply(effect, &self.view) {
                let cause = format_args!("{effect:?}: {error}");
                live.places.told.tell(&Matter::EFFECT, live.device.bdf(), &cause);
            }
        }
    }

    /// Reads configuration space as the guest sees it; all ones of a function that is gone or does not answer.
    pub(super) fn config_read(&mut self, offset: u16, to: &mut [u8]) {
        to.fill(0xFF);
        let Some(live) = &self.live else { return };
        // The pending bits of MSI are in configuration space; those of MSI-X are not.
        if let (Interrupts::Msi, Some(msi)) = (self.view.interrupts(), &live.msi) {
            let pending = msi.pending(0);
            for number in 0..self.view.vectors() {
                self.view.set_pending(number, pending >> number & 1 != 0);
            }
        }
        self.view.read(offset, to, |own| {
            if let Err(error) = live.quiet.0.read(offset, own) {
                tracing::debug!(%error, "read as all ones");
                own.fill(0xFF);
            }
        });
    }

    pub(super) fn drop_silent_slots(&mut self) -> bool {
        let Some(live) = &mut self.live else { return false };
        if !live.bars.iter().any(Bar::has_slots) || live.answers() {
            return false;
        }
        live.bars.iter_mut().fold(false, |any, bar| bar.trap() | any)
    }

    /// A write of the guest to the MSI-X table, or to the pending bits.
    pub(super) fn msix_write(&mut self, bar: u8, offset: u64, from: &[u8]) {
        let Some(live) = &mut self.live else { return };
        let changed = self.view.msix_mut().and_then(|msix| msix.write(bar, offset, from));
        if let Some(number) = changed
            && self.view.interrupts() == Interrupts::Msix
            && let (Some(vectors), Some(msix)) = (&mut live.msix, self.view.msix())
            && let Err(error) = vectors.set(number.into(), live_message(msix.vector(number)))
        {
            live.places.told.tell(&Matter::VECTOR, live.device.bdf(), &error);
        }
    }

    /// A read of the table, or of the pending bits: those that the device has, and those that events have kept.
    pub(super) fn msix_read(&self, region: &Held, at: &Msix, offset: u64, to: &mut [u8]) {
        to.fill(0xFF);
        let Some(live) = &self.live else { return };
        let is_known = self.view.msix().is_some_and(|msix| msix.read(at.bar, offset, to));
        if !is_known || !at.pending.contains(&offset) {
            return;
        }
        let mut own = vec![0; to.len()];
        if let Some(Err(error)) = region.with(|region| region.read(offset, &mut own)) {
            tracing::debug!(%error, "the device's own pending bits are not known");
            own.fill(0);
        }
        let Some(msix) = &live.msix else { return };
        let first = u32::try_from((offset - at.pending.start).saturating_mul(8)).unwrap_or(u32::MAX);
        let behind = 64 - msix.count().saturating_sub(first).min(64);
        let valid = u64::MAX.checked_shr(behind).unwrap_or(0);
        let kept = msix.pending(first);
        for (((to, own), kept), valid) in to.iter_mut().zip(own).zip(kept.to_le_bytes()).zip(valid.to_le_bytes()) {
            *to |= (own | kept) & valid;
        }
    }
}

impl Heir for Mutex<State> {
    fn claim(&self) {
        let state = &mut *self.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = &mut state.live {
            live.follow_bars(&state.view);
        }
    }
}

impl Live {
    fn apply(&mut self, effect: Effect, view: &ConfigView) -> Result<()> {
        match effect {
            Effect::Forward(forward) => Ok(self.quiet.0.write(forward.offset(), forward.bytes())?),
            Effect::Bars => {
                self.follow_bars(view);
                Ok(())
            }
            Effect::Command(command) => {
                self.set_command(command)?;
                self.follow_interrupts(view)
            }
            Effect::Interrupts => self.follow_interrupts(view),
            Effect::Msi | Effect::Msix => self.follow_vectors(view),
            Effect::Reset => self.reset(view.command()),
            Effect::BusReset => self.reset_with_bus(view.command()),
            Effect::Power(power) => self.set_power(power),
        }
    }

    /// Lets the guest find BARs where the view has them, those that have gone from an address first: another may be there now.
    fn follow_bars(&mut self, view: &ConfigView) {
        let decoded: Vec<(RegionIndex, Range<u64>)> = view.decoded().filter_map(region_of).collect();
        let at = |index| decoded.iter().find(|(of, _)| *of == index).map(|(_, range)| range);
        for bar in &mut self.bars {
            if bar.range().as_ref() != at(bar.index()) {
                bar.remove();
            }
        }
        for bar in &mut self.bars {
            if let Some(range) = at(bar.index())
                && let Err(error) = bar.place(range, &self.device, &self.places)
            {
                let cause = format_args!("{}: {error}", bar.index());
                self.places.told.tell(&Matter::BAR, self.device.bdf(), &cause);
            }
        }
    }

    /// Lets the function interrupt in the way that the guest has chosen, and in no other.
    fn follow_interrupts(&mut self, view: &ConfigView) -> Result<()> {
        let wanted = view.interrupts();
        if let Some(msix) = self.msix.as_mut().filter(|_| wanted != Interrupts::Msix) {
            msix.disable()?;
        }
        if let Some(msi) = self.msi.as_mut().filter(|_| wanted != Interrupts::Msi) {
            msi.disable()?;
        }
        // Nobody serves the line of a function that nobody uses.
        let is_line_wanted = wanted == Interrupts::Intx && view.command() & IN_USE != 0;
        if let Some(intx) = &mut self.intx {
            if is_line_wanted {
                return intx.enable();
            }
            intx.disable()?;
        }
        self.follow_vectors(view)
    }

    /// Lets the vectors of the kind in use deliver what the guest wants of each.
    fn follow_vectors(&mut self, view: &ConfigView) -> Result<()> {
        let vectors = match view.interrupts() {
            Interrupts::Msi => self.msi.as_mut(),
            Interrupts::Msix => self.msix.as_mut(),
            Interrupts::None | Interrupts::Intx => None,
        };
        let Some(vectors) = vectors else { return Ok(()) };
        // Of MSI the guest has said how many it uses; of MSI-X those are used that are not masked.
        let mut numbers = 0..view.vectors();
        let used = match view.interrupts() {
            Interrupts::Msi => view.vectors(),
            _ => numbers
                .rfind(|number| live_message(view.vector(*number)).is_some())
                .map_or(1, |number| number + 1),
        };
        vectors.enable(used.into())?;
        vectors.set_all((0..view.vectors()).map(|number| (number.into(), live_message(view.vector(number)))))
    }

    /// Ends it: nothing comes from the function any more, and it has forgotten its user.
    pub(super) fn end(mut self) -> Result<()> {
        let intx = self.intx.as_mut().map_or(Ok(()), Intx::disable);
        let messages = self.msi.iter_mut().chain(&mut self.msix).map(Vectors::disable);
        let interrupts = messages.fold(intx, Result::and);
        self.bars.clear();
        let quiet = self.quiet.enforce();
        interrupts.and(quiet).and(self.reset_device())
    }
}

/// The message of a vector that is delivered. One that goes to no local APIC would be a write to the guest's memory by the device; it is not sent.
fn live_message(vector: Vector) -> Option<MsiMessage> {
    match vector {
        Vector::Live(message) => Some(message).filter(|message| message.is_deliverable()),
        Vector::Off | Vector::Masked => None,
    }
}

/// The memory BARs that exist, and the expansion ROM unless it is hidden.
fn regions(device: &BoundDevice, image: &ConfigSpace, is_rom_hidden: bool) -> Result<Vec<Region>> {
    let is_memory = |index: &RegionIndex| {
        let register = u16::try_from(index.0)
            .ok()
            .and_then(|number| image.u32(0x10 + 4 * number));
        register.is_some_and(|register| register & 1 == 0)
    };
    let bars = RegionIndex::BARS.into_iter().filter(is_memory);
    let rom = Some(RegionIndex::ROM).filter(|_| !is_rom_hidden);
    let mut regions = Vec::new();
    for index in bars.chain(rom) {
        if device.region_info(index)?.exists() {
            regions.push(device.region(index)?);
        }
    }
    Ok(regions)
}

fn described(image: &ConfigSpace, regions: &[Region]) -> Device {
    let size = |index| {
        regions
            .iter()
            .find(|region| region.index() == index)
            .map_or(0, Region::size)
    };
    Device {
        config: image.clone(),
        bar_sizes: RegionIndex::BARS.map(size),
        rom_size: size(RegionIndex::ROM),
    }
}

fn region_of((bar, range): (BarIndex, Range<u64>)) -> Option<(RegionIndex, Range<u64>)> {
    match bar {
        BarIndex::Bar(number) => Some((RegionIndex(number.into()), range)),
        BarIndex::Rom => Some((RegionIndex::ROM, range)),
        _ => None,
    }
}

fn bar(region: &Region, view: &ConfigView, function: &Weak<Mutex<State>>) -> Bar {
    if region.index() == RegionIndex::ROM {
        return Bar::new(region, &[], Arc::new(Rom::new(region.clone())));
    }
    let number = u8::try_from(region.index().0).unwrap_or(u8::MAX);
    let here = |place: &Place| if place.bar == number { place.range.clone() } else { 0..0 };
    let msix = view.msix().map(|msix| Msix {
        bar: number,
        table: here(msix.table()),
        pending: here(msix.pending_bits()),
        function: Weak::clone(function),
    });
    let trapped = msix
        .as_ref()
        .map_or([0..0, 0..0], |msix| [msix.table.clone(), msix.pending.clone()]);
    let rest = Registers::new(region.clone(), msix);
    Bar::new(region, &trapped, Arc::new(rest))
}
