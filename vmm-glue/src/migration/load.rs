//! Loading the state of devices.

use super::format::{self, Kind};
use super::{failed, migration_of};
use crate::{Error, ErrorKind, Result};
use std::io::{Read, Seek, SeekFrom};
use vfio_core::BoundDevice;
use vfio_core::migration::{DataStream, Migration, MigrationFlags, MigrationState};

/// A device whose state is loaded, and which stands still. Dropped before it [runs](Self::run), it is reset.
#[derive(Debug)]
pub struct Loading {
    device: BoundDevice,
    migration: Migration,
    total: u64,
    is_done: bool,
}

impl Loading {
    /// Loads a state. The file is read twice: once to see that it is whole, before the device is touched.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for a device that cannot be migrated; [`ErrorKind::Malformed`] for a file that is not whole, or of another kind of device;
    /// those of the device, which is reset then.
    pub fn new<R: Read + Seek>(device: &BoundDevice, from: &mut R) -> Result<Self> {
        let (migration, kind) = migration_of(device)?;
        let start = from.stream_position().map_err(unread)?;
        let (of, total) = format::read(from, |_| Ok(()))?;
        check(device, kind, of)?;
        from.seek(SeekFrom::Start(start)).map_err(unread)?;
        let transition = migration.set_state(MigrationState::Resuming)?;
        // From here on it is reset if anything fails.
        let loading = Self {
            device: device.clone(),
            migration,
            total,
            is_done: false,
        };
        let none = || failed(device, ErrorKind::Malformed("resuming without a way for data".into()));
        let stream = transition.stream.ok_or_else(none)?;
        let (_, now) = format::read(from, |piece| feed(&stream, piece, device))?;
        if now != total {
            return Err(failed(
                device,
                ErrorKind::Malformed("the file has changed meanwhile".into()),
            ));
        }
        drop(stream);
        loading.migration.set_state(MigrationState::Stop)?;
        Ok(loading)
    }

    /// Bytes of the state.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Lets the device answer, so that others that run reach it; it begins no DMA to them. For all devices of a guest before any of them
    /// [runs](Self::run). Nothing happens with a device that does not have this state.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn answer(&self) -> Result<()> {
        if self.migration.flags().contains(MigrationFlags::P2P) {
            self.migration.set_state(MigrationState::RunningP2p)?;
        }
        Ok(())
    }

    /// Lets the device run.
    ///
    /// # Errors
    ///
    /// Those of the device, which is reset then.
    pub fn run(mut self) -> Result<()> {
        self.migration.set_state(MigrationState::Running)?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if !self.is_done
            && let Err(error) = self.device.reset()
        {
            tracing::error!(%error, "a device whose state was not loaded is not reset until it is closed");
        }
    }
}

fn check(device: &BoundDevice, kind: Kind, of: Kind) -> Result<()> {
    if kind == of {
        return Ok(());
    }
    let why = format!(
        "the state of {:04x}:{:04x}, and the device is {:04x}:{:04x}",
        of.vendor, of.device, kind.vendor, kind.device
    );
    Err(failed(device, ErrorKind::Malformed(why.into())))
}

fn feed(stream: &DataStream, mut rest: &[u8], device: &BoundDevice) -> Result<()> {
    while !rest.is_empty() {
        let taken = stream.write(rest)?;
        let left = rest.get(taken..).filter(|_| taken > 0);
        let stuck = || {
            failed(
                device,
                ErrorKind::Malformed("the device takes no more of its state".into()),
            )
        };
        rest = left.ok_or_else(stuck)?;
    }
    Ok(())
}

fn unread(error: std::io::Error) -> Error {
    Error::new("read a device's state", ErrorKind::Io(error))
}
