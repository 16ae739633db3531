//! What the benches found: JSON lines, each checked when it is read. docs/benchmarks.md has the keys.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// T, H, I, E and K.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sizes {
    pub(super) tokens: f64,
    pub(super) hidden: f64,
    pub(super) inner: f64,
    pub(super) experts: f64,
    pub(super) top_k: f64,
}

/// What every kind has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    pub(super) bench: String,
    pub(super) case: String,
    pub(super) backend: String,
    pub(super) dtype: String,
    pub(super) operation: String,
}

#[derive(Debug, Clone)]
pub(super) struct Time {
    pub(super) subject: Subject,
    pub(super) device: String,
    pub(super) flops: f64,
    pub(super) bytes: f64,
    /// The median, and its bounds.
    pub(super) seconds: [f64; 3],
    /// This time over the other side's, where two took turns.
    pub(super) ratio: Option<[f64; 3]>,
    pub(super) conditions: String,
}

#[derive(Debug, Clone)]
pub(super) struct Count {
    pub(super) subject: Subject,
    pub(super) flops: f64,
    pub(super) bytes: f64,
    pub(super) rewritten: f64,
    pub(super) ran: Sizes,
    pub(super) whole: Sizes,
    pub(super) launches: Vec<Launch>,
    /// FLOPs, bytes and bytes written over an input that each launch must do at least, if known.
    pub(super) works: Vec<[f64; 3]>,
}

/// Counters of one launch.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) kernel: String,
    pub(super) tensor_flops: f64,
    /// From and to memory, but for what is stored over an input.
    pub(super) memory: f64,
    /// Between the multiprocessors and L2.
    pub(super) l2: f64,
}

#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) case: String,
    pub(super) sizes: Sizes,
    pub(super) bytes: f64,
}

#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) times: Vec<Time>,
    pub(super) counts: Vec<Count>,
    pub(super) saved: Vec<Saved>,
    /// What was left out, and why.
    pub(super) left_out: Vec<String>,
    /// When the first of them was made.
    pub(super) date: Option<String>,
    /// The lines, without the counters that no table shows.
    pub(super) lines: Vec<Value>,
}

/// Counters that are kept in the committed file: those of the tables here.
const COUNTERS: [&str; 6] = [
    "kernel",
    "tensor_flops",
    "l2_sector_misses",
    "first_written_bytes",
    "global_load_sectors",
    "global_store_sectors",
];

impl Records {
    pub(super) fn read(paths: &[impl AsRef<Path>]) -> Result<Self, String> {
        let mut records = Self::default();
        for path in paths.iter().map(AsRef::as_ref) {
            let text =
                fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let before = records.lines.len();
            for (number, line) in text.lines().enumerate() {
                let place = format!("{}, line {}", path.display(), number + 1);
                records
                    .add(line)
                    .map_err(|error| format!("{place}: {error}"))?;
            }
            records
                .of_one_cpu()
                .map_err(|error| format!("{}: {error}", path.display()))?;
            if records.lines.len() == before {
                return Err(format!(
                    "{} has no record; expected JSON lines that MILLET_BENCH_RECORD made",
                    path.display()
                ));
            }
        }
        Ok(records)
    }

    /// Ratios of times of two machines would say nothing.
    fn of_one_cpu(&self) -> Result<(), String> {
        let mut cpus = self
            .times
            .iter()
            .filter(|time| time.subject.backend == "cpu")
            .map(|time| &time.device);
        let first = cpus.next();
        match cpus.find(|&cpu| Some(cpu) != first) {
            Some(other) => Err(format!(
                "times of {other} after those of {}: expected one CPU",
                first.map_or("", String::as_str)
            )),
            None => Ok(()),
        }
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let mut value: Value = serde_json::from_str(line)
            .map_err(|error| format!("expected a JSON object per line: {error}"))?;
        let object = value
            .as_object_mut()
            .ok_or_else(|| format!("expected a JSON object, got {line}"))?;
        match text(object, "kind")?.as_str() {
            "time" => self.times.push(Time::of(object)?),
            "count" => {
                self.counts.push(Count::of(object)?);
                if let Some(Value::Array(launches)) = object.get_mut("launches") {
                    for launch in launches.iter_mut().filter_map(Value::as_object_mut) {
                        launch.retain(|name, _| COUNTERS.contains(&name.as_str()));
                    }
                }
            }
            "saved" => self.saved.push(Saved {
                case: text(object, "case")?,
                sizes: Sizes::of(object, "sizes")?,
                bytes: number(object, "bytes")?,
            }),
            "left_out" => self.left_out.push(format!(
                "{}/{}/{}: {}",
                text(object, "bench")?,
                text(object, "case")?,
                text(object, "backend")?,
                text(object, "reason")?
            )),
            "run" => {
                let date = text(object, "date")?;
                self.date.get_or_insert(date);
            }
            // Of a later version.
            _ => return Ok(()),
        }
        self.lines.push(value);
        Ok(())
    }

    /// The line that says when a run was.
    pub(super) fn run(date: &str) -> String {
        format!("{}\n", json!({ "kind": "run", "date": date }))
    }

    pub(super) fn left_out(bench: &str, backend: &str, reason: &str) -> String {
        let line = json!({
            "kind": "left_out", "bench": bench, "case": "all", "backend": backend, "reason": reason,
        });
        format!("{line}\n")
    }

    pub(super) fn time(
        &self,
        bench: &str,
        case: &str,
        backend: &str,
        operation: &str,
    ) -> Option<&Time> {
        self.times.iter().find(|time| {
            let subject = &time.subject;
            [
                &subject.bench,
                &subject.case,
                &subject.backend,
                &subject.operation,
            ] == [bench, case, backend, operation]
        })
    }

    pub(super) fn count(&self, bench: &str, case: &str, operation: &str) -> Option<&Count> {
        self.counts.iter().find(|count| {
            let subject = &count.subject;
            [&subject.bench, &subject.case, &subject.operation] == [bench, case, operation]
        })
    }
}

impl Sizes {
    fn of(object: &Map<String, Value>, key: &str) -> Result<Self, String> {
        let sizes = object
            .get(key)
            .and_then(Value::as_object)
            .ok_or_else(|| format!("no `{key}`, expected an object with T, H, I, E and K"))?;
        Ok(Self {
            tokens: positive(sizes, "T")?,
            hidden: positive(sizes, "H")?,
            inner: positive(sizes, "I")?,
            experts: positive(sizes, "E")?,
            top_k: positive(sizes, "K")?,
        })
    }
}

impl Subject {
    fn of(object: &Map<String, Value>) -> Result<Self, String> {
        Ok(Self {
            bench: text(object, "bench")?,
            case: text(object, "case")?,
            backend: text(object, "backend")?,
            dtype: text(object, "dtype")?,
            operation: text(object, "operation")?,
        })
    }
}

impl Time {
    pub(super) fn median(&self) -> f64 {
        self.seconds[0]
    }

    fn of(object: &Map<String, Value>) -> Result<Self, String> {
        let seconds = object
            .get("seconds")
            .and_then(Value::as_object)
            .ok_or("no `seconds`, expected an object with median, low and high")?;
        let or_zero = |key| match object.contains_key(key) {
            true => number(object, key),
            false => Ok(0.0),
        };
        let ratio = object.get("ratio").and_then(Value::as_object);
        let bounds = |of: &Map<String, Value>| -> Result<[f64; 3], String> {
            Ok([
                positive(of, "median")?,
                positive(of, "low")?,
                positive(of, "high")?,
            ])
        };
        let conditions = object.get("conditions").and_then(Value::as_str);
        Ok(Self {
            subject: Subject::of(object)?,
            device: text(object, "device")?,
            flops: or_zero("flops")?,
            bytes: or_zero("bytes")?,
            seconds: bounds(seconds)?,
            ratio: ratio.map(bounds).transpose()?,
            conditions: conditions.unwrap_or_default().into(),
        })
    }
}

impl Count {
    fn of(object: &Map<String, Value>) -> Result<Self, String> {
        let objects = |key| -> Result<Vec<&Map<String, Value>>, String> {
            let all = object.get(key).and_then(Value::as_array);
            all.and_then(|all| all.iter().map(Value::as_object).collect())
                .ok_or_else(|| format!("no `{key}`, expected a list of objects"))
        };
        let launches = objects("launches")?.into_iter().map(Launch::of);
        let works = objects("works")?.into_iter().map(work);
        let [flops, _, rewritten] = work(object)?;
        let bytes = positive(object, "bytes")?;
        Ok(Self {
            subject: Subject::of(object)?,
            flops,
            bytes,
            rewritten,
            ran: Sizes::of(object, "sizes")?,
            whole: Sizes::of(object, "whole")?,
            launches: launches.collect::<Result<_, _>>()?,
            works: works.collect::<Result<_, _>>()?,
        })
    }

    /// By what the counts are multiplied to be those of the whole case: T and E were divided by it, so that an expert has as many rows
    /// and a tile as much to do.
    pub(super) fn scale(&self) -> f64 {
        self.whole.tokens / self.ran.tokens
    }

    pub(super) fn memory(&self) -> f64 {
        self.launches
            .iter()
            .map(|launch| launch.memory)
            .sum::<f64>()
            + self.rewritten
    }

    pub(super) fn tensor_flops(&self) -> f64 {
        self.launches.iter().map(|launch| launch.tensor_flops).sum()
    }
}

impl Launch {
    fn of(object: &Map<String, Value>) -> Result<Self, String> {
        let sectors =
            number(object, "global_load_sectors")? + number(object, "global_store_sectors")?;
        Ok(Self {
            kernel: text(object, "kernel")?,
            tensor_flops: number(object, "tensor_flops")?,
            memory: 32.0 * number(object, "l2_sector_misses")?
                + number(object, "first_written_bytes")?,
            l2: 32.0 * sectors,
        })
    }
}

fn work(object: &Map<String, Value>) -> Result<[f64; 3], String> {
    Ok([
        number(object, "flops")?,
        number(object, "bytes")?,
        number(object, "rewritten")?,
    ])
}

fn text(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{key}` is {other}, expected a string")),
        None => Err(format!("no `{key}`, expected a string")),
    }
}

fn positive(object: &Map<String, Value>, key: &str) -> Result<f64, String> {
    match number(object, key)? {
        value if value > 0.0 => Ok(value),
        value => Err(format!("`{key}` is {value}, expected a number above 0")),
    }
}

fn number(object: &Map<String, Value>, key: &str) -> Result<f64, String> {
    match object.get(key) {
        Some(value) => value
            .as_f64()
            .ok_or_else(|| format!("`{key}` is {value}, expected a number")),
        None => Err(format!("no `{key}`, expected a number")),
    }
}
