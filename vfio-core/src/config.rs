//! The configuration space of a PCI function, as VFIO shows it: some registers are the kernel's own, some fields are emulated.
//!
//! Follows PCIe 6.0 §7.5 and, for what is emulated, the kernel's `drivers/vfio/pci/vfio_pci_config.c`.

use crate::{BoundDevice, Error, ErrorKind, Region, RegionIndex};
use pci::{Bdf, ConfigSpace};

/// The configuration space. Holds its device open.
///
/// ```no_run
/// use vfio_core::{BoundDevice, Error};
///
/// fn let_it_do_dma(device: &BoundDevice) -> Result<(), Error> {
///     device.config()?.set_bus_master(true)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    region: Region,
}

const COMMAND: u16 = 0x04;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;

impl Config {
    pub(crate) fn new(device: &BoundDevice) -> Result<Self, Error> {
        let region = device.region(RegionIndex::CONFIG)?;
        Ok(Self { region })
    }

    /// The region it is.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Reads bytes.
    ///
    /// # Errors
    ///
    /// As [`Region::read`].
    pub fn read(&self, offset: u16, to: &mut [u8]) -> Result<(), Error> {
        self.region.read(offset.into(), to)
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// As [`Region::write`].
    pub fn write(&self, offset: u16, from: &[u8]) -> Result<(), Error> {
        self.region.write(offset.into(), from)
    }

    /// All of it, to look for capabilities in.
    ///
    /// # Errors
    ///
    /// As [`Region::read`]; [`ErrorKind::Malformed`] when it claims more than the 4096 bytes that a function can have.
    pub fn image(&self) -> Result<ConfigSpace, Error> {
        let len = usize::try_from(self.region.size()).ok().filter(|len| *len <= 4096);
        let len = len.ok_or_else(|| {
            let kind = ErrorKind::Malformed("a configuration space of more than 4096 bytes");
            Error::new("VFIO_DEVICE_GET_REGION_INFO", kind).on(self.bdf())
        })?;
        let mut bytes = vec![0; len];
        self.read(0, &mut bytes)?;
        Ok(ConfigSpace::new(bytes))
    }

    /// Whether the function may do DMA and send interrupts (Bus Master Enable). Off after opening.
    ///
    /// # Errors
    ///
    /// As [`Region::read`].
    pub fn bus_master(&self) -> Result<bool, Error> {
        Ok(self.read_u16(COMMAND)? & BUS_MASTER != 0)
    }

    /// Lets the function do DMA and send interrupts, or not.
    ///
    /// # Errors
    ///
    /// As [`Region::read`] and [`Region::write`].
    pub fn set_bus_master(&self, on: bool) -> Result<(), Error> {
        self.set_command(BUS_MASTER, on)
    }

    /// Whether the function answers at its memory BARs (Memory Space Enable).
    ///
    /// # Errors
    ///
    /// As [`Region::read`].
    pub fn memory_decode(&self) -> Result<bool, Error> {
        Ok(self.read_u16(COMMAND)? & MEMORY != 0)
    }

    /// Lets the function answer at its memory BARs, or not. While it does not, an access to a mapped BAR ends the process with SIGBUS, and
    /// dma-bufs and peer-to-peer mappings of its BARs are taken back by the kernel.
    ///
    /// # Errors
    ///
    /// As [`Region::read`] and [`Region::write`].
    pub fn set_memory_decode(&self, on: bool) -> Result<(), Error> {
        self.set_command(MEMORY, on)
    }

    /// Keeps the function from raising INTx, or not (Interrupt Disable).
    ///
    /// # Errors
    ///
    /// As [`Region::read`] and [`Region::write`].
    pub fn set_intx_disable(&self, on: bool) -> Result<(), Error> {
        self.set_command(INTX_DISABLE, on)
    }

    fn set_command(&self, bit: u16, on: bool) -> Result<(), Error> {
        let command = self.read_u16(COMMAND)?;
        let wanted = if on { command | bit } else { command & !bit };
        self.write_u16(COMMAND, wanted)
    }

    fn bdf(&self) -> Option<Bdf> {
        self.region.device().bdf()
    }
}

macro_rules! accessors {
    ($($read:ident, $write:ident, $type:ty);*) => {
        impl Config {
            $(
                /// Reads a register.
                ///
                /// # Errors
                ///
                /// As [`Region::read`].
                pub fn $read(&self, offset: u16) -> Result<$type, Error> {
                    self.region.$read(offset.into())
                }

                /// Writes a register.
                ///
                /// # Errors
                ///
                /// As [`Region::write`].
                pub fn $write(&self, offset: u16, value: $type) -> Result<(), Error> {
                    self.region.$write(offset.into(), value)
                }
            )*
        }
    };
}

accessors!(
    read_u8, write_u8, u8;
    read_u16, write_u16, u16;
    read_u32, write_u32, u32
);
