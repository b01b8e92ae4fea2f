//! The kernel's console: for what has to be said when there is no one else to tell.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes a line to the console; a console that does not take it leaves nobody to tell.
pub(crate) fn say(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        drop(writeln!(console, "{line}"));
    }
}
