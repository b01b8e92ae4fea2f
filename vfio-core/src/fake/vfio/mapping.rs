//! A mapped part of a region.

use super::file::Opened;
use crate::fake::bus::Bus;
use crate::sys::mmio::Registers;
use std::sync::{Arc, PoisonError};

/// A mapped part of a region; it holds the file open.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) file: Arc<Opened>,
    pub(super) region: u32,
    pub(super) key: u64,
}

impl Mapping {
    fn access<T>(&self, none: T, act: impl FnOnce(&mut dyn crate::fake::Device, &Bus<'_>) -> T) -> T {
        let shared = &self.file.shared;
        let decodes = shared.state().answers_mapped(self.file.function);
        let value = match shared.slot(self.file.function).filter(|_| decodes) {
            Some(slot) => {
                let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
                act(&mut **device, &Bus::new(shared, self.file.function))
            }
            None => none,
        };
        shared.settle();
        value
    }
}

impl Registers for Mapping {
    fn read(&self, offset: u64, width: u32) -> u64 {
        // Nobody answers: all ones.
        let ones = u64::MAX >> (64 - 8 * width.clamp(1, 8));
        self.access(ones, |device, bus| device.read(self.region, offset, width, bus) & ones)
    }

    fn write(&self, offset: u64, width: u32, value: u64) {
        self.access((), |device, bus| device.write(self.region, offset, width, value, bus));
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(function) = self.file.shared.state().functions.get_mut(self.file.function) {
            function.maps.remove(&self.key);
        }
    }
}
