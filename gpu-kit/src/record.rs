//! Lines of what a run finds, for the table and for whoever reads it later.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::Value;

use crate::Result;

/// The file that `run.sh` keeps the complete lines of.
const FILE: &str = "KIT_RECORD";

/// Appends an object as one line; prints it where nobody keeps a file.
pub(crate) fn record(object: &Value) -> Result<()> {
    let Some(path) = std::env::var_os(FILE) else {
        println!("{object}");
        return Ok(());
    };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{object}\n").as_bytes())?;
    Ok(())
}

/// The median, and the quartiles around it.
pub(crate) fn quartiles(samples: &mut [f64]) -> Option<[f64; 3]> {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples.get(((samples.len() as f64 - 1.0) * share).round() as usize);
    Some([*at(0.25)?, *at(0.5)?, *at(0.75)?])
}
