//! What a device says of itself, beyond what all devices have (virtio 1.3 §2.5, §4.1.4.6).

use super::Function;
use crate::virtio::spec::common;
use crate::{Backing, Result};

/// How often it may change while it is read.
const READS: u32 = 100;

/// Fields are as wide as the specification has them (§4.1.3.1): 64 bits are two times 32, an address of Ethernet is 6 times 8. `None`
/// where the device has none.
impl<B: Backing> Function<B> {
    pub(in super::super) fn config_u8(&self, offset: usize) -> Option<u8> {
        self.device.as_ref()?.find_u8(offset)
    }

    pub(in super::super) fn config_u16(&self, offset: usize) -> Option<u16> {
        self.device.as_ref()?.find_u16(offset)
    }

    pub(in super::super) fn config_u32(&self, offset: usize) -> Option<u32> {
        self.device.as_ref()?.find_u32(offset)
    }

    pub(in super::super) fn write_config_u32(&self, offset: usize, value: u32) {
        if let Some(part) = &self.device {
            part.write_u32(offset, value);
        }
    }

    /// Reads fields that belong together: none is older than another.
    ///
    /// # Errors
    ///
    /// Also when `read` gives `None`: a field that goes with the features is missing.
    pub(in super::super) fn config<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Result<T> {
        const STEP: &str = "read the configuration";
        for _ in 0..READS {
            let before = self.common.read_u8(common::GENERATION);
            let value = read(self);
            if self.common.read_u8(common::GENERATION) == before {
                // All ones are no values, but a device that is gone.
                self.check()?;
                return value.ok_or_else(|| self.broken(STEP, "its configuration lacks what its features promise"));
            }
            self.backing.idle();
        }
        Err(self.broken(STEP, "its configuration never rests"))
    }
}
