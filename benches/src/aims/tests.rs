//! Aims on figures that were made up.

use super::*;

fn record(suite: &str, case: &str, way: &str, clock: Clock, unit: &str, turns: &[f64]) -> Record {
    Record {
        suite: suite.to_owned(),
        case: case.to_owned(),
        way: way.to_owned(),
        given: [].into(),
        clock,
        unit: unit.to_owned(),
        turns: turns.to_vec(),
        alone: false,
        distribution: Vec::new(),
    }
}

fn verdict(text: &str, records: Vec<Record>) -> Verdict {
    let run = Run {
        records,
        ..Run::default()
    };
    let judgements = judge(&[run]);
    let judgement = judgements.iter().find(|judgement| judgement.aim.text.contains(text));
    judgement.unwrap().verdict
}

#[test]
fn instructions_decide_by_what_they_are() {
    let map = |ours| {
        let record = |way, value| {
            record(
                "map",
                "map 4 KiB",
                way,
                Clock::Instructions,
                "instructions/op",
                &[value],
            )
        };
        verdict("mapping", vec![record("ours", ours), record("raw", 100.0)])
    };
    assert_eq!((map(102.0), map(102.1)), (Verdict::Met, Verdict::Missed));
    assert_eq!(verdict("mapping", vec![]), Verdict::NotMeasured);
}

#[test]
fn time_decides_when_its_turns_agree() {
    let guest = |ours: &[f64]| {
        let record = |way, turns| record("guest", "no function", way, Clock::Wall, "s", turns);
        verdict("guest", vec![record("ours", ours), record("QEMU", &[10.0; 3])])
    };
    assert_eq!(guest(&[4.0, 5.0, 4.5]), Verdict::Met);
    assert_eq!(guest(&[4.0, 5.1, 4.5]), Verdict::Undecided);
    assert_eq!(guest(&[5.1, 5.2, 5.3]), Verdict::Missed);
    assert_eq!(guest(&[1.0]), Verdict::Undecided);
}

#[test]
fn the_best_of_ours_is_set_against_the_best_peer() {
    let record = |way, rate: f64| record("nvme", "reads", way, Clock::Wall, "op/s", &[rate; 3]);
    let mut records = vec![
        record("ours polled", 5.0),
        record("ours interrupt", 7.0),
        record("a", 6.0),
    ];
    assert_eq!(verdict("as many reads", records.clone()), Verdict::Met);
    records.push(record("b", 7.1));
    assert_eq!(verdict("as many reads", records), Verdict::Missed);
}

#[test]
fn some_aims_are_about_some_circumstances_and_ways_alone() {
    let reads = |depth: &str, theirs, rates: [f64; 2]| {
        let given = |way, rate| Record {
            given: [("depth".to_owned(), depth.to_owned())].into(),
            ..record("nvme", "random reads", way, Clock::Wall, "reads/s", &[rate; 3])
        };
        let [ours, rate] = rates;
        verdict(
            "1.5 times as many",
            vec![given("ours polled", ours), given(theirs, rate)],
        )
    };
    assert_eq!(reads("1", "fio io_uring", [15.0, 10.0]), Verdict::Met);
    assert_eq!(reads("1", "fio iopoll", [14.0, 10.0]), Verdict::Missed);
    assert_eq!(reads("1", "qemu-img (strided)", [14.0, 10.0]), Verdict::NotMeasured);
    assert_eq!(reads("128", "fio io_uring", [14.0, 10.0]), Verdict::NotMeasured);
    let cost = |way, value| Record {
        given: [("depth".to_owned(), "1".to_owned())].into(),
        ..record(
            "nvme",
            "a random read",
            way,
            Clock::Instructions,
            "instructions/read",
            &[value],
        )
    };
    let costs = |ours| {
        verdict(
            "two thirds",
            vec![cost("ours interrupt", ours), cost("fio io_uring", 300.0)],
        )
    };
    assert_eq!((costs(200.0), costs(201.0)), (Verdict::Met, Verdict::Missed));
}

#[test]
fn growth_is_that_of_one_way_from_the_fewest_to_the_most() {
    let record = |mix: &str, live: u32, way, value: f64| Record {
        given: [("live".to_owned(), live.to_string())].into(),
        ..record(
            "iova",
            &format!("{mix}, {live} live"),
            way,
            Clock::Instructions,
            "instructions/op",
            &[value],
        )
    };
    let grown = |middle, most| {
        verdict(
            "logarithm",
            vec![
                record("one size", 1000, "ours", 100.0),
                record("one size", 10_000, "ours", middle),
                record("one size", 1_000_000, "ours", most),
                record("rings", 1000, "ours", 1.0),
                record("one size", 1000, "theirs", 1.0),
            ],
        )
    };
    // As the logarithm, whatever is between; a little more; and as the fifth root.
    assert_eq!(grown(500.0, 200.0), Verdict::Met);
    assert_eq!(grown(133.0, 249.0), Verdict::Met);
    assert_eq!(grown(158.0, 398.0), Verdict::Missed);
    let alone = record("one size", 1_000_000, "ours", 201.0);
    assert_eq!(verdict("logarithm", vec![alone]), Verdict::NotMeasured);
}

#[test]
fn one_system_call_is_too_many() {
    let pool = |way, unit, calls| {
        let record = record("pool", "a buffer", way, Clock::Count, unit, &[calls]);
        verdict("pool", vec![record])
    };
    let silent = |calls| pool("ours, pool", "system calls/op", calls);
    assert_eq!((silent(0.0), silent(0.001)), (Verdict::Met, Verdict::Missed));
    // A fake machine does not see them all.
    assert_eq!(pool("ours", "VFIO calls/op", 0.0), Verdict::NotMeasured);
}
