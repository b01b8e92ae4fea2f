//! How to map, and who watches it.

use crate::Iova;
use crate::allocator::Request;
use crate::{Error, Result};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use vfio_core::Access;

/// How memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapOptions {
    access: Access,
    iova: Option<Iova>,
    alignment: Option<u64>,
    width: Option<u32>,
    prefault: Option<NonZeroUsize>,
}

impl MapOptions {
    /// Anywhere in 64 bits that the space allows, aligned to its size; or, from 2 MiB on, where it begins as far inside a large page as in
    /// this process.
    ///
    /// What a space allows narrows with each device that is attached, to what that device's IOMMU translates. How many address bits the
    /// device itself has the kernel does not know: one with fewer than the IOMMU needs [`within`](Self::within).
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self {
            access,
            iova: None,
            alignment: None,
            width: None,
            prefault: None,
        }
    }

    /// At this IOVA. It is refused ([`Error::Invalid`]) if it contradicts [`within`](Self::within) or [`aligned_to`](Self::aligned_to).
    #[must_use]
    pub const fn at(self, iova: Iova) -> Self {
        Self {
            iova: Some(iova),
            ..self
        }
    }

    /// Aligned to `alignment` bytes, a power of two, and not to its size.
    #[must_use]
    pub const fn aligned_to(self, alignment: u64) -> Self {
        Self {
            alignment: Some(alignment),
            ..self
        }
    }

    /// Within reach of a device that has `bits` address bits: 64 unless this is called.
    #[must_use]
    pub const fn within(self, bits: u32) -> Self {
        Self {
            width: Some(bits),
            ..self
        }
    }

    /// Before it is mapped, `threads` threads make its pages present and zeroed, which is most of what mapping fresh memory takes
    /// ([`prefault`](crate::prefault)). For [`Memory`](vfio_core::Memory) that is mapped at once; anything else is refused
    /// ([`Error::Invalid`]). Pages stay present when the map fails.
    #[must_use]
    pub const fn prefault(self, threads: NonZeroUsize) -> Self {
        Self {
            prefault: Some(threads),
            ..self
        }
    }

    /// Tells `watcher` how far it is, in pieces of at most 1 GiB of IOVAs that are mapped one by one, and about 2 MiB (or a huge page)
    /// that are populated. A [`ControlFlow::Break`] ends it with [`Error::Cancelled`], and nothing stays mapped.
    ///
    /// No lock of the space is held meanwhile. Until it is complete the mapping is not found by a look-up, but devices reach what is mapped
    /// of it, and an unmapping of the whole range ends it.
    ///
    /// ```
    /// # use iommu::space::MapOptions;
    /// # use std::ops::ControlFlow;
    /// # fn map(space: &iommu::space::AddressSpace, memory: &std::sync::Arc<vfio_core::Memory>) -> iommu::Result<()> {
    /// let options = MapOptions::new(vfio_core::Access::READ).prefault(std::num::NonZero::<usize>::MIN);
    /// let mapping = space.map(memory, 0..memory.len(), options.progress(&mut |progress| {
    ///     println!("{} of {} bytes are mapped", progress.mapped, progress.total);
    ///     ControlFlow::Continue(())
    /// }))?;
    /// # mapping.unmap()
    /// # }
    /// ```
    pub const fn progress(self, watcher: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> WatchedMap<'_> {
        WatchedMap {
            options: self,
            watcher: Some(watcher),
        }
    }

    /// What devices may do.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    pub(crate) const fn iova(&self) -> Option<Iova> {
        self.iova
    }

    pub(super) const fn threads(&self) -> Option<NonZeroUsize> {
        self.prefault
    }

    /// For `len` bytes that this process has at `address`.
    pub(crate) fn request(&self, len: u64, address: Option<usize>) -> Request {
        let request = Request::new(len).within(self.width.unwrap_or(u64::BITS));
        match (self.alignment, address) {
            (Some(alignment), _) => request.aligned_to(alignment),
            (None, Some(address)) => request.congruent_to(address as u64),
            (None, None) => request,
        }
    }

    /// Refuses a fixed IOVA that is not what else was asked for.
    pub(super) fn check_fixed(&self, range: crate::IovaRange) -> Result<()> {
        let beyond = |bits: u32| range.last().0.checked_shr(bits).is_some_and(|rest| rest != 0);
        if self.width.is_some_and(beyond) {
            return Err(Error::Invalid(
                "the fixed IOVA is beyond the address bits that were asked for",
            ));
        }
        let is_off = |alignment: u64| !alignment.is_power_of_two() || !range.start().is_aligned_to(alignment);
        if self.alignment.is_some_and(is_off) {
            return Err(Error::Invalid(
                "the fixed IOVA does not have the alignment that was asked for",
            ));
        }
        Ok(())
    }
}

/// How far a map is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Made present and zeroed, where [`prefault`](MapOptions::prefault) was asked for; 0 else.
    pub populated: u64,
    /// Mapped.
    pub mapped: u64,
    /// In all.
    pub total: u64,
}

/// Options, and who is told how far the map is. Made by [`MapOptions::progress`], or of options that nobody watches.
pub struct WatchedMap<'a> {
    pub(super) options: MapOptions,
    pub(super) watcher: Option<&'a mut dyn FnMut(Progress) -> ControlFlow<()>>,
}

impl From<MapOptions> for WatchedMap<'_> {
    fn from(options: MapOptions) -> Self {
        Self { options, watcher: None }
    }
}

impl WatchedMap<'_> {
    pub(super) fn tell(&mut self, progress: Progress) -> ControlFlow<()> {
        match &mut self.watcher {
            Some(watcher) => watcher(progress),
            None => ControlFlow::Continue(()),
        }
    }
}

impl fmt::Debug for WatchedMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedMap")
            .field("options", &self.options)
            .field("is_watched", &self.watcher.is_some())
            .finish()
    }
}
