//! What the kernel tells of a guest's functions, on the machine's event thread: one that it wants back leaves as if somebody had asked for it.

use super::{Functions, Given, Removal};
use crate::assigned::Notice;
use crate::machine::{EventKey, Events};
use crate::{ErrorKind, Result};
use ::pci::Bdf;
use std::sync::{Arc, Weak};
use vfio_core::EventFd;

/// Who watches, and where.
#[derive(Debug)]
pub(super) struct Watcher {
    events: Arc<Events>,
    functions: Weak<Functions>,
}

/// A file that the event thread waits for; no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    events: Arc<Events>,
    key: EventKey,
}

/// What becomes of a function that the kernel wants back.
#[derive(Debug)]
pub(super) struct Leaving {
    _watched: Watched,
    removal: Removal,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.events.remove(self.key);
    }
}

impl Functions {
    /// Lets the event thread hear what the kernel has to tell of the functions that there are and of those that come: one that is
    /// [wanted back](Notice::Wanted) is taken from the guest once that has let go of it, one that has [failed](Notice::Failed) at once. To be called once.
    ///
    /// # Errors
    ///
    /// When no descriptor is left.
    pub fn watch(self: &Arc<Self>, events: &Arc<Events>) -> Result<()> {
        let watcher = self.watcher.get_or_init(|| Watcher {
            events: Arc::clone(events),
            functions: Arc::downgrade(self),
        });
        let mut state = self.state();
        state.runs()?;
        state
            .slots
            .iter_mut()
            .flatten()
            .try_for_each(|given| watcher.watch(given))
    }

    fn hear(&self) {
        match self.take_notices() {
            Ok(notices) => {
                for (bdf, notice) in notices {
                    match notice {
                        Notice::Failed => self.discard(bdf),
                        Notice::Wanted => self.give_back(bdf),
                    }
                }
            }
            Err(error) => tracing::error!(%error, "what the kernel tells of functions is not heard"),
        }
    }

    /// Takes a function that has failed, with all in its slot: the kernel may want it back, and the guest is to know.
    fn discard(&self, bdf: Bdf) {
        match self.eject(bdf) {
            Ok(()) => tracing::warn!(%bdf, "a function has failed and was taken from the guest"),
            // Gone with another one of its slot.
            Err(error) if matches!(error.kind, ErrorKind::Invalid(_)) => {}
            Err(error) => tracing::error!(%error, %bdf, "a function that has failed was not let go of as it should be"),
        }
    }

    /// Asks the guest to let go of a function, and takes it when it has. The kernel says every few seconds what it wants: then the guest is asked again.
    fn give_back(&self, bdf: Bdf) {
        let asked = match self.leaving(bdf) {
            Ok(Some(removal)) => self.press(&removal),
            Ok(None) => self
                .begin_removal(bdf)
                .and_then(|removal| self.finish_later(bdf, removal)),
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => tracing::info!(%bdf, "the kernel wants a function back, which the guest was asked to let go of"),
            Err(error) => tracing::error!(%error, "the kernel wants a function back that the guest keeps"),
        }
    }

    fn leaving(&self, bdf: Bdf) -> Result<Option<Removal>> {
        let state = self.state();
        let (_, given) = state.find(bdf)?;
        Ok(given.leaving.as_ref().map(|leaving| leaving.removal.clone()))
    }

    fn finish_later(&self, bdf: Bdf, removal: Removal) -> Result<()> {
        let Some(watcher) = self.watcher.get() else {
            return Ok(());
        };
        let finished = removal.clone();
        let watched = watcher.add(removal.emptied(), move |functions: &Functions| {
            if let Err(error) = functions.finish_removal(&finished) {
                tracing::error!(%error, %bdf, "a function was not given back as it should be");
            }
        })?;
        let mut state = self.state();
        if let Some(given) = state.slots.iter_mut().flatten().find(|given| given.bdf == bdf) {
            given.leaving = Some(Leaving {
                _watched: watched,
                removal,
            });
        }
        Ok(())
    }
}

impl Watcher {
    /// Waits for what the kernel tells of a function.
    pub(super) fn watch(&self, given: &mut Given) -> Result<()> {
        for event in given.function.notice_events()? {
            given.watched.push(self.add(&event, Functions::hear)?);
        }
        Ok(())
    }

    /// Calls `call` whenever an event is signalled, while there are functions.
    fn add(&self, event: &EventFd, call: impl Fn(&Functions) + Send + 'static) -> Result<Watched> {
        let (functions, own) = (Weak::clone(&self.functions), event.try_clone()?);
        let key = self.events.add(event, move || {
            if let Some(functions) = functions.upgrade() {
                call(&functions);
            }
            // Whoever was called has taken the signals, or there is nobody to take them.
            if let Err(error) = own.try_read() {
                tracing::error!(%error, "an event is heard for ever");
            }
        })?;
        let events = Arc::clone(&self.events);
        Ok(Watched { events, key })
    }
}
