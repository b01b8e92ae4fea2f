//! The console's input on the event thread: read when there is some and the guest has room for it.

use super::events::{EventKey, Events};
use crate::serial::{Fed, Input};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use vfio_core::{Errno, EventFd};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file can be read.
    File(EventKey),
    /// The guest has read what it has.
    Guest,
    /// Nothing any more.
    End,
}

#[derive(Debug)]
struct Feeder {
    input: Input,
    /// Those who call it hold it alive.
    events: Weak<Events>,
    state: State,
    /// Whether the file can be waited for; else it can always be read.
    is_polled: bool,
}

/// Feeds the guest from now on. `drained` tells that it has read all.
pub(super) fn feed(events: &Arc<Events>, input: Input, drained: EventFd) -> Result<()> {
    let feeder = Arc::new(Mutex::new(Feeder {
        input,
        events: Arc::downgrade(events),
        state: State::Guest,
        is_polled: true,
    }));
    advance(&feeder);
    let wake = drained.try_clone()?;
    events.add(&wake, move || {
        if drained.try_read().is_ok() {
            advance(&feeder);
        }
    })?;
    Ok(())
}

/// The guest has room.
fn advance(feeder: &Arc<Mutex<Feeder>>) {
    let mut locked = feeder.lock().unwrap_or_else(PoisonError::into_inner);
    if locked.state != State::Guest {
        return;
    }
    if locked.input.is_waiting() {
        locked.read();
    }
    while locked.state == State::Guest && !locked.input.is_waiting() {
        if let Err(error) = locked.wait_for_file(feeder) {
            tracing::warn!(%error, "the console's input is lost");
            locked.state = State::End;
        }
    }
}

impl Feeder {
    fn wait_for_file(&mut self, own: &Arc<Mutex<Self>>) -> Result<()> {
        let Some(events) = self.events.upgrade() else {
            self.state = State::End;
            return Ok(());
        };
        if self.is_polled {
            let own = Arc::downgrade(own);
            let added = events.add(&self.input, move || {
                if let Some(feeder) = own.upgrade() {
                    feeder.lock().unwrap_or_else(PoisonError::into_inner).read();
                }
            });
            match added {
                Ok(key) => {
                    self.state = State::File(key);
                    return Ok(());
                }
                // A plain file.
                Err(error) if is_refused(&error) => self.is_polled = false,
                Err(error) => return Err(error),
            }
        }
        self.read();
        Ok(())
    }

    fn read(&mut self) {
        let next = match self.input.feed() {
            Ok(Fed::All) => return,
            Ok(Fed::Full) => State::Guest,
            Ok(Fed::End) => State::End,
            Err(error) => {
                tracing::warn!(%error, "the console's input is lost");
                State::End
            }
        };
        if let (State::File(key), Some(events)) = (self.state, self.events.upgrade()) {
            events.remove(key);
        }
        self.state = next;
    }
}

fn is_refused(error: &Error) -> bool {
    matches!(&error.kind, ErrorKind::Device(error) if error.errno() == Some(Errno::PERM))
}
