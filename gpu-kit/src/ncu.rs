//! Reads what Nsight Compute prints with `--csv --page raw --print-units base`: a row of names, a row of units, and a row per launch.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::record::record;

/// Records the launches of each file, which `BENCH.csv` has its name from; those of a file that is there although another is not.
pub(crate) fn ncu(files: &[&str]) -> Result<()> {
    let (mut launches, mut errors) = (0, Vec::new());
    for file in files {
        match launches_of(Path::new(file)) {
            Ok(number) => launches += number,
            Err(error) => errors.push(format!("{file}: {error}")),
        }
    }
    if !errors.is_empty() {
        return Err(errors.join("; ").into());
    }
    println!("{launches} launches profiled");
    Ok(())
}

fn launches_of(path: &Path) -> Result<usize> {
    let bench = path.file_stem().unwrap_or_default().to_string_lossy();
    let rows = parse(&fs::read_to_string(path)?)?;
    for (index, row) in rows.iter().enumerate() {
        record(&json!({
            "kind": "ncu", "bench": bench, "index": index, "kernel": row.kernel, "grid": row.grid, "block": row.block,
            "metrics": row.metrics, "units": row.units,
        }))?;
    }
    Ok(rows.len())
}

#[derive(Debug, Default, PartialEq)]
struct Launch {
    kernel: String,
    grid: String,
    block: String,
    /// Null where the profiler has no value.
    metrics: BTreeMap<String, Value>,
    units: BTreeMap<String, String>,
}

/// Columns that describe a launch. Every metric's name has a scope before two underscores, as `sm__` or `launch__`.
const KERNEL: &str = "Kernel Name";
const GRID: &str = "Grid Size";
const BLOCK: &str = "Block Size";

fn parse(text: &str) -> std::result::Result<Vec<Launch>, String> {
    // Before the table come lines of the profiler's own, and of the program where both go to one place.
    let mut lines = text.lines().skip_while(|line| !line.starts_with("\"ID\","));
    let Some(header) = lines.next() else {
        let said = text.lines().find(|line| line.starts_with("==ERROR=="));
        return Err(said.unwrap_or("there is no table of launches").into());
    };
    let header = fields(header);
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.ok_or_else(|| format!("there is no column \"{name}\""))
    };
    let [kernel, grid, block] = [column(KERNEL)?, column(GRID)?, column(BLOCK)?];
    let metrics = header.iter().enumerate();
    let metrics: Vec<_> = metrics.filter(|(_, name)| name.contains("__")).collect();
    let mut units = BTreeMap::new();
    let mut launches = Vec::new();
    for line in lines.filter(|line| line.starts_with('"')) {
        let row = fields(line);
        if row.len() != header.len() {
            return Err(format!(
                "a row has {} fields, but there are {} columns: {line}",
                row.len(),
                header.len()
            ));
        }
        // The row of units has no number.
        if row[0].is_empty() {
            let units_of = |&(at, name): &(usize, &String)| (name.clone(), row[at].clone());
            units = metrics.iter().map(units_of).collect();
            continue;
        }
        launches.push(Launch {
            kernel: row[kernel].split('(').next().unwrap_or_default().into(),
            grid: row[grid].clone(),
            block: row[block].clone(),
            metrics: metrics
                .iter()
                .map(|&(at, name)| (name.clone(), number(&row[at]).into()))
                .collect(),
            units: units.clone(),
        });
    }
    Ok(launches)
}

/// With commas between thousands; nothing for `n/a`, `nan` or an empty field.
fn number(field: &str) -> Option<f64> {
    let number: f64 = field.replace(',', "").parse().ok()?;
    number.is_finite().then_some(number)
}

/// The fields of a line of CSV; a quote within one is written twice.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the profiler prints two launches, of which the second lacks a metric.
    const TABLE: &str = concat!(
        "==PROF== Connected to process 4711 (/kit/bin/experts)\n",
        "cuda: NVIDIA H200\n",
        "==PROF== Profiling \"experts_up_bf16\" - 0: 0%....50%....100% - 9 passes\n",
        "==PROF== Disconnected from process 4711\n",
        r#""ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","#,
        r#""dram__bytes_read.sum","launch__registers_per_thread","sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active""#,
        "\n",
        r#""","","","","","","","","","","","byte","register/thread","%""#,
        "\n",
        r#""0","4711","experts","127.0.0.1","experts_up_bf16","1","13","(128, 1, 1)","(3072, 1, 1)","0","9.0","#,
        r#""1,234,567,890","255","61.5""#,
        "\n",
        r#""1","4711","experts","127.0.0.1","combine(Params, ""x"")","1","13","(256, 1, 1)","(512, 1, 1)","0","9.0","#,
        r#""12.5","n/a","""#,
        "\n",
    );

    #[test]
    fn a_table_is_read() {
        let launches = parse(TABLE).unwrap();
        let [up, combine] = &launches[..] else {
            panic!("{launches:?}")
        };
        assert_eq!(up.kernel, "experts_up_bf16");
        assert_eq!(
            (up.grid.as_str(), up.block.as_str()),
            ("(3072, 1, 1)", "(128, 1, 1)")
        );
        assert_eq!(up.metrics.len(), 3);
        assert_eq!(up.metrics["dram__bytes_read.sum"], json!(1234567890.0));
        assert_eq!(up.metrics["launch__registers_per_thread"], json!(255.0));
        assert_eq!(up.units["dram__bytes_read.sum"], "byte");
        assert_eq!(up.units["launch__registers_per_thread"], "register/thread");
        assert_eq!(combine.kernel, "combine");
        assert_eq!(combine.metrics["dram__bytes_read.sum"], json!(12.5));
        assert_eq!(combine.metrics["launch__registers_per_thread"], Value::Null);
        let tensor = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active";
        assert_eq!(combine.metrics[tensor], Value::Null);
    }

    #[test]
    fn what_is_no_table_is_refused_with_what_the_profiler_said() {
        let refused = parse("==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission\n");
        assert_eq!(
            refused.unwrap_err(),
            "==ERROR== ERR_NVGPUCTRPERM - no permission"
        );
        assert_eq!(parse("").unwrap_err(), "there is no table of launches");
        let short = TABLE.replace(",\"12.5\",", ",");
        let error = parse(&short).unwrap_err();
        assert!(
            error.starts_with("a row has 13 fields, but there are 14 columns"),
            "{error}"
        );
        let nameless = TABLE.replace("Kernel Name", "Function");
        assert_eq!(
            parse(&nameless).unwrap_err(),
            "there is no column \"Kernel Name\""
        );
    }
}
