//! Curves over training as an SVG file.

use std::fmt::Write as _;

use crate::report::Group;
use crate::training::{Record, Run};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 760.0;
/// One colour for each variant, told apart also by people who do not see all colours (Okabe and Ito).
const COLORS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000"];

/// A curve: mean over the seeds, and the range between the lowest and the highest.
struct Curve {
    color: &'static str,
    /// x, mean, lowest, highest.
    points: Vec<(f64, f64, f64, f64)>,
}

/// Where a plot is and what it shows.
struct Plot {
    title: &'static str,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    curves: Vec<Curve>,
}

/// Held-out loss, expert load and share of the first slot over training.
pub fn svg(groups: &[Group<'_>]) -> String {
    let curves = |value: fn(&Record) -> Option<f64>| {
        let groups = groups.iter().zip(COLORS.iter().cycle());
        groups
            .map(|(group, color)| Curve::new(group, color, value))
            .collect()
    };
    let plots = [
        Plot {
            title: "Held-out loss, nats a byte",
            left: 80.0,
            top: 50.0,
            width: WIDTH - 110.0,
            height: 320.0,
            curves: curves(|record| record.held_out),
        },
        Plot {
            title: "Load of experts, largest over mean",
            left: 80.0,
            top: 460.0,
            width: WIDTH / 2.0 - 120.0,
            height: 200.0,
            curves: curves(|record| Some(record.router.expert_imbalance)),
        },
        Plot {
            title: "First slot's share of a token's weight",
            left: WIDTH / 2.0 + 60.0,
            top: 460.0,
            width: WIDTH / 2.0 - 90.0,
            height: 200.0,
            curves: curves(|record| Some(record.router.top1_share)),
        },
    ];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for plot in &plots {
        plot.draw(&mut svg);
    }
    let mut x = 40.0;
    for (group, color) in groups.iter().zip(COLORS.iter().cycle()) {
        let y = HEIGHT - 24.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{y}\" x2=\"{:.1}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"3\"/>",
            x + 22.0
        );
        text(&mut svg, x + 28.0, y + 4.5, "start", &escaped(group.label));
        // A little more than a letter takes on the mean.
        x += 46.0 + 7.4 * group.label.chars().count() as f64;
    }
    svg.push_str("</svg>\n");
    svg
}

impl Curve {
    fn new(group: &Group<'_>, color: &'static str, value: fn(&Record) -> Option<f64>) -> Self {
        let points = group.runs[0]
            .records
            .iter()
            .enumerate()
            .filter_map(|(i, record)| {
                // A run that has not ended has fewer.
                let of_seed = |run: &&Run| run.records.get(i).and_then(value);
                let values: Vec<f64> = group.runs.iter().map(of_seed).collect::<Option<_>>()?;
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
                let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                Some((record.tokens as f64 / 1e6, mean, lowest, highest))
            });
        Self {
            color,
            points: points.collect(),
        }
    }
}

impl Plot {
    fn draw(&self, svg: &mut String) {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let end = points().map(|p| p.0).fold(0.0, f64::max);
        let lowest = points().map(|p| p.2).fold(f64::INFINITY, f64::min);
        let highest = points().map(|p| p.3).fold(f64::NEG_INFINITY, f64::max);
        let step = tick_step(highest - lowest);
        let (bottom, top) = (
            (lowest / step).floor() * step,
            (highest / step).ceil() * step,
        );
        let top = if top > bottom { top } else { bottom + step };
        let x_of = |x: f64| self.left + x / end * self.width;
        let y_of = |y: f64| self.top + (top - y) / (top - bottom) * self.height;

        let (right, base) = (self.left + self.width, self.top + self.height);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"15\" font-weight=\"bold\">{}</text>",
            self.left,
            self.top - 14.0,
            self.title
        );
        for tick in ticks(bottom, top, step) {
            let y = y_of(tick);
            line(svg, (self.left, y), (right, y), "#ddd");
            text(svg, self.left - 8.0, y + 4.5, "end", &label(tick, step));
        }
        let x_step = tick_step(end);
        for tick in ticks(0.0, end, x_step) {
            let x = x_of(tick);
            line(svg, (x, base), (x, base + 5.0), "#222");
            text(svg, x, base + 20.0, "middle", &label(tick, x_step));
        }
        line(svg, (self.left, base), (right, base), "#222");
        let middle = self.left + self.width / 2.0;
        text(
            svg,
            middle,
            base + 40.0,
            "middle",
            "training bytes, millions",
        );

        for Curve { color, points } in &self.curves {
            let upper = points.iter().map(|p| (p.0, p.3));
            let lower = points.iter().rev().map(|p| (p.0, p.2));
            let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
                let pairs = points.map(|(x, y)| format!("{:.1},{:.1}", x_of(x), y_of(y)));
                pairs.collect::<Vec<_>>().join(" ")
            };
            let range = path(&mut upper.chain(lower));
            let mean = path(&mut points.iter().map(|p| (p.0, p.1)));
            let _ = writeln!(
                svg,
                "<polygon points=\"{range}\" fill=\"{color}\" fill-opacity=\"0.15\"/>\n\
                 <polyline points=\"{mean}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"
            );
        }
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

/// 1, 2 or 5 times a power of ten, so that a range has 4 to 10 ticks.
fn tick_step(range: f64) -> f64 {
    let rough = (range / 5.0).max(1e-6);
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(steps[3])
}

fn ticks(from: f64, to: f64, step: f64) -> impl Iterator<Item = f64> {
    let count = ((to - from) / step + 1e-9) as usize;
    (0..=count).map(move |i| from + i as f64 * step)
}

/// With as many decimals as the step needs.
fn label(value: f64, step: f64) -> String {
    let decimals = (-step.log10()).ceil().max(0.0) as usize;
    format!("{value:.decimals$}")
}

fn escaped(label: &str) -> String {
    label.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert!((tick_step(1.0) - 0.2).abs() < 1e-12);
        assert!((tick_step(2.6) - 1.0).abs() < 1e-12);
        assert!((tick_step(40.0) - 10.0).abs() < 1e-12);
        let labels: Vec<String> = ticks(1.0, 1.6, 0.2).map(|tick| label(tick, 0.2)).collect();
        assert_eq!(labels, ["1.0", "1.2", "1.4", "1.6"]);
    }
}
