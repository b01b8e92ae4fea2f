//! What a driver needs from hardware.

use crate::{Presence, Quiet, Registers, Removal, Result, Vectors, Woken};
use iommu::space::AddressSpace;
use pci::{Bdf, ConfigSpace};
use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;
use vfio_core::EventFd;

/// A PCI function that a driver owns. Cheap to clone; when the last clone has gone, and all registers and interrupts of it, the function is
/// quiet and reset.
///
/// A driver's fields drop in the order of their declaration: queues first, then memory, then registers and the backing.
pub trait Backing: Clone + Debug + Send + Sync + 'static {
    /// Its address, where it has one.
    fn bdf(&self) -> Option<Bdf>;

    /// An image of its configuration space, for identity and capabilities.
    ///
    /// # Errors
    ///
    /// When the function cannot be reached.
    fn config(&self) -> Result<ConfigSpace>;

    /// Length in bytes of a memory BAR; 0 if it does not have it.
    ///
    /// # Errors
    ///
    /// As [`config`](Self::config).
    fn bar_len(&self, bar: u8) -> Result<u64>;

    /// Maps a part of a BAR for reading and writing.
    ///
    /// # Errors
    ///
    /// For a part that is not there or cannot be mapped.
    fn map_bar(&self, bar: u8, part: Range<u64>) -> Result<Registers>;

    /// The memory that it reaches: [`iommu::buffer`], [`iommu::pool`] and [`iommu::bounce`] stand on it.
    fn space(&self) -> &AddressSpace;

    /// Enables interrupts: MSI-X, else MSI, else INTx. At least one and at most `count` of them.
    ///
    /// # Errors
    ///
    /// When it has none, or while others of them are held.
    fn vectors(&self, count: usize) -> Result<Vectors>;

    /// Switches memory decoding and bus mastering on: from here on its registers answer and it may do DMA. A function that was
    /// [made quiet](Self::quiesce) is reset first: what it was told to do before would go on, into memory that was taken back.
    ///
    /// # Errors
    ///
    /// [`Gone`](crate::ErrorKind::Gone) once it is; as [`config`](Self::config); for one that was made quiet, as [`reset`](Self::reset).
    fn start(&self) -> Result<()>;

    /// Switches bus mastering off and waits until what was under way has ended; resets the function if that does not end. Can be called
    /// again. A function that is gone is quiet.
    ///
    /// # Errors
    ///
    /// When neither helps: what it was given must be kept then.
    fn quiesce(&self) -> Result<Quiet>;

    /// Resets the function. Decoding and bus mastering are as before; its own registers are not.
    ///
    /// # Errors
    ///
    /// When it has no reset of its own.
    fn reset(&self) -> Result<()>;

    /// Word of its being wanted back, or gone.
    fn removal(&self) -> &Removal;

    /// Asks the function whether it is there, by reads that cannot be all ones. For when a register was: a virtual function reads so while its
    /// physical function is reset, too, and comes back. So one that does not answer is waited for, for some 100 ms, before it is called gone.
    fn presence(&self) -> Presence;

    /// Time since some point in the past. All time-outs are by this clock.
    fn now(&self) -> Duration;

    /// Called in every turn of a loop that found nothing to do.
    fn idle(&self);

    /// Called in every turn of such a loop that has time, and has nothing to block for: about a millisecond passes.
    fn nap(&self) {
        self.idle();
    }

    /// Blocks until the device signals an event, and takes the signal; or until the device is wanted back, or the time is over.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory for it.
    fn wait(&self, event: &EventFd, timeout: Option<Duration>) -> Result<Woken>;
}

/// Waits until `done` gives something, at most for `limit`; `None` then.
///
/// # Errors
///
/// Those of `done`.
pub(crate) fn poll_until<T>(
    backing: &impl Backing,
    limit: Duration,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let start = backing.now();
    loop {
        // The time is read first: what happened in time counts, however long this thread did not run.
        let is_late = backing.now().saturating_sub(start) > limit;
        if let Some(value) = done()? {
            return Ok(Some(value));
        }
        if is_late {
            return Ok(None);
        }
        backing.idle();
    }
}
