//! A small report from end to end.

use super::Report;
use crate::record::{Absence, Clock, Environment, Line, Lines, Record};

fn record(case: &str, way: &str, clock: Clock, unit: &str, turns: &[f64]) -> Line {
    Line::Record(Record {
        suite: "nvme".to_owned(),
        case: case.to_owned(),
        way: way.to_owned(),
        given: [("depth".to_owned(), "8".to_owned())].into(),
        clock,
        unit: unit.to_owned(),
        turns: turns.to_vec(),
        alone: false,
        distribution: Vec::new(),
    })
}

/// What a program would print, with other text between.
fn said() -> String {
    let mut bytes = b"this is for the user\n".to_vec();
    let mut lines = Lines::new(&mut bytes);
    let environment = |name: &str, fact: &str| {
        Line::Environment(Environment {
            name: name.to_owned(),
            facts: [(fact.to_owned(), "7.3".to_owned())].into(),
            peers: [("fio".to_owned(), "3.33".to_owned())].into(),
        })
    };
    let all = [
        environment("lab", "QEMU"),
        environment("ignored", "kernel"),
        record(
            "reads",
            "ours polled",
            Clock::Wall,
            "op/s",
            &[68_000.0, 70_000.0, 69_000.0],
        ),
        record("reads", "fio", Clock::Wall, "op/s", &[25_000.0, 26_000.0, 25_500.0]),
        record(
            "reads of 2 threads",
            "ours polled",
            Clock::Wall,
            "op/s",
            &[9000.0, 9100.0, 9200.0],
        ),
        record(
            "reads of 2 threads",
            "fio",
            Clock::Wall,
            "op/s",
            &[10_900.0, 11_000.0, 11_100.0],
        ),
        record(
            "a read",
            "ours interrupt",
            Clock::Instructions,
            "instructions/op",
            &[2584.0],
        ),
        Line::Absence(Absence {
            suite: "nvme".to_owned(),
            case: String::new(),
            way: "spdk".to_owned(),
            reason: "not on the path | not here".to_owned(),
        }),
    ];
    for line in &all {
        lines.say(line).unwrap();
    }
    lines.end().unwrap();
    String::from_utf8(bytes).unwrap()
}

fn report() -> Report {
    let mut report = Report::default();
    report.add(&said()).unwrap();
    report
}

#[test]
fn lines_become_runs() {
    let report = report();
    assert_eq!(report.runs.len(), 1);
    let run = &report.runs[0];
    assert_eq!(run.environment.name, "lab");
    assert_eq!(run.environment.facts.keys().collect::<Vec<_>>(), ["QEMU", "kernel"]);
    assert_eq!(
        (run.records.len(), run.absences.len(), run.comparisons().len()),
        (5, 1, 3)
    );
}

#[test]
fn a_line_that_is_lost_or_torn_is_noticed() {
    let said = said();
    let lost: String = said
        .lines()
        .filter(|line| !line.contains("25500"))
        .map(|line| format!("{line}\n"))
        .collect();
    let error = Report::default().add(&lost).unwrap_err().to_string();
    assert!(error.contains("of 8 lines of a benchmark 7 arrived"), "{error}");
    assert!(Report::default().add(&said.replace("\"turns\":[9000", "")).is_err());
    let without_end = said.lines().rev().skip(1).collect::<Vec<_>>();
    let without_end: String = without_end.iter().rev().map(|line| format!("{line}\n")).collect();
    assert!(Report::default().add(&without_end).is_err());
    assert!(Report::default().add("").is_err());
}

#[test]
fn losses_come_before_figures() {
    let text = report().markdown();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part} in {text}"));
    assert!(place("## Where we are behind") < place("## Figures"));
    assert!(place("nvme: reads of 2 threads, depth 8 | lab | ours polled | fio | 0.83") < place("## Figures"));
    insta::assert_snapshot!(text);
}

#[test]
fn the_page_needs_nothing_else() {
    let page = report().html();
    // The name of SVG's language is no address that anything is fetched from.
    let page_without_names = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for outside in ["http", "src=", "url(", "<script", "<link"] {
        assert!(!page_without_names.contains(outside), "{outside}");
    }
    // Two kinds of figures, a chart each.
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(page.contains("<td class=\"missed\">missed</td>"));
    let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
    assert_eq!(json.pointer("/runs/0/records/1/way").unwrap(), "fio");
    let verdicts = json["aims"]
        .as_array()
        .unwrap()
        .iter()
        .map(|aim| aim["verdict"].as_str().unwrap());
    assert!(verdicts.into_iter().any(|verdict| verdict == "missed"));
}

#[test]
fn the_page_links_criterions_pages_where_there_are_any() {
    let mut report = report();
    assert!(!report.html().contains("href"));
    report.criterion = Some("criterion/report/index.html".to_owned());
    assert!(report.html().contains("<a href=\"criterion/report/index.html\">"));
    // The other forms may lie elsewhere.
    assert!(!report.markdown().contains("index.html") && !report.json().unwrap().contains("index.html"));
}

#[test]
fn every_loss_says_why_or_that_nobody_knows() {
    let mut report = report();
    assert!(report.markdown().contains(" | – |\n\n") && report.html().contains("<td>–</td></tr>"));
    assert!(!report.markdown().contains("\nWhy:") && !report.html().contains("<p>Why:"));
    for run in &mut report.runs {
        for record in &mut run.records {
            record.case = record.case.replace("reads of 2 threads", "random reads, threads 2");
        }
    }
    for text in [report.markdown(), report.html()] {
        assert!(
            text.contains("1. two threads that poll") || text.contains("<li>two threads that poll"),
            "{text}"
        );
    }
    let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    let losses = json["losses"].as_array().unwrap();
    assert_eq!(losses[0]["theirs"], "fio");
    assert!(losses[0]["ratio"]["median"].as_f64().is_some());
    assert!(
        losses
            .iter()
            .all(|loss| loss["why"].as_str().unwrap().contains("two threads that poll"))
    );
}

#[test]
fn a_small_loss_is_counted_and_not_listed() {
    let mut report = Report::default();
    // Of a suite without an aim for it.
    let said = said().replace("\"nvme\"", "\"list\"");
    report
        .add(&said.replace("[10900.0,11000.0,11100.0]", "[9050.0,9150.0,9250.0]"))
        .unwrap();
    let text = report.markdown();
    assert!(
        text.contains("In 1 more case ours is behind by 2 % or less, or in time of too few turns to tell."),
        "{text}"
    );
}

#[test]
fn only_of_the_lab_it_says_that_it_is_emulated() {
    let mut of_a_card = Report::default();
    of_a_card.add(&said().replace("\"QEMU\"", "\"processor\"")).unwrap();
    assert!(report().markdown().contains("emulated") && report().html().contains("emulated"));
    assert!(!of_a_card.markdown().contains("emulated") && !of_a_card.html().contains("emulated"));
}

/// Criterion's figures come in files, and what they were measured on in lines without any.
#[test]
fn a_run_without_figures_still_says_what_it_was_on() {
    let mut bytes = Vec::new();
    let mut lines = Lines::new(&mut bytes);
    let environment = Environment {
        name: "software time".to_owned(),
        facts: [("rustc".to_owned(), "1.95".to_owned())].into(),
        ..Environment::default()
    };
    lines.say(&Line::Environment(environment.clone())).unwrap();
    lines.end().unwrap();
    let said = String::from_utf8(bytes).unwrap();
    assert_eq!(super::environment(&said).unwrap(), environment);
    let mut report = Report::default();
    report.add(&said).unwrap();
    assert_eq!(report.runs, []);
    assert!(super::environment("").is_err());
}
