//! The report as one page with its charts, which needs no other file, script or network.

use super::chart::escape;
use super::section::{self, Table};
use super::{Report, Run};

const STYLE: &str = "\
body { font: 15px/1.45 'DejaVu Sans', Verdana, sans-serif; color: #111; background: #fff; max-width: 1180px; margin: 2em auto; padding: 0 1em }
h1, h2 { border-bottom: 1px solid #ccc; padding-bottom: .2em }
table { border-collapse: collapse; margin: .8em 0 1.6em; font-size: 13px }
th, td { border: 1px solid #ccc; padding: .25em .6em; text-align: left; vertical-align: top }
th { background: #f2f2f2 }
td.met { background: #d8f0dc } td.missed { background: #f8d4d0 } td.undecided { background: #fbeec6 }
figure { margin: 0 0 .8em; overflow-x: auto }
figcaption { font-weight: bold; font-size: 13px }
svg { max-width: 100%; height: auto; border: 1px solid #eee }
";

pub(super) fn write(report: &Report) -> String {
    let judgements = report.judgements();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Benchmarks</title>\n<style>\n{STYLE}</style></head><body>\n\
         <h1>Benchmarks</h1>\n<p>{}</p>\n<h2>Aims</h2>\n{}<h2>Where we are behind</h2>\n",
        escape(&section::preface(report)),
        table(&section::aims(&judgements))
    );
    let losses = section::losses(report, &judgements);
    page += &if losses.table.rows.is_empty() {
        "<p>Nowhere in what was measured.</p>\n".to_owned()
    } else {
        let causes = losses
            .causes
            .iter()
            .map(|cause| format!("<li>{}</li>\n", escape(cause)));
        let causes: String = causes.collect();
        let why = if losses.causes.is_empty() {
            String::new()
        } else {
            format!("<p>Why:</p>\n<ol>\n{causes}</ol>\n")
        };
        format!("<p>{}</p>\n{}{why}", escape(section::LOSSES), table(&losses.table))
    };
    if losses.small > 0 {
        page += &format!("<p>{}</p>\n", losses.rest());
    }
    page += &format!("<h2>Figures</h2>\n<p>{}</p>\n", escape(section::KEY));
    if let Some(pages) = &report.criterion {
        let pages = escape(pages);
        page += &format!("<p>Criterion's own pages, of what needs no device: <a href=\"{pages}\">{pages}</a></p>\n");
    }
    for run in &report.runs {
        page += &figures(run);
    }
    let absences = section::absences(report);
    if !absences.rows.is_empty() {
        page += &format!("<h2>What was not measured</h2>\n{}", table(&absences));
    }
    page + "</body></html>\n"
}

fn figures(run: &Run) -> String {
    let mut page = format!("<h2>{}</h2>\n", escape(&run.environment.name));
    for section in section::sections(run) {
        let (title, chart) = (escape(&section.title), section.chart.svg());
        page += &format!("<h3>{title}</h3>\n<figure>\n{chart}</figure>\n");
        for (case, curves) in &section.curves {
            page += &format!(
                "<figure>\n<figcaption>{}</figcaption>\n{}</figure>\n",
                escape(case),
                curves.svg()
            );
        }
        page += &table(&section.table);
    }
    let environment = section::environment(run);
    if !environment.rows.is_empty() {
        page += &format!(
            "<details><summary>What it was measured on</summary>\n{}</details>\n",
            table(&environment)
        );
    }
    page
}

fn table(table: &Table) -> String {
    let head: String = table
        .head
        .iter()
        .map(|cell| format!("<th>{}</th>", escape(cell)))
        .collect();
    let rows: String = table
        .rows
        .iter()
        .map(|row| format!("<tr>{}</tr>\n", row.iter().map(|text| cell(text)).collect::<String>()))
        .collect();
    let head = if table.head.iter().all(String::is_empty) {
        String::new()
    } else {
        format!("<tr>{head}</tr>\n")
    };
    format!("<table>\n{head}{rows}</table>\n")
}

/// Verdicts have a colour.
fn cell(text: &str) -> String {
    match text {
        "met" | "missed" | "undecided" => format!("<td class=\"{text}\">{text}</td>"),
        text => format!("<td>{}</td>", escape(text)),
    }
}
