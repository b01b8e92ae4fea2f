//! `vfio_pci_device_test`: configuration space, BARs, interrupts and reset of a device.

use crate::PASSED;
use crate::context::{Context, Mode, Opened};
use crate::harness::Case;
use crate::stage::Staged;
use anyhow::{Context as _, Result, bail, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use std::time::{Duration, Instant};
use vfio_core::info::{DeviceFlags, RegionFlags};
use vfio_core::{EventFd, IrqIndex, RegionIndex};

/// The kernel's suite asks for no more vectors either.
const MOST_VECTORS: u32 = 16;

/// In the last way that the kernel has, as the kernel's suite is in its default one.
pub(super) fn cases(modes: &[Mode]) -> Vec<Case> {
    let Some(mode) = modes.last().copied() else {
        return Vec::new();
    };
    let device = |name: &str, run: fn(&Staged, Mode) -> Result<Outcome>| {
        Case::new(format!("conf_vfio_pci_device_test.{name}"), move |staged| {
            run(staged, mode)
        })
    };
    let irq = |name: &str, index| {
        let name = format!("conf_vfio_pci_irq_test.{name}.enable_trigger_disable");
        Case::new(name, move |staged| enable_trigger_disable(staged, mode, index))
    };
    vec![
        device("config_space_read_write", config_space_read_write),
        device("validate_bars", validate_bars),
        irq("msi", IrqIndex::Msi),
        irq("msix", IrqIndex::Msix),
        device("reset", reset),
    ]
}

fn open(staged: &Staged, mode: Mode) -> Result<Opened> {
    Context::open(mode)?.device(staged.pf()?)
}

fn config_space_read_write(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let opened = open(staged, mode)?;
    let config = opened.device.config()?;
    let bdf = staged.pf()?.to_string();
    for (name, offset) in [("vendor", 0), ("device", 2)] {
        let expected = crate::machine::attribute(&bdf, name)?;
        let expected = u16::from_str_radix(expected.trim_start_matches("0x"), 16)?;
        let found = config.read_u16(offset)?;
        ensure!(found == expected, "{name} {found:#x}, and {expected:#x} in sysfs");
    }
    ensure!(!config.bus_master()?, "the device may do DMA as soon as it is open");
    config.set_bus_master(true)?;
    ensure!(config.bus_master()?);
    config.set_bus_master(false)?;
    ensure!(!config.bus_master()?);
    PASSED
}

fn validate_bars(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let opened = open(staged, mode)?;
    let mut mapped = 0;
    for index in RegionIndex::BARS {
        let info = opened.device.region_info(index)?;
        if !info.flags.contains(RegionFlags::MMAP) {
            ensure!(info.mappable().is_empty(), "{index} is mappable without saying so");
            continue;
        }
        ensure!(info.size != 0, "{index} is mappable and empty");
        let region = opened.device.region(index)?;
        for area in info.mappable() {
            let map = region.map(area.clone())?;
            ensure!(map.len() as u64 == area.end - area.start && map.part() == area);
            mapped += 1;
        }
    }
    ensure!(mapped > 0, "no BAR can be mapped");
    let config = opened.device.region_info(RegionIndex::CONFIG)?;
    ensure!(
        !config.flags.contains(RegionFlags::MMAP),
        "the configuration space is mappable"
    );
    PASSED
}

fn enable_trigger_disable(staged: &Staged, mode: Mode, index: IrqIndex) -> Result<Outcome> {
    let opened = open(staged, mode)?;
    let interrupts = opened.device.interrupts(index)?;
    let count = interrupts.info().count.min(MOST_VECTORS);
    if count == 0 {
        return Ok(Outcome::Skipped(format!("the device has no {index}")));
    }
    let events = (0..count).map(|_| EventFd::new()).collect::<Result<Vec<_>, _>>()?;
    interrupts.enable(0, &events.iter().map(Some).collect::<Vec<_>>())?;
    for (event, vector) in events.iter().zip(0..) {
        ensure!(event.try_read()?.is_none(), "vector {vector} was signalled by nobody");
        interrupts.trigger(vector)?;
        let signals = event.try_read()?;
        ensure!(signals == Some(1), "vector {vector}: {signals:?}");
    }
    interrupts.disable()?;
    ensure!(
        interrupts.trigger(0).is_err(),
        "a vector that is disabled was triggered"
    );
    PASSED
}

/// EAGAIN means that somebody else uses the configuration space: the kernel's suite tries 20 times too.
fn reset(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let opened = open(staged, mode)?;
    if !opened.device.info().flags.contains(DeviceFlags::RESET) {
        return Ok(Outcome::Skipped("the device cannot be reset".to_owned()));
    }
    let config = opened.device.config()?;
    config.set_bus_master(true)?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while let Err(error) = opened.device.reset() {
        if error.errno() != Some(Errno::AGAIN) || Instant::now() > deadline {
            bail!(error);
        }
        std::thread::yield_now();
    }
    config.read_u16(0).context("after the reset")?;
    PASSED
}
