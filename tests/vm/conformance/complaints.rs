//! What the library says with `tracing` when it could not give something back: an object or memory that it had to leak. A drop cannot
//! fail, so a case that only drops would pass all the same.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The errors that were said, from when it was installed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Complaints {
    said: Arc<Mutex<Vec<String>>>,
}

impl Complaints {
    /// Listens for the rest of the process's life.
    pub(crate) fn listen() -> Self {
        let complaints = Self::default();
        // Fails only if somebody listens already.
        drop(tracing::subscriber::set_global_default(complaints.clone()));
        complaints
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for Complaints {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's fields as text.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let written = write!(self.0, "{}={value:?} ", field.name());
        debug_assert!(written.is_ok(), "a string takes everything");
    }
}
