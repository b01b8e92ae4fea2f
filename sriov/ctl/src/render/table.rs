//! Tables for people, and `COLUMN="value"` pairs for shell scripts.

use super::style;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

/// The cells of a table below one heading per column.
#[derive(Debug, Default)]
pub(crate) struct Table {
    headings: Vec<Heading>,
    /// The text of all cells, row by row: a table can have many, and one allocation for each would take most of the time.
    text: String,
    /// The cells in the order of their text, as many to a row as there are headings.
    cells: Vec<Cell>,
}

#[derive(Debug)]
struct Heading {
    text: String,
    right: bool,
    width: usize,
}

#[derive(Debug)]
struct Cell {
    /// Where its text ends.
    end: usize,
    /// Characters in it.
    width: usize,
}

impl Table {
    /// A table with left-aligned columns of these names.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::aligned(names.into_iter().map(|name| (name, false)))
    }

    /// A table with columns of these names, each left-aligned or (`true`) right-aligned.
    pub(crate) fn aligned<'a>(columns: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let headings = columns.into_iter().map(|(name, right)| Heading {
            text: name.to_uppercase(),
            right,
            width: name.chars().count(),
        });
        Self {
            headings: headings.collect(),
            ..Self::default()
        }
    }

    /// Adds a row with one cell per column.
    pub(crate) fn row<T: fmt::Display>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut cells = cells.into_iter();
        for heading in &mut self.headings {
            let start = self.text.len();
            if let Some(cell) = cells.next() {
                let written = write!(self.text, "{cell}");
                debug_assert!(written.is_ok(), "a String takes all that is written to it");
            }
            let width = make_printable(&mut self.text, start);
            heading.width = heading.width.max(width);
            let end = self.text.len();
            self.cells.push(Cell { end, width });
        }
    }

    /// Whether there is nothing below the headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Writes the table.
    pub(crate) fn write(&self, out: &mut impl Write, with_header: bool) -> io::Result<()> {
        if with_header {
            self.write_header(out)?;
        }
        out.write_all(self.body().as_bytes())
    }

    /// Writes the line of headings.
    pub(crate) fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        let style = style::HEADING;
        let names = self.headings.iter().map(|heading| heading.text.as_str());
        let mut line = String::new();
        self.line(&mut line, names.map(|name| (name, name.chars().count())));
        write!(out, "{style}{line}{style:#}")
    }

    /// The lines below the headings.
    pub(crate) fn body(&self) -> String {
        let mut lines = String::new();
        self.rows().for_each(|row| self.line(&mut lines, row));
        lines
    }

    /// The rows of cells, each as its text and the characters in it.
    fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = (&str, usize)>> {
        let mut start = 0;
        self.cells.chunks(self.headings.len().max(1)).map(move |row| {
            let first = start;
            start = row.last().map_or(start, |cell| cell.end);
            let starts = std::iter::once(first).chain(row.iter().map(|cell| cell.end));
            let text = |start, end| self.text.get(start..end).unwrap_or_default();
            row.iter()
                .zip(starts)
                .map(move |(cell, start)| (text(start, cell.end), cell.width))
        })
    }

    /// Appends a line of cells, each filled up to the width of its column; none after the last one.
    fn line<'a>(&self, line: &mut String, cells: impl Iterator<Item = (&'a str, usize)>) {
        let last = self.headings.len().saturating_sub(1);
        for (index, (heading, (cell, width))) in self.headings.iter().zip(cells).enumerate() {
            let fill = heading.width.saturating_sub(width);
            let (before, after) = match (heading.right, index == last) {
                (true, _) => (fill, 0),
                (false, true) => (0, 0),
                (false, false) => (0, fill),
            };
            let separator = if index == 0 { 0 } else { 2 };
            line.extend(std::iter::repeat_n(' ', separator + before));
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', after));
        }
        line.push('\n');
    }

    /// Writes every row as `COLUMN="value"` pairs, quoted for a shell.
    pub(crate) fn write_pairs(&self, out: &mut impl Write) -> io::Result<()> {
        for row in self.rows() {
            for (index, (heading, (cell, _))) in self.headings.iter().zip(row).enumerate() {
                let separator = if index == 0 { "" } else { " " };
                write!(out, "{separator}{}=\"", heading.text)?;
                for c in cell.chars() {
                    let escape = if matches!(c, '"' | '\\' | '$' | '`') { "\\" } else { "" };
                    write!(out, "{escape}{c}")?;
                }
                write!(out, "\"")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Makes the text from `start` on [`printable`]; returns how many characters it has.
fn make_printable(text: &mut String, start: usize) -> usize {
    let cell = text.get(start..).unwrap_or_default();
    if cell.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return cell.len();
    }
    let cell = printable(cell);
    text.truncate(start);
    text.push_str(&cell);
    cell.chars().count()
}

/// Text from the machine without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::aligned([("bdf", false), ("numa", true), ("name", false)]);
        table.row(["0000:00:00.0", "0", "a \"b\" $c"]);
        table.row(["10000:00:00.0", "-", "\u{1b}[31mred"]);
        table
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string()
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        insta::assert_snapshot!(text(|out| table().write(out, true)));
    }

    #[test]
    fn pairs_are_safe_in_a_shell() {
        insta::assert_snapshot!(text(|out| table().write_pairs(out)));
    }
}
