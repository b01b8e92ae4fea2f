//! For devices that cannot wait: a transfer goes to a buffer that is always mapped if its target is not.

use super::DemandSpace;
use super::region::{Identity, Region};
use crate::buffer::{DmaBuffer, FromDevice};
use crate::pool::DmaPool;
use crate::{Error, Iova, IovaRange, Result};
use vfio_core::Access;

/// Where a device was told to write. Give it back with [`DemandSpace::complete`] when the device is done.
#[derive(Debug)]
#[must_use = "the target stays pinned, and bytes in the backup buffer are lost"]
pub struct Posted {
    target: IovaRange,
    /// The region that has the target.
    region: Identity,
    /// `None`: the target itself, which is pinned.
    backup: Option<DmaBuffer<FromDevice>>,
}

impl Posted {
    /// The IOVA to give to the device.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.backup.as_ref().map_or(self.target.start(), DmaBuffer::iova)
    }

    /// Whether the bytes go to a backup buffer.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.backup.is_some()
    }
}

impl DemandSpace {
    /// Chooses where a device that cannot wait writes: to `target` itself if it is mapped, which is pinned for as long, else to a
    /// buffer of `backups`, whose pool must be in [`space`](Self::space). The device is never told an IOVA that could fault.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] for a target outside the memory that was added; those of [`DmaPool::take`].
    pub fn post(&mut self, target: IovaRange, backups: &mut DmaPool<FromDevice>) -> Result<Posted> {
        if !backups.space().is_same(&self.space) {
            return Err(Error::Invalid("the backup buffers are in another space"));
        }
        self.units_of(target, Access::WRITE)?;
        let region = self
            .region_of(target)
            .ok_or(Error::NotAllowed(target))?
            .identity()
            .clone();
        if self.is_resident(target) {
            self.pin(target)?;
            let backup = None;
            return Ok(Posted { target, region, backup });
        }
        let len = usize::try_from(target.len_bytes()).map_err(|_too_long| Error::NotAllowed(target))?;
        let backup = Some(backups.take(len)?);
        self.statistics.backups += 1;
        Ok(Posted { target, region, backup })
    }

    fn region_of(&self, target: IovaRange) -> Option<&Region> {
        let before = self.regions.range(..=target.start()).next_back();
        before
            .map(|(_, region)| region)
            .filter(|region| region.range().contains(&target))
    }

    /// Ends what [`post`](Self::post) began: the device has written `len` bytes. They are copied to the target if they went elsewhere,
    /// for which the target need not be mapped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `len` is more than the target has; [`Error::NotAllowed`] if the target's memory was removed meanwhile, even
    /// if other memory has the same IOVAs now, or is another space's. Nothing is copied then, and what is in the backup buffer is gone.
    pub fn complete(&mut self, posted: Posted, len: usize) -> Result<()> {
        let Posted { target, region, backup } = posted;
        let found = self.region_of(target).filter(|found| *found.identity() == region);
        found.ok_or(Error::NotAllowed(target))?;
        if backup.is_none() {
            self.unpin(target);
        }
        if len as u128 > target.len_bytes() {
            return Err(Error::Invalid("more bytes than the target has"));
        }
        let (Some(buffer), Some(region)) = (backup, self.region_of(target)) else {
            return Ok(());
        };
        let start = region.offset(target.start()).ok_or(Error::NotAllowed(target))?;
        let mut bytes = [0; 4096];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(bytes.len());
            let copied = bytes.get_mut(..step).and_then(|piece| {
                buffer.read(done, piece)?;
                region.memory().write(start + done, piece)
            });
            copied.ok_or(Error::NotAllowed(target))?;
            done += step;
        }
        Ok(())
    }
}
