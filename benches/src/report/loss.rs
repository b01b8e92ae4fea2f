//! What is not as well as it should be, or as others have it, and why.

use super::Report;
use super::compare::Ratio;
use crate::aims::{Against, Bound, Judgement, Verdict};
use crate::causes;
use crate::record::Clock;
use serde::Serialize;
use std::collections::BTreeSet;

/// Ours behind another way in one case of one run, or behind an aim.
#[derive(Debug, Clone, Serialize)]
pub struct Loss {
    /// The run, by its place in the report.
    pub run: usize,
    /// As in [`Record::suite`](crate::record::Record::suite).
    pub suite: String,
    /// The case, with its circumstances.
    pub case: String,
    /// Our way.
    pub ours: String,
    /// Theirs, or the other case.
    pub theirs: String,
    /// Ours / theirs; the figure itself, where nothing is set against it.
    pub ratio: Ratio,
    /// Whether the ratio is a figure that nothing is set against.
    #[serde(skip)]
    pub(super) is_figure: bool,
    /// What the ratio should have been, where an aim is missed.
    #[serde(skip)]
    pub(super) missed: Option<Bound>,
    /// Whether it is time of too few turns to tell.
    pub too_few_turns: bool,
    /// Why, as far as it is known.
    pub why: &'static str,
}

/// All of them, the farthest first; each once, that of an aim before that of a comparison.
pub(super) fn all(report: &Report, judgements: &[Judgement]) -> Vec<Loss> {
    let mut losses = of_aims(judgements);
    for (run, measured) in report.runs.iter().enumerate() {
        for comparison in measured.comparisons() {
            losses.extend(comparison.losses().into_iter().map(|(ours, theirs, ratio)| Loss {
                run,
                suite: ours.suite.clone(),
                case: ours.title(),
                ours: ours.way.clone(),
                theirs: theirs.way.clone(),
                ratio,
                is_figure: false,
                missed: None,
                too_few_turns: ours.clock == Clock::Wall && ratio.turns < 3,
                why: causes::of(ours, &theirs.way),
            }));
        }
    }
    let mut seen = BTreeSet::new();
    losses.retain(|loss| {
        let words = [&loss.suite, &loss.case, &loss.ours, &loss.theirs].map(String::clone);
        seen.insert((loss.run, words))
    });
    // From what it should have been.
    let far = |loss: &Loss| {
        let should = loss.missed.map_or(1.0, Bound::ratio);
        (loss.ratio.median / should).ln().abs()
    };
    losses.sort_by(|a, b| far(b).total_cmp(&far(a)));
    losses
}

fn of_aims(judgements: &[Judgement]) -> Vec<Loss> {
    let missed = judgements.iter().flat_map(|judgement| {
        let cases = judgement.cases.iter().filter(|case| case.verdict == Verdict::Missed);
        cases.map(|case| Loss {
            run: case.run,
            suite: judgement.aim.suite.to_owned(),
            case: case.case.clone(),
            ours: case.ours.clone(),
            theirs: case.theirs.clone(),
            ratio: case.ratio,
            is_figure: matches!(judgement.aim.against, Against::Nothing),
            missed: Some(judgement.aim.bound),
            too_few_turns: false,
            why: causes::of_case(judgement.aim.suite, &case.case, &case.theirs),
        })
    });
    missed.collect()
}
