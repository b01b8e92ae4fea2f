//! Reset and sleep of the device, when its guest asks for them in configuration space.
//!
//! VFIO is asked for a reset by its own call, whichever register the guest has used, so that it keeps what is its own; in sleep no memory of the device
//! is reached, neither by the guest nor by other functions.

use super::state::Live;
use crate::Result;
use ::pci::ConfigSpace;
use ::pci::cap::{PowerManagement, PowerStateCode};
use vfio_core::{Config, Errno, ErrorKind};

const COMMAND: u16 = 0x04;
const POWER_STATE: u16 = 0b11;
const PME_STATUS: u16 = 1 << 15;
/// How often a reset is tried that meets another use of configuration space.
const TRIES: usize = 3;

/// Of a function that nothing resets.
pub(super) const NO_RESET: crate::ErrorKind = crate::ErrorKind::Unsupported(
    "a function without a reset of its own, on a bus with others than the guest's slot has",
);

/// Keeps the function from DMA and messages when it is dropped.
#[derive(Debug)]
pub(super) struct Quiet(pub(super) Config);

impl Quiet {
    pub(super) fn enforce(&self) -> Result<()> {
        Ok(self.0.set_bus_master(false)?)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_bus_master(false)
            && !matches!(error.kind, ErrorKind::Gone(_))
        {
            tracing::error!(%error, "a function is a bus master until it is closed");
        }
    }
}

/// Where the power state is in the device's own configuration space.
pub(super) fn power_control(image: &ConfigSpace) -> Option<u16> {
    let walk = image.capabilities();
    let found = walk
        .items
        .iter()
        .find(|capability| capability.decode::<PowerManagement>().is_some());
    found.map(|capability| capability.offset() + 4)
}

impl Live {
    /// Resets the device. The command register is written again, for a device that has lost it or for a kernel that has restored another.
    pub(super) fn reset(&mut self, command: u16) -> Result<()> {
        let reset = self.reset_device();
        self.set_command(command)?;
        for bar in &mut self.bars {
            bar.refresh_peers(self.device.bdf(), &self.places.told);
        }
        reset
    }

    /// Resets the device, unless it cannot be.
    pub(super) fn reset_device(&self) -> Result<()> {
        let mut tries = 0..TRIES;
        loop {
            tries.next();
            match self.device.reset() {
                Err(error) if error.errno() == Some(Errno::AGAIN) && !tries.is_empty() => {}
                Err(error) if matches!(error.kind, ErrorKind::Unsupported { .. }) => return Ok(()),
                other => return Ok(other?),
            }
        }
    }

    /// Writes the command register.
    pub(super) fn set_command(&self, command: u16) -> Result<()> {
        Ok(self.quiet.0.write_u16(COMMAND, command)?)
    }

    /// Takes the device to a power state.
    pub(super) fn set_power(&self, power: PowerStateCode) -> Result<()> {
        let Some(control) = self.power_control else {
            return Ok(());
        };
        let config = &self.quiet.0;
        // The status of PME is cleared by a one.
        let kept = config.read_u16(control)? & !(POWER_STATE | PME_STATUS);
        Ok(config.write_u16(control, kept | u16::from(power.0) & POWER_STATE)?)
    }

    /// Whether memory of the device answers; not where that cannot be read.
    pub(super) fn answers(&self) -> bool {
        let config = &self.quiet.0;
        let decodes = config.memory_decode().unwrap_or(false);
        let power = self.power_control.map_or(Ok(0), |control| config.read_u16(control));
        decodes && power.is_ok_and(|control| control & POWER_STATE == 0)
    }
}
