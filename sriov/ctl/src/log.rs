//! What the libraries say beside their results, on standard error like everything that is no data.

use rustix::io::Errno;
use rustix::stdio::stderr;
use std::fmt;
use std::io::{self, Write};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// From here on warnings are shown, and with `verbose` all but traces.
pub(crate) fn show(verbose: bool) {
    let least = if verbose { Level::DEBUG } else { Level::WARN };
    tracing_subscriber::fmt()
        .with_max_level(least)
        .with_ansi(false)
        .event_format(Plain)
        .with_writer(|| Stderr)
        .init();
}

/// In the words of this program's own talk.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let kind = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => "note",
        };
        write!(writer, "{kind}: ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error as a file: the standard library's is locked as long as the program runs, and a guest's threads talk, too.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(stderr(), bytes) {
            Err(Errno::INTR) => Err(Errno::INTR.into()),
            // Nobody may be listening: that would be said with the lock that this is to do without.
            written => Ok(written.unwrap_or(bytes.len())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
