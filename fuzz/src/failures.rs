//! Cases that failed, in a file that people read and git keeps.

use std::fmt::{self, Display};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
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

/// The file of failures, and the one of the case under way.
pub(crate) struct Failures {
    file: PathBuf,
    under_way: PathBuf,
}

impl Failures {
    pub(crate) fn open(file: &str) -> Result<Self, String> {
        let file = PathBuf::from(file);
        let under_way = file.with_extension("running");
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { file, under_way })
    }

    /// The case that a process ended in, if one did, and those that failed.
    pub(crate) fn known(&self) -> Result<Vec<CaseId>, String> {
        let mut known = Vec::new();
        for file in [&self.under_way, &self.file] {
            let text = match fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("{}: {error}", file.display())),
            };
            let lines = text
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'));
            for line in lines {
                let case = line.split_whitespace().next().unwrap_or_default().parse();
                let case = case.map_err(|error| format!("{}: {error}", file.display()))?;
                if !known.contains(&case) {
                    known.push(case);
                }
            }
        }
        Ok(known)
    }

    /// Says which case is under way.
    pub(crate) fn begin(&self, case: &CaseId) -> Result<(), String> {
        fs::write(&self.under_way, format!("{case}\n"))
            .map_err(|error| format!("{}: {error}", self.under_way.display()))
    }

    /// Keeps a case, with how it fails and what it is at its smallest on the same line.
    pub(crate) fn add(&self, case: &CaseId, failure: &Failure) -> Result<(), String> {
        if self.is_kept(case) {
            return Ok(());
        }
        let words = format!("{} {}", failure.reason, failure.smallest);
        let words: Vec<&str> = words.split_whitespace().collect();
        let line = format!("{case} # {}\n", words.join(" "));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|error| format!("{}: {error}", self.file.display()))
    }

    fn is_kept(&self, case: &CaseId) -> bool {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let id = case.to_string();
        text.lines()
            .any(|line| line.split_whitespace().next() == Some(&id))
    }

    /// No case is under way any more.
    pub(crate) fn close(&self) -> Result<(), String> {
        fs::remove_file(&self.under_way)
            .map_err(|error| format!("{}: {error}", self.under_way.display()))
    }
}
