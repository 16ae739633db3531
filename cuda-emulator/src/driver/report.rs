//! What the process has found and counted so far.

use std::fs::File;
use std::io::Write;

use super::call::say;
use crate::check::Finding;
use crate::counters::Counters;
use crate::report::{counters_json, finding_json, finding_text};

/// Lines kept for the program to read, and text lines printed, before further ones go to the file only.
const MOST_KEPT: usize = 10_000;
const MOST_PRINTED: usize = 200;

/// Findings and counters as JSON lines, and the files they also go to.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) findings: Vec<String>,
    pub(super) counters: Vec<String>,
    findings_file: Option<File>,
    counters_file: Option<File>,
    printed: usize,
}

impl Reporter {
    /// Opens the files that `CUDA_EMULATOR_REPORT` and `CUDA_EMULATOR_COUNTERS` name; lines are appended.
    ///
    /// # Errors
    /// Names the variable and the file that cannot be opened.
    pub(super) fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let open = |name: &str| match variable(name) {
            None => Ok(None),
            Some(path) => match File::options().create(true).append(true).open(&path) {
                Ok(file) => Ok(Some(file)),
                Err(e) => Err(format!("{name}={path}: {e}")),
            },
        };
        Ok(Self {
            findings: Vec::new(),
            counters: Vec::new(),
            findings_file: open("CUDA_EMULATOR_REPORT")?,
            counters_file: open("CUDA_EMULATOR_COUNTERS")?,
            printed: 0,
        })
    }

    pub(super) fn find(&mut self, finding: &Finding) {
        self.printed += 1;
        if self.printed <= MOST_PRINTED {
            say(&finding_text(finding));
        }
        keep(
            &mut self.findings,
            &mut self.findings_file,
            finding_json(finding),
        );
    }

    pub(super) fn count(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        counters: &Counters,
    ) {
        let line = counters_json(kernel, grid, block, counters);
        keep(&mut self.counters, &mut self.counters_file, line);
    }

    pub(super) fn clear(&mut self) {
        self.findings.clear();
        self.counters.clear();
    }
}

fn keep(lines: &mut Vec<String>, file: &mut Option<File>, line: String) {
    if let Some(f) = file
        && let Err(e) = writeln!(f, "{line}")
    {
        say(&format!(
            "a report file cannot be written and is given up: {e}"
        ));
        *file = None;
    }
    if lines.len() < MOST_KEPT {
        lines.push(line);
    }
}
