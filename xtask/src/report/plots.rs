//! Bars as SVG.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Horizontal bars in groups.
pub(super) struct Bars {
    pub(super) title: String,
    /// What the lengths are, with their unit.
    pub(super) axis: String,
    pub(super) series: Vec<String>,
    /// A label, and a value for each series; NaN where it is not known.
    pub(super) groups: Vec<(String, Vec<f64>)>,
    /// A value to compare with.
    pub(super) reference: Option<f64>,
}

/// Told apart on white, also without colours by their order. After Okabe and Ito.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

const WIDTH: i32 = 900;
/// Of a bar and its value.
const BAR: i32 = 14;
const GAP: i32 = 10;
const TOP: i32 = 36;
const LEGEND_ROW: i32 = 20;
const BOTTOM: i32 = 52;
const RIGHT: i32 = 60;
/// Of a letter in a label, on average.
const LETTER: i32 = 7;

impl Bars {
    pub(super) fn draw(&self, path: &Path) -> Result<(), String> {
        let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        self.draw_to(path).map_err(|error| explain(&error))
    }

    fn draw_to(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let longest = self
            .groups
            .iter()
            .map(|(label, _)| label.chars().count())
            .max();
        let left = 20 + LETTER * longest.unwrap_or(0) as i32;
        let legend = if self.series.len() > 1 { LEGEND_ROW } else { 0 };
        let top = TOP + legend;
        let group = BAR * self.series.len() as i32 + GAP;
        let height = top + group * self.groups.len() as i32 + BOTTOM;
        let values = self
            .groups
            .iter()
            .flat_map(|(_, values)| values)
            .filter(|value| value.is_finite());
        let largest = values.fold(self.reference.unwrap_or(0.0), |a, &b| a.max(b));
        let step = round_step(largest / 6.0);
        let scale = f64::from(WIDTH - left - RIGHT) / largest;
        let x = |value: f64| left + (value * scale).round() as i32;

        let root = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let style = |size: i32, horizontal, vertical| {
            let font = ("sans-serif", size).into_font().color(&BLACK);
            font.pos(Pos::new(horizontal, vertical))
        };
        let write = |text: String, at, style: TextStyle<'_>| root.draw(&Text::new(text, at, style));
        write(
            self.title.clone(),
            (WIDTH / 2, 8),
            style(17, HPos::Center, VPos::Top),
        )?;
        let mut at = left;
        for (name, colour) in self.series.iter().zip(COLOURS).filter(|_| legend > 0) {
            root.draw(&Rectangle::new(
                [(at, TOP + 1), (at + 11, TOP + 12)],
                colour.filled(),
            ))?;
            write(
                name.clone(),
                (at + 16, TOP + 1),
                style(13, HPos::Left, VPos::Top),
            )?;
            at += 34 + LETTER * name.chars().count() as i32;
        }
        let bottom = height - BOTTOM;
        for tick in 0.. {
            let value = f64::from(tick) * step;
            if value > largest * 1.0001 {
                break;
            }
            let line = vec![(x(value), top), (x(value), bottom)];
            root.draw(&PathElement::new(line, RGBColor(220, 220, 220)))?;
            write(
                number(value),
                (x(value), bottom + 5),
                style(12, HPos::Center, VPos::Top),
            )?;
        }
        write(
            self.axis.clone(),
            ((left + WIDTH - RIGHT) / 2, bottom + 26),
            style(13, HPos::Center, VPos::Top),
        )?;
        for (i, (label, values)) in self.groups.iter().enumerate() {
            let start = top + group * i as i32 + GAP / 2;
            let middle = start + (group - GAP) / 2;
            write(
                label.clone(),
                (left - 8, middle),
                style(12, HPos::Right, VPos::Center),
            )?;
            for (j, (&value, colour)) in values.iter().zip(COLOURS).enumerate() {
                if !value.is_finite() {
                    continue;
                }
                let y = start + BAR * j as i32;
                root.draw(&Rectangle::new(
                    [(left, y), (x(value), y + BAR - 2)],
                    colour.filled(),
                ))?;
                write(
                    number(value),
                    (x(value) + 4, y + BAR / 2 - 1),
                    style(11, HPos::Left, VPos::Center),
                )?;
            }
        }
        if let Some(value) = self.reference {
            let line = vec![(x(value), top), (x(value), bottom)];
            root.draw(&PathElement::new(line, BLACK))?;
        }
        root.present()?;
        Ok(())
    }
}

/// 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|times| times * power >= step);
    times.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (step, round) in [
            (0.03, 0.05),
            (0.9, 1.0),
            (1.1, 2.0),
            (4.0, 5.0),
            (60.0, 100.0),
        ] {
            assert!((round_step(step) / round - 1.0).abs() < 1e-9, "{step}");
        }
    }
}
