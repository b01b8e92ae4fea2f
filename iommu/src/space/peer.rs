//! Peer-to-peer DMA: another function's registers or memory in a space.

use super::{AddressSpace, DmaMapping, MapOptions, Reservation, Source};
use crate::{Error, Iova, IovaRange, Result};
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Access, BoundDevice, RegionIndex};

/// A part of another function's BAR, mapped for the devices of a space: as a dma-buf on iommufd, by the process's own map of the BAR on
/// type1.
///
/// While the function's memory decoding is off, during its reset and while it sleeps nobody answers there. On iommufd the kernel takes what
/// is mapped of the dma-buf back then, for good, and says so to nobody: devices fault there, also once the function decodes again. On type1
/// the IOMMU goes on pointing at the BAR, where nobody answers meanwhile, and nothing new can be mapped. [`refresh`](Self::refresh)
/// is for both: the owner calls it after each of these, or whenever it likes, as it costs nothing while nothing has happened. The IOVAs stay
/// the same.
#[derive(Debug)]
#[must_use = "dropping it unmaps the BAR"]
pub struct PeerMapping {
    // Unmapped before the IOVAs are given back.
    mapping: Option<DmaMapping>,
    reservation: Reservation,
    space: AddressSpace,
    device: BoundDevice,
    region: RegionIndex,
    part: Range<u64>,
    access: Access,
    /// The function's count before it was mapped.
    revocations: u64,
}

impl AddressSpace {
    /// Maps a part of a BAR of `device`, in bytes from its start, for the devices of this space.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a part that is not made of whole pages; [`Error::Unsupported`] where the BAR has no address in this process;
    /// [`Unsupported`](vfio_core::ErrorKind::Unsupported) without `CONFIG_VFIO_PCI_DMABUF` or on an iommufd that stands in for type1;
    /// those of [`AddressSpace::map`].
    pub fn map_bar(
        &self,
        device: &BoundDevice,
        region: RegionIndex,
        part: Range<u64>,
        options: MapOptions,
    ) -> Result<PeerMapping> {
        let len = part.end.checked_sub(part.start).filter(|len| *len > 0);
        let len = len.ok_or(Error::Invalid("no bytes of the BAR"))?;
        let reservation = self.reserve(len, &options)?;
        let mut peer = PeerMapping {
            mapping: None,
            reservation,
            space: self.clone(),
            device: device.clone(),
            region,
            part,
            access: options.access(),
            revocations: 0,
        };
        peer.resume()?;
        Ok(peer)
    }
}

impl PeerMapping {
    /// Where devices find the first byte, when it is mapped.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.range().start()
    }

    /// Where devices find it.
    #[must_use]
    pub fn range(&self) -> IovaRange {
        self.reservation.range()
    }

    /// Whether it is mapped, and nothing was done to the function since that takes it back
    /// ([`BoundDevice::revocations`]).
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        let is_current = self.device.revocations() == self.revocations;
        is_current && self.mapping.as_ref().is_some_and(DmaMapping::is_mapped)
    }

    /// Makes it what the function is: mapped anew if it was taken back, or may have been, and the function decodes memory; unmapped if it
    /// does not. Returns whether it is mapped now. While it [is mapped](Self::is_mapped) nothing is done, and no system call is made.
    ///
    /// What another process does to the function, or a hot reset that was asked of another one, is not noticed:
    /// [`suspend`](Self::suspend) and [`resume`](Self::resume) map it anew in any case.
    ///
    /// # Errors
    ///
    /// Those of reading the function's configuration, and of mapping. It can be called again.
    pub fn refresh(&mut self) -> Result<bool> {
        if self.is_mapped() {
            return Ok(true);
        }
        let decodes = self.device.config()?.memory_decode()?;
        // What the kernel has taken back does not come back by itself.
        self.suspend()?;
        if decodes {
            self.resume()?;
        }
        Ok(decodes)
    }

    /// Unmaps it, and keeps its IOVAs.
    ///
    /// # Errors
    ///
    /// Those of unmapping. The IOVAs are leaked then, and it is not mapped again.
    pub fn suspend(&mut self) -> Result<()> {
        let Some(mapping) = self.mapping.take() else {
            return Ok(());
        };
        mapping.unmap()
    }

    /// Maps it at its IOVAs, if it is not [mapped](Self::is_mapped).
    ///
    /// # Errors
    ///
    /// Those of [`AddressSpace::map_bar`].
    pub fn resume(&mut self) -> Result<()> {
        if self.is_mapped() {
            return Ok(());
        }
        self.suspend()?;
        // Asked before: what is taken back while it is being mapped is mapped once more.
        self.revocations = self.device.revocations();
        let source = self.source()?;
        self.mapping = Some(self.space.map_reserved(&source, self.range(), None, self.access)?);
        Ok(())
    }

    fn source(&self) -> Result<Source> {
        if self.space.ioas().is_some() {
            let file = self.device.dma_buf(self.region, std::slice::from_ref(&self.part))?;
            return Ok(Source::File(Arc::new(file), 0..self.part.end - self.part.start));
        }
        let map = Arc::new(self.device.region(self.region)?.map(self.part.clone())?);
        let memory = map.to_memory();
        let memory = memory.ok_or(Error::Unsupported("a BAR without an address in this process"))?;
        let len = memory.len();
        Ok(Source::Memory(memory, 0..len))
    }
}

impl Drop for PeerMapping {
    fn drop(&mut self) {
        if let Err(error) = self.suspend() {
            tracing::error!(range = %self.range(), %error, "not unmapped; its IOVAs are leaked");
        }
    }
}
