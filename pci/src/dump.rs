//! Text dumps of configuration space, as `lspci -x`, `-xxx` and `-xxxx` print them and `lspci -F` reads them.
//!
//! A function begins with a line `[SSSS:]BB:DD.F title`, goes on with lines `OFFSET: XX XX …` of at most 16 bytes, and ends with an
//! empty line or the next function. Other lines (what `-v` adds) are passed over.

use crate::{Bdf, ConfigSpace, Error, ErrorKind};
use std::fmt;

/// A function in a dump. Prints in the format that [`parse`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedFunction {
    /// Its name; segment 0 where the dump gives none.
    pub bdf: Bdf,
    /// What the dump says about it behind its name.
    pub title: String,
    /// Its configuration space, as far as the dump shows it.
    pub config: ConfigSpace,
}

const LINE_LEN_BYTES: usize = 16;
/// Width of described text: a tab and this fit a terminal of 120 columns.
const TEXT_WIDTH: usize = 108;

/// Reads a dump: its functions in their order.
///
/// # Errors
/// [`ErrorKind::Syntax`] with the line's number: bytes without a function, a gap or a repetition in the offsets, something that is
/// not a byte, more than 16 bytes in a line or 4096 in a function.
pub fn parse(text: &str) -> Result<Vec<DumpedFunction>, Error> {
    let mut functions: Vec<(Bdf, &str, Vec<u8>)> = Vec::new();
    let mut is_open = false;
    for (index, line) in text.lines().enumerate() {
        let syntax = |device, what| Error {
            device,
            step: "read dump".to_owned(),
            kind: ErrorKind::Syntax { line: index + 1, what },
        };
        let line = line.trim_end();
        if line.is_empty() {
            is_open = false;
        } else if let Some((bdf, title)) = title_line(line) {
            functions.push((bdf, title, Vec::new()));
            is_open = true;
        } else if let Some((offset, bytes)) = byte_line(line) {
            let Some((bdf, _, image)) = functions.last_mut().filter(|_| is_open) else {
                return Err(syntax(None, "bytes that belong to no function".to_owned()));
            };
            append(image, offset, bytes).map_err(|what| syntax(Some(*bdf), what))?;
        }
    }
    let finish = |(bdf, title, bytes): (Bdf, &str, Vec<u8>)| DumpedFunction {
        bdf,
        title: title.to_owned(),
        config: ConfigSpace::new(bytes),
    };
    Ok(functions.into_iter().map(finish).collect())
}

/// `00:02.0 Ethernet controller: …`
fn title_line(line: &str) -> Option<(Bdf, &str)> {
    let (name, title) = line.split_once(' ').unwrap_or((line, ""));
    Some((name.parse().ok()?, title.trim()))
}

/// `3f0: 00 11 22 …`: the offset, and what follows.
fn byte_line(line: &str) -> Option<(usize, &str)> {
    let (offset, bytes) = line.split_once(':')?;
    let is_offset = (2..=3).contains(&offset.len()) && offset.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_offset || !(bytes.is_empty() || bytes.starts_with(' ')) {
        return None;
    }
    Some((usize::from_str_radix(offset, 16).ok()?, bytes))
}

fn append(image: &mut Vec<u8>, offset: usize, bytes: &str) -> Result<(), String> {
    if offset != image.len() {
        return Err(format!("offset {offset:02x} where {:02x} was expected", image.len()));
    }
    for (index, word) in bytes.split_whitespace().enumerate() {
        if index == LINE_LEN_BYTES || image.len() == ConfigSpace::MAX_LEN_BYTES {
            return Err("more bytes than expected".to_owned());
        }
        let is_byte = word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(word, 16).ok().filter(|_| is_byte);
        image.push(byte.ok_or_else(|| format!("{word:.16?} is not a byte in two hexadecimal digits"))?);
    }
    Ok(())
}

impl DumpedFunction {
    /// The dump with what it says between title and bytes. It is still a dump.
    #[must_use]
    pub fn with_text(&self) -> String {
        let lines = self
            .config
            .lines(TEXT_WIDTH)
            .into_iter()
            .map(|line| format!("\t{line}\n"));
        format!("{}{}{}", Title(self), lines.collect::<String>(), Image(&self.config))
    }
}

impl fmt::Display for DumpedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Title(self), Image(&self.config))
    }
}

struct Title<'a>(&'a DumpedFunction);

impl fmt::Display for Title<'_> {
    /// The title loses control characters, so that it stays on its line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title: String = self.0.title.chars().filter(|c| !c.is_control()).collect();
        writeln!(f, "{}", format!("{} {}", self.0.bdf, title.trim()).trim_end())
    }
}

struct Image<'a>(&'a ConfigSpace);

impl fmt::Display for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.bytes().chunks(LINE_LEN_BYTES).enumerate() {
            write!(f, "{:02x}:", index * LINE_LEN_BYTES)?;
            line.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
