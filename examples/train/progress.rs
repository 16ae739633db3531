//! Progress of all runs together: a bar on a terminal, a line now and then elsewhere.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::files;
use crate::model::Losses;
use crate::training::{Recipe, Variant};

/// Lines of a run where there is no terminal.
const LINES: usize = 10;

pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    runs: usize,
    run: usize,
}

impl Progress {
    /// Of runs that go from step `from` on.
    pub fn new(runs: usize, recipe: &Recipe, from: usize) -> Self {
        let template = "{wide_bar} {pos}/{len} steps, {eta} left  {msg}";
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        Self {
            bar: ProgressBar::new((runs * recipe.until.saturating_sub(from)) as u64)
                .with_style(style),
            start: Instant::now(),
            runs,
            run: 0,
        }
    }

    pub fn start_run(&mut self) {
        self.run += 1;
    }

    pub fn step(&self, recipe: &Recipe, variant: &Variant, step: usize, losses: Losses) {
        self.bar.inc(1);
        let message = || {
            let (label, loss) = (&variant.label, losses.cross_entropy);
            format!(
                "{label} ({}/{}): {loss:.3} nats a byte",
                self.run, self.runs
            )
        };
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        } else if step.is_multiple_of(recipe.steps.div_ceil(LINES)) || step == recipe.until {
            let seconds = self.start.elapsed().as_secs();
            let (message, steps) = (message(), recipe.steps);
            files::warn(&format!("{seconds:4} s  {message}, step {step} of {steps}"));
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
