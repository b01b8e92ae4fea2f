//! The virtual function of an Intel 82576 (`igb`), and the physical one: a network port whose packets no kernel touches.
//!
//! A [`Port`] brings the function up and owns its mailbox, through which the PF's driver allows or refuses an address, multicast groups and VLANs.
//! A physical function has nobody to ask: its port owns the filters themselves. It does not serve virtual functions.
//! [`RxQueue`] and [`TxQueue`] move buffers: a frame is received into a [`DmaBuffer`](iommu::buffer::DmaBuffer) that the caller had put in, and the very
//! same buffer can be sent on. Many of them go with one write of a register. A function has two queues of each kind, each for one thread.
//!
//! When the PF is reset, frames stop: queues say [`Failed`](crate::ErrorKind::Failed), [`Port::check`] says [`Reset`](PortState::Reset);
//! [`Port::recover`] brings the function up again, and [`RxQueue::restart`] and [`TxQueue::restart`] the queues.
//!
//! With the feature `smoltcp`, `phy::Device` is a network device for that TCP/IP stack.
//!
//! ```no_run
//! use drivers::igbvf::{Offload, Piece, Port, PortOptions, RxOptions, TxOptions};
//! use iommu::{buffer::BufferOptions, pool::DmaPool};
//!
//! /// Sends every frame back to where it came from.
//! fn reflect(backing: &drivers::VfioBacking) -> Result<(), Box<dyn std::error::Error>> {
//!     use drivers::Backing;
//!     let mut port = Port::open(backing, PortOptions::default())?;
//!     let mut rx = port.rx_queue(0, RxOptions::default())?;
//!     let mut tx = port.tx_queue(0, TxOptions::default())?;
//!     let mut pool = DmaPool::new(backing.space(), 2 << 20, BufferOptions::default())?;
//!     while rx.room() > 0 && rx.post(pool.take(2048)?).is_ok() {}
//!     loop {
//!         while let Some(mut frame) = rx.pop()? {
//!             let mut addresses = [0; 12];
//!             frame.buffer.read(0, &mut addresses).ok_or("a frame without addresses")?;
//!             addresses.rotate_left(6);
//!             frame.buffer.write(0, &addresses).ok_or("a frame without addresses")?;
//!             let piece = Piece { buffer: frame.buffer, len: frame.status.length() };
//!             tx.push(piece, Offload::default())?;
//!         }
//!         tx.ring();
//!         while let Some(buffer) = tx.reap()? {
//!             rx.post(buffer).map_err(|_| "more buffers than were put in")?;
//!         }
//!         rx.ring();
//!     }
//! }
//! ```
//!
//! Follows the Intel 82576EB Gigabit Ethernet Controller Datasheet; messages of the mailbox follow Linux.

mod control;
mod counters;
mod function;
mod mailbox;
mod offload;
#[cfg(feature = "smoltcp")]
pub mod phy;
mod physical;
mod piece;
mod port;
pub mod regs;
mod report;
mod ring;
mod rx;
pub mod spec;
mod tx;

pub use counters::Statistics;
#[cfg(feature = "fake")]
pub(crate) use offload::finish;
pub use offload::{Checksums, L4, Offload};
pub use piece::{Piece, Refused, Why};
pub use port::{Link, Port, PortOptions, PortState};
pub use report::Report;
pub use rx::{Received, RxOptions, RxQueue};
pub use spec::MacAddress;
pub use tx::{TxOptions, TxQueue};

#[cfg(test)]
mod tests;
