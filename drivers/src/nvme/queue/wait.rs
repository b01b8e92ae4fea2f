//! Waiting for completions: by blocking, or as a future.

use super::super::payload::Payload;
use super::complete::TURNS;
use super::{Completion, Interrupt, QueuePair};
use crate::wait::{Reactor, Signals};
use crate::{Backing, ErrorKind, Result, VectorKind, Vectors, Woken};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// Tells the controller of all commands that were submitted, and waits until one has come back; `None` if none does in time.
    ///
    /// Blocks in the kernel if the queue has an interrupt, after having looked for a while if it is adaptive.
    ///
    /// # Errors
    ///
    /// Those of [`pop`](Self::pop), and of switching vectors.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Completion<T>>> {
        // What is there is given without a look at the clock.
        if let Some(completion) = self.pop()? {
            return Ok(Some(completion));
        }
        self.ring();
        let begin = self.shared.backing.now();
        let (mut now, mut polled_since) = (begin, begin);
        loop {
            // The time was read before: what has come back in time counts, however long this thread did not run.
            if let Some(completion) = self.pop()? {
                return Ok(Some(completion));
            }
            let spent = now.saturating_sub(begin);
            if timeout.is_some_and(|timeout| spent > timeout) {
                return Ok(None);
            }
            // Also before blocking: of a pin that is still asserted the word does not end.
            self.shared.backing.idle();
            let (vector, is_adaptive) = match self.options.interrupt {
                Interrupt::Vector(vector) => (vector, false),
                Interrupt::Adaptive { vector, poll } if now.saturating_sub(polled_since) >= poll => (vector, true),
                Interrupt::Off | Interrupt::Adaptive { .. } => {
                    // Not in every turn: where the clock is not the CPU's own, a look at it is a system call.
                    if self.turns.is_multiple_of(TURNS) {
                        now = self.shared.backing.now();
                    }
                    continue;
                }
            };
            if is_adaptive && self.arm(vector, true)? {
                // What came while the vector was off has not signalled.
                continue;
            }
            self.block(vector, timeout.map(|timeout| timeout.saturating_sub(spent)))?;
            now = self.shared.backing.now();
            if is_adaptive {
                self.arm(vector, false)?;
                polled_since = now;
            }
        }
    }

    /// The signals of [`event`](Self::event), and of a removal, for [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) of a queue without an interrupt; when the process has no descriptors left.
    pub fn signals(&self, reactor: &Reactor) -> Result<Signals> {
        let step = "watch a queue";
        let Some(event) = self.event() else {
            return self.failed(step, ErrorKind::Unsupported("the queue is polled".into()));
        };
        let signals = reactor.watch_device(event, self.shared.backing.removal());
        signals.map_err(|error| self.shared.failed(step, error))
    }

    /// The next command that has come back, as a future of any executor; `signals` are [its own](Self::signals). Being dropped before the end
    /// loses nothing. One that is there is given without a lock or a system call; a lock is taken when there is none.
    ///
    /// It has no clock: [`check`](Self::check) is for a timer.
    ///
    /// # Errors
    ///
    /// Those of [`pop`](Self::pop).
    pub async fn next(&mut self, signals: &mut Signals) -> Result<Completion<T>> {
        poll_fn(|context| self.poll_next(context, signals)).await
    }

    /// As [`next`](Self::next), for a future of the caller's own.
    pub fn poll_next(&mut self, context: &mut Context<'_>, signals: &mut Signals) -> Poll<Result<Completion<T>>> {
        loop {
            if let Some(completion) = self.pop().transpose() {
                return Poll::Ready(completion);
            }
            self.ring();
            let armed = match self.options.interrupt {
                Interrupt::Adaptive { vector, .. } => self.arm(vector, true),
                Interrupt::Off | Interrupt::Vector(_) => Ok(false),
            };
            match armed.and_then(|was_off| self.answer().map(|()| was_off)) {
                // What came while the vector was off has not signalled.
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            // A signal that came before this is kept, and one that comes after it wakes the task.
            if signals.poll_next(context).is_pending() {
                return Poll::Pending;
            }
            // It may have been the word of a removal.
            if let Err(error) = self.check() {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Blocks until the vector signals, for as long as nothing else has to be looked at.
    fn block(&mut self, vector: u16, left: Option<Duration>) -> Result<()> {
        self.answer()?;
        let pace = self.time.pace();
        let limit = left.map_or(pace, |left| left.min(pace));
        let Some(event) = self
            .shared
            .vectors
            .as_ref()
            .and_then(|vectors| vectors.event(vector.into()))
        else {
            return Ok(());
        };
        let woken = self.shared.backing.wait(event, Some(limit))?;
        if woken == Woken::Removal {
            // Nobody takes that signal: until what is outstanding has ended, this is polling.
            self.shared.backing.nap();
        }
        self.check()
    }

    /// Lets the next interrupt come: a pin stays asserted until the controller knows that its completions were taken.
    fn answer(&mut self) -> Result<()> {
        self.cq.ring();
        let (Some(vectors), Some(vector)) = (&self.shared.vectors, self.options.interrupt.vector()) else {
            return Ok(());
        };
        if vectors.kind() == VectorKind::Intx {
            // Of an event that nobody has asked for.
            self.shared.admin.take_completions();
        }
        vectors.acknowledge(vector.into())
    }

    /// Switches the vector of an adaptive queue, if it can be switched. Says whether it was.
    fn arm(&mut self, vector: u16, on: bool) -> Result<bool> {
        let Some(vectors) = self.shared.vectors.as_ref().filter(|vectors| vectors.can_disarm()) else {
            return Ok(false);
        };
        if self.is_armed == on {
            return Ok(false);
        }
        let switch = if on { Vectors::arm } else { Vectors::disarm };
        switch(vectors, vector.into())?;
        self.is_armed = on;
        Ok(true)
    }
}
