//! `list`: functions as a table.

use crate::args::List;
use crate::column::{self, COLUMNS, Column, Kind, Need, Row, Value};
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::table::Table;
use crate::request::Settings;
use crate::selector;
use crate::snapshot::Snapshot;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Lists functions, or the columns there are.
pub(crate) fn run(args: List, settings: &Settings, output: &mut Output) -> Outcome {
    if args.columns {
        return list_columns(&args, output);
    }
    let default = if output.is_json() {
        column::json_columns()
    } else {
        column::default_columns()
    };
    let columns = match args.output {
        Some(chosen) => chosen.after(default),
        None => default,
    };
    let mut need = columns.iter().fold(Need::NONE, |need, column| need | column.need);
    need = need | Need::fields(selector::fields(&args.selectors));
    need = args.filter.as_ref().map_or(need, |filter| need | filter.need());
    need = args.sort.map_or(need, |column| need | column.need);
    need = if args.free { need | Snapshot::FREE } else { need };
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let selection = selector::resolve(&args.selectors, &snapshot.topology, &settings.sysfs)?;

    let functions = selection
        .functions
        .iter()
        .filter_map(|bdf| snapshot.topology.function(*bdf));
    let rows = functions.map(|function| Row {
        function,
        snapshot: &snapshot,
    });
    let rows = rows.filter(|row| args.filter.as_ref().is_none_or(|filter| filter.fits(row)));
    let mut rows: Vec<Row<'_>> = rows
        .filter(|row| !args.free || snapshot.is_free(row.function))
        .collect();
    if let Some(column) = args.sort {
        rows.sort_by_cached_key(|row| SortKey::from(column.value(row)));
    }

    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            functions: rows.iter().map(|row| JsonRow { row, columns: &columns }).collect(),
            unmatched: &selection.unmatched,
        })?;
    } else {
        let mut table = Table::aligned(columns.iter().map(|column| (column.name, column.kind == Kind::Integer)));
        for row in &rows {
            table.row(columns.iter().map(|column| column.value(row)));
        }
        if args.pairs {
            table.write_pairs(output.data())?;
        } else if !table.is_empty() {
            output.table(&table, !args.no_header)?;
        }
        snapshot.note_what_was_not_seen(output);
        if settings.verbose {
            explain_unknown(&rows, &columns, output);
        }
    }
    let exit = super::finish(&selection, output);
    if rows.is_empty() {
        if !output.is_json() {
            output.note("no function fits");
        }
        return Ok(Exit::NoMatch);
    }
    Ok(exit)
}

fn explain_unknown(rows: &[Row<'_>], columns: &[&Column], output: &mut Output) {
    for row in rows {
        for column in columns {
            if let Value::Unknown(unknown) = column.value(row) {
                output.note(format_args!(
                    "{}: {} is not known: {unknown}",
                    row.function.bdf, column.name
                ));
            }
        }
    }
}

/// Order of a column: numbers, then text, then what there is not, then what is not known.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey<'a> {
    Number(u64),
    Text(Cow<'a, str>),
    None,
    Unknown,
}

impl<'a> From<Value<'a>> for SortKey<'a> {
    fn from(value: Value<'a>) -> Self {
        match value {
            Value::Number(number) => Self::Number(number),
            Value::Flag(flag) => Self::Number(flag.into()),
            Value::Text(text) => Self::Text(text),
            Value::List(values) if values.is_empty() => Self::None,
            Value::List(values) => Self::Text(values.join(" ").into()),
            Value::None => Self::None,
            Value::Unknown(_) => Self::Unknown,
        }
    }
}

#[derive(serde::Serialize)]
struct Document<'a> {
    schema_version: u32,
    functions: Vec<JsonRow<'a>>,
    unmatched: &'a [String],
}

/// A row as an object with one key per column, and `unknown` with the reason for each value that is not known.
struct JsonRow<'a> {
    row: &'a Row<'a>,
    columns: &'a [&'static Column],
}

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len() + 1))?;
        let mut unknown = BTreeMap::new();
        for column in self.columns {
            let value = column.value(self.row);
            map.serialize_entry(column.name, &value)?;
            if let Value::Unknown(reason) = value {
                unknown.insert(column.name, reason.to_string());
            }
        }
        map.serialize_entry("unknown", &unknown)?;
        map.end()
    }
}

/// `list --columns`.
fn list_columns(args: &List, output: &mut Output) -> Outcome {
    #[derive(serde::Serialize)]
    struct Columns {
        schema_version: u32,
        columns: Vec<Entry>,
    }
    #[derive(serde::Serialize)]
    struct Entry {
        name: &'static str,
        kind: Kind,
        on_request: bool,
        about: &'static str,
    }
    if output.is_json() {
        let columns = COLUMNS.iter().map(|column| Entry {
            name: column.name,
            kind: column.kind,
            on_request: column.on_request,
            about: column.about,
        });
        output.document(&Columns {
            schema_version: SCHEMA_VERSION,
            columns: columns.collect(),
        })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["column", "about"]);
    for column in &COLUMNS {
        table.row([column.name, column.about]);
    }
    table.write(output.data(), !args.no_header)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    #[test]
    fn numbers_sort_as_numbers_and_gaps_come_last() {
        let unknown = Value::Unknown(pci::Unknown::not_read(""));
        let values = [
            unknown,
            Value::None,
            Value::Text("a".into()),
            Value::Number(10),
            Value::Number(9),
        ];
        let mut keys: Vec<SortKey<'_>> = values.into_iter().map(SortKey::from).collect();
        keys.sort();
        let order = keys.iter().map(|key| matches!(key, SortKey::Number(9)));
        assert_eq!(order.collect::<Vec<_>>(), [true, false, false, false, false]);
        assert!(keys.last() == Some(&SortKey::Unknown));
        assert_eq!(SortKey::None.cmp(&SortKey::Unknown), Ordering::Less);
    }
}
