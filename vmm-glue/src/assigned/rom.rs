//! The expansion ROM of a function, read once: it answers slowly, and in some functions not at all while their BARs are decoded.

use super::registers::{Held, Rest};
use crate::bus::Device;
use std::sync::OnceLock;
use vfio_core::Region;

/// The largest that is kept, in bytes (PCI Local Bus 3.0 §6.2.5.2).
const LARGEST: u64 = 16 << 20;

/// The ROM's bytes. Writes are lost.
#[derive(Debug)]
pub(super) struct Rom {
    region: Held,
    bytes: OnceLock<Vec<u8>>,
}

impl Rom {
    pub(super) fn new(region: Region) -> Self {
        Self {
            region: Held::new(region),
            bytes: OnceLock::new(),
        }
    }

    /// Empty if it cannot be read.
    fn load(&self) -> Vec<u8> {
        let load = |region: &Region| {
            let len = usize::try_from(region.size().min(LARGEST)).unwrap_or_default();
            let mut bytes = vec![0; len];
            region.read(0, &mut bytes).map(|()| bytes)
        };
        match self.region.with(load) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                tracing::warn!(%error, "the guest finds no expansion ROM");
                Vec::new()
            }
            None => Vec::new(),
        }
    }
}

impl Rest for Rom {
    fn close(&self) {
        self.region.close();
    }
}

impl Device for Rom {
    fn read(&self, offset: u64, to: &mut [u8]) {
        let bytes = self.bytes.get_or_init(|| self.load());
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = bytes.get(start..).unwrap_or_default().iter().copied();
        for (to, from) in to.iter_mut().zip(from.chain(std::iter::repeat(0xFF))) {
            *to = from;
        }
    }

    fn write(&self, _offset: u64, _from: &[u8]) {}
}
