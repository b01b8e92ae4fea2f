//! The ledger of unsafe code in ARCHITECTURE.md says what the sources say.

use super::code::Code;
use super::rule::WORKSPACE;
use super::{assert_none, workspace};
use std::collections::BTreeMap;

/// How often a file opens an `unsafe` block, and how often it promises something (`unsafe impl`, `unsafe trait`, `unsafe fn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    blocks: usize,
    promises: usize,
}

impl Count {
    fn of(code: &Code) -> Self {
        let all = code.lines_with(&["unsafe"]).len();
        let blocks = code.lines_with(&["unsafe", "{"]).len();
        Self {
            blocks,
            promises: all - blocks,
        }
    }
}

/// The rows of the ledger: file, count of blocks and of promises, and what they rest on.
fn rows(text: &str) -> BTreeMap<String, (Count, String)> {
    let mut rows = BTreeMap::new();
    let section = text.split("## Unsafe ledger").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    for line in section.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, blocks, promises, rests_on, _] = cells.as_slice() else {
            continue;
        };
        if let (Ok(blocks), Ok(promises)) = (blocks.parse(), promises.parse()) {
            let count = Count { blocks, promises };
            rows.insert(file.trim_matches('`').to_owned(), (count, (*rests_on).to_owned()));
        }
    }
    rows
}

fn differences(rows: &BTreeMap<String, (Count, String)>, counts: &BTreeMap<String, Count>) -> Vec<String> {
    let mut differences = Vec::new();
    for (file, count) in counts {
        match rows.get(file) {
            Some((written, rests_on)) if written == count && !rests_on.is_empty() => {}
            _ => differences.push(format!("| `{file}` | {} | {} | … |", count.blocks, count.promises)),
        }
    }
    let gone = rows.keys().filter(|file| !counts.contains_key(*file));
    differences.extend(gone.map(|file| format!("{file} holds no unsafe code any more")));
    differences
}

#[test]
fn the_ledger_of_unsafe_code_is_kept() {
    #[expect(clippy::disallowed_methods, reason = "a document of the workspace is no system file")]
    let text = std::fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let counts = WORKSPACE.iter().map(|(path, source)| (path.clone(), Count::of(&source.all)));
    let counts = counts.filter(|(_, count)| count.blocks + count.promises > 0).collect();
    assert_none(&differences(&rows(&text), &counts));
}

#[test]
fn a_ledger_that_differs_is_noticed() {
    let text = "## Unsafe ledger\n| `a.rs` | 2 | 0 | the caller |\n| `b.rs` | 1 | 1 | |\n## Next\n| `c.rs` | 1 | 0 | x |\n";
    let rows = rows(text);
    let one = |blocks, promises| Count { blocks, promises };
    let counts = |a, b| BTreeMap::from([("a.rs".to_owned(), a), ("b.rs".to_owned(), b)]);
    assert_eq!(rows.len(), 2);
    // `b.rs` says nothing of what it rests on.
    assert_eq!(differences(&rows, &counts(one(2, 0), one(1, 1))).len(), 1);
    assert_eq!(differences(&rows, &counts(one(3, 0), one(1, 1))).len(), 2);
    assert_eq!(differences(&rows, &BTreeMap::new()).len(), 2);
    let code = Code::of("unsafe impl Send for A {} fn f() { unsafe { g() } }".parse().unwrap());
    assert_eq!(Count::of(&code), one(1, 1));
}
