//! What a run leaves behind, written as it goes: rows of the CSV file and the plot. A run that is killed has what was there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::report;
use crate::training::{Record, Run};

/// Prints a line. A reader that has gone away (`train | head -1`) ends the printing, not the training.
pub fn say(line: &str) -> Result<(), String> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Prints a line on standard error, if there is one.
pub fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a file under another name and renames it: it is there as a whole, or as it was.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), String> {
    let partial = partial(path)?;
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&partial);
        cannot_write(path, &error)
    })
}

/// Whether [`replace`] can begin, tried.
pub fn check_replaceable(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Err(format!("cannot write {}: it is a folder", path.display()));
    }
    let partial = partial(path)?;
    let tried = File::create(&partial).and_then(|_| fs::remove_file(&partial));
    tried.map_err(|error| cannot_write(path, &error))
}

fn partial(path: &Path) -> Result<PathBuf, String> {
    let name = path
        .file_name()
        .ok_or_else(|| format!("cannot write {}: it names no file", path.display()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// The folder of `--out`.
pub struct Outputs {
    rows: File,
    /// Bytes of whole rows.
    rows_len: u64,
    pub rows_path: PathBuf,
    pub curves_path: PathBuf,
    /// The first thing that could not be written; training goes on without it.
    problem: Option<String>,
}

impl Outputs {
    /// Makes the folder and begins its files. A resumed run keeps the rows up to the step that it goes on from.
    pub fn create(directory: &Path, resumed_at: Option<usize>) -> Result<Self, String> {
        fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))?;
        let rows_path = directory.join("runs.csv");
        let curves_path = directory.join("curves.svg");
        check_replaceable(&curves_path)?;
        let mut content = report::CSV_HEADER.to_owned();
        if let Some(last) = resumed_at {
            let before = fs::read_to_string(&rows_path).unwrap_or_default();
            for row in before.lines().skip(1) {
                // The label is quoted and may hold commas.
                let numbers = row.rsplit_once('"').map_or("", |(_, numbers)| numbers);
                let step = numbers.split(',').nth(2).and_then(|step| step.parse().ok());
                if step.is_some_and(|step: usize| step <= last) {
                    content.push_str(row);
                    content.push('\n');
                }
            }
        }
        replace(&rows_path, content.as_bytes())?;
        let rows = OpenOptions::new().append(true).open(&rows_path);
        Ok(Self {
            rows: rows.map_err(|error| cannot_write(&rows_path, &error))?,
            rows_len: content.len() as u64,
            rows_path,
            curves_path,
            problem: None,
        })
    }

    /// Appends a row, whole or not at all.
    pub fn record(&mut self, label: &str, seed: u64, record: &Record) {
        let row = report::csv_row(label, seed, record);
        let written = self.rows.write_all(row.as_bytes());
        if written.is_ok() {
            self.rows_len += row.len() as u64;
        } else {
            // A disk that fills takes the beginning of a row.
            let _ = self.rows.set_len(self.rows_len);
        }
        self.note(written.map_err(|error| cannot_write(&self.rows_path, &error)));
    }

    /// The plot of these runs, the last of which may not have ended.
    pub fn curves<'a>(&mut self, runs: impl IntoIterator<Item = &'a Run>) {
        let svg = crate::chart::svg(&report::groups(runs));
        self.note(replace(&self.curves_path, svg.as_bytes()));
    }

    /// Remembers what could not be written, and says it once.
    pub fn note(&mut self, written: Result<(), String>) {
        if let Err(problem) = written
            && self.problem.is_none()
        {
            warn(&format!("warning: {problem}; the training goes on"));
            self.problem = Some(problem);
        }
    }

    /// What could not be written.
    pub fn finish(self) -> Result<(), String> {
        self.problem.map_or(Ok(()), Err)
    }
}
