//! Tables for people, and `COLUMN="value"` pairs for shell scripts.

use super::style;
use std::fmt;
use std::io::{self, Write};

/// The cells of a table below one heading per column.
#[derive(Debug, Default)]
pub(crate) struct Table {
    headings: Vec<Heading>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Heading {
    text: String,
    right: bool,
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
            rows: Vec::new(),
        }
    }

    /// Adds a row with one cell per column.
    pub(crate) fn row<T: fmt::Display>(&mut self, cells: impl IntoIterator<Item = T>) {
        let row: Vec<String> = cells.into_iter().map(|cell| printable(&cell.to_string())).collect();
        for (heading, cell) in self.headings.iter_mut().zip(&row) {
            heading.width = heading.width.max(cell.chars().count());
        }
        self.rows.push(row);
    }

    /// Whether there is nothing below the headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the table.
    pub(crate) fn write(&self, out: &mut impl Write, with_header: bool) -> io::Result<()> {
        if with_header {
            let style = style::HEADING;
            write!(out, "{style}")?;
            self.write_row(out, self.headings.iter().map(|heading| heading.text.as_str()))?;
            write!(out, "{style:#}")?;
        }
        self.rows
            .iter()
            .try_for_each(|row| self.write_row(out, row.iter().map(String::as_str)))
    }

    fn write_row<'a>(&self, out: &mut impl Write, cells: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let last = self.headings.len().saturating_sub(1);
        for (index, (heading, cell)) in self.headings.iter().zip(cells).enumerate() {
            let separator = if index == 0 { "" } else { "  " };
            let width = heading.width;
            match (heading.right, index == last) {
                (true, _) => write!(out, "{separator}{cell:>width$}")?,
                (false, true) => write!(out, "{separator}{cell}")?,
                (false, false) => write!(out, "{separator}{cell:width$}")?,
            }
        }
        writeln!(out)
    }

    /// Writes every row as `COLUMN="value"` pairs, quoted for a shell.
    pub(crate) fn write_pairs(&self, out: &mut impl Write) -> io::Result<()> {
        for row in &self.rows {
            for (index, (heading, cell)) in self.headings.iter().zip(row).enumerate() {
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
