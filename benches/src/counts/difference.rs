//! What became of instructions, as a table.

use std::fmt::{self, Display, Formatter};

/// What is not as it was: a table, with a line for each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Difference {
    /// Dearer, or not known.
    pub worse: Vec<Change>,
    /// Cheaper: the baselines should be saved again.
    pub better: Vec<Change>,
}

/// Instructions of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub id: String,
    /// Those of the baseline, if there is one.
    pub before: Option<f64>,
    /// Those now.
    pub now: f64,
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows = self.worse.iter().map(|change| ("worse", change));
        let mut rows = rows
            .chain(self.better.iter().map(|change| ("better", change)))
            .peekable();
        if rows.peek().is_some() {
            writeln!(
                f,
                "{:6} {:>12} {:>12} {:>9}  instructions of",
                "", "before", "now", "change"
            )?;
        }
        for (verdict, Change { id, before, now }) in rows {
            match before {
                Some(before) => {
                    let percent = (now / before - 1.0) * 100.0;
                    writeln!(f, "{verdict:6} {before:>12.1} {now:>12.1} {percent:>+7.1} %  {id}")?;
                }
                None => writeln!(f, "{verdict:6} {:>12} {now:>12.1} {:>9}  {id}", "none", "")?,
            }
        }
        Ok(())
    }
}
