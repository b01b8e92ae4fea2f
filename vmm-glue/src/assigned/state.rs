//! What an assigned function is, and what is done when the guest's view of it changes.

use super::bars::{Bar, Places};
use super::intx::Intx;
use super::notify::Notices;
use super::peer::Peers;
use super::registers::{Msix, Registers};
use super::reset::{self, Quiet};
use super::rom::Rom;
use super::vectors::Vectors;
use super::{NO_FUNCTION, Options, Wiring};
use crate::bus;
use crate::interrupt::MsiMessage;
use crate::view::{ConfigView, Device, Effect, Effects, Interrupts, Place, Vector};
use crate::{Error, Result};
use ::pci::{BarIndex, ConfigSpace};
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use vfio_core::info::DeviceFlags;
use vfio_core::{BoundDevice, IrqIndex, Region, RegionIndex};

/// Decoding ports and memory, and bus mastering: a driver uses the function.
const IN_USE: u16 = 0b111;

#[derive(Debug)]
pub(super) struct State {
    // Fields drop in this order: interrupts off, BARs gone, no DMA; then the device may be closed.
    pub(super) notices: Notices,
    msix: Option<Vectors>,
    msi: Option<Vectors>,
    intx: Option<Intx>,
    pub(super) bars: Vec<Bar>,
    pub(super) quiet: Quiet,
    places: Places,
    pub(super) view: ConfigView,
    pub(super) power_control: Option<u16>,
    pub(super) is_stopped: bool,
    pub(super) device: BoundDevice,
}

impl State {
    pub(super) fn new(device: &BoundDevice, wiring: &Wiring, options: &Options) -> Result<Arc<Mutex<Self>>> {
        if !device.info().flags.contains(DeviceFlags::PCI) {
            return Err(Error::new("assign", NO_FUNCTION));
        }
        let config = device.config()?;
        let image = config.image()?;
        let regions = regions(device, options.is_rom_hidden)?;
        let mut presentation = options.presentation.clone();
        presentation.has_intx &= options.gsi.is_some();
        presentation.is_resettable &= device.info().flags.contains(DeviceFlags::RESET);
        let view = ConfigView::new(&described(&image, &regions), &presentation)?;
        let quiet = Quiet(config);
        quiet.enforce()?;
        let intx = match options.gsi {
            Some(gsi) => Intx::new(device, gsi, &wiring.irqs)?,
            None => None,
        };
        let vectors = |index| Vectors::new(device, index, &wiring.irqs);
        let (msi, msix) = (vectors(IrqIndex::Msi)?, vectors(IrqIndex::Msix)?);
        let notices = Notices::new(device)?;
        let state = Arc::new_cyclic(|function| {
            let bars = regions.iter().map(|region| bar(region, &image, &view, function));
            Mutex::new(Self {
                notices,
                msix,
                msi,
                intx,
                bars: bars.collect(),
                quiet,
                places: places(wiring),
                power_control: reset::power_control(&image),
                view,
                is_stopped: false,
                device: device.clone(),
            })
        });
        Ok(state)
    }

    /// Does what a change of the view asks for.
    pub(super) fn apply(&mut self, effects: Effects) {
        if self.is_stopped {
            return;
        }
        for effect in effects {
            if let Err(error) = self.apply_one(effect) {
                let device = self.device.bdf();
                tracing::error!(%error, ?device, ?effect, "what a guest asks of its function is not done");
            }
        }
    }

    fn apply_one(&mut self, effect: Effect) -> Result<()> {
        match effect {
            Effect::Forward(forward) => Ok(self.quiet.0.write(forward.offset(), forward.bytes())?),
            Effect::Bars => {
                self.follow_bars();
                Ok(())
            }
            Effect::Command(command) => {
                self.set_command(command)?;
                self.follow_interrupts()
            }
            Effect::Interrupts => self.follow_interrupts(),
            Effect::Msi => self.follow_msi(),
            Effect::Msix => self.follow_msix(),
            Effect::Reset => self.reset_device(),
            Effect::Power(power) => self.set_power(power),
        }
    }

    /// Reads configuration space as the guest sees it; all ones of a function that is stopped or does not answer.
    pub(super) fn config_read(&self, offset: u16, to: &mut [u8]) {
        to.fill(0xFF);
        if self.is_stopped {
            return;
        }
        self.view.read(offset, to, |own| {
            if let Err(error) = self.quiet.0.read(offset, own) {
                tracing::debug!(%error, "read as all ones");
                own.fill(0xFF);
            }
        });
    }

    /// Lets the guest find BARs where the view has them, those that have gone from an address first: another may be there now.
    fn follow_bars(&mut self) {
        let decoded: Vec<(RegionIndex, Range<u64>)> = self.view.decoded().filter_map(region_of).collect();
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
                tracing::warn!(%error, device = ?self.device.bdf(), "the guest does not find a BAR");
            }
        }
    }

    /// Lets the function interrupt in the way that the guest has chosen, and in no other.
    fn follow_interrupts(&mut self) -> Result<()> {
        let wanted = self.view.interrupts();
        // Nobody serves a line of a function that nobody uses.
        let is_used = self.view.command() & IN_USE != 0;
        if let Some(msix) = self.msix.as_mut().filter(|_| wanted != Interrupts::Msix) {
            msix.disable()?;
        }
        if let Some(msi) = self.msi.as_mut().filter(|_| wanted != Interrupts::Msi) {
            msi.disable()?;
        }
        if let Some(intx) = &mut self.intx {
            if wanted == Interrupts::Intx && is_used {
                return intx.enable();
            }
            intx.disable()?;
        }
        match wanted {
            Interrupts::Msi => self.follow_msi(),
            Interrupts::Msix => self.follow_msix(),
            Interrupts::None | Interrupts::Intx => Ok(()),
        }
    }

    fn follow_msi(&mut self) -> Result<()> {
        let (Some(vectors), Some(msi)) = (&mut self.msi, self.view.msi()) else {
            return Ok(());
        };
        if self.view.interrupts() != Interrupts::Msi {
            return Ok(());
        }
        let count = u16::try_from(vectors.count()).unwrap_or(u16::MAX).min(msi.vectors());
        vectors.enable(count.into())?;
        (0..count).try_for_each(|number| vectors.set(number.into(), live(msi.vector(number))))
    }

    fn follow_msix(&mut self) -> Result<()> {
        let (Some(vectors), Some(msix)) = (&mut self.msix, self.view.msix()) else {
            return Ok(());
        };
        if self.view.interrupts() != Interrupts::Msix {
            return Ok(());
        }
        let wanted = (0..msix.vectors()).map(|number| (u32::from(number), live(msix.vector(number))));
        // The highest first: where vectors do not come one by one, the kernel sets all of them apart at once.
        let highest = wanted.clone().rev().find(|(_, message)| message.is_some());
        vectors.enable(highest.map_or(1, |(number, _)| number + 1))?;
        wanted
            .into_iter()
            .try_for_each(|(number, message)| vectors.set(number, message))
    }

    /// A write of the guest to the table, or to the pending bits.
    pub(super) fn msix_write(&mut self, bar: u8, offset: u64, from: &[u8]) {
        if self.is_stopped {
            return;
        }
        let changed = self.view.msix_mut().and_then(|msix| msix.write(bar, offset, from));
        let (Some(number), Some(vectors)) = (changed, &mut self.msix) else {
            return;
        };
        let message = self.view.msix().and_then(|msix| live(msix.vector(number)));
        if self.view.interrupts() == Interrupts::Msix
            && let Err(error) = vectors.set(number.into(), message)
        {
            let device = self.device.bdf();
            tracing::error!(%error, ?device, number, "a vector of a guest's function does not interrupt it");
        }
    }

    /// A read of the table, or of the pending bits: those that the device has of vectors masked in the host, and those that events have kept.
    pub(super) fn msix_read(&self, region: &Region, at: &Msix, offset: u64, to: &mut [u8]) {
        let is_known = !self.is_stopped && self.view.msix().is_some_and(|msix| msix.read(at.bar, offset, to));
        if !is_known {
            to.fill(0xFF);
            return;
        }
        let Some(first) = offset.checked_sub(at.pending.start).filter(|_| offset < at.pending.end) else {
            return;
        };
        let mut own = vec![0; to.len()];
        if let Err(error) = region.read(offset, &mut own) {
            tracing::debug!(%error, "the device's own pending bits are not known");
            own.fill(0);
        }
        let count = self.msix.as_ref().map_or(0, Vectors::count);
        for ((to, own), byte) in to.iter_mut().zip(own).zip(first..) {
            for bit in 0..8_u32 {
                let number = u32::try_from(byte)
                    .ok()
                    .and_then(|byte| byte.checked_mul(8)?.checked_add(bit));
                let Some(number) = number.filter(|number| *number < count) else {
                    break;
                };
                let is_kept = self.msix.as_ref().is_some_and(|msix| msix.is_pending(number));
                *to |= (own & 1 << bit) | u8::from(is_kept) << bit;
            }
        }
    }

    /// The guest has it no more.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.is_stopped, true) {
            return;
        }
        for bar in &mut self.bars {
            bar.remove();
        }
        let intx = self.intx.as_mut().map_or(Ok(()), Intx::disable);
        let messages = self.msi.iter_mut().chain(&mut self.msix).map(Vectors::disable);
        let off: Vec<Result<()>> = messages.chain([intx, self.quiet.enforce()]).collect();
        for error in off.into_iter().filter_map(Result::err) {
            tracing::error!(%error, device = ?self.device.bdf(), "a function that is to be stopped may go on until it is closed");
        }
    }
}

/// The message of a vector that is delivered. One that goes to no local APIC would be a write to the guest's memory by the device; it is not sent.
fn live(vector: Vector) -> Option<MsiMessage> {
    match vector {
        Vector::Live(message) => Some(message).filter(|message| message.is_deliverable()),
        Vector::Off | Vector::Masked => None,
    }
}

fn places(wiring: &Wiring) -> Places {
    Places {
        slots: Arc::clone(&wiring.slots),
        memory: Arc::clone(&wiring.memory),
        ports: Arc::clone(&wiring.ports),
        windows: wiring.windows.clone(),
        peers: wiring.peers.as_ref().map(Peers::new),
    }
}

/// The BARs that exist, and the expansion ROM unless it is hidden.
fn regions(device: &BoundDevice, is_rom_hidden: bool) -> Result<Vec<Region>> {
    let mut indexes = RegionIndex::BARS.to_vec();
    if !is_rom_hidden {
        indexes.push(RegionIndex::ROM);
    }
    let mut regions = Vec::new();
    for index in indexes {
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

fn bar(region: &Region, image: &ConfigSpace, view: &ConfigView, function: &Weak<Mutex<State>>) -> Bar {
    if region.index() == RegionIndex::ROM {
        return Bar::new(region, false, &[], Arc::new(Rom::new(region.clone())));
    }
    let number = u8::try_from(region.index().0).unwrap_or(u8::MAX);
    let register = image.u32(0x10 + 4 * u16::from(number)).unwrap_or_default();
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
    let rest: Arc<dyn bus::Device> = Arc::new(Registers::new(region.clone(), msix));
    Bar::new(region, register & 1 != 0, &trapped, rest)
}
