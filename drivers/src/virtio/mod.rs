//! virtio devices of PCI: disks, network cards, consoles, entropy; physical functions and virtual ones (`virtio-net` of QEMU has them).
//!
//! Only devices behind the IOMMU are driven: one that does not offer `ACCESS_PLATFORM` would take addresses of this process's space for those of
//! the machine's memory, and is refused before it is told any. In QEMU that is `disable-legacy=on,iommu_platform=on`, with `ats=on` if wanted.
//!
//! Every device is opened as a whole, with its queues; each queue may go to a thread of its own. Queues are split ones, with indirect descriptors
//! and event indices where the device has them. Submitting, telling and taking completions makes no system call, allocates nothing and takes no
//! lock. A queue owns what is in flight and gives it back when it is done. What never comes back is given back once the device was stopped
//! ([`Block::stop`]), and freed by itself once it was: when the device and all of its queues are dropped.
//!
//! ```
//! # #[cfg(feature = "fake")] {
//! use drivers::fake::{FakeBacking, virtio::Virtio};
//! use drivers::virtio::{Block, BlockOptions, Request};
//! use drivers::Backing;
//! use iommu::buffer::{Both, BufferOptions, DmaBuffer};
//! use std::time::Duration;
//!
//! let backing = FakeBacking::new(Virtio::block(2048))?;
//! let mut buffer = DmaBuffer::<Both>::new(backing.space(), 4096, &BufferOptions::default())?;
//! buffer.write(0, b"on the disk").ok_or("short")?;
//!
//! let (disk, mut queues) = Block::open(backing, BlockOptions::default())?;
//! assert_eq!(disk.capacity(), 2048);
//! let queue = queues.first_mut().ok_or("no queue")?;
//! queue.submit(Request::Write { sector: 8 }, Some(buffer)).map_err(|refused| refused.error)?;
//! queue.kick();
//! let done = queue.pop_within(Duration::from_secs(1))?.ok_or("no answer")?;
//! done.result?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Follows the Virtual I/O Device (VIRTIO) specification, version 1.3.

mod block;
mod console;
mod data;
mod entropy;
mod layout;
mod net;
mod part;
mod queue;
mod ring;
pub mod spec;
mod transport;

pub use block::{Block, BlockOptions, BlockQueue, Completed, Limits, Request};
pub use console::{Console, ConsoleOptions};
pub use data::Data;
pub use entropy::Entropy;
pub use layout::Kind;
pub use net::{Frame, Net, NetOptions, NetRx, NetTx, Received};
pub use queue::Refused;

/// What each device's owner can ask.
macro_rules! owner {
    () => {
        /// Whether the device works.
        ///
        /// # Errors
        ///
        /// [`Failed`](crate::ErrorKind::Failed) if it needs to be stopped and opened again; [`Gone`](crate::ErrorKind::Gone).
        pub fn check(&self) -> Result<()> {
            self.function.check()
        }

        /// Signalled when the configuration changes, or the device fails; `None` without interrupts.
        #[must_use]
        pub fn changes(&self) -> Option<&EventFd> {
            self.function.event(super::transport::CHANGES)
        }

        /// Stops the device for good; its queues give back what they have then.
        ///
        /// # Errors
        ///
        /// When nothing proves that it has stopped: what it was given is kept from everybody.
        pub fn stop(&self) -> Result<()> {
            self.function.stop()
        }
    };
}

/// How to wait for a queue.
macro_rules! waiting {
    () => {
        /// Blocks until there may be something to take, or the time is over, or the device is wanted back.
        ///
        /// # Errors
        ///
        /// [`ErrorKind::Unsupported`] without interrupts; when the device has failed, or is gone.
        pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Woken> {
            self.queue.wait(timeout)
        }

        /// Waits until there may be something to take. `signals` are those of [`event`](Self::event).
        ///
        /// # Errors
        ///
        /// As [`wait`](Self::wait). It is not woken when the device fails or is wanted back: watch its changes, and
        /// [`Removal::event`](crate::Removal::event), for that.
        pub async fn ready(&mut self, signals: &mut Signals) -> Result<()> {
            self.queue.ready(signals).await
        }

        /// Lets the next completion interrupt; `false` if there is one already.
        ///
        /// # Errors
        ///
        /// As [`wait`](Self::wait).
        pub fn arm(&mut self) -> Result<bool> {
            self.queue.arm()
        }

        /// Signalled when there is something to take after [`arm`](Self::arm); `None` without interrupts.
        #[must_use]
        pub fn event(&self) -> Option<&EventFd> {
            self.queue.event()
        }

        /// How many more fit in.
        #[must_use]
        #[inline]
        pub fn room(&self) -> usize {
            self.queue.room()
        }

        /// How many are in it.
        #[must_use]
        #[inline]
        pub fn in_flight(&self) -> usize {
            self.queue.in_flight()
        }
    };
}

use {owner, waiting};

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "patterns are of small numbers, or of their last bytes"
)]
mod tests;
