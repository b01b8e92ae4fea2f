//! The columns of `list`: one table that the text, the JSON, `-o`, `-s`, `--filter` and `--columns` share.

use crate::describe;
use crate::snapshot::Snapshot;
use pci::{Fields, Function, Reading, Unknown};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

mod table;

pub(crate) use table::COLUMNS;

/// What an operator sees without asking for more.
const DEFAULT: [&str; 8] = ["bdf", "class", "driver", "group", "numa", "sriov", "devices", "name"];

/// A column.
pub(crate) struct Column {
    /// Its name on the command line and in JSON.
    pub(crate) name: &'static str,
    /// What its values are.
    pub(crate) kind: Kind,
    /// One line for `--columns`.
    pub(crate) about: &'static str,
    /// What has to be read for it.
    pub(crate) need: Need,
    /// Whether JSON has it only with `-o`.
    pub(crate) on_request: bool,
    value: Reader,
}

/// Finds the value of a column for a row.
type Reader = for<'a> fn(&Row<'a>) -> Value<'a>;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    String,
    Integer,
    Boolean,
    Strings,
}

/// What has to be read from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) fields: Fields,
    pub(crate) names: bool,
    pub(crate) holders: bool,
}

impl Need {
    pub(crate) const NONE: Self = Self::fields(Fields::empty());
    pub(crate) const HOLDERS: Self = Self {
        holders: true,
        ..Self::NONE
    };

    pub(crate) const fn fields(fields: Fields) -> Self {
        Self {
            fields,
            names: false,
            holders: false,
        }
    }

    pub(crate) const fn names(fields: Fields) -> Self {
        Self {
            fields,
            names: true,
            holders: false,
        }
    }
}

impl BitOr for Need {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            fields: self.fields | other.fields,
            names: self.names | other.names,
            holders: self.holders | other.holders,
        }
    }
}

/// A function and the machine it is in.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) function: &'a Function,
    pub(crate) snapshot: &'a Snapshot,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
    /// There is none, and that is known.
    None,
    /// Not known, and why. `null` in JSON, where `unknown` names the reason.
    #[serde(serialize_with = "null")]
    Unknown(Unknown),
}

fn null<S: serde::Serializer>(_: &Unknown, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_unit()
}

impl<'a> Value<'a> {
    fn of<T>(reading: &'a Reading<T>, value: impl FnOnce(&'a T) -> Self) -> Self {
        match reading {
            Ok(known) => value(known),
            Err(unknown) => Self::Unknown(unknown.clone()),
        }
    }

    fn of_optional<T>(reading: &'a Reading<Option<T>>, value: impl FnOnce(&'a T) -> Self) -> Self {
        Self::of(reading, |known| known.as_ref().map_or(Self::None, value))
    }

    fn text(value: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(value.into())
    }

    fn optional_text(value: Option<impl Into<Cow<'a, str>>>) -> Self {
        value.map_or(Self::None, Self::text)
    }
}

/// As in a table: `-` for none, `?` for not known.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => f.write_str(if *flag { "yes" } else { "no" }),
            Self::List(values) if values.is_empty() => f.write_str("-"),
            Self::List(values) => f.write_str(&values.join(" ")),
            Self::None => f.write_str("-"),
            Self::Unknown(_) => f.write_str("?"),
        }
    }
}

impl Column {
    /// The value of the column for a row.
    pub(crate) fn value<'a>(&self, row: &Row<'a>) -> Value<'a> {
        (self.value)(row)
    }
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Column").field(&self.name).finish()
    }
}

/// The column of that name.
pub(crate) fn find(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.name.eq_ignore_ascii_case(name))
}

/// The names of all columns.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().map(|column| column.name)
}

/// The columns of a table without `-o`.
pub(crate) fn default_columns() -> Vec<&'static Column> {
    DEFAULT.iter().filter_map(|name| find(name)).collect()
}

/// The keys of a JSON row without `-o`.
pub(crate) fn json_columns() -> Vec<&'static Column> {
    COLUMNS.iter().filter(|column| !column.on_request).collect()
}

/// The argument of `-o`: `COL,COL` instead of the default columns, `+COL,COL` after them.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    added: bool,
    columns: Vec<&'static Column>,
}

impl Columns {
    /// The columns to show where `default` is shown otherwise; each once.
    pub(crate) fn after(self, default: Vec<&'static Column>) -> Vec<&'static Column> {
        let mut columns = if self.added { default } else { Vec::new() };
        for column in self.columns {
            if !columns.iter().any(|shown| shown.name == column.name) {
                columns.push(column);
            }
        }
        columns
    }
}

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (added, list) = text.strip_prefix('+').map_or((false, text), |list| (true, list));
        let columns = list.split(',').map(parse_column);
        Ok(Self {
            added,
            columns: columns.collect::<Result<_, _>>()?,
        })
    }
}

/// A column by name, with what looks similar where there is none.
pub(crate) fn parse_column(name: &str) -> Result<&'static Column, String> {
    find(name.trim()).ok_or_else(|| {
        let hint = crate::similar::hint(name, names()).unwrap_or_else(|| "see --columns".to_owned());
        format!("no column {name:?}; {hint}")
    })
}

/// What kind of function it is, for the `role` column.
fn role(function: &Function) -> Value<'_> {
    let is_vf = function.vf_of.as_ref().map(Option::is_some);
    let is_pf = function.sriov.as_ref().map(Option::is_some);
    let is_bridge = function.class.as_ref().map(|class| class.base() == 0x06);
    match (is_vf, is_pf, is_bridge) {
        (Ok(true), _, _) => Value::text("vf"),
        (_, Ok(true), _) => Value::text("pf"),
        (_, _, Ok(true)) => Value::text("bridge"),
        (Err(unknown), _, _) | (_, Err(unknown), _) | (_, _, Err(unknown)) => Value::Unknown(unknown.clone()),
        _ => Value::text("function"),
    }
}

/// `7/8 VFs` for a PF, `VF 3 of 0000:01:00.0` for a VF.
pub(crate) fn sriov(function: &Function) -> Value<'_> {
    if let Ok(Some(vf)) = &function.vf_of {
        let index = vf
            .index
            .as_ref()
            .map_or_else(|_| "?".to_owned(), |index| index.0.to_string());
        return Value::text(format!("VF {index} of {}", vf.pf));
    }
    Value::of_optional(&function.sriov, |sriov| Value::text(describe::vf_count(sriov)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_default_columns_exist() {
        let mut all: Vec<_> = names().collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(default_columns().len(), DEFAULT.len());
    }

    #[test]
    fn plus_adds_and_repeats_are_dropped() {
        let shown = |text: &str| -> Vec<_> {
            let columns = text.parse::<Columns>().unwrap().after(default_columns());
            columns.iter().map(|column| column.name).collect()
        };
        assert_eq!(shown("driver,bdf,driver"), ["driver", "bdf"]);
        assert_eq!(shown("+bdf,link").last(), Some(&"link"));
        assert_eq!(shown("+bdf,link").len(), DEFAULT.len() + 1);
    }

    #[test]
    fn an_unknown_column_is_answered_with_a_similar_one() {
        assert_eq!(
            "drivr".parse::<Columns>().unwrap_err(),
            "no column \"drivr\"; did you mean driver?"
        );
    }

    #[test]
    fn unknown_and_none_are_null() {
        let unknown = Value::Unknown(Unknown::not_read("sys/x"));
        assert_eq!(serde_json::to_string(&[unknown, Value::None]).unwrap(), "[null,null]");
    }
}
