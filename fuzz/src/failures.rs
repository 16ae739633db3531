//! Cases that failed, in a file that people read and git keeps.

use std::fmt::{self, Display};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use millet_testing::fuzz::Failure;

/// A case: the name of its target and its number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaseId {
    pub(crate) target: String,
    pub(crate) number: u64,
}

impl Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}", self.target, self.number)
    }
}

impl FromStr for CaseId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let case = parts.and_then(|(target, number)| {
            let number = u64::from_str_radix(number, 16).ok()?;
            Some(Self {
                target: target.into(),
                number,
            })
        });
        case.ok_or_else(|| format!("`{text}` is not a case such as `layer:1f`"))
    }
}

/// The file of cases that failed.
#[derive(Clone)]
pub(crate) struct Failures(PathBuf);

impl Failures {
    pub(crate) fn open(file: &str) -> Result<Self, String> {
        let file = PathBuf::from(file);
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| in_file(folder, error))?;
        Ok(Self(file))
    }

    pub(crate) fn known(&self) -> Result<Vec<CaseId>, String> {
        let mut known = Vec::new();
        for line in self.text()?.lines() {
            let Some(word) = line.split_whitespace().next() else {
                continue;
            };
            if word.starts_with('#') {
                continue;
            }
            let case = word.parse().map_err(|error| in_file(&self.0, error))?;
            if !known.contains(&case) {
                known.push(case);
            }
        }
        Ok(known)
    }

    /// Keeps a case, with how it fails and what it is at its smallest on the same line.
    pub(crate) fn add(&self, case: &CaseId, failure: &Failure) -> Result<(), String> {
        if self.known()?.contains(case) {
            return Ok(());
        }
        let words = format!("{} {}", failure.reason, failure.smallest);
        let words: Vec<&str> = words.split_whitespace().collect();
        let line = format!("{case} # {}\n", words.join(" "));
        let file = OpenOptions::new().create(true).append(true).open(&self.0);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|error| in_file(&self.0, error))
    }

    /// The file of the case under way, beside this one.
    ///
    /// # Errors
    /// When another process has it: each would take the other's case for one that ended a process.
    pub(crate) fn under_way(&self) -> Result<UnderWay, String> {
        let path = self.0.with_extension("running");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| in_file(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(UnderWay { path, file }),
            Err(TryLockError::WouldBlock) => {
                Err(in_file(&path, "another process fuzzes this backend"))
            }
            Err(TryLockError::Error(error)) => Err(in_file(&path, error)),
        }
    }

    fn text(&self) -> Result<String, String> {
        match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            text => text.map_err(|error| in_file(&self.0, error)),
        }
    }
}

/// A file that names the case under way, and is empty where none is. One process has it at a time.
pub(crate) struct UnderWay {
    path: PathBuf,
    file: File,
}

impl UnderWay {
    /// The case in which the last process was ended, if one was.
    pub(crate) fn left(&mut self) -> Option<CaseId> {
        let mut text = String::new();
        self.file.read_to_string(&mut text).ok()?;
        text.lines().next()?.parse().ok()
    }

    pub(crate) fn begin(&mut self, case: &CaseId) -> Result<(), String> {
        self.write(&format!("{case}\n"))
    }

    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.write("")
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        let written = self
            .file
            .rewind()
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .and_then(|()| self.file.set_len(text.len() as u64));
        written.map_err(|error| in_file(&self.path, error))
    }
}

fn in_file(path: &Path, error: impl Display) -> String {
    format!("{}: {error}", path.display())
}
