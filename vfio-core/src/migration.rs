//! Live migration of a device's state: the kernel's state machine and the stream of data, version 2.
//!
//! A device goes from state to state by [`Migration::set_state`]; the kernel takes the states in between by itself. Three arcs give a
//! [`DataStream`]: into pre-copy, into stop-and-copy, into resuming.
//!
//! Follows `VFIO_DEVICE_FEATURE_MIGRATION`, `_MIG_DEVICE_STATE`, `_MIG_DATA_SIZE` and `_MIG_PRECOPY_INFOv2` of `include/uapi/linux/vfio.h`.

use crate::{BoundDevice, Error, ErrorKind, Feature};
use rustix::io::{Errno, retry_on_intr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A state of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationState {
    /// The device has failed; only a reset leads out. Cannot be asked for.
    Error = 0,
    /// It does nothing and does not change.
    Stop = 1,
    /// It runs.
    Running = 2,
    /// As [`Stop`](Self::Stop), and its state can be read.
    StopCopy = 3,
    /// As [`Stop`](Self::Stop), and its state can be written.
    Resuming = 4,
    /// It runs, but begins no DMA to other devices.
    RunningP2p = 5,
    /// It runs, and the part of its state that is known already can be read.
    PreCopy = 6,
    /// As [`PreCopy`](Self::PreCopy), but it begins no DMA to other devices.
    PreCopyP2p = 7,
}

bitflags::bitflags! {
    /// Which states a device has, beyond [`MigrationState::Running`] and [`MigrationState::Error`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct MigrationFlags: u64 {
        /// Stop, stop-and-copy and resuming.
        const STOP_COPY = 1 << 0;
        /// The states without DMA to other devices.
        const P2P = 1 << 1;
        /// Pre-copy.
        const PRE_COPY = 1 << 2;
        const _ = !0;
    }
}

/// A device that can be migrated. Holds it open.
///
/// ```no_run
/// use vfio_core::migration::{MigrationState, StreamRead};
/// use vfio_core::{BoundDevice, Error};
///
/// /// Stops a device and reads its whole state.
/// fn save(device: &BoundDevice) -> Result<Option<Vec<u8>>, Error> {
///     let Some(migration) = device.migration()? else { return Ok(None) };
///     let transition = migration.set_state(MigrationState::StopCopy)?;
///     let Some(stream) = transition.stream else { return Ok(None) };
///     let (mut state, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
///     while let StreamRead::Data(len) = stream.read(&mut buffer)? {
///         state.extend_from_slice(&buffer[..len]);
///     }
///     Ok(Some(state))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Migration {
    device: BoundDevice,
    flags: MigrationFlags,
}

/// What a change of state gave.
#[derive(Debug)]
pub struct Transition {
    /// The state that was reached.
    pub state: MigrationState,
    /// The stream that began with it.
    pub stream: Option<DataStream>,
}

/// The data of one migration: opaque bytes, of which the order matters and not in what pieces they come.
#[derive(Debug)]
pub struct DataStream {
    // Fields drop in this order: the stream is closed before its device.
    file: OwnedFd,
    device: BoundDevice,
}

/// What reading a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRead {
    /// This many bytes.
    Data(usize),
    /// No more for now: the device is in pre-copy and has not changed. Poll the stream, or go on to stop-and-copy.
    Pending,
    /// All there is.
    End,
}

/// How much there is to read while a device runs; estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "vfio_precopy_info")]
pub struct PrecopyInfo {
    /// Bytes of the initial state that are left. To go on to stop-and-copy before they are 0 makes that slower.
    pub initial_bytes: u64,
    /// Bytes that have changed since they were read.
    pub dirty_bytes: u64,
    /// There is new initial data. Only told after [`Migration::enable_precopy_info_v2`].
    pub is_reinit: bool,
}

const STATE: Feature = Feature::MIG_DEVICE_STATE;

impl BoundDevice {
    /// The device's migration; `None` if it cannot be migrated.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    #[doc(alias = "VFIO_DEVICE_FEATURE_MIGRATION")]
    pub fn migration(&self) -> Result<Option<Migration>, Error> {
        let mut flags = [0; 8];
        match self.get_feature(Feature::MIGRATION, &mut flags) {
            Ok(()) => Ok(Some(Migration {
                device: self.clone(),
                flags: MigrationFlags::from_bits_retain(u64::from_ne_bytes(flags)),
            })),
            Err(error) if matches!(error.kind, ErrorKind::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Migration {
    /// Which states the device has.
    #[must_use]
    pub fn flags(&self) -> MigrationFlags {
        self.flags
    }

    /// The state it is in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] for a state that this version does not know; when the device is gone.
    #[doc(alias = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE")]
    pub fn state(&self) -> Result<MigrationState, Error> {
        // struct vfio_device_feature_mig_state: the state, and a descriptor that is none here.
        let mut data = [0; 8];
        self.device.get_feature(STATE, &mut data)?;
        let [a, b, c, d, ..] = data;
        self.known(u32::from_ne_bytes([a, b, c, d]))
    }

    /// Takes the device to a state, on the shortest way there.
    ///
    /// # Errors
    ///
    /// EINVAL for a state that the device does not have or that no way leads to, [`MigrationState::Error`] included; otherwise what the driver met.
    /// The device is then in its old state, in one on the way, or in [`MigrationState::Error`]: ask.
    #[doc(alias = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE")]
    pub fn set_state(&self, state: MigrationState) -> Result<Transition, Error> {
        let reached = self.device.calls().set_migration_state(state as u32);
        let (reached, file) = reached.map_err(|errno| self.device.feature_failed(STATE, errno))?;
        let device = self.device.clone();
        Ok(Transition {
            state: self.known(reached)?,
            stream: file.map(|file| DataStream { file, device }),
        })
    }

    /// How many bytes stop-and-copy would take now; an estimate, in every state.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] before Linux 6.2.
    #[doc(alias = "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE")]
    pub fn data_size(&self) -> Result<u64, Error> {
        let mut len = [0; 8];
        self.device.get_feature(Feature::MIG_DATA_SIZE, &mut len)?;
        Ok(u64::from_ne_bytes(len))
    }

    /// Lets the device tell of new initial data while it pre-copies ([`PrecopyInfo::is_reinit`]).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] before Linux 7.1, and EINVAL of some devices that do not have it.
    #[doc(alias = "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2")]
    pub fn enable_precopy_info_v2(&self) -> Result<(), Error> {
        self.device.set_feature(Feature::MIG_PRECOPY_INFO_V2, &mut [])
    }

    fn known(&self, number: u32) -> Result<MigrationState, Error> {
        let state = MigrationState::from_number(number);
        let unknown = || ErrorKind::Malformed("a migration state that this version does not know");
        state.ok_or_else(|| self.device.failed(STATE.to_string(), unknown()))
    }
}

impl DataStream {
    /// Reads some of the data.
    ///
    /// # Errors
    ///
    /// What the driver met; EINVAL on a stream for writing.
    pub fn read(&self, to: &mut [u8]) -> Result<StreamRead, Error> {
        match retry_on_intr(|| rustix::io::read(&self.file, &mut *to)) {
            Ok(0) if !to.is_empty() => Ok(StreamRead::End),
            Ok(len) => Ok(StreamRead::Data(len)),
            Err(Errno::NOMSG) => Ok(StreamRead::Pending),
            Err(errno) => Err(self.device.failed("read migration data", ErrorKind::from_errno(errno))),
        }
    }

    /// Writes data and returns how many bytes of it were taken.
    ///
    /// # Errors
    ///
    /// What the driver met; EINVAL on a stream for reading.
    pub fn write(&self, from: &[u8]) -> Result<usize, Error> {
        let written = retry_on_intr(|| rustix::io::write(&self.file, from));
        written.map_err(|errno| self.device.failed("write migration data", ErrorKind::from_errno(errno)))
    }

    /// How much there is to read while the device runs.
    ///
    /// # Errors
    ///
    /// EINVAL outside of pre-copy.
    #[doc(alias = "VFIO_MIG_GET_PRECOPY_INFO")]
    pub fn precopy_info(&self) -> Result<PrecopyInfo, Error> {
        let info = self.device.calls().precopy_info(self.file.as_fd());
        let info = info.map_err(|errno| {
            self.device
                .failed("VFIO_MIG_GET_PRECOPY_INFO", ErrorKind::from_errno(errno))
        });
        let (flags, initial_bytes, dirty_bytes) = info?;
        Ok(PrecopyInfo {
            initial_bytes,
            dirty_bytes,
            is_reinit: flags & 1 != 0,
        })
    }
}

impl AsFd for DataStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl MigrationState {
    const ALL: [Self; 8] = [
        Self::Error,
        Self::Stop,
        Self::Running,
        Self::StopCopy,
        Self::Resuming,
        Self::RunningP2p,
        Self::PreCopy,
        Self::PreCopyP2p,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_the_kernels_number() {
        for (number, state) in (0..).zip(MigrationState::ALL) {
            assert_eq!(state as u32, number);
            assert_eq!(MigrationState::from_number(number), Some(state));
        }
        assert_eq!(MigrationState::from_number(8), None);
    }
}
