//! The report as Markdown.

use super::section::{self, Table};
use super::{Report, Run};

pub(super) fn write(report: &Report) -> String {
    let judgements = report.judgements();
    let mut text = format!("# Benchmarks\n\n{}\n", section::preface(report));
    text += "\n## Aims\n\n";
    text += &table(&section::aims(&judgements));
    text += "\n## Where we are behind\n\n";
    let losses = section::losses(report, &judgements);
    text += &if losses.table.rows.is_empty() {
        "Nowhere in what was measured.\n".to_owned()
    } else {
        format!("{}\n\n{}", section::LOSSES, table(&losses.table))
    };
    if !losses.causes.is_empty() {
        text += "\nWhy:\n\n";
    }
    for (cause, number) in losses.causes.iter().zip(1..) {
        text += &format!("{number}. {cause}\n");
    }
    if losses.small > 0 {
        text += &format!("\n{}\n", losses.rest());
    }
    let absences = section::absences(report);
    if !absences.rows.is_empty() {
        text += "\n## What was not measured\n\n";
        text += &table(&absences);
    }
    text += &format!("\n## Figures\n\n{}\n", section::KEY);
    let shared = section::shared(report);
    if !shared.is_empty() {
        text += &format!("\nAll runs were on: {}.\n", facts(&shared));
    }
    for run in &report.runs {
        text += &figures(run, &shared);
    }
    text
}

fn figures(run: &Run, shared: &[Vec<String>]) -> String {
    let mut text = format!("\n### {}\n", run.environment.name);
    for section in section::sections(run) {
        text += &format!("\n**{}**\n\n{}", section.title, table(&section.table));
    }
    let mut own = section::environment(run).rows;
    own.retain(|row| !shared.contains(row));
    if !own.is_empty() {
        text += &format!("\nOn: {}.\n", facts(&own));
    }
    text
}

fn facts(rows: &[Vec<String>]) -> String {
    let facts: Vec<String> = rows.iter().map(|row| row.join(": ")).collect();
    facts.join("; ")
}

fn table(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells
            .iter()
            .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(table.head.len()));
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    line(&table.head) + &rule + &rows
}
