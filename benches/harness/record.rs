//! What a run found, a JSON object per line, for programs that make tables and plots of it. docs/benchmarks.md has the keys.

use std::fs::{File, OpenOptions};
use std::io::Write;

use millet::SavedBytes;
use millet_testing::cases::Case;
use millet_testing::counters::Launch;
use serde_json::{Value, json};

use super::{Result, Work};

/// The file that `MILLET_BENCH_RECORD` names, if it names one.
pub(super) struct Record(Option<(String, File)>);

/// What is measured: the keys that times and counts share.
pub(super) struct Subject<'a> {
    pub(super) bench: &'a str,
    pub(super) case: &'a Case,
    pub(super) backend: &'a str,
    pub(super) dtype: &'a str,
    pub(super) operation: &'a str,
    pub(super) work: Work,
}

impl Record {
    /// Appends to what is there, as each bench is a program of its own.
    pub(super) fn open() -> std::result::Result<Self, String> {
        let Ok(path) = std::env::var("MILLET_BENCH_RECORD") else {
            return Ok(Self(None));
        };
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|error| format!("MILLET_BENCH_RECORD={path}: {error}"))?;
        Ok(Self(Some((path, file))))
    }

    pub(super) fn time(
        &mut self,
        subject: &Subject<'_>,
        device: &str,
        seconds: &Seconds,
        sets: usize,
        conditions: Option<&str>,
    ) {
        self.write(|| {
            let mut line = subject.json("time");
            line["device"] = device.into();
            seconds.add_to(&mut line);
            line["sets"] = sets.into();
            line["conditions"] = conditions.into();
            Ok(line)
        });
    }

    /// What two sides took at the same step, in turns: a time for each, and with the second's the ratio of theirs within a turn.
    pub(super) fn turns(
        &mut self,
        subjects: [&Subject<'_>; 2],
        device: &str,
        seconds: &[Vec<f64>; 2],
        version: &str,
    ) {
        let [ours, theirs] = subjects;
        let of = |samples: &[f64]| Seconds::of_samples(samples, samples.len());
        self.time(ours, device, &of(&seconds[0]), 1, None);
        self.write(|| {
            let mut line = theirs.json("time");
            line["device"] = device.into();
            of(&seconds[1]).add_to(&mut line);
            line["conditions"] = version.into();
            let ratios = seconds[0].iter().zip(&seconds[1]);
            let ratios: Vec<f64> = ratios.map(|(ours, theirs)| theirs / ours).collect();
            let Seconds {
                median, low, high, ..
            } = of(&ratios);
            line["ratio"] = json!({ "median": median, "low": low, "high": high });
            Ok(line)
        });
    }

    /// Something that is no operation on a case.
    pub(super) fn other_time(
        &mut self,
        [bench, case, backend, dtype, operation]: [&str; 5],
        device: &str,
        seconds: &Seconds,
        flops: f64,
    ) {
        self.write(|| {
            let mut line = json!({
                "kind": "time", "bench": bench, "case": case, "backend": backend, "device": device,
                "dtype": dtype, "operation": operation, "sizes": {}, "flops": flops, "sets": 1,
            });
            seconds.add_to(&mut line);
            Ok(line)
        });
    }

    /// `whole` is the case that was asked for, in whose place the subject's ran.
    pub(super) fn count(
        &mut self,
        subject: &Subject<'_>,
        whole: &Case,
        launches: &[Launch],
        works: &[Work],
    ) {
        self.write(|| {
            let mut line = subject.json("count");
            line["whole"] = sizes(whole);
            let parsed: serde_json::Result<Vec<Value>> = launches
                .iter()
                .map(|launch| serde_json::from_str(launch.line()))
                .collect();
            line["launches"] = parsed?.into();
            line["works"] = works.iter().map(Work::json).collect();
            Ok(line)
        });
    }

    pub(super) fn saved(&mut self, case: &Case, backend: &str, dtype: &str, saved: &SavedBytes) {
        self.write(|| {
            Ok(json!({
                "kind": "saved", "bench": "saved", "case": case.name, "source": case.source, "backend": backend,
                "dtype": dtype, "sizes": sizes(case), "bytes": saved.total(), "x": saved.x, "h": saved.h,
            }))
        });
    }

    pub(super) fn left_out(&mut self, bench: &str, case: &Case, backend: &str, reason: &str) {
        self.write(|| {
            Ok(json!({
                "kind": "left_out", "bench": bench, "case": case.name, "backend": backend, "reason": reason,
            }))
        });
    }

    /// One write per line, so that what was found before a run ends early is there.
    fn write(&mut self, line: impl FnOnce() -> Result<Value>) {
        let Some((path, file)) = &mut self.0 else {
            return;
        };
        let written = line().and_then(|line| {
            file.write_all(format!("{line}\n").as_bytes())
                .map_err(Into::into)
        });
        if let Err(error) = written {
            panic!("MILLET_BENCH_RECORD={path}: {error}");
        }
    }
}

impl Subject<'_> {
    fn json(&self, kind: &str) -> Value {
        let mut line = self.work.json();
        for (key, value) in [
            ("kind", kind),
            ("bench", self.bench),
            ("case", &self.case.name),
            ("source", &self.case.source),
            ("backend", self.backend),
            ("dtype", self.dtype),
            ("operation", self.operation),
        ] {
            line[key] = value.into();
        }
        line["sizes"] = sizes(self.case);
        line
    }
}

impl Work {
    fn json(&self) -> Value {
        json!({ "flops": self.flops, "bytes": self.bytes, "rewritten": self.rewritten })
    }
}

fn sizes(case: &Case) -> Value {
    let [tokens, hidden, inner, experts, top_k] = case.sizes();
    json!({ "T": tokens, "H": hidden, "I": inner, "E": experts, "K": top_k })
}

/// The median of samples, with bounds that hold the true one with a probability of 95 % or more, whatever the distribution: of fewer
/// than six samples the smallest and the largest, which then hold it less often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds {
    pub(super) median: f64,
    low: f64,
    high: f64,
    samples: usize,
}

impl Seconds {
    /// Of the last calls, so many as there are samples: criterion warms up before.
    pub(super) fn of_samples(calls: &[f64], number: usize) -> Self {
        let mut samples = calls[calls.len().saturating_sub(number)..].to_vec();
        samples.sort_by(f64::total_cmp);
        let number = samples.len();
        // Below the r-th of n sorted samples lies the true median with the probability that a coin falls on heads fewer than r times.
        let (mut term, mut below, mut rank) = (0.5f64.powi(number.min(1000) as i32), 0.0, 0);
        while below + term <= 0.025 && rank < number / 2 {
            below += term;
            term *= (number - rank) as f64 / (rank + 1) as f64;
            rank += 1;
        }
        let rank = rank.max(1);
        Self {
            // Of an even number the mean of the two in the middle.
            median: 0.5 * (samples[(number - 1) / 2] + samples[number / 2]),
            low: samples[rank - 1],
            high: samples[number - rank],
            samples: number,
        }
    }

    fn add_to(&self, line: &mut Value) {
        line["seconds"] = json!({ "median": self.median, "low": self.low, "high": self.high });
        line["samples"] = self.samples.into();
    }
}
