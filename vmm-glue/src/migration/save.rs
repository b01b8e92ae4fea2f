//! Saving the state of devices.

use super::format::{PIECE, Writer};
use super::{failed, migration_of};
use crate::{ErrorKind, Result};
use std::io::Write;
use vfio_core::migration::{DataStream, Migration, MigrationFlags, MigrationState, StreamRead};
use vfio_core::{BoundDevice, Feature};

/// How long a device is copied while it runs, and how much it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rounds of copying while it runs, at most.
    pub rounds: u32,
    /// Bytes that are left to copy when it may be stopped, as the device estimates.
    pub settled: u64,
    /// Bytes of a state, at most.
    pub total: u64,
}

impl Default for Limits {
    /// 8 rounds, until 64 KiB are left; 64 GiB.
    fn default() -> Self {
        Self {
            rounds: 8,
            settled: 64 << 10,
            total: 64 << 30,
        }
    }
}

/// A device that is being saved. Dropped before it is [finished](Self::finish), it runs again.
#[derive(Debug)]
pub struct Saving<W> {
    // Fields drop in this order: the stream ends before the state changes.
    stream: Option<DataStream>,
    running: Running,
    to: Writer<W>,
    limits: Limits,
}

/// Lets a device run again when it is dropped.
#[derive(Debug)]
struct Running {
    device: BoundDevice,
    migration: Migration,
    is_wanted: bool,
}

/// A device whose state is written. Dropped before it is [saved](Written::saved), it runs again.
#[derive(Debug)]
struct Written<W> {
    // Fields drop in this order.
    stream: Option<DataStream>,
    running: Running,
    file: W,
    total: u64,
}

/// A device that is saved and stands still. It runs again only when told to.
#[derive(Debug)]
pub struct Saved<W> {
    /// What the state was written to. It is flushed, and not more: who gives the device up afterwards first lets a file reach the disk (`fsync(2)`).
    pub file: W,
    /// Bytes of the state.
    pub total: u64,
    migration: Migration,
}

/// Saves devices of one guest together, each to a file of its own: all are copied while they run, then none begins DMA to another one, then all stand still.
/// The guest's processors stand still when `stop` returns, which is called between the first two.
///
/// # Errors
///
/// Those of [`Saving`], and of `stop`. All devices run again then.
pub fn save<W: Write>(
    devices: impl IntoIterator<Item = (BoundDevice, W)>,
    limits: Limits,
    stop: impl FnOnce() -> Result<()>,
) -> Result<Vec<Saved<W>>> {
    let devices = devices
        .into_iter()
        .map(|(device, file)| Saving::begin(&device, file, limits));
    let mut devices: Vec<Saving<W>> = devices.collect::<Result<_>>()?;
    for _ in 0..limits.rounds {
        let mut left = 0_u64;
        for device in &mut devices {
            left = left.saturating_add(device.copy()?);
        }
        if left <= limits.settled {
            break;
        }
    }
    stop()?;
    devices.iter().try_for_each(Saving::quiesce)?;
    devices.iter_mut().try_for_each(Saving::stop)?;
    // A file that cannot be written is no reason for another device to stand still: each runs again when this returns before all are stopped.
    let mut devices: Vec<Written<W>> = devices.into_iter().map(Saving::write_out).collect::<Result<_>>()?;
    devices.iter_mut().try_for_each(Written::stop)?;
    Ok(devices.into_iter().map(Written::saved).collect())
}

impl<W: Write> Saving<W> {
    /// Begins to save a device, which runs on. One without pre-copy is copied only once it stands still.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for a device that cannot be migrated; those of the kernel and of writing.
    pub fn begin(device: &BoundDevice, to: W, limits: Limits) -> Result<Self> {
        let (migration, kind) = migration_of(device)?;
        let to = Writer::new(to, kind)?;
        let running = Running {
            device: device.clone(),
            migration,
            is_wanted: true,
        };
        let mut stream = None;
        if running.migration.flags().contains(MigrationFlags::PRE_COPY) {
            if device.features()?.contains(Feature::MIG_PRECOPY_INFO_V2) {
                running.migration.enable_precopy_info_v2()?;
            }
            stream = running.migration.set_state(MigrationState::PreCopy)?.stream;
        }
        Ok(Self {
            stream,
            running,
            to,
            limits,
        })
    }

    /// Copies what there is while the device runs. Returns about how many bytes are left, 0 for a device without pre-copy.
    ///
    /// # Errors
    ///
    /// Those of the device and of writing.
    pub fn copy(&mut self) -> Result<u64> {
        let Some(stream) = &self.stream else { return Ok(0) };
        let info = stream.precopy_info()?;
        // What changes meanwhile is for the next round.
        let most = info.initial_bytes.saturating_add(info.dirty_bytes);
        drain(
            stream,
            &mut self.to,
            most.max(PIECE as u64),
            self.limits.total,
            &self.running.device,
        )?;
        let info = stream.precopy_info()?;
        Ok(info.initial_bytes.saturating_add(info.dirty_bytes))
    }

    /// Keeps the device from beginning DMA to other ones, where it can; others may still reach it.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn quiesce(&self) -> Result<()> {
        let migration = &self.running.migration;
        if !migration.flags().contains(MigrationFlags::P2P) {
            return Ok(());
        }
        let state = match self.stream {
            Some(_) => MigrationState::PreCopyP2p,
            None => MigrationState::RunningP2p,
        };
        migration.set_state(state)?;
        Ok(())
    }

    /// Stops the device, and copies what is left.
    ///
    /// # Errors
    ///
    /// Those of the device and of writing.
    pub fn stop(&mut self) -> Result<()> {
        let transition = self.running.migration.set_state(MigrationState::StopCopy)?;
        // The session goes on if there was one.
        let stream = self.stream.take().or(transition.stream);
        let device = &self.running.device;
        let none = || failed(device, ErrorKind::Malformed("stop-and-copy without data".into()));
        let stream = self.stream.insert(stream.ok_or_else(none)?);
        drain(stream, &mut self.to, u64::MAX, self.limits.total, device)
    }

    /// Ends the file of a device that was [stopped](Self::stop).
    ///
    /// # Errors
    ///
    /// Those of writing, and of the device, which runs again then.
    pub fn finish(self) -> Result<Saved<W>> {
        let mut written = self.write_out()?;
        written.stop()?;
        Ok(written.saved())
    }

    fn write_out(self) -> Result<Written<W>> {
        let total = self.to.total();
        Ok(Written {
            stream: self.stream,
            running: self.running,
            file: self.to.finish()?,
            total,
        })
    }
}

impl<W> Written<W> {
    fn stop(&mut self) -> Result<()> {
        drop(self.stream.take());
        self.running.migration.set_state(MigrationState::Stop)?;
        Ok(())
    }

    /// It does not run again by itself from here on.
    fn saved(mut self) -> Saved<W> {
        self.running.is_wanted = false;
        Saved {
            file: self.file,
            total: self.total,
            migration: self.running.migration.clone(),
        }
    }
}

impl<W> Saved<W> {
    /// Lets the device run again.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn resume(self) -> Result<W> {
        self.migration.set_state(MigrationState::Running)?;
        Ok(self.file)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_wanted
            && let Err(error) = self.migration.set_state(MigrationState::Running)
        {
            tracing::error!(%error, device = ?self.device.bdf(), "a device that was not saved does not run");
        }
    }
}

/// Copies until there is no more, for now or for good, or about `most` bytes were copied.
fn drain<W: Write>(stream: &DataStream, to: &mut Writer<W>, most: u64, total: u64, device: &BoundDevice) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let before = to.total();
    while let StreamRead::Data(len) = stream.read(&mut buffer)? {
        to.write(buffer.get(..len).unwrap_or_default())?;
        if to.total() > total {
            return Err(failed(device, ErrorKind::Exhausted("room for the device's state")));
        }
        if to.total() - before >= most {
            break;
        }
    }
    Ok(())
}
