//! Histograms as curves: how many of a hundred were at most this much.

use super::chart::{Axis, COLOURS, Plot, WIDTH, element, escape, letters, text};
use super::number::round;

/// Curves of one case, by way.
#[derive(Debug, Clone)]
pub struct Curves {
    /// What the axis counts.
    pub axis: String,
    /// Each way with its histogram: upper bounds, and how many were at most that and above the one before.
    pub ways: Vec<(String, Vec<(f64, u64)>)>,
}

const HEIGHT: f64 = 260.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 216.0;
const LEFT: f64 = 56.0;

impl Curves {
    /// Draws them. Empty when there is nothing to draw.
    #[must_use]
    pub fn svg(&self) -> String {
        let bounds = self.ways.iter().flat_map(|(_, steps)| steps);
        let bounds: Vec<f64> = bounds.map(|(bound, _)| *bound).collect();
        let Some(axis) = Axis::of(&bounds, LEFT) else {
            return String::new();
        };
        let mut svg = Plot::begin(HEIGHT);
        for tick in &axis.ticks {
            let x = axis.x(*tick);
            element(
                &mut svg,
                &format!("<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#dddddd\"/>"),
            );
            text(&mut svg, x, BOTTOM + 16.0, "middle", "#444444", &round(*tick));
        }
        for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
            let y = height(percent / 100.0);
            let end = WIDTH - Plot::RIGHT;
            element(
                &mut svg,
                &format!("<path d=\"M{LEFT} {y:.1}H{end:.1}\" stroke=\"#dddddd\"/>"),
            );
            text(
                &mut svg,
                LEFT - 6.0,
                y + 4.0,
                "end",
                "#444444",
                &format!("{percent:.0} %"),
            );
        }
        let name = axis.name(&format!("at most so many {}", self.axis));
        text(
            &mut svg,
            f64::midpoint(LEFT, WIDTH),
            BOTTOM + 35.0,
            "middle",
            "#000000",
            &name,
        );
        let mut x = 8.0;
        for ((way, steps), colour) in self.ways.iter().zip(COLOURS) {
            element(
                &mut svg,
                &format!("<path d=\"M{x:.1} 15h22\" stroke=\"{colour}\" stroke-width=\"3\"/>"),
            );
            text(&mut svg, x + 28.0, 19.0, "start", "#000000", way);
            x += letters(way) + 62.0;
            let line = line(&axis, steps);
            element(
                &mut svg,
                &format!(
                    "<path d=\"{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
                    escape(&line)
                ),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// From nothing to all of them.
fn line(axis: &Axis, steps: &[(f64, u64)]) -> String {
    let all: u64 = steps.iter().map(|(_, count)| count).sum();
    let (mut line, mut sum) = (String::new(), 0);
    for (bound, count) in steps {
        let x = axis.x(*bound);
        if line.is_empty() {
            line = format!("M{x:.1} {BOTTOM}");
        }
        sum += count;
        line += &format!("H{x:.1}V{:.1}", height(part(sum, all)));
    }
    line
}

fn height(part: f64) -> f64 {
    BOTTOM - part * (BOTTOM - TOP)
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for counts")]
fn part(sum: u64, all: u64) -> f64 {
    sum as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_from_nothing_to_all() {
        let curves = Curves {
            axis: "ns/op".to_owned(),
            ways: vec![
                ("ours".to_owned(), vec![(100.0, 10), (200.0, 80), (9000.0, 10)]),
                ("raw".to_owned(), vec![(110.0, 50), (210.0, 50)]),
            ],
        };
        insta::assert_snapshot!(curves.svg());
        let nothing = Curves {
            axis: String::new(),
            ways: Vec::new(),
        };
        assert_eq!(nothing.svg(), "");
    }
}
