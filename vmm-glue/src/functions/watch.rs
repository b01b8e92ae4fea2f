//! What the kernel tells of a guest's functions: one that it wants back leaves as if somebody had asked for it. On a thread of its own, since what is done
//! then takes as long as a reset, or as somebody else who gives the guest a function meanwhile.

use super::{Functions, Given, Removal};
use crate::assigned::Notice;
use crate::machine::{EventKey, Events};
use crate::{Error, ErrorKind, Result};
use ::pci::Bdf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use vfio_core::EventFd;

/// Who listens.
#[derive(Debug)]
pub(super) struct Listener {
    events: Arc<Events>,
    functions: Weak<Functions>,
    is_stopping: Arc<AtomicBool>,
    stop: EventFd,
    /// Once it listens, until it is stopped.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A file that is waited for; no longer when this is dropped.
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
    /// Listens from now on, on threads of its own, to what the kernel has to tell of the functions that there are and of those that come, and to their page
    /// requests ([`Dma::serve`](crate::dma::Dma::serve)). A function that is [wanted back](Notice::Wanted) is taken from the guest once that has let go of it,
    /// one that has [failed](Notice::Failed) at once. To be called when the process has given up the rights that it does not need, and again is no mistake.
    ///
    /// # Errors
    ///
    /// When there can be no thread, or no descriptor is left.
    pub fn serve(self: &Arc<Self>) -> Result<()> {
        // Who is giving the guest a function meanwhile sees that there is a listener, or is seen here.
        let space = self.space();
        space.serve_pages()?;
        match self.listener.get() {
            Some(listener) => listener.start(),
            None => self.listen(Arc::new(Events::new()?))?.start(),
        }
    }

    /// Whoever dispatches these events listens. Nobody gives the guest a function meanwhile.
    pub(super) fn listen(self: &Arc<Self>, events: Arc<Events>) -> Result<&Listener> {
        let made = Listener::new(events, Arc::downgrade(self))?;
        let listener = self.listener.get_or_init(|| made);
        let mut slots = self.slots();
        slots.runs()?;
        let mut functions = slots.given.iter_mut().flatten();
        functions.try_for_each(|given| listener.watch(given))?;
        Ok(listener)
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
        let slots = self.slots();
        let (_, given) = slots.find(bdf)?;
        Ok(given.leaving.as_ref().map(|leaving| leaving.removal.clone()))
    }

    fn finish_later(&self, bdf: Bdf, removal: Removal) -> Result<()> {
        let Some(listener) = self.listener.get() else {
            return Ok(());
        };
        let finished = removal.clone();
        let watched = listener.add(removal.emptied(), move |functions: &Functions| {
            if let Err(error) = functions.finish_removal(&finished) {
                tracing::error!(%error, %bdf, "a function was not given back as it should be");
            }
        })?;
        let mut slots = self.slots();
        // The guest may have let go of it by now, and have it again in another slot.
        if let Some(given) = slots.asked(&removal) {
            given.leaving = Some(Leaving {
                _watched: watched,
                removal,
            });
        }
        Ok(())
    }
}

impl Listener {
    fn new(events: Arc<Events>, functions: Weak<Functions>) -> Result<Self> {
        Ok(Self {
            events,
            functions,
            is_stopping: Arc::default(),
            stop: EventFd::new()?,
            thread: Mutex::default(),
        })
    }

    fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (stop, is_wanted) = (self.stop.try_clone()?, Arc::clone(&self.is_stopping));
            self.events.add(&self.stop, move || {
                is_wanted.store(true, Ordering::Release);
                if let Err(error) = stop.try_read() {
                    tracing::error!(%error, "an event is heard for ever");
                }
            })?;
            let (events, is_stopping) = (Arc::clone(&self.events), Arc::clone(&self.is_stopping));
            let work = move || {
                while !is_stopping.load(Ordering::Acquire) {
                    if let Err(error) = events.dispatch(None) {
                        tracing::error!(%error, "what the kernel tells of functions is not heard any more");
                        return;
                    }
                }
            };
            let started = thread::Builder::new().name("functions".to_owned()).spawn(work);
            *thread = Some(started.map_err(|error| Error::new("start a thread", ErrorKind::Io(error)))?);
        }
        Ok(())
    }

    /// Listens no more. Waits for what is being done, unless that is why this is called.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if let Err(error) = self.stop.signal() {
            tracing::error!(%error, "what the kernel tells of functions is heard for ever");
            return;
        }
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread that listens to the kernel has panicked");
        }
    }

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
