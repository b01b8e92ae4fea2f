//! A chart as SVG: a group of lines for each case, a line for each way.
//!
//! Bars from zero on an axis that begins there; where the values differ too much for that, dots on a logarithmic axis, for the length of a bar
//! would mean nothing there. A thin line is the range of the turns.

use super::number::{round, short};

/// What a chart shows.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Says what the axis counts.
    pub axis: String,
    /// From top to bottom.
    pub groups: Vec<Group>,
    /// All ways, in the order of their colours.
    pub ways: Vec<String>,
}

/// Lines that belong together.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they are of.
    pub title: String,
    /// From top to bottom.
    pub marks: Vec<Mark>,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Which of [`Chart::ways`].
    pub way: String,
    /// Its value.
    pub value: f64,
    /// The least and the most of its turns.
    pub range: (f64, f64),
}

/// More than this times the least value is too much for an axis from zero.
const LINEAR: f64 = 30.0;
pub(super) const WIDTH: f64 = 920.0;
const LINE: f64 = 17.0;
const GAP: f64 = 10.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Width of a letter, about.
const LETTER: f64 = 6.9;
/// Told apart by those who do not see all colours, too; ours comes first.
pub(super) const COLOURS: [&str; 8] = [
    "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#666666", "#b8a000",
];

/// Places on the axis.
pub(super) struct Axis {
    is_log: bool,
    low: f64,
    high: f64,
    left: f64,
    pub(super) ticks: Vec<f64>,
}

impl Chart {
    /// Draws it. Empty when there is nothing to draw.
    #[must_use]
    pub fn svg(&self) -> String {
        let lines: usize = self.groups.iter().map(|group| group.marks.len() + 1).sum();
        let Some(axis) = self.axis(self.names_end()) else {
            return String::new();
        };
        let (top, legend) = self.legend();
        let height = top + count(lines) * LINE + count(self.groups.len() + 1) * GAP + BOTTOM;
        let bottom = height - BOTTOM;
        let mut svg = Plot::begin(height);
        for tick in &axis.ticks {
            let x = axis.x(*tick);
            element(
                &mut svg,
                &format!("<path d=\"M{x:.1} {top}V{bottom:.1}\" stroke=\"#dddddd\"/>"),
            );
            let y = bottom + 16.0;
            text(&mut svg, x, y, "middle", "#444444", &round(*tick));
        }
        let middle = f64::midpoint(axis.left, WIDTH - Plot::RIGHT);
        let name = axis.name(&self.axis);
        text(&mut svg, middle, bottom + 35.0, "middle", "#000000", &name);
        let left = axis.left;
        element(
            &mut svg,
            &format!(
                "<path d=\"M{left:.1} {top}V{bottom:.1}H{:.1}\" fill=\"none\" stroke=\"#444444\"/>",
                WIDTH - Plot::RIGHT
            ),
        );
        svg.push_str(&legend);
        let mut y = top;
        for group in &self.groups {
            y += GAP + LINE;
            let title = format!("<tspan font-weight=\"bold\">{}</tspan>", escape(&group.title));
            // Over the lines of the axis, which would go through it.
            let width = letters(&group.title) * 1.15;
            element(
                &mut svg,
                &format!(
                    "<rect x=\"6\" y=\"{:.1}\" width=\"{width:.0}\" height=\"{LINE}\" fill=\"#ffffff\"/>",
                    y - 13.0
                ),
            );
            element(&mut svg, &format!("<text x=\"8\" y=\"{y:.1}\">{title}</text>"));
            for mark in &group.marks {
                y += LINE;
                self.mark(&mut svg, &axis, mark, y);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn names_end(&self) -> f64 {
        let longest = self.ways.iter().map(|way| letters(way)).fold(0.0, f64::max);
        (longest + 30.0).clamp(90.0, 300.0)
    }

    fn axis(&self, left: f64) -> Option<Axis> {
        let marks = self.groups.iter().flat_map(|group| &group.marks);
        let values: Vec<f64> = marks
            .flat_map(|mark| [mark.value, mark.range.0, mark.range.1])
            .collect();
        Axis::of(&values, left)
    }

    fn colour(&self, way: &str) -> &'static str {
        let position = self.ways.iter().position(|other| other == way).unwrap_or(0);
        COLOURS.get(position % COLOURS.len()).copied().unwrap_or("#000000")
    }

    /// Where what is below the legend begins, and the legend: a second line begins where the first is full.
    fn legend(&self) -> (f64, String) {
        let (mut x, mut down, mut svg) = (8.0, 0.0, String::new());
        for way in &self.ways {
            let width = letters(way) + 42.0;
            if x > 8.0 && x + width > WIDTH {
                (x, down) = (8.0, down + LINE);
            }
            let (colour, y) = (self.colour(way), 9.0 + down);
            element(
                &mut svg,
                &format!("<rect x=\"{x:.1}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"),
            );
            text(&mut svg, x + 17.0, y + 10.0, "start", "#000000", way);
            x += width;
        }
        (TOP + down, svg)
    }

    fn mark(&self, svg: &mut String, axis: &Axis, mark: &Mark, y: f64) {
        let colour = self.colour(&mark.way);
        text(svg, axis.left - 8.0, y, "end", "#333333", &mark.way);
        let (x, middle) = (axis.x(mark.value), y - 4.5);
        if axis.is_log {
            element(
                svg,
                &format!("<circle cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"4.5\" fill=\"{colour}\"/>"),
            );
        } else {
            let width = (x - axis.left).max(0.5);
            element(
                svg,
                &format!(
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>",
                    axis.left,
                    y - 10.5
                ),
            );
        }
        let (low, high) = (axis.x(mark.range.0), axis.x(mark.range.1));
        let end = if high - low >= 1.0 {
            let line = format!(
                "M{low:.1} {middle:.1}H{high:.1}M{low:.1} {0:.1}v6M{high:.1} {0:.1}v6",
                middle - 3.0
            );
            element(svg, &format!("<path d=\"{line}\" stroke=\"#222222\" fill=\"none\"/>"));
            high.max(x)
        } else {
            x
        };
        text(svg, end + 8.0, y, "start", "#000000", &short(mark.value));
    }
}

/// What all drawings have.
pub(super) struct Plot;

impl Plot {
    /// What is left free on the right, for the value at a line's end.
    pub(super) const RIGHT: f64 = 76.0;

    /// The beginning of a drawing, on white.
    pub(super) fn begin(height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"12\" role=\"img\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        )
    }
}

impl Axis {
    /// For these values; `None` without one.
    pub(super) fn of(values: &[f64], left: f64) -> Option<Self> {
        let values: Vec<f64> = values
            .iter()
            .copied()
            .filter(|value| value.is_finite() && *value >= 0.0)
            .collect();
        let most = values.iter().copied().reduce(f64::max)?;
        let least = values.iter().copied().filter(|value| *value > 0.0).reduce(f64::min);
        let is_log = least.is_some_and(|least| most > least * LINEAR);
        Some(match least {
            Some(least) if is_log => {
                // A dot does not lie on the edge.
                let (low, high) = (least / 1.3, most * 1.3);
                Axis {
                    is_log,
                    low,
                    high,
                    left,
                    ticks: decades(low, high),
                }
            }
            _ => {
                let ticks = steps(if most > 0.0 { most } else { 1.0 });
                let high = ticks.last().copied().unwrap_or(1.0);
                Axis {
                    is_log: false,
                    low: 0.0,
                    high,
                    left,
                    ticks,
                }
            }
        })
    }

    /// What it counts, and that it is logarithmic where it is.
    pub(super) fn name(&self, counts: &str) -> String {
        let scale = if self.is_log { " (logarithmic)" } else { "" };
        format!("{counts}{scale}")
    }

    pub(super) fn x(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let part = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        self.left + part * (WIDTH - Plot::RIGHT - self.left)
    }
}

/// Round steps from 0 to beyond `most`, about six of them.
fn steps(most: f64) -> Vec<f64> {
    let rough = most / 6.0;
    let decade = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * decade)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let mut ticks = vec![0.0];
    while ticks.last().is_some_and(|last| *last < most * 0.999) && ticks.len() < 12 {
        ticks.push(count(ticks.len()) * step);
    }
    ticks
}

/// Powers of ten between these, or more round numbers where there are few.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = if high / low > 1000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let mut ticks = Vec::new();
    let mut decade = 10.0_f64.powf(low.log10().floor());
    while decade <= high && ticks.len() < 24 {
        ticks.extend(factors.iter().map(|factor| factor * decade));
        decade *= 10.0;
    }
    ticks.retain(|tick| (low..=high).contains(tick));
    ticks
}

pub(super) fn element(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}

pub(super) fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
    let text = escape(text);
    element(
        svg,
        &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"),
    );
}

/// Text within HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('"', "&quot;")
}

/// How wide a text is, about.
pub(super) fn letters(text: &str) -> f64 {
    count(text.chars().count()) * LETTER
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for lines of a chart")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64]) -> Chart {
        let mark = |(position, value): (usize, &f64)| Mark {
            way: ["ours", "raw", "vfio <ioctls>"][position % 3].to_owned(),
            value: *value,
            range: (*value * 0.9, *value * 1.1),
        };
        let groups = values.chunks(3).enumerate().map(|(number, values)| Group {
            title: format!("map {} KiB", 4 << number),
            marks: values.iter().enumerate().map(mark).collect(),
        });
        Chart {
            axis: "instructions/op".to_owned(),
            groups: groups.collect(),
            ways: ["ours", "raw", "vfio <ioctls>"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn alike_values_are_bars_from_zero() {
        insta::assert_snapshot!(chart(&[6900.0, 6800.0, 9000.0, 7900.0, 7800.0, 11_000.0]).svg());
    }

    #[test]
    fn values_far_apart_are_dots_on_a_logarithmic_axis() {
        insta::assert_snapshot!(chart(&[6900.0, 6800.0, 9000.0, 1.9e6, 1.8e6, 8.0e7]).svg());
    }

    #[test]
    fn a_legend_that_is_too_wide_goes_on_below() {
        let mut chart = chart(&[1.0, 2.0, 3.0]);
        let (one, _) = chart.legend();
        chart.ways = vec!["a way with quite a name".to_owned(); 7];
        let (two, legend) = chart.legend();
        assert!(two > one && legend.contains("y=\"26\""), "{legend}");
    }

    #[test]
    fn steps_are_round_and_reach_the_largest() {
        assert_eq!(steps(100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(steps(0.7), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8]);
        assert_eq!(decades(3.0, 300.0), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(decades(9.0, 1.1e6), [10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
    }

    #[test]
    fn nothing_gives_no_chart_and_zero_gives_one() {
        assert_eq!(chart(&[]).svg(), "");
        assert_eq!(chart(&[f64::NAN]).svg(), "");
        let svg = chart(&[0.0]).svg();
        assert!(svg.contains(">0</text>") && !svg.contains("NaN"), "{svg}");
    }
}
