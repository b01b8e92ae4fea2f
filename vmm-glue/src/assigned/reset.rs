//! Reset and sleep of the device, when its guest asks for them in configuration space.
//!
//! VFIO is asked for a reset by its own call, whichever register the guest has used, so that it keeps what is its own; in sleep no memory of the device
//! is reached, neither by the guest nor by other functions.

use super::state::State;
use crate::Result;
use ::pci::ConfigSpace;
use ::pci::cap::{PowerManagement, PowerStateCode};
use vfio_core::{Config, ErrorKind};

const COMMAND: u16 = 0x04;
const BUS_MASTER: u16 = 1 << 2;
const POWER_STATE: u16 = 0b11;
/// How often a reset is tried that meets another use of configuration space.
const TRIES: usize = 3;

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
        match self.0.set_bus_master(false) {
            Ok(()) => {}
            Err(error) if matches!(error.kind, ErrorKind::Gone(_)) => {}
            Err(error) => tracing::error!(%error, "a function is a bus master until it is closed"),
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

impl State {
    /// Resets the device. What the guest has written is written again, for a device that has lost it.
    pub(super) fn reset_device(&mut self) -> Result<()> {
        let mut reset = Ok(());
        for _ in 0..TRIES {
            reset = self.device.reset();
            let is_busy = matches!(&reset, Err(error) if error.errno() == Some(vfio_core::Errno::AGAIN));
            if !is_busy {
                break;
            }
        }
        self.set_command(self.view.command())?;
        for bar in &mut self.bars {
            bar.refresh_peers();
        }
        Ok(reset?)
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
        let former = config.read_u16(control)?;
        // The status of PME is cleared by a one.
        let kept = former & !(POWER_STATE | 1 << 15);
        Ok(config.write_u16(control, kept | u16::from(power.0) & POWER_STATE)?)
    }

    /// What the guest wants of the command register while the function is [stopped](super::Assigned::stop).
    pub(super) fn is_master(&self) -> bool {
        self.view.command() & BUS_MASTER != 0
    }
}
