//! What a controller and its queues share.

use super::doorbell::Shadow;
use super::epoch::{Epoch, Moment};
use super::memory_buffer::Buffer;
use super::owners::Owners;
use super::spec::Sqe;
use crate::{Backing, ErrorKind, Presence, Registers, Result, Vectors};
use std::fmt::Debug;
use std::sync::Arc;

/// All that a queue needs of its controller.
#[derive(Debug)]
pub(crate) struct Shared<B> {
    // The administration may hold queues and memory: it goes before the registers and the function.
    pub(crate) admin: Box<dyn Admin>,
    /// BAR 0 from its start, with all doorbells.
    pub(crate) registers: Arc<Registers>,
    /// `None` if nothing waits for interrupts. Whoever changes the epoch signals all their events.
    pub(crate) vectors: Option<Vectors>,
    /// Which queue waits for which of them.
    pub(crate) owners: Owners,
    /// What the controller was told with Doorbell Buffer Config, if it offers that. After a reset it is told again, of the same pages.
    pub(crate) shadow: Option<Arc<Shadow>>,
    pub(crate) limits: Limits,
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) backing: B,
}

/// What a controller allows, as found when it was first brought up. A reset after which it allows less has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes from a doorbell to the next: 4 << CAP.DSTRD.
    pub(crate) doorbell_stride: usize,
    /// Entries of an I/O queue at most: CAP.MQES + 1.
    pub(crate) entries: u32,
    /// Bytes of a memory page, as in CC.MPS.
    pub(crate) page_bytes: u64,
    /// Bytes of data that a command can have at most (MDTS); `u64::MAX` for no limit.
    pub(crate) transfer_bytes: u64,
    /// Whether commands of the NVM command set may have SGLs, aligned to 4 bytes if `Dword` (Identify Controller: SGLS).
    pub(crate) sgl: Sgl,
    /// I/O queue pairs at most.
    pub(crate) queues: u16,
}

/// How a controller takes scatter-gather lists (Identify Controller: SGLS bits 1:0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sgl {
    /// Not at all.
    No,
    /// At any address and of any length.
    Byte,
    /// At multiples of 4, and of such length.
    Dword,
}

/// The admin queue, to those who own I/O queues. Slow: takes locks and waits.
pub(crate) trait Admin: Debug + Send + Sync {
    /// Executes an admin command without data in this run of the controller and in no later one, and waits for it: the result, DW0 and DW1.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) with the status; [`Failed`](crate::ErrorKind::Failed) when the run is over; time-outs, after which
    /// the epoch has changed or will.
    fn execute(&self, run: Moment, sqe: Sqe) -> Result<u64>;

    /// A number for a queue pair that is not in use: not the one that was given back last, if possible, as who had it may not know yet and
    /// still ring.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when all are in use; says how many there are.
    fn take_queue(&self) -> Result<u16>;

    /// Another number for a queue pair that was lost in a reset that is over; its own if no other is free.
    ///
    /// # Errors
    ///
    /// As [`take_queue`](Self::take_queue), when there are fewer queues than before.
    fn exchange_queue(&self, id: u16) -> Result<u16>;

    /// The controller memory buffer, enabled. Waits for a reset that is under way.
    ///
    /// # Errors
    ///
    /// When the controller has none that can be used, or does not run.
    fn memory_buffer(&self) -> Result<Arc<Buffer>>;

    /// Takes completions of the admin queue: those that nobody waits for keep a pin asserted.
    fn take_completions(&self);

    /// A queue pair is deleted, or was lost in a reset that is over.
    fn give_back_queue(&self, id: u16);

    /// Sees to a controller that has failed its queue: resets it, unless that was done since `seen` or somebody is at it, and then waits for
    /// that. The epoch says what came of it.
    ///
    /// # Errors
    ///
    /// When it does not run afterwards.
    fn reset(&self, seen: Moment, reason: &str) -> Result<()>;

    /// Sees to it that the controller does no DMA for what was made in that run: waits for a reset that is under way, and stops the
    /// controller for good if there was none since.
    ///
    /// # Errors
    ///
    /// When it may still do DMA.
    fn stop_for(&self, run: Moment) -> Result<()>;

    /// The function is not there any more: the epoch says so from now on, and all who wait are told.
    fn gone(&self);
}

/// How a controller is, as its registers say.
#[derive(Debug)]
pub(crate) enum Health {
    Well,
    /// It executes nothing for a while, and goes on then.
    Paused,
    /// It is of no use any more.
    Ill(ErrorKind),
}

/// Controller status: ready, failed, processing paused (Base §3.1.4.6).
const CSTS: usize = 0x1c;
const READY: u32 = 1 << 0;
const FATAL: u32 = 1 << 1;
const PAUSED: u32 = 1 << 5;

impl<B: Backing> Shared<B> {
    /// How the controller is, of which nobody in this process has ended that run.
    pub(crate) fn health(&self, run: Moment) -> Health {
        let Some(status) = self.registers.read_u32(CSTS) else {
            return Health::Well;
        };
        // Only suspicion: a virtual function reads as ones while its physical function is reset, and a controller is not ready while it is.
        // Behind some bridges what is gone reads as zeros.
        if status == u32::MAX || status & READY == 0 {
            if self.backing.presence() == Presence::Gone {
                self.admin.gone();
                return Health::Ill(ErrorKind::Gone);
            }
            if status == u32::MAX {
                return Health::Well;
            }
        }
        if status & FATAL != 0 {
            return Health::Ill(ErrorKind::Failed("it says so: CSTS.CFS".into()));
        }
        // Another thread says that it resets it before it does.
        if status & READY == 0 && self.epoch.current().is_same_run(run) {
            let why = "CSTS.RDY is 0: somebody else has reset it";
            return Health::Ill(ErrorKind::Failed(why.into()));
        }
        if status & PAUSED != 0 {
            Health::Paused
        } else {
            Health::Well
        }
    }

    /// Of this device, in this step.
    pub(crate) fn failed(&self, step: &'static str, kind: impl Into<ErrorKind>) -> crate::Error {
        crate::Error::new(self.backing.bdf(), step, kind.into())
    }
}
