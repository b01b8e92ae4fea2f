//! Bringing the controller up, resetting it, and leaving it quiet.

use super::commands::{Commands, ENTRIES, EVENT_REQUESTS};
use super::{Administration, Limits, Outcome, PAGE, Pages, data, lock};
use crate::nvme::doorbell::{Doorbell, Shadow, Side};
use crate::nvme::epoch::{Epoch, State};
use crate::nvme::event::EventConfiguration;
use crate::nvme::feature::fid;
use crate::nvme::function::{Function, Place};
use crate::nvme::regs::shutdown;
use crate::nvme::ring::{CompletionRing, SubmissionRing};
use crate::nvme::spec::identify::{AdminCommands, IdentifyController, cns};
use crate::nvme::spec::{DataPointer, Opcode, Sqe};
use crate::{Backing, Error, ErrorKind, Presence, Result, Vectors};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use vfio_core::EventFd;
use zerocopy::FromBytes;

/// The shortest limit of a shutdown; Identify Controller can say more (RTD3E).
const SHUTDOWN: Duration = Duration::from_secs(10);
/// The longest.
const LONG_SHUTDOWN: Duration = Duration::from_secs(120);

impl<B: Backing> Administration<B> {
    /// Of a controller that is disabled: memory, and nothing that runs.
    ///
    /// # Errors
    ///
    /// Those of memory and descriptors.
    pub(crate) fn new(function: Function<B>, vectors: Option<&Vectors>, limits: Limits) -> Result<Self> {
        let failed = |kind| function.failed("admin queue", kind);
        let eventfd = |error: vfio_core::Error| failed(error.into());
        let events = (0..vectors.map_or(0, Vectors::count)).filter_map(|vector| vectors?.event(vector));
        let waiters = events
            .map(EventFd::try_clone)
            .collect::<Result<Vec<_>, _>>()
            .map_err(eventfd)?;
        // The admin queue signals vector 0. Where that is the only one, its signals are left to the I/O queues.
        let event = match &waiters[..] {
            [first, _, ..] => first.try_clone(),
            _ => EventFd::new(),
        };
        let commands = Self::commands(&function).map_err(failed)?;
        Ok(Self {
            commands: Mutex::new(commands),
            pages: Mutex::new(Pages::default()),
            resetting: Mutex::new(()),
            numbers: Mutex::new(super::Numbers::new()),
            identity: OnceLock::new(),
            shadow: OnceLock::new(),
            limits,
            epoch: Arc::new(Epoch::default()),
            waiters,
            event: event.map_err(eventfd)?,
            function,
        })
    }

    fn commands(function: &Function<B>) -> Result<Commands, ErrorKind> {
        let space = function.backing.space();
        let page = function.page_bytes();
        let submission = SubmissionRing::new(space, page, ENTRIES, Self::doorbell(function, Side::Submission)?)?;
        let completion = CompletionRing::new(space, page, ENTRIES, Self::doorbell(function, Side::Completion)?)?;
        Ok(Commands::new(submission, completion))
    }

    fn doorbell(function: &Function<B>, side: Side) -> Result<Doorbell, ErrorKind> {
        Doorbell::new(function.registers(), function.stride(), 0, side)
    }

    /// Brings a controller up that nobody else uses yet.
    ///
    /// # Errors
    ///
    /// Those of the steps. It is to be dropped then.
    pub(crate) fn start(&self) -> Result<&IdentifyController> {
        self.function.disable()?;
        self.enable()?;
        let identity = self.identity.get_or_init({
            let identity = self.identify()?;
            || identity
        });
        if self.limits.shadow && identity.admin_commands().contains(AdminCommands::DOORBELL_BUFFER) {
            let page = usize::try_from(self.function.page_bytes()).unwrap_or(usize::MAX);
            let shadow = Shadow::new(self.function.backing.space(), page);
            let shadow = shadow.map_err(|kind| self.failed("Doorbell Buffer Config", kind))?;
            self.shadow.get_or_init(|| Arc::new(shadow));
        }
        self.configure(identity)?;
        Ok(identity)
    }

    fn enable(&self) -> Result<()> {
        let doorbells = |side| Self::doorbell(&self.function, side).map_err(|kind| self.failed("admin queue", kind));
        let (submission, completion) = (doorbells(Side::Submission)?, doorbells(Side::Completion)?);
        let (submission, completion) = self.with_commands(|commands| {
            commands.submission.reset(submission);
            commands.completion.reset(completion);
            let place = |iova, entries| Place { iova, entries };
            (
                place(commands.submission.iova(), commands.submission.entries()),
                place(commands.completion.iova(), commands.completion.entries()),
            )
        });
        self.function.enable(submission, completion)
    }

    /// A command while the controller is brought up: what does not end is for the caller to end, by disabling it.
    fn bring_up(&self, step: &'static str, sqe: Sqe) -> Outcome {
        self.attempt(self.epoch.current(), step, sqe, self.limits.admin)
    }

    fn identify(&self) -> Result<Box<IdentifyController>> {
        let step = "Identify Controller";
        let sqe = Sqe::new(Opcode::IDENTIFY, 0).with_cdw10(cns::CONTROLLER.into());
        let (bytes, _) = self.with_page(step, &[], |page| self.bring_up(step, data(sqe, page)))?;
        let identity = IdentifyController::read_from_bytes(&bytes);
        let short = |_| self.failed(step, ErrorKind::Failed("not a page".into()));
        identity.map(Box::new).map_err(short)
    }

    /// What the controller forgets in a reset.
    fn configure(&self, identity: &IdentifyController) -> Result<()> {
        let wanted = u32::from(self.limits.queues.min(self.function.doorbells()).max(1)) - 1;
        let sqe = Sqe::new(Opcode::SET_FEATURES, 0)
            .with_cdw10(fid::NUMBER_OF_QUEUES.into())
            .with_cdw11(wanted << 16 | wanted);
        let given = self.bring_up("Set Features: Number of Queues", sqe).result?;
        // It may give more than was asked for.
        let given = u16::try_from((given & 0xffff).min(given >> 16 & 0xffff).min(wanted.into())).unwrap_or(0);
        lock(&self.numbers).set_count(given.saturating_add(1));
        if let Some(shadow) = self.shadow.get() {
            self.with_commands(|commands| {
                commands.submission.mirror(shadow);
                commands.completion.mirror(shadow);
            });
            let (doorbells, events) = shadow.pages();
            let sqe = Sqe::new(Opcode::DOORBELL_BUFFER, 0).with_data(DataPointer::Prp, doorbells.0, events.0);
            self.bring_up("Doorbell Buffer Config", sqe).result?;
        }
        let events = EventConfiguration::all_of(identity);
        let sqe = Sqe::new(Opcode::SET_FEATURES, 0)
            .with_cdw10(fid::ASYNC_EVENTS.into())
            .with_cdw11(events.bits());
        match self
            .bring_up("Set Features: Asynchronous Event Configuration", sqe)
            .result
        {
            // Without them it works as well.
            Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => {
                tracing::info!(%error, "no asynchronous events");
            }
            done => {
                done?;
            }
        }
        let requests = usize::from(identity.aerl).saturating_add(1).min(EVENT_REQUESTS);
        self.with_commands(|commands| (0..requests).for_each(|_| commands.request_event()));
        Ok(())
    }

    /// Resets the controller and brings it up again. The caller holds `resetting`.
    pub(super) fn restart(&self, reason: &str) -> Result<()> {
        tracing::warn!(reason, "the controller is reset");
        if !self.enter(State::Resetting) {
            return Err(self.over("reset"));
        }
        self.wake();
        let restarted = self.function.disable().and_then(|()| {
            self.lose();
            self.enable()?;
            let identity = self.identify()?;
            self.configure(&identity)?;
            let is_running = self.epoch.restarted();
            is_running.then_some(()).ok_or_else(|| self.over("reset"))
        });
        match &restarted {
            Ok(()) => self.wake(),
            Err(error) if error.is_gone() => self.leave(State::Gone),
            Err(_) => self.leave(State::Stopped),
        }
        restarted
    }

    /// Shuts the controller down for good: caches are written, and it does nothing any more.
    ///
    /// # Errors
    ///
    /// Those of the steps; it is stopped even so.
    pub(crate) fn stop(&self) -> Result<()> {
        let _turn = lock(&self.resetting);
        if self.epoch.current().state() != State::Running {
            return Ok(());
        }
        let typical = self.identity.get().map_or(0, |identity| identity.rtd3e.get());
        let limit = Duration::from_micros(typical.into()).clamp(SHUTDOWN, LONG_SHUTDOWN);
        if !self.enter(State::Resetting) {
            return Err(self.over("CC.SHN"));
        }
        let down = self.function.shut_down(shutdown::NORMAL, limit);
        let disabled = self.function.disable();
        if disabled.is_ok() {
            self.lose();
        }
        let gone = down.as_ref().err().is_some_and(Error::is_gone);
        self.leave(if gone { State::Gone } else { State::Stopped });
        down.and(disabled)
    }
}

impl<B: Backing> Drop for Administration<B> {
    fn drop(&mut self) {
        if self.function.backing.removal().presence() != Presence::Gone
            && let Err(error) = self.stop()
            && !error.is_gone()
        {
            tracing::error!(%error, "the controller was not shut down");
        }
        let Err(error) = self.function.backing.quiesce() else {
            return;
        };
        tracing::error!(%error, "memory of the controller is given up: it may still use it");
        self.with_commands(|commands| {
            commands.submission.leak();
            commands.completion.leak();
        });
        std::mem::forget(std::mem::take(&mut lock(&self.pages).under_way));
        if let Some(shadow) = self.shadow.take() {
            std::mem::forget(shadow);
        }
    }
}

/// Bytes that Identify gives are a page's.
const _: () = assert!(PAGE == crate::nvme::spec::identify::LEN);
