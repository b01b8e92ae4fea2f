//! A controller: brought up, asked, and shut down.

use super::admin::{Administration, Handle, Limits as Wanted};
use super::function::Function;
use super::owners::Owners;
use super::regs::{self, Version};
use super::shared::{Admin, Limits, Sgl, Shared};
use super::spec::identify::{IdentifyController, SglAlignment};
use super::spec::{Opcode, Sqe};
use super::{Payload, QueueOptions, QueuePair};
use crate::{Backing, Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An NVMe controller that runs. Cheap to clone; any thread may use it. Queue pairs hold it, too.
///
/// When it and its queues have gone, it is shut down: caches are written, and it does nothing any more.
pub struct Controller<B: Backing> {
    pub(crate) shared: Arc<Shared<B>>,
    // After what is shared with the queues, which need it until they have gone.
    pub(crate) admin: Arc<Administration<B>>,
    identity: Arc<IdentifyController>,
}

/// What is asked of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// I/O queue pairs to ask for. It may give fewer.
    pub queues: u16,
    /// Interrupt vectors to ask for; 0 if everything is polled, as it is where there are none. Vector 0 is the admin queue's, unless it is the only one.
    pub vectors: usize,
    /// How long an admin command may take before it is aborted and, if that does not help, the controller reset.
    pub admin_timeout: Duration,
    /// Whether to ring doorbells in memory where the controller offers that (Base Annex B.5): emulated ones do.
    pub shadow_doorbells: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 16,
            vectors: 17,
            admin_timeout: Duration::from_secs(60),
            shadow_doorbells: true,
        }
    }
}

impl<B: Backing> Controller<B> {
    /// Brings a controller up: resets it, gives it its admin queue, and asks what it is.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for what is no NVMe controller with the NVM command set; [`Timeout`](ErrorKind::Timeout),
    /// [`Failed`](ErrorKind::Failed), [`Gone`](ErrorKind::Gone) with the step; those of memory and interrupts.
    pub fn new(backing: B, options: &Options) -> Result<Self> {
        let mut function = Function::new(backing.clone(), options.queues)?;
        let vectors = match options.vectors {
            0 => None,
            count => match backing.vectors(count) {
                // Without interrupts everything is polled.
                Err(error) if matches!(error.kind, ErrorKind::Unsupported(_)) => {
                    tracing::info!(%error, "no interrupts");
                    None
                }
                vectors => Some(vectors?),
            },
        };
        let wanted = Wanted {
            queues: options.queues,
            admin: options.admin_timeout,
            shadow: options.shadow_doorbells,
        };
        let registers = Arc::clone(function.registers());
        function.is_polled = vectors.is_none();
        let admin = Arc::new(Administration::new(function, vectors.as_ref(), wanted)?);
        let identity = Arc::new(admin.start()?.clone());
        let shared = Shared {
            admin: Box::new(Handle(Arc::clone(&admin))),
            registers,
            vectors,
            owners: Owners::default(),
            shadow: admin.shadow().cloned(),
            limits: limits(&admin, &identity)?,
            epoch: Arc::clone(admin.epoch()),
            backing,
        };
        Ok(Self {
            shared: Arc::new(shared),
            admin,
            identity,
        })
    }

    /// Makes an I/O queue pair, for one thread.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for more queues, entries or vectors than there are; those of memory, and as
    /// [`execute`](Self::execute); of a queue in the controller memory buffer as [`memory_buffer`](Self::memory_buffer).
    pub fn queue_pair<T: Payload>(&self, options: QueueOptions) -> Result<QueuePair<B, T>> {
        QueuePair::new(&self.shared, options)
    }

    /// What it is, as it said when it was brought up.
    #[must_use]
    pub fn identity(&self) -> &IdentifyController {
        &self.identity
    }

    /// The version of the specification that it follows.
    #[must_use]
    pub fn version(&self) -> Version {
        self.admin.function().window().read(regs::VS)
    }

    /// What its registers say that it can do.
    #[must_use]
    pub fn capabilities(&self) -> regs::Capabilities {
        self.admin.function().capabilities()
    }

    /// The function.
    #[must_use]
    pub fn backing(&self) -> &B {
        &self.shared.backing
    }

    /// I/O queue pairs that it has given.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.admin.queues()
    }

    /// Interrupt vectors that it has, 0 if everything is polled.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.shared.vectors.as_ref().map_or(0, crate::Vectors::count)
    }

    /// Entries of an I/O queue at most. One of them stays free.
    #[must_use]
    pub fn max_entries(&self) -> u32 {
        self.shared.limits.entries
    }

    /// Bytes of data that an I/O command can have at most; [`u64::MAX`] for no limit.
    #[must_use]
    pub fn max_transfer(&self) -> u64 {
        self.shared.limits.transfer_bytes
    }

    /// Resets it. Commands that are under way are lost; queues find out, and recover by themselves or not, as they were told.
    ///
    /// # Errors
    ///
    /// When it does not run afterwards.
    pub fn reset(&self) -> Result<()> {
        Admin::reset(&*self.admin, self.shared.epoch.current(), "the program asks for it")
    }

    /// Shuts it down: what it keeps in caches is stored, and it does nothing any more. Without this, that happens when the last of it is
    /// dropped. Commands that are under way are lost.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) and [`Failed`](ErrorKind::Failed): then caches may be lost with the power.
    pub fn shut_down(&self) -> Result<()> {
        self.admin.stop()
    }

    /// Executes any admin command without data: its result, DW0 and DW1.
    ///
    /// Commands that make or delete queues are the queues' own: they break them when they come from here.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) with the status; [`Timeout`](ErrorKind::Timeout), [`Failed`](ErrorKind::Failed),
    /// [`Gone`](ErrorKind::Gone).
    pub fn execute(&self, step: &'static str, sqe: Sqe) -> Result<u64> {
        self.admin.run(step, sqe, self.admin.admin_limit())
    }

    /// Asks for a command of a queue to be ended (Base §5.1.1): whether it was. Its completion comes in its queue, if it comes.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn abort(&self, queue: u16, cid: u16) -> Result<bool> {
        let sqe = Sqe::new(Opcode::ABORT, 0).with_cdw10(u32::from(cid) << 16 | u32::from(queue));
        Ok(self.execute("Abort", sqe)? & 1 == 0)
    }

    pub(crate) fn read(&self, step: &'static str, sqe: Sqe) -> Result<Vec<u8>> {
        let (bytes, _) = self.admin.read(step, sqe, self.admin.admin_limit())?;
        Ok(bytes)
    }

    pub(crate) fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        self.shared.failed(step, kind)
    }
}

fn limits<B: Backing>(admin: &Administration<B>, identity: &IdentifyController) -> Result<Limits> {
    let function = admin.function();
    let page_bytes = function.page_bytes();
    // An I/O controller takes these sizes and no others of ours (NVM §4.1.5.1: SQES and CQES).
    if !(identity.sqes & 0xf..=identity.sqes >> 4).contains(&6)
        || !(identity.cqes & 0xf..=identity.cqes >> 4).contains(&4)
    {
        let what = ErrorKind::Unsupported("queue entries of 64 and 16 bytes (SQES, CQES)".into());
        return Err(function.failed("Identify Controller", what));
    }
    Ok(Limits {
        doorbell_stride: function.stride(),
        entries: u32::from(function.capabilities().max_queue_entries()) + 1,
        page_bytes,
        transfer_bytes: identity.max_transfer(page_bytes).unwrap_or(u64::MAX),
        sgl: match identity.sgl() {
            None => Sgl::No,
            Some(SglAlignment::Byte) => Sgl::Byte,
            Some(SglAlignment::Dword) => Sgl::Dword,
        },
        queues: admin.queues(),
    })
}

impl<B: Backing> Clone for Controller<B> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            admin: Arc::clone(&self.admin),
            identity: Arc::clone(&self.identity),
        }
    }
}

impl<B: Backing> fmt::Debug for Controller<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("function", &self.shared.backing.bdf())
            .field("model", &self.identity().model())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
