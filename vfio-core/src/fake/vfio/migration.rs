//! Migration states and the ways between them (`enum vfio_device_mig_state`).

use crate::fake::device::MigrationSupport;
use crate::sys::Result;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, pread, pwrite};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use vfio_bindings::bindings::vfio as uapi;

const ERROR: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_ERROR;
const STOP: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_STOP;
pub(crate) const RUNNING: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING;
const STOP_COPY: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY;
const RESUMING: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING;
const RUNNING_P2P: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING_P2P;
const PRE_COPY: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY;
const PRE_COPY_P2P: u32 = uapi::vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY_P2P;

/// Where a device is in its migration.
#[derive(Debug)]
pub(crate) struct Migration {
    state: u32,
    /// The data stream, a memfd: a reader finds its end, a writer is never blocked.
    stream: Option<OwnedFd>,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            state: RUNNING,
            stream: None,
        }
    }
}

/// `VFIO_MIGRATION_*`.
pub(crate) fn flags(support: MigrationSupport) -> u32 {
    let p2p = if support.p2p { uapi::VFIO_MIGRATION_P2P } else { 0 };
    let pre_copy = if support.pre_copy {
        uapi::VFIO_MIGRATION_PRE_COPY
    } else {
        0
    };
    uapi::VFIO_MIGRATION_STOP_COPY | p2p | pre_copy
}

/// The states that a driver goes to directly; those to be tried first come first.
fn arcs(support: MigrationSupport, from: u32) -> &'static [u32] {
    match (support.p2p, support.pre_copy, from) {
        (_, _, RESUMING | STOP_COPY) => &[STOP],
        (true, _, STOP) => &[RUNNING_P2P, STOP_COPY, RESUMING],
        (false, _, STOP) => &[RUNNING, STOP_COPY, RESUMING],
        (true, false, RUNNING) => &[RUNNING_P2P],
        (true, true, RUNNING) => &[RUNNING_P2P, PRE_COPY],
        (false, false, RUNNING) => &[STOP],
        (false, true, RUNNING) => &[STOP, PRE_COPY],
        (true, false, RUNNING_P2P) => &[RUNNING, STOP],
        (true, true, RUNNING_P2P) => &[RUNNING, STOP, PRE_COPY_P2P],
        (true, true, PRE_COPY) => &[RUNNING, PRE_COPY_P2P],
        (false, true, PRE_COPY) => &[RUNNING, STOP_COPY],
        (true, true, PRE_COPY_P2P) => &[RUNNING_P2P, PRE_COPY, STOP_COPY],
        _ => &[],
    }
}

/// The states on the way, without `from`; EINVAL where there is none.
pub(super) fn way(support: MigrationSupport, from: u32, to: u32) -> Result<Vec<u32>> {
    if from == to && from != ERROR {
        return Ok(Vec::new());
    }
    // Data that was copied while the device stood still cannot be continued while it runs.
    if from == STOP_COPY && matches!(to, PRE_COPY | PRE_COPY_P2P) {
        return Err(Errno::INVAL);
    }
    let mut before: Vec<(u32, u32)> = Vec::new();
    let mut next = VecDeque::from([from]);
    while let Some(state) = next.pop_front() {
        for &arc in arcs(support, state) {
            if arc != from && before.iter().all(|(seen, _)| *seen != arc) {
                before.push((arc, state));
                next.push_back(arc);
            }
        }
    }
    let mut path = vec![to];
    while let Some((_, previous)) = before.iter().find(|(state, _)| Some(state) == path.last()) {
        if *previous == from {
            path.reverse();
            return Ok(path);
        }
        path.push(*previous);
    }
    Err(Errno::INVAL)
}

impl Migration {
    pub(crate) fn state(&self) -> u32 {
        self.state
    }

    /// Goes to a state step by step; the stream of the last step is the caller's. `save` and `restore` are the device's.
    pub(crate) fn go(
        &mut self,
        support: MigrationSupport,
        to: u32,
        device: &mut dyn crate::fake::Device,
    ) -> Result<Option<OwnedFd>> {
        let mut given = None;
        for next in way(support, self.state, to)? {
            given = match self.step(next, device) {
                Ok(stream) => stream,
                Err(errno) => {
                    self.state = ERROR;
                    self.stream = None;
                    return Err(errno);
                }
            };
            self.state = next;
        }
        Ok(given)
    }

    fn step(&mut self, to: u32, device: &mut dyn crate::fake::Device) -> Result<Option<OwnedFd>> {
        match (self.state, to) {
            (STOP, STOP_COPY) | (RUNNING, PRE_COPY) | (RUNNING_P2P, PRE_COPY_P2P) => {
                let stream = memfd_create("migration", MemfdFlags::CLOEXEC)?;
                append(&stream, &device.save())?;
                self.begin(stream)
            }
            // What changed since comes behind, in the same stream.
            (PRE_COPY | PRE_COPY_P2P, STOP_COPY) => {
                let state = device.save();
                self.stream.as_ref().map_or(Ok(()), |stream| append(stream, &state))?;
                Ok(None)
            }
            (STOP, RESUMING) => self.begin(memfd_create("migration", MemfdFlags::CLOEXEC)?),
            (RESUMING, _) => {
                let state = self.stream.take().map_or(Ok(Vec::new()), |stream| contents(&stream))?;
                if device.restore(&state) {
                    Ok(None)
                } else {
                    Err(Errno::IO)
                }
            }
            (PRE_COPY, PRE_COPY_P2P) | (PRE_COPY_P2P, PRE_COPY) => Ok(None),
            _ => {
                self.stream = None;
                Ok(None)
            }
        }
    }

    fn begin(&mut self, stream: OwnedFd) -> Result<Option<OwnedFd>> {
        let given = stream.try_clone().map_err(|_error| Errno::MFILE)?;
        self.stream = Some(stream);
        Ok(Some(given))
    }

    /// `VFIO_MIG_GET_PRECOPY_INFO`: what is left of the first copy, and nothing new: the device stands still between two calls.
    pub(crate) fn precopy_info(&self, stream: BorrowedFd<'_>) -> Result<(u32, u64, u64)> {
        let own = self
            .stream
            .as_ref()
            .filter(|_| matches!(self.state, PRE_COPY | PRE_COPY_P2P))
            .ok_or(Errno::INVAL)?;
        let (own, given) = (rustix::fs::fstat(own)?, rustix::fs::fstat(stream)?);
        if (own.st_dev, own.st_ino) != (given.st_dev, given.st_ino) {
            return Err(Errno::NOTTY);
        }
        let size = u64::try_from(own.st_size).unwrap_or_default();
        Ok((0, size.saturating_sub(rustix::fs::tell(stream)?), 0))
    }

    /// A reset ends it.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Writes behind the end, whatever the position of the reader, which shares the file.
fn append(stream: &OwnedFd, bytes: &[u8]) -> Result<()> {
    let end = u64::try_from(rustix::fs::fstat(stream)?.st_size).unwrap_or_default();
    let mut done = 0_usize;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        done += pwrite(stream, rest, end + done as u64)?;
    }
    Ok(())
}

fn contents(stream: &OwnedFd) -> Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(stream)?.st_size).unwrap_or_default();
    let mut bytes = vec![0; size];
    let mut done = 0_usize;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match pread(stream, rest, done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}
