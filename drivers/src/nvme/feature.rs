//! Features: settings of a controller that it keeps until it is reset (Base §5.1.25).

use super::controller::Controller;
use super::event::EventConfiguration;
use super::spec::{Opcode, Sqe};
use crate::{Backing, ErrorKind, Result};
use bitfield_struct::bitfield;

/// Feature identifiers.
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Temperature threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Volatile write cache.
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of queues.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt coalescing.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt vector configuration.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Asynchronous event configuration.
    pub const ASYNC_EVENTS: u8 = 0x0b;
}

/// Which value of a feature (CDW10.SEL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// In force.
    Current,
    /// As the controller comes.
    Default,
    /// In force after the next reset.
    Saved,
    /// No value: bit 0 that it can be saved, bit 1 that it is a namespace's, bit 2 that it can be changed.
    Capabilities,
}

/// How commands of several queues are taken (Base §5.1.25.1.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Arbitration {
    /// 1 << this commands of a queue in a row; 7 for any number.
    #[bits(3)]
    pub burst: u8,
    #[bits(5)]
    __: u8,
    /// Commands of low priority in a round, less one.
    pub low: u8,
    /// Commands of medium priority in a round, less one.
    pub medium: u8,
    /// Commands of high priority in a round, less one.
    pub high: u8,
}

/// When completions are signalled together (PCIe §3.5.1: interrupt coalescing).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Coalescing {
    /// So many completions, less one.
    pub threshold: u8,
    /// At the latest after so many times 100 microseconds; 0 for no delay.
    pub time: u8,
    __: u16,
}

/// Which temperature a threshold is of (Base §5.1.25.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sensor {
    /// 0 for the composite temperature, 1 to 8 for a sensor.
    pub number: u8,
    /// Whether it is the lower limit.
    pub is_lower: bool,
}

impl Sensor {
    fn cdw11(self) -> u32 {
        u32::from(self.number & 0xf) << 16 | u32::from(self.is_lower) << 20
    }
}

impl<B: Backing> Controller<B> {
    /// The value of any feature whose value is DW0.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn feature(&self, fid: u8, select: Select, cdw11: u32) -> Result<u32> {
        let select = match select {
            Select::Current => 0,
            Select::Default => 1,
            Select::Saved => 2,
            Select::Capabilities => 3,
        };
        let sqe = Sqe::new(Opcode::GET_FEATURES, 0)
            .with_cdw10(u32::from(fid) | select << 8)
            .with_cdw11(cdw11);
        let value = self.execute("Get Features", sqe)?;
        Ok(u32::try_from(value & 0xffff_ffff).unwrap_or(0))
    }

    /// Sets a feature whose value is CDW11; `save`d, it outlasts resets and power, where the controller can.
    ///
    /// Numbers of queues are set when the controller is brought up, and never again.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for the number of queues; as [`execute`](Self::execute).
    pub fn set_feature(&self, fid: u8, value: u32, save: bool) -> Result<()> {
        let step = "Set Features";
        if fid == fid::NUMBER_OF_QUEUES {
            let why = "numbers of queues are set when the controller is brought up (Options::queues)";
            return Err(self.failed(step, ErrorKind::Invalid(why.into())));
        }
        let sqe = Sqe::new(Opcode::SET_FEATURES, 0)
            .with_cdw10(u32::from(fid) | u32::from(save) << 31)
            .with_cdw11(value);
        self.execute(step, sqe).map(drop)
    }

    /// How commands of several queues are taken.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn arbitration(&self) -> Result<Arbitration> {
        self.feature(fid::ARBITRATION, Select::Current, 0)
            .map(Arbitration::from_bits)
    }

    /// Sets how commands of several queues are taken.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn set_arbitration(&self, arbitration: Arbitration) -> Result<()> {
        self.set_feature(fid::ARBITRATION, arbitration.into_bits(), false)
    }

    /// The temperature in kelvin from which on there is an event.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn temperature_threshold(&self, sensor: Sensor) -> Result<u16> {
        let value = self.feature(fid::TEMPERATURE_THRESHOLD, Select::Current, sensor.cdw11())?;
        Ok(u16::try_from(value & 0xffff).unwrap_or(0))
    }

    /// Sets the temperature in kelvin from which on there is an event.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn set_temperature_threshold(&self, sensor: Sensor, kelvin: u16) -> Result<()> {
        let value = sensor.cdw11() | u32::from(kelvin);
        self.set_feature(fid::TEMPERATURE_THRESHOLD, value, false)
    }

    /// Whether its volatile write cache is on.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without one refuses.
    pub fn write_cache(&self) -> Result<bool> {
        Ok(self.feature(fid::WRITE_CACHE, Select::Current, 0)? & 1 != 0)
    }

    /// Switches its volatile write cache on or off.
    ///
    /// # Errors
    ///
    /// As [`write_cache`](Self::write_cache).
    pub fn set_write_cache(&self, on: bool) -> Result<()> {
        self.set_feature(fid::WRITE_CACHE, on.into(), false)
    }

    /// When completions of I/O queues are signalled together.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn interrupt_coalescing(&self) -> Result<Coalescing> {
        self.feature(fid::INTERRUPT_COALESCING, Select::Current, 0)
            .map(Coalescing::from_bits)
    }

    /// Sets when completions of I/O queues are signalled together, on all vectors that are not [exempt](Self::set_coalesced).
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn set_interrupt_coalescing(&self, coalescing: Coalescing) -> Result<()> {
        self.set_feature(fid::INTERRUPT_COALESCING, coalescing.into_bits(), false)
    }

    /// Sets whether completions of a vector may be signalled together (PCIe §3.5.2).
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn set_coalesced(&self, vector: u16, is_coalesced: bool) -> Result<()> {
        let value = u32::from(vector) | u32::from(!is_coalesced) << 16;
        self.set_feature(fid::INTERRUPT_VECTOR, value, false)
    }

    /// Which events it tells of.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn event_configuration(&self) -> Result<EventConfiguration> {
        let bits = self.feature(fid::ASYNC_EVENTS, Select::Current, 0)?;
        Ok(EventConfiguration::from_bits_retain(bits))
    }

    /// Sets which events it tells of, until it is reset: then it is all that it can tell of again.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn set_event_configuration(&self, events: EventConfiguration) -> Result<()> {
        self.set_feature(fid::ASYNC_EVENTS, events.bits(), false)
    }
}
