//! The same short training on the CPU and on the device: the example `train` writes its losses and says how fast it was.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::record::record;
use crate::{Result, is_emulated};

/// Of the first loss, before any parameter has changed: sums in another order, in f32.
const FIRST: f64 = 1e-5;
/// Of the others: where two experts are nearly level for a token, the sides may choose differently, and then the parameters part.
const LATER: f64 = 1e-3;

struct Run {
    /// Training loss of each step.
    losses: Vec<f64>,
    tokens_per_second: f64,
}

/// Compares `FOLDER/cpu` with `FOLDER/cuda`, in each of which are `runs.csv` and what the program printed, in `log`.
pub(crate) fn training(folder: &Path) -> Result<()> {
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| read(&folder.join(device)));
    let (cpu, cuda) = (cpu?, cuda?);
    let differences = differences(&cpu.losses, &cuda.losses)?;
    let (first, largest) = (
        differences[0],
        differences.iter().copied().fold(0.0, f64::max),
    );
    let fits = first <= FIRST && largest <= LATER;
    let steps = differences.len();
    record(&json!({
        "kind": "training", "steps": steps, "fits": fits,
        "difference": { "first": first, "largest": largest }, "tolerance": { "first": FIRST, "largest": LATER },
        "losses": { "cpu": cpu.losses, "cuda": cuda.losses },
        "tokens_per_second": { "cpu": cpu.tokens_per_second, "cuda": cuda.tokens_per_second },
        "emulated": is_emulated(),
    }))?;
    let found = format!(
        "losses of {steps} steps differ from the CPU's by {first:.1e} at first, {largest:.1e} at most"
    );
    if !fits {
        return Err(format!("{found}; {FIRST:.0e} and {LATER:.0e} are allowed").into());
    }
    match is_emulated() {
        true => println!("{found}"),
        false => println!("{found}; {:.0} tokens/s", cuda.tokens_per_second),
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Run> {
    let text = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    Ok(Run {
        losses: losses(&text("runs.csv")?)?,
        tokens_per_second: speed(&text("log")?)
            .ok_or("the training did not say how fast it was")?,
    })
}

/// Relative differences, step by step.
fn differences(cpu: &[f64], cuda: &[f64]) -> Result<Vec<f64>> {
    if cpu.is_empty() || cpu.len() != cuda.len() {
        return Err(format!(
            "{} losses of the CPU, {} of the device",
            cpu.len(),
            cuda.len()
        )
        .into());
    }
    let pairs = cpu.iter().zip(cuda);
    Ok(pairs
        .map(|(cpu, cuda)| match (cuda - cpu).abs() / cpu.abs() {
            // A comparison with NaN would let it through.
            difference if difference.is_nan() => f64::INFINITY,
            difference => difference,
        })
        .collect())
}

/// The column `train_loss`; labels of variants are quoted and have commas.
fn losses(csv: &str) -> Result<Vec<f64>> {
    const COLUMN: &str = "train_loss";
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split(',').position(|name| name == COLUMN);
    let column = column.ok_or_else(|| format!("there is no column {COLUMN} in `{header}`"))?;
    lines
        .map(|line| {
            let rest = line.rsplit('"').next().unwrap_or(line);
            let field = rest.split(',').nth(column).unwrap_or_default();
            let number = field.parse::<f64>();
            Ok(number.map_err(|_| format!("`{field}` is no loss, in `{line}`"))?)
        })
        .collect()
}

/// From the line `speed  123 bytes (tokens) a second`.
fn speed(log: &str) -> Option<f64> {
    let line = log
        .lines()
        .find_map(|line| line.trim().strip_prefix("speed"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_speed_are_read() {
        let csv = "variant,seed,step,tokens,train_loss,held_out_loss\n\
                   \"8 experts, top-2\",1,1,64,5.54518,\n\
                   \"8 experts, top-2\",1,2,128,5.5,5.6\n";
        assert_eq!(losses(csv).unwrap(), [5.54518, 5.5]);
        assert_eq!(
            speed("held-out loss 1\nspeed            1234 bytes (tokens) a second\n"),
            Some(1234.0)
        );
        assert!(losses("step\n1\n").is_err() && losses(&csv.replace("5.5,", "?,")).is_err());
    }

    #[test]
    fn differences_are_relative_and_nan_is_one() {
        assert_eq!(differences(&[2.0, 4.0], &[2.0, 5.0]).unwrap(), [0.0, 0.25]);
        assert_eq!(differences(&[2.0], &[f64::NAN]).unwrap(), [f64::INFINITY]);
        assert!(differences(&[2.0], &[]).is_err() && differences(&[], &[]).is_err());
    }
}
