//! A short table of what a run has recorded, at its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::summary::Found;

/// What a run recorded, by step: of a step that ran several times, the last.
pub(crate) fn read(out: &Path) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut steps = BTreeMap::<String, Vec<Value>>::new();
    let mut step = String::new();
    for line in fs::read_to_string(out.join("kit.jsonl"))?.lines() {
        // A line that was cut off is none.
        let Ok(object) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if object["kind"] == "step" {
            step = object["step"].as_str().unwrap_or_default().into();
            steps.insert(step.clone(), Vec::new());
        } else {
            steps.entry(step.clone()).or_default().push(object);
        }
    }
    Ok(steps)
}

pub(crate) fn table(out: &Path) -> Result<()> {
    let steps = read(out)?;
    for object in steps.get("device").into_iter().flatten() {
        if object["kind"] == "bandwidth" {
            let rate = object["bytes_per_second"].as_f64().unwrap_or(f64::NAN);
            let method = object["method"].as_str().unwrap_or_default();
            println!("copy by the {method}: {:.2} TB/s", rate / 1e12);
        }
    }
    let found = Found(steps.values().flatten().collect());
    for line in found.lines() {
        println!("{line}");
    }
    Ok(())
}
