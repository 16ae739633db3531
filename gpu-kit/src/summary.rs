//! What was measured, in at most a screen: layers, products, and what others take.

use serde_json::Value;

/// Dense bf16 FLOP/s of datasheets, by a part of the device's name, for where no product was measured.
const DATASHEET: [(&str, f64); 4] = [
    ("H200", 989e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("4090", 165e12),
];

/// The most lines of layers, and of operations.
const MOST: usize = 9;

/// The records of a run.
pub(crate) struct Found<'a>(pub(crate) Vec<&'a Value>);

/// What no kernel can be faster than.
struct Bound {
    flops: Option<f64>,
    bytes: Option<f64>,
    /// Where the two are from.
    source: String,
}

impl Bound {
    /// Of the time of what must do this work, `seconds` being the time it took.
    fn share(&self, time: &Value) -> Option<f64> {
        let part = |work: &str, rate: Option<f64>| Some(time[work].as_f64()? / rate?);
        let least = part("flops", self.flops)?.max(part("bytes", self.bytes)?);
        Some(least / median(time)?)
    }
}

fn median(record: &Value) -> Option<f64> {
    record["seconds"]["median"].as_f64()
}

fn rate(record: &Value) -> Option<f64> {
    Some(record["flops"].as_f64()? / median(record)? / 1e12)
}

/// Of the fewest bytes, in TB/s.
fn bandwidth(record: &Value) -> Option<f64> {
    Some(record["bytes"].as_f64()? / median(record)? / 1e12)
}

/// A number for a table, or a dash.
fn cell(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or("–".into(), |value| format!("{value:.digits$}{unit}"))
}

fn percent(value: Option<f64>) -> String {
    cell(value.map(|share| 100.0 * share), 0, " %")
}

/// Columns of equal width: names to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = (0..columns).map(|column| {
            let (cell, width) = (row.get(column).map_or("", String::as_str), width(column));
            match column {
                0 => format!("{cell:width$}"),
                _ => format!("  {cell:>width$}"),
            }
        });
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

impl<'a> Found<'a> {
    fn of_kind<'b>(&'b self, kind: &'b str) -> impl Iterator<Item = &'a Value> + use<'a, 'b> {
        self.0
            .iter()
            .copied()
            .filter(move |record| record["kind"] == kind)
    }

    /// The last record with these values.
    fn one(&self, kind: &str, keys: &[(&str, &str)]) -> Option<&'a Value> {
        let is = |record: &&Value| keys.iter().all(|(key, value)| record[key] == *value);
        self.of_kind(kind).filter(is).last()
    }

    fn time(&self, bench: &str, case: &str, operation: &str) -> Option<&'a Value> {
        let keys = [
            ("bench", bench),
            ("case", case),
            ("operation", operation),
            ("backend", "cuda"),
        ];
        self.one("time", &keys)
    }

    /// Seconds of one of the comparisons.
    fn other(&self, what: &str, case: &str, operation: &str) -> Option<f64> {
        let keys = [("what", what), ("case", case), ("operation", operation)];
        median(self.one("other", &keys)?)
    }

    /// Each once, in order.
    fn values(&self, kind: &str, bench: &str, key: &str) -> Vec<&'a str> {
        let mut found = Vec::new();
        for record in self.of_kind(kind).filter(|record| record["bench"] == bench) {
            if let Some(value) = record[key].as_str()
                && !found.contains(&value)
                && (kind != "time" || record["backend"] == "cuda")
            {
                found.push(value);
            }
        }
        found
    }

    fn bound(&self) -> Bound {
        let rates = |kind, key: &str| {
            let rates = self.of_kind(kind).filter_map(|record| record[key].as_f64());
            rates.fold(None, |most: Option<f64>, rate| {
                Some(most.map_or(rate, |most| most.max(rate)))
            })
        };
        let bytes = rates("bandwidth", "bytes_per_second");
        let sustained = self.one("cublas", &[("when", "after 3 s")]);
        let measured = sustained.and_then(|record| record["flops_per_second"].as_f64());
        let device = self
            .of_kind("device")
            .filter_map(|record| record["device"].as_str())
            .last();
        let of_sheet = |device: &str| DATASHEET.iter().find(|(name, _)| device.contains(name));
        let sheet = device.and_then(of_sheet).map(|(_, rate)| *rate);
        let (flops, source) = match measured {
            Some(rate) => (Some(rate), "cuBLAS, 8192³ after 3 s"),
            None => (sheet, "the datasheet: no cuBLAS was measured"),
        };
        let source = format!(
            "bound: {} ({source}), {} (the fastest copy)",
            cell(flops.map(|rate| rate / 1e12), 0, " TFLOP/s"),
            cell(bytes.map(|rate| rate / 1e12), 2, " TB/s"),
        );
        Bound {
            flops,
            bytes,
            source,
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let bound = self.bound();
        let mut lines = Vec::new();
        let cases = self.values("time", "layer", "case");
        if self
            .of_kind("time")
            .any(|record| record["backend"] == "cuda")
        {
            lines.push(bound.source.clone());
            lines.push("shares are of the bound's time; × is the other's time over ours, forward and backward".into());
        }
        lines.extend(self.layers(&cases, &bound));
        lines.extend(self.operations(&bound));
        lines
    }

    fn layers(&self, cases: &[&str], bound: &Bound) -> Vec<String> {
        let heads = [
            "layer",
            "forward TFLOP/s",
            "share",
            "backward TFLOP/s",
            "share",
            "dense ×",
            "grouped_mm ×",
            "transformers ×",
        ];
        let mut rows = vec![heads.map(String::from).to_vec()];
        for case in cases.iter().take(MOST) {
            let [forward, backward] =
                ["forward", "backward"].map(|operation| self.time("layer", case, operation));
            let ours = forward.and_then(median).zip(backward.and_then(median));
            let ours = ours.map(|(forward, backward)| forward + backward);
            let times =
                |other: Option<f64>| cell(other.zip(ours).map(|(other, ours)| other / ours), 2, "");
            let dense: Option<f64> = DENSE
                .iter()
                .map(|operation| self.other("torch dense", case, operation))
                .sum();
            let best = ["grouped_mm", "eager", "batched_mm"]
                .iter()
                .filter_map(|name| {
                    Some((
                        self.other(&format!("transformers {name}"), case, BOTH)?,
                        *name,
                    ))
                })
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let best_name = best.map_or(String::new(), |(_, name)| format!(" {name}"));
            rows.push(vec![
                (*case).into(),
                cell(forward.and_then(rate), 0, ""),
                percent(forward.and_then(|time| bound.share(time))),
                cell(backward.and_then(rate), 0, ""),
                percent(backward.and_then(|time| bound.share(time))),
                times(dense),
                times(self.other("torch grouped_mm", case, BOTH)),
                times(best.map(|(seconds, _)| seconds)) + &best_name,
            ]);
        }
        table(rows, cases.len())
    }

    /// Of the case that was profiled, or else of the first.
    fn operations(&self, bound: &Bound) -> Vec<String> {
        let profiled = self
            .of_kind("count")
            .find_map(|record| record["case"].as_str());
        let Some(case) = profiled.or(self.values("time", "experts", "case").first().copied())
        else {
            return Vec::new();
        };
        let heads = [
            "",
            "TFLOP/s",
            "TB/s",
            "share",
            "dense ×",
            "Triton ×",
            "tensor pipe",
            "DRAM / emulated",
            "L2 / emulated",
            "stalls, per issue",
        ];
        let mut rows = vec![heads.map(String::from).to_vec()];
        rows[0][0] = case.into();
        let mut found = 0;
        for bench in ["experts", "router", "dispatch"] {
            let mut operations = self.values("count", bench, "operation");
            let measured = self.values("time", bench, "operation");
            operations.extend(
                measured
                    .iter()
                    .filter(|name| !operations.contains(name))
                    .copied()
                    .collect::<Vec<_>>(),
            );
            let mut next = 0;
            for operation in operations {
                let counted = self.one(
                    "count",
                    &[("bench", bench), ("case", case), ("operation", operation)],
                );
                let profile = counted.and_then(|counted| self.profiled(bench, counted, &mut next));
                let time = self.time(bench, case, operation);
                if time.is_none() && profile.is_none() {
                    continue;
                }
                found += 1;
                let times = |what| {
                    let other = self
                        .other(what, case, operation)
                        .filter(|_| bench == "experts");
                    let pair = other.zip(time.and_then(median));
                    cell(pair.map(|(other, ours)| other / ours), 2, "")
                };
                let profile = profile.unwrap_or_default();
                rows.push(vec![
                    format!("{bench} {operation}"),
                    cell(time.and_then(rate).filter(|rate| *rate > 0.0), 0, ""),
                    cell(time.and_then(bandwidth), 2, ""),
                    percent(time.and_then(|time| bound.share(time))),
                    times("torch dense"),
                    times("triton"),
                    cell(profile.tensor, 0, " %"),
                    cell(profile.memory, 2, ""),
                    cell(profile.from_l2, 2, ""),
                    profile.stalls,
                ]);
            }
        }
        rows.truncate(2 * MOST + 1);
        table(rows, found)
    }

    /// What the profiler found of an operation, over what the emulator counted of it. Launches come in the order in which the bench runs
    /// its operations; `next` is the first that no operation before this has taken.
    fn profiled(&self, bench: &str, counted: &Value, next: &mut usize) -> Option<Profile> {
        let launches: Vec<_> = self
            .of_kind("ncu")
            .filter(|record| record["bench"] == bench)
            .collect();
        let counts = counted["launches"].as_array()?;
        let kernels: Vec<_> = counts.iter().map(|launch| &launch["kernel"]).collect();
        let matches = |launches: &[&Value]| {
            launches
                .iter()
                .zip(&kernels)
                .all(|(launch, kernel)| launch["kernel"] == **kernel)
        };
        let windows = launches.windows(kernels.len().max(1));
        let start = windows
            .enumerate()
            .skip(*next)
            .find(|(_, window)| matches(window))?
            .0;
        *next = start + kernels.len();
        let launches = &launches[start..*next];
        let sum = |names: &[&str]| -> Option<f64> {
            let values = launches
                .iter()
                .flat_map(|launch| names.iter().map(|name| launch["metrics"][*name].as_f64()));
            values.sum()
        };
        let count =
            |name: &str| -> Option<f64> { counts.iter().map(|launch| launch[name].as_f64()).sum() };
        // The emulator ran fewer tokens and as many fewer experts.
        let times = counted["whole"]["T"].as_f64()? / counted["sizes"]["T"].as_f64()?;
        let emulated = |bytes: Option<f64>| {
            bytes
                .map(|bytes| bytes * times)
                .filter(|bytes| *bytes > 0.0)
        };
        let over = |value: Option<f64>, emulated: Option<f64>| {
            value
                .zip(emulated)
                .map(|(value, emulated)| value / emulated)
        };
        // What is stored over an input is written back too.
        let rewritten = counted["rewritten"].as_f64().unwrap_or(0.0);
        let memory = count("l2_sector_misses").zip(count("first_written_bytes"));
        let memory = memory.map(|(misses, written)| 32.0 * misses + written + rewritten);
        let sectors = sum(&["lts__t_sectors_op_read.sum"]).map(|sectors| 32.0 * sectors);
        let longest = launches
            .iter()
            .max_by(|a, b| duration(a).total_cmp(&duration(b)))?;
        Some(Profile {
            tensor: TENSOR
                .iter()
                .find_map(|name| longest["metrics"][name].as_f64()),
            memory: over(
                sum(&["dram__bytes_read.sum", "dram__bytes_write.sum"]),
                emulated(memory),
            ),
            from_l2: over(
                sectors,
                emulated(count("global_load_sectors").map(|sectors| 32.0 * sectors)),
            ),
            stalls: stalls(longest),
        })
    }
}

/// Without rows a table has no heads.
fn table(rows: Vec<Vec<String>>, found: usize) -> Vec<String> {
    match found {
        0 => Vec::new(),
        _ => aligned(&rows),
    }
}

const BOTH: &str = "forward+backward";
const DENSE: [&str; 6] = [
    "up",
    "down",
    "down-backward",
    "down-weight-grad",
    "up-weight-grad",
    "input-grad",
];
const TENSOR: [&str; 2] = [
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
];

#[derive(Default)]
struct Profile {
    /// Share of cycles in which the tensor pipe of the longest launch worked.
    tensor: Option<f64>,
    memory: Option<f64>,
    from_l2: Option<f64>,
    stalls: String,
}

fn duration(launch: &Value) -> f64 {
    launch["metrics"]["gpu__time_duration.sum"]
        .as_f64()
        .unwrap_or(0.0)
}

/// The two greatest.
fn stalls(launch: &Value) -> String {
    let name = |metric: &str| {
        let rest = metric.strip_prefix("smsp__average_warps_issue_stalled_")?;
        Some(rest.strip_suffix("_per_issue_active.ratio")?.to_owned())
    };
    let metrics = launch["metrics"].as_object().into_iter().flatten();
    let mut all: Vec<_> = metrics
        .filter_map(|(metric, value)| Some((name(metric)?, value.as_f64()?)))
        .collect();
    // A warp that issues is not stalled.
    all.retain(|(name, _)| name != "selected");
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let greatest = all
        .iter()
        .take(2)
        .map(|(name, value)| format!("{name} {value:.1}"));
    greatest.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn time(bench: &str, operation: &str, flops: f64, bytes: f64, seconds: f64) -> Value {
        json!({
            "kind": "time", "bench": bench, "case": "c", "backend": "cuda", "operation": operation, "flops": flops, "bytes": bytes,
            "seconds": { "median": seconds },
        })
    }

    fn other(what: &str, operation: &str, seconds: f64) -> Value {
        json!({ "kind": "other", "what": what, "case": "c", "operation": operation, "seconds": { "median": seconds } })
    }

    fn lines(records: &[Value]) -> Vec<String> {
        Found(records.iter().collect()).lines()
    }

    fn cells(line: &str) -> Vec<&str> {
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect()
    }

    #[test]
    fn a_layer_has_its_share_of_the_larger_bound_and_ratios_of_both_passes() {
        let mut records = vec![
            json!({ "kind": "device", "device": "NVIDIA H200" }),
            json!({ "kind": "bandwidth", "bytes_per_second": 4e12 }),
            json!({ "kind": "cublas", "when": "burst", "flops_per_second": 900e12 }),
            json!({ "kind": "cublas", "when": "after 3 s", "flops_per_second": 800e12 }),
            // 1 ms of FLOPs and 0.5 ms of bytes in 2 ms; 0.25 ms of FLOPs and 1 ms of bytes in 4 ms.
            time("layer", "forward", 0.8e12, 2e9, 2e-3),
            time("layer", "backward", 0.2e12, 4e9, 4e-3),
            other("torch grouped_mm", "inference", 1.0),
            other("torch grouped_mm", "forward+backward", 12e-3),
            other("transformers eager", "forward+backward", 60e-3),
            other("transformers grouped_mm", "forward+backward", 15e-3),
        ];
        let table = lines(&records);
        assert_eq!(
            table[0],
            "bound: 800 TFLOP/s (cuBLAS, 8192³ after 3 s), 4.00 TB/s (the fastest copy)"
        );
        let row = [
            "c",
            "400",
            "50 %",
            "50",
            "25 %",
            "–",
            "2.00",
            "2.50 grouped_mm",
        ];
        assert_eq!(cells(&table[3]), row);
        // One dense product that is missing would make the sum too small.
        records.extend(DENSE.map(|operation| other("torch dense", operation, 0.5e-3)));
        assert_eq!(cells(&lines(&records)[3])[5], "0.50");
        records.pop();
        assert_eq!(cells(&lines(&records)[3])[5], "–");
        // Without cuBLAS the datasheet's rate, which the first line says.
        records.retain(|record| record["kind"] != "cublas");
        assert!(lines(&records)[0].starts_with("bound: 989 TFLOP/s (the datasheet"));
    }

    #[test]
    fn a_profile_stands_beside_the_counts_of_its_own_operation() {
        let count = |operation, kernels: &[&str]| {
            let launches = kernels.iter().map(|kernel| {
                json!({ "kernel": kernel, "l2_sector_misses": 50, "first_written_bytes": 400, "global_load_sectors": 100 })
            });
            json!({
                "kind": "count", "bench": "experts", "case": "c", "operation": operation, "rewritten": 0.0,
                "sizes": { "T": 512 }, "whole": { "T": 4096 }, "launches": launches.collect::<Vec<_>>(),
            })
        };
        let ncu = |kernel, scale: f64| {
            json!({ "kind": "ncu", "bench": "experts", "kernel": kernel, "metrics": {
                "gpu__time_duration.sum": scale, TENSOR[0]: 60.0 * scale,
                "dram__bytes_read.sum": 8000.0 * scale, "dram__bytes_write.sum": 8000.0 * scale,
                "lts__t_sectors_op_read.sum": 800.0 * scale,
                "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio": 1.5,
                "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": 2.0,
                "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": 9.0,
                "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio": null,
            } })
        };
        // Two operations have the same kernels; the second is not to get the launches of the first.
        let records = [
            count("down", &["down", "combine"]),
            count("again", &["down", "combine"]),
            ncu("down", 1.0),
            ncu("combine", 0.5),
            ncu("down", 0.5),
            ncu("combine", 0.25),
            time("experts", "down", 4e9, 2e9, 1e-3),
        ];
        let table = lines(&records);
        // 24000 bytes over 8 · 2 · (50 · 32 + 400); 1200 sectors over 8 · 2 · 100.
        let expected = [
            "experts down",
            "4",
            "2.00",
            "–",
            "–",
            "–",
            "60 %",
            "0.75",
            "0.75",
            "barrier 2.0, wait 1.5",
        ];
        assert_eq!(cells(&table[3]), expected);
        assert_eq!(cells(&table[4])[6..9], ["30 %", "0.38", "0.38"]);
    }

    #[test]
    fn nothing_measured_is_no_table() {
        let other = [
            json!({ "kind": "step" }),
            json!({ "kind": "time", "bench": "layer", "case": "c", "backend": "cpu" }),
        ];
        assert!(lines(&[]).is_empty() && lines(&other).is_empty());
    }
}
