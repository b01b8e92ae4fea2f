//! Captured trees, in the text that `cargo run -p pci --example capture` prints.
//!
//! They are text and no directories because links of sysfs lead in circles, in which tools that look for source files get lost.

use super::put;
use std::io::{Error, Result};
use std::os::unix::fs::symlink;
use std::path::Path;

/// Makes the files and links of a captured tree below `root`.
///
/// # Errors
/// What the file system says, or that the text is not of this form.
pub fn unpack(capture: &str, root: &Path) -> Result<()> {
    let mut lines = capture.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some((path, target)) = line.split_once(" -> ") {
            put(&root.join(path), |path| symlink(target, path))?;
            continue;
        }
        let content: Vec<&str> =
            std::iter::from_fn(|| lines.next_if(|line| line.starts_with('\t'))?.get(1..)).collect();
        let (path, content) = match line.strip_suffix(" hex") {
            Some(path) => (path, bytes(&content.concat())?),
            None => (
                line,
                content
                    .iter()
                    .flat_map(|line| [line, "\n"])
                    .collect::<String>()
                    .into_bytes(),
            ),
        };
        #[expect(clippy::disallowed_methods, reason = "the tree is a test's own")]
        put(&root.join(path), |path| std::fs::write(path, &content))?;
    }
    Ok(())
}

fn bytes(digits: &str) -> Result<Vec<u8>> {
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>();
    bytes.ok_or_else(|| Error::other("not hexadecimal"))
}
