//! A controller's life by its registers: enabled, disabled, shut down (Base §3.5, §3.6, §3.7.2).

use super::memory_buffer::Buffer;
use super::regs::{self, AdminQueues, Capabilities, Configuration, Status};
use crate::{Backing, Error, ErrorKind, Presence, Registers, Result, Woken};
use iommu::Iova;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use vfio_core::mmio::Window;
use vfio_core::{Errno, EventFd};

/// A controller's registers, and the function that they belong to.
#[derive(Debug)]
pub(crate) struct Function<B> {
    window: Window<Arc<Registers>, { regs::LEN }>,
    /// BAR 0, which queues ring the doorbells of.
    registers: Arc<Registers>,
    capabilities: Capabilities,
    /// Never signalled: for waiting a while.
    pause: EventFd,
    /// The controller memory buffer, once somebody has asked for it.
    pub(super) buffer: OnceLock<Arc<Buffer>>,
    /// Nobody hears interrupts.
    pub(crate) is_polled: bool,
    pub(crate) backing: B,
}

/// An admin queue: where it is, and how many entries it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) iova: Iova,
    pub(crate) entries: u16,
}

/// Fruitless turns of a loop before it sleeps between turns.
const TURNS: u32 = 2000;
/// How long it sleeps.
const NAP: Duration = Duration::from_millis(1);
/// Mass storage, non-volatile memory, NVMe (PCI Code and ID Assignment 1.15, §1.2).
const CLASS: u32 = 0x01_08_02;

impl<B: Backing> Function<B> {
    /// Switches the function on and looks at it. `queues` are the I/O queue pairs that doorbells are wanted for.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for what is no controller that can be driven; those of the backing.
    pub(crate) fn new(backing: B, queues: u16) -> Result<Self> {
        let failed = |step: &'static str, kind| Error::new(backing.bdf(), step, kind);
        let header = backing.config()?.header();
        match header {
            Ok(header) if header.class.0 == CLASS => {}
            Ok(header) => {
                let what = format!("class {}, which is no NVMe controller", header.class);
                return Err(failed("look at the function", ErrorKind::Unsupported(what.into())));
            }
            Err(error) => {
                return Err(failed(
                    "look at the function",
                    ErrorKind::Failed(error.to_string().into()),
                ));
            }
        }
        let pause = EventFd::new().map_err(|error| failed("eventfd", error.into()))?;
        backing.start()?;
        let there = backing.bar_len(0)?;
        // The stride is not known before the registers are mapped.
        let first = backing.map_bar(0, 0..(regs::LEN as u64).min(there))?;
        let window = Window::<_, { regs::LEN }>::new(first, 0);
        let window = window.ok_or_else(|| failed("map BAR 0", unsupported("BAR 0 is shorter than the registers")))?;
        let capabilities = window.read(regs::CAP);
        let stride = 4 << u32::from(capabilities.doorbell_stride());
        drop(window);
        let wanted = regs::LEN as u64 + (u64::from(queues) + 1) * 2 * stride;
        let registers = backing.map_bar(0, 0..wanted.next_multiple_of(regs::LEN as u64).min(there))?;
        let registers = Arc::new(registers);
        let window = Window::new(Arc::clone(&registers), 0);
        let window = window.ok_or_else(|| failed("map BAR 0", unsupported("BAR 0 cannot be read and written")))?;
        let function = Self {
            window,
            registers,
            capabilities,
            pause,
            buffer: OnceLock::new(),
            is_polled: false,
            backing,
        };
        function.check()?;
        Ok(function)
    }

    fn check(&self) -> Result<()> {
        let step = "read CAP";
        if self.capabilities.into_bits() == u64::MAX {
            let kind = match self.backing.presence() {
                Presence::Gone => ErrorKind::Gone,
                // A virtual function reads so while its physical function is reset.
                _ => ErrorKind::Failed("its registers read as ones".into()),
            };
            return Err(self.failed(step, kind));
        }
        if self.capabilities.into_bits() == 0 {
            let why = "its registers read as zeros (of a virtual function: its secondary controller is offline)";
            return Err(self.failed(step, ErrorKind::Failed(why.into())));
        }
        if self.command_set().is_none() {
            let kind = unsupported("the NVM command set (CAP.CSS)");
            return Err(self.failed(step, kind));
        }
        if self.capabilities.max_queue_entries() == 0 {
            let kind = ErrorKind::Failed("CAP.MQES is 0, which no controller may say".into());
            return Err(self.failed(step, kind));
        }
        Ok(())
    }

    pub(crate) fn failed(&self, step: &'static str, kind: impl Into<ErrorKind>) -> Error {
        Error::new(self.backing.bdf(), step, kind.into())
    }

    /// BAR 0 from its start.
    pub(crate) fn registers(&self) -> &Arc<Registers> {
        &self.registers
    }

    /// The registers at its start.
    pub(crate) fn window(&self) -> &Window<Arc<Registers>, { regs::LEN }> {
        &self.window
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Bytes from one doorbell to the next.
    pub(crate) fn stride(&self) -> usize {
        4 << u32::from(self.capabilities.doorbell_stride())
    }

    /// I/O queue pairs that have their doorbells in BAR 0.
    pub(crate) fn doorbells(&self) -> u16 {
        let pairs = self.registers.len().saturating_sub(regs::LEN) / (2 * self.stride());
        // The first is the admin queue's.
        u16::try_from(pairs.saturating_sub(1)).unwrap_or(u16::MAX)
    }

    /// Bytes of a memory page: the smallest that it takes.
    pub(crate) fn page_bytes(&self) -> u64 {
        4096 << u64::from(self.capabilities.min_page())
    }

    /// CC.CSS: the NVM command set alone, where that can be.
    fn command_set(&self) -> Option<u8> {
        match self.capabilities.command_sets() {
            sets if sets & 1 != 0 => Some(0),
            sets if sets & 1 << 6 != 0 => Some(6),
            _ => None,
        }
    }

    /// How long CSTS.RDY may take to change (CAP.TO and CRTO). A unit more, as both are rounded down.
    fn limit(&self) -> Duration {
        let units = u32::from(self.capabilities.timeout());
        let units = if self.capabilities.ready_with_media() {
            let timeouts = self.window.read(regs::CRTO);
            // All ones of a function that is just not there are no hours.
            units.max(u32::from(timeouts.with_media()).min(MOST_UNITS))
        } else {
            units
        };
        Duration::from_millis(500) * (units + 1)
    }

    /// CSTS; `None` while it reads as ones although the function is there, as a virtual function does while its physical function is
    /// reset.
    ///
    /// # Errors
    ///
    /// [`Gone`](ErrorKind::Gone).
    pub(crate) fn status(&self) -> Result<Option<Status>> {
        let status = self.window.read(regs::CSTS);
        if !status.is_all_ones() {
            return Ok(Some(status));
        }
        match self.backing.presence() {
            Presence::Gone => {
                self.backing.removal().tell(Presence::Gone);
                Err(self.failed("read CSTS", ErrorKind::Gone))
            }
            _ => Ok(None),
        }
    }

    /// Waits until `done` gives something; `None` after `limit`.
    ///
    /// # Errors
    ///
    /// Those of `done`.
    pub(crate) fn wait<T>(&self, limit: Duration, mut done: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let (start, mut turns) = (self.backing.now(), 0);
        loop {
            // The time is read first: what happened in time counts, however long this thread did not run.
            let is_late = self.backing.now().saturating_sub(start) > limit;
            if let Some(value) = done()? {
                return Ok(Some(value));
            }
            if is_late {
                return Ok(None);
            }
            self.rest(turns, &self.pause)?;
            turns += 1;
        }
    }

    /// Between two fruitless turns of a loop: not long for the first ones, then until `event` is signalled or a little time is over.
    ///
    /// # Errors
    ///
    /// Those of waiting.
    pub(crate) fn rest(&self, turns: u32, event: &EventFd) -> Result<()> {
        if turns < TURNS {
            self.backing.idle();
            return Ok(());
        }
        // Of a device that is wanted back, the word of that does not end.
        if self.backing.wait(event, Some(NAP))? == Woken::Removal {
            self.backing.nap();
        }
        Ok(())
    }

    /// Disables the controller: its queues are no more, and it does no DMA. Resets the function if it does not obey.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) if that does not help either; then it may do DMA.
    pub(crate) fn disable(&self) -> Result<()> {
        let configuration = self.window.read(regs::CC);
        if configuration.enable() {
            let disabled = configuration.with_enable(false).with_shutdown(0);
            self.window.write(regs::CC, disabled);
        }
        let status = self.disabled()?;
        if status.is_some_and(|status| !status.fatal()) {
            return Ok(());
        }
        if let Err(error) = self.reset() {
            if status.is_none() {
                return Err(error);
            }
            // It says that it is disabled, but also that it has failed: only who is no bus master is believed.
            tracing::debug!(%error, "CSTS.CFS");
            self.backing.quiesce()?;
        }
        self.backing.start()?;
        let disabled = self.disabled()?;
        disabled
            .map(drop)
            .ok_or_else(|| self.failed("CC.EN = 0", ErrorKind::Timeout(self.limit())))
    }

    /// Resets the function; again for a while if the kernel is busy with it.
    fn reset(&self) -> Result<()> {
        let reset = self.wait(self.limit(), || match self.backing.reset() {
            // Whoever wants it back holds it until it is closed.
            Err(error) if is_busy(&error) && self.backing.removal().presence() == Presence::Present => Ok(None),
            reset => reset.map(Some),
        })?;
        reset.ok_or_else(|| self.failed("reset", ErrorKind::Timeout(self.limit())))
    }

    /// Waits until it is disabled: its status then.
    fn disabled(&self) -> Result<Option<Status>> {
        self.wait(self.limit(), || {
            // A function that was just reset can still read as before: CC counts, too.
            let status = self.status()?.filter(|status| !status.ready());
            Ok(status.filter(|_| !self.window.read(regs::CC).enable()))
        })
    }

    /// Enables a controller that is disabled, with these admin queues.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout), [`Failed`](ErrorKind::Failed), [`Gone`](ErrorKind::Gone). It is to be disabled then.
    pub(crate) fn enable(&self, submission: Place, completion: Place) -> Result<()> {
        let lengths = AdminQueues::new()
            .with_submission(submission.entries.saturating_sub(1))
            .with_completion(completion.entries.saturating_sub(1));
        self.window.write(regs::AQA, lengths);
        self.window.write(regs::ASQ, submission.iova.0);
        self.window.write(regs::ACQ, completion.iova.0);
        self.restore_memory_buffer()?;
        if self.is_polled {
            // A pin stays masked: a reset of the controller has unmasked it. Of messages the mask means nothing while they are off.
            self.window.write(regs::INTMS, u32::MAX);
        }
        let configuration = Configuration::new()
            .with_command_set(self.command_set().unwrap_or(0))
            .with_page(self.capabilities.min_page())
            .with_submission_entry(6)
            .with_completion_entry(4);
        // In two steps: a controller may look at the rest only when it is enabled (Base §3.5.1).
        self.window.write(regs::CC, configuration);
        self.window.write(regs::CC, configuration.with_enable(true));
        let limit = self.limit();
        let ready = self.wait(limit, || match self.status()? {
            Some(status) if status.fatal() => Err(self.failed("CC.EN = 1", fatal())),
            Some(status) => Ok(status.ready().then_some(())),
            None => Ok(None),
        })?;
        ready.ok_or_else(|| self.failed("CC.EN = 1", ErrorKind::Timeout(limit)))
    }

    /// Tells the controller that its power may go, and waits until all is stored that it keeps in caches.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout), [`Failed`](ErrorKind::Failed), [`Gone`](ErrorKind::Gone).
    pub(crate) fn shut_down(&self, notification: u8, limit: Duration) -> Result<()> {
        let step = "CC.SHN";
        // Who is not ready keeps nothing.
        if self.status()?.is_none_or(|status| !status.ready() || status.fatal()) {
            return Ok(());
        }
        let configuration = self.window.read(regs::CC);
        self.window.write(regs::CC, configuration.with_shutdown(notification));
        let done = self.wait(limit, || match self.status()? {
            Some(status) if status.shutdown() == regs::shutdown::COMPLETE => Ok(Some(())),
            Some(status) if status.fatal() => Err(self.failed(step, fatal())),
            _ => Ok(None),
        })?;
        done.ok_or_else(|| self.failed(step, ErrorKind::Timeout(limit)))
    }
}

/// CRTO has 16 bits; more than two minutes is no answer.
const MOST_UNITS: u32 = 255;

/// Whether a reset was refused because another one, of the function or its bus, was under way.
fn is_busy(error: &Error) -> bool {
    let ErrorKind::Kernel(iommu::Error::Kernel(error)) = &error.kind else {
        return false;
    };
    error.errno() == Some(Errno::AGAIN)
}

fn unsupported(what: &'static str) -> ErrorKind {
    ErrorKind::Unsupported(what.into())
}

/// CSTS.CFS. Virtual functions say so when their secondary controller is offline, too.
pub(crate) fn fatal() -> ErrorKind {
    ErrorKind::Failed("CSTS.CFS (of a virtual function also: its secondary controller is offline)".into())
}
