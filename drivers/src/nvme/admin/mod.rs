//! The admin queue: commands that one waits for, events, and what keeps the controller running.
//!
//! Any thread may submit; whoever waits takes the completions of all. Data goes through pages that are kept for it. A command that takes too
//! long is aborted; if that does not help, the controller is reset.

mod attempt;
mod commands;
mod life;
mod numbers;

use super::doorbell::Shadow;
use super::epoch::{Epoch, Moment, State};
use super::function::{Function, fatal};
use super::memory_buffer::Buffer;
use super::shared::Admin;
use super::spec::identify::IdentifyController;
use super::spec::{DataPointer, Opcode, Sqe};
use crate::{Backing, ErrorKind, Presence, Result};
use attempt::{Outcome, Trouble};
use commands::{Commands, Progress};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use numbers::Numbers;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use vfio_core::EventFd;

/// What keeps a controller running, for as long as anything of it is held.
#[derive(Debug)]
pub(crate) struct Administration<B: Backing> {
    commands: Mutex<Commands>,
    pages: Mutex<Pages>,
    /// Held by whoever resets the controller.
    resetting: Mutex<()>,
    numbers: Mutex<Numbers>,
    /// As it was when it was first brought up.
    identity: OnceLock<Box<IdentifyController>>,
    shadow: OnceLock<Arc<Shadow>>,
    limits: Limits,
    epoch: Arc<Epoch>,
    /// All who wait for an interrupt.
    waiters: Vec<EventFd>,
    /// What the controller signals with the admin queue's completions.
    event: EventFd,
    function: Function<B>,
}

/// What is asked of a controller, and how long one waits for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// I/O queue pairs to ask for.
    pub(crate) queues: u16,
    /// For an admin command.
    pub(crate) admin: Duration,
    /// Whether to use shadow doorbells, where it has them.
    pub(crate) shadow: bool,
}

/// Memory for the data of an admin command.
type Page = DmaBuffer<Both>;
/// Bytes of it: all that Identify gives; lists and logs are read in such parts.
pub(crate) const PAGE: usize = 4096;

/// Memory for data.
#[derive(Debug, Default)]
struct Pages {
    /// Of no command.
    free: Vec<Page>,
    /// Of commands that were given up: the controller may still use it.
    under_way: Vec<Page>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backing> Administration<B> {
    pub(crate) fn function(&self) -> &Function<B> {
        &self.function
    }

    pub(crate) fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    pub(crate) fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.get()
    }

    /// I/O queue pairs that the controller has given.
    pub(crate) fn queues(&self) -> u16 {
        lock(&self.numbers).count()
    }

    fn failed(&self, step: &'static str, kind: impl Into<ErrorKind>) -> crate::Error {
        self.function.failed(step, kind)
    }

    fn too_many(&self, numbers: &Numbers) -> crate::Error {
        let what = format!("more than {} I/O queue pairs", numbers.count());
        self.failed("take a queue pair", ErrorKind::Unsupported(what.into()))
    }

    /// Executes a command without data: its result.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) with the status; [`Timeout`](ErrorKind::Timeout), [`Failed`](ErrorKind::Failed) and
    /// [`Gone`](ErrorKind::Gone).
    pub(crate) fn run(&self, step: &'static str, sqe: Sqe, limit: Duration) -> Result<u64> {
        self.execute(step, sqe, limit).result
    }

    /// Executes a command that gives a page of data: that, and its result. What the controller does not write is 0.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and those of memory.
    pub(crate) fn read(&self, step: &'static str, sqe: Sqe, limit: Duration) -> Result<(Vec<u8>, u64)> {
        self.with_page(step, &[], |page| self.execute(step, data(sqe, page), limit))
    }

    /// Executes a command that takes at most a page of data: its result.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn write(&self, step: &'static str, sqe: Sqe, bytes: &[u8], limit: Duration) -> Result<u64> {
        let (_, result) = self.with_page(step, bytes, |page| self.execute(step, data(sqe, page), limit))?;
        Ok(result)
    }

    /// Executes a command, and resets the controller if it does not end.
    fn execute(&self, step: &'static str, sqe: Sqe, limit: Duration) -> Outcome {
        match self.admit(step, sqe.opcode()) {
            Ok(run) => self.execute_in(run, step, sqe, limit),
            Err(error) => Outcome::never(error),
        }
    }

    /// The same in one run of the controller, and in no later one.
    fn execute_in(&self, run: Moment, step: &'static str, sqe: Sqe, limit: Duration) -> Outcome {
        let attempt = self.attempt(run, step, sqe, limit);
        let Some(cid) = attempt.under_way else {
            return attempt;
        };
        // What comes of the reset is for the next command to find out.
        let reason = attempt.result.as_ref().err().map(ToString::to_string);
        if let Err(error) = Admin::reset(self, run, &reason.unwrap_or_default()) {
            tracing::error!(%error, "the controller could not be reset");
        }
        let is_lost = self.with_commands(|commands| matches!(commands.take(cid), Progress::Lost));
        Outcome {
            under_way: attempt.under_way.filter(|_| !is_lost),
            ..attempt
        }
    }

    /// Lends a page for a command's data. It is kept for the next command, once the controller is done with it.
    fn with_page(
        &self,
        step: &'static str,
        bytes: &[u8],
        execute: impl FnOnce(&Page) -> Outcome,
    ) -> Result<(Vec<u8>, u64)> {
        let mut page = self.page().map_err(|kind| self.failed(step, kind))?;
        page.clear();
        let written = page.write(0, bytes);
        written.ok_or_else(|| self.failed(step, ErrorKind::Invalid("more than a page of data".into())))?;
        let outcome = execute(&page);
        let mut read = vec![0; PAGE];
        let copied = page.read(0, &mut read);
        debug_assert!(copied.is_some(), "all pages are of one size");
        let mut pages = lock(&self.pages);
        if outcome.under_way.is_none() {
            pages.free.push(page);
        } else {
            pages.under_way.push(page);
        }
        Ok((read, outcome.result?))
    }

    fn page(&self) -> Result<Page, ErrorKind> {
        if let Some(page) = lock(&self.pages).free.pop() {
            return Ok(page);
        }
        let page = DmaBuffer::new(self.function.backing.space(), PAGE, &BufferOptions::default());
        Ok(page?)
    }

    fn with_commands<T>(&self, with: impl FnOnce(&mut Commands) -> T) -> T {
        with(&mut lock(&self.commands))
    }

    /// With the admin queue, if the controller is in this run. Whoever ends a run says so under the same lock, before the controller stops to
    /// listen: so commands are submitted and doorbells rung only in a run that they are meant for.
    fn in_run<T>(&self, run: Moment, with: impl FnOnce(&mut Commands) -> T) -> Option<T> {
        let mut commands = lock(&self.commands);
        let is_now = self.epoch.current().is_same_run(run);
        is_now.then(|| with(&mut commands))
    }

    /// Ends a run. False if it has gone on to a worse end already.
    fn enter(&self, state: State) -> bool {
        let _commands = lock(&self.commands);
        self.epoch.set(state)
    }

    /// What came of a command whose run is over.
    fn over(&self, step: &'static str) -> crate::Error {
        let kind = match self.epoch.current().state() {
            State::Gone => ErrorKind::Gone,
            _ => ErrorKind::Failed("the controller was reset meanwhile".into()),
        };
        self.failed(step, kind)
    }

    /// The controller was seen to be disabled, or is quiet: it has none of the commands, and none of the memory.
    fn lose(&self) {
        self.with_commands(Commands::lose);
        let mut pages = lock(&self.pages);
        let over = std::mem::take(&mut pages.under_way);
        pages.free.extend(over);
    }

    /// In which run a command can be submitted now. A controller that is asked back takes what ends its queues, and nothing else.
    fn admit(&self, step: &'static str, opcode: Opcode) -> Result<Moment> {
        match self.function.backing.removal().presence() {
            Presence::Present => {}
            Presence::AskedBack if matches!(opcode, Opcode::DELETE_SQ | Opcode::DELETE_CQ | Opcode::ABORT) => {}
            _ => return Err(self.failed(step, ErrorKind::Gone)),
        }
        if self.epoch.current().state() == State::Resetting {
            drop(lock(&self.resetting));
        }
        let run = self.epoch.current();
        match run.state() {
            State::Running => Ok(run),
            state => Err(self.not_running(step, state)),
        }
    }

    /// Why nothing can be asked of a controller that is in this state for good.
    fn not_running(&self, step: &'static str, state: State) -> crate::Error {
        let kind = match state {
            State::Gone => ErrorKind::Gone,
            _ => ErrorKind::Failed("it is shut down, or could not be reset".into()),
        };
        self.failed(step, kind)
    }

    /// The next event, if there is one.
    pub(crate) fn next_event(&self) -> Option<u32> {
        let run = self.epoch.current();
        if run.state() == State::Running {
            self.in_run(run, |commands| self.drain(commands));
        }
        self.with_commands(|commands| commands.events.pop_front())
    }

    /// Asks again for events that the controller has refused to tell of.
    pub(crate) fn request_events_again(&self) {
        self.with_commands(|commands| {
            if self.epoch.current().state() == State::Running {
                commands.request_events_again();
            }
        });
    }

    /// For who waits for an event: what is signalled with it.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Whether the controller signals that: the admin queue has a vector of its own.
    pub(crate) fn is_signalled(&self) -> bool {
        self.waiters.len() > 1
    }

    /// For who waits for an event: whether one can come. Resets a controller that has failed.
    ///
    /// # Errors
    ///
    /// When none will come any more.
    pub(crate) fn can_wait(&self, step: &'static str) -> Result<()> {
        let run = self.admit(step, Opcode::ASYNC_EVENT)?;
        match self.look() {
            Ok(()) => Ok(()),
            Err(Trouble::Error(error)) => Err(error),
            Err(_) => Admin::reset(self, run, "CSTS.CFS"),
        }
    }

    pub(crate) fn admin_limit(&self) -> Duration {
        self.limits.admin
    }

    /// Says for good what became of the controller, to all who wait. What it was given is given up until it is seen to be quiet.
    fn leave(&self, state: State) {
        if let Err(error) = self.end(state) {
            tracing::error!(%error, "the controller may still use memory");
        }
    }

    fn end(&self, state: State) -> Result<()> {
        self.enter(state);
        if state == State::Gone {
            self.function.backing.removal().tell(Presence::Gone);
        }
        let quiet = self.function.backing.quiesce();
        if quiet.is_ok() {
            self.lose();
        }
        self.wake();
        quiet.map(drop)
    }

    fn wake(&self) {
        for waiter in &self.waiters {
            if let Err(error) = waiter.signal() {
                tracing::error!(%error, "one who waits for the controller is not told of its reset");
            }
        }
    }
}

fn data(sqe: Sqe, page: &Page) -> Sqe {
    sqe.with_data(DataPointer::Prp, page.iova().0, 0)
}

impl<B: Backing> Admin for Administration<B> {
    fn execute(&self, run: Moment, sqe: Sqe) -> Result<u64> {
        let step = "admin command of a queue";
        self.admit(step, sqe.opcode())?;
        // An I/O thread waits for its aborts.
        let limit = match sqe.opcode() {
            Opcode::ABORT => self.abort_limit(),
            _ => self.limits.admin,
        };
        self.execute_in(run, step, sqe, limit).result
    }

    fn take_queue(&self) -> Result<u16> {
        let mut numbers = lock(&self.numbers);
        let number = numbers.take();
        number.ok_or_else(|| self.too_many(&numbers))
    }

    fn exchange_queue(&self, id: u16) -> Result<u16> {
        let mut numbers = lock(&self.numbers);
        let number = numbers.exchange(id);
        number.ok_or_else(|| self.too_many(&numbers))
    }

    fn memory_buffer(&self) -> Result<Arc<Buffer>> {
        let _turn = lock(&self.resetting);
        match self.epoch.current().state() {
            State::Running => self.function.memory_buffer(),
            state => Err(self.not_running("controller memory buffer", state)),
        }
    }

    fn take_completions(&self) {
        self.with_commands(|commands| self.drain(commands));
    }

    fn give_back_queue(&self, id: u16) {
        lock(&self.numbers).give_back(id);
    }

    fn reset(&self, seen: Moment, reason: &str) -> Result<()> {
        let _turn = lock(&self.resetting);
        let now = self.epoch.current();
        match now.state() {
            State::Running if now.is_reset_since(seen) => Ok(()),
            State::Running => self.restart(reason),
            state => Err(self.not_running("reset", state)),
        }
    }

    fn stop_for(&self, run: Moment) -> Result<()> {
        let _turn = lock(&self.resetting);
        if self.epoch.current().is_reset_since(run) {
            return Ok(());
        }
        // Nobody else may go on when bus mastering is off.
        self.end(State::Stopped)
    }

    fn gone(&self) {
        self.leave(State::Gone);
    }
}

/// Shared with the queues.
#[derive(Debug)]
pub(crate) struct Handle<B: Backing>(pub(crate) Arc<Administration<B>>);

impl<B: Backing> Admin for Handle<B> {
    fn execute(&self, run: Moment, sqe: Sqe) -> Result<u64> {
        Admin::execute(&*self.0, run, sqe)
    }

    fn take_queue(&self) -> Result<u16> {
        self.0.take_queue()
    }

    fn exchange_queue(&self, id: u16) -> Result<u16> {
        self.0.exchange_queue(id)
    }

    fn memory_buffer(&self) -> Result<Arc<Buffer>> {
        self.0.memory_buffer()
    }

    fn take_completions(&self) {
        self.0.take_completions();
    }

    fn give_back_queue(&self, id: u16) {
        self.0.give_back_queue(id);
    }

    fn reset(&self, seen: Moment, reason: &str) -> Result<()> {
        Admin::reset(&*self.0, seen, reason)
    }

    fn stop_for(&self, run: Moment) -> Result<()> {
        self.0.stop_for(run)
    }

    fn gone(&self) {
        self.0.gone();
    }
}
