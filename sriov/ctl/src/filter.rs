//! Filters: conditions on the columns of `list`.

use crate::column::{self, Column, Need, Row, Value};
use crate::{glob, similar};
use std::cmp::Ordering;
use std::str::FromStr;

/// The grammar, for the long help.
pub(crate) const HELP: &str = "\
Filters (--filter):
  COLUMN OP VALUE, joined by , or && (and) and by || (or, binds less tightly)
  =  !=           equal, not equal; letter case does not matter, empty is none
  ~  !~           matches a pattern with * and ?, does not match
  <  <=  >  >=    for numbers
  A value with , & | or quotes in it is written in double quotes.
  A column with several values fits when one of them does; != and !~ fit when
  none does. A value that could not be read fits no condition.
  Example: --filter 'driver=vfio-pci,numa=1 || role=pf'";

/// A filter: any of several lists of conditions that all hold.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    any: Vec<Vec<Condition>>,
}

#[derive(Debug, Clone)]
struct Condition {
    column: &'static Column,
    operator: Operator,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Like,
    NotLike,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer spellings first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 8] = [
    ("!=", Operator::NotEqual),
    ("!~", Operator::NotLike),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("~", Operator::Like),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Filter {
    /// What has to be read to decide.
    pub(crate) fn need(&self) -> Need {
        let conditions = self.any.iter().flatten();
        conditions.fold(Need::NONE, |need, condition| need | condition.column.need)
    }

    /// Whether a row fits.
    pub(crate) fn fits(&self, row: &Row<'_>) -> bool {
        self.any
            .iter()
            .any(|all| all.iter().all(|condition| condition.fits(row)))
    }
}

impl Condition {
    fn fits(&self, row: &Row<'_>) -> bool {
        let negative = matches!(self.operator, Operator::NotEqual | Operator::NotLike);
        match self.column.value(row) {
            Value::Unknown(_) => false,
            Value::None => self.holds_for("") != negative,
            Value::List(values) if values.is_empty() => self.holds_for("") != negative,
            Value::List(values) => values.iter().any(|value| self.holds_for(value)) != negative,
            value => self.holds_for(&value.to_string()) != negative,
        }
    }

    /// The positive form of the condition.
    fn holds_for(&self, found: &str) -> bool {
        let order = || compare(found, &self.value);
        match self.operator {
            Operator::Equal | Operator::NotEqual => {
                found.eq_ignore_ascii_case(&self.value) || order() == Some(Ordering::Equal)
            }
            Operator::Like | Operator::NotLike => glob::matches(&self.value, found),
            Operator::Less => order().is_some_and(Ordering::is_lt),
            Operator::LessOrEqual => order().is_some_and(Ordering::is_le),
            Operator::Greater => order().is_some_and(Ordering::is_gt),
            Operator::GreaterOrEqual => order().is_some_and(Ordering::is_ge),
        }
    }
}

/// Compares two decimal numbers; anything else has no order.
fn compare(found: &str, wanted: &str) -> Option<Ordering> {
    let (found, wanted): (u64, u64) = (found.parse().ok()?, wanted.parse().ok()?);
    Some(found.cmp(&wanted))
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text.trim_start();
        let mut any = vec![Vec::new()];
        loop {
            let condition;
            (condition, rest) = parse_condition(rest)?;
            if let Some(all) = any.last_mut() {
                all.push(condition);
            }
            if let Some(after) = rest.strip_prefix("||") {
                any.push(Vec::new());
                rest = after.trim_start();
            } else if let Some(after) = rest.strip_prefix("&&").or_else(|| rest.strip_prefix(',')) {
                rest = after.trim_start();
            } else if rest.is_empty() {
                return Ok(Self { any });
            } else {
                return Err(format!("expected , or && or || before {rest:?}"));
            }
        }
    }
}

fn parse_condition(text: &str) -> Result<(Condition, &str), String> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let column = column::find(name).ok_or_else(|| {
        let hint = similar::hint(name, column::names()).unwrap_or_else(|| "see --columns".to_owned());
        format!("no column {name:?}; {hint}")
    })?;
    let rest = rest.trim_start();
    let found = OPERATORS
        .iter()
        .find_map(|(spelling, op)| Some((*op, rest.strip_prefix(spelling)?)));
    let (operator, rest) = found.ok_or_else(|| format!("expected = != ~ !~ < <= > or >= after {name:?}"))?;
    let text = rest.trim_start();
    let (value, rest) = parse_value(text)?;
    // Words that nobody has: not a filter that never fits, but one with the wrong operator.
    if matches!(operator, Operator::Equal | Operator::NotEqual) && glob::is_pattern(&value) && !text.starts_with('"') {
        let (is, like) = if operator == Operator::Equal {
            ("=", "~")
        } else {
            ("!=", "!~")
        };
        return Err(format!(
            "{is} compares {value:?} letter by letter; for a pattern write {name}{like}{value}, or {name}{is}\"{value}\" if that is meant"
        ));
    }
    let condition = Condition {
        column,
        operator,
        value,
    };
    Ok((condition, rest.trim_start()))
}

fn parse_value(text: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, rest) = quoted.split_once('"').ok_or("a double quote is not closed")?;
        return Ok((value.to_owned(), rest));
    }
    let end = [text.find(','), text.find("&&"), text.find("||")];
    let end = end.into_iter().flatten().min().unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    if value.contains('"') {
        return Err(format!("a double quote inside the value {value:?}"));
    }
    Ok((value.trim_end().to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Filter>().unwrap_err()
    }

    #[test]
    fn and_binds_tighter_than_or() {
        let filter: Filter = "driver=igb,numa>=1 && vf=0||role = pf".parse().unwrap();
        let shape: Vec<usize> = filter.any.iter().map(Vec::len).collect();
        assert_eq!(shape, [3, 1]);
        let last = filter.any.last().unwrap().first().unwrap();
        assert_eq!(
            (last.column.name, last.operator, last.value.as_str()),
            ("role", Operator::Equal, "pf")
        );
    }

    #[test]
    fn quotes_keep_separators_in_a_value() {
        let filter: Filter = r#"name="A, B || C",numa=0"#.parse().unwrap();
        assert_eq!(filter.any[0][0].value, "A, B || C");
        assert_eq!(filter.any[0].len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(error("drivr=igb"), "no column \"drivr\"; did you mean driver?");
        assert_eq!(error("driver"), "expected = != ~ !~ < <= > or >= after \"driver\"");
        assert_eq!(error("driver=\"igb"), "a double quote is not closed");
        assert_eq!(error("name=\"a\"b"), "expected , or && or || before \"b\"");
        assert_eq!(error("driver=igb,"), "no column \"\"; see --columns");
    }

    #[test]
    fn a_pattern_after_an_equals_sign_is_told_its_operator() {
        let told = error("driver=virtio*");
        assert!(told.contains("driver~virtio*"), "{told}");
        assert!(error("numa=0,driver!=vfio-?ci").contains("driver!~vfio-?ci"));
        for fine in ["driver~virtio*", r#"driver="virtio*""#, "driver=virtio"] {
            assert!(fine.parse::<Filter>().is_ok(), "{fine}");
        }
    }

    #[test]
    fn numbers_compare_as_numbers() {
        assert_eq!(compare("9", "10"), Some(Ordering::Less));
        assert_eq!(compare("igb", "10"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error(text in r#"(bdf|numa|vf|x)?[=!~<>]{0,2}[a-z0-9*",|& ]{0,20}"#) {
            let filter = text.parse::<Filter>();
            proptest::prop_assert!(filter.is_err() || filter.is_ok_and(|filter| filter.any.iter().all(|all| !all.is_empty())));
        }
    }
}
