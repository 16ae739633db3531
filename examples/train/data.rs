//! Text: where it comes from, how it is split, and batches of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::embedding::BYTES;
use crate::model::Batch;

/// The packages this program was built from.
const LOCK: &str = include_str!("../../Cargo.lock");
/// Files above this are tables and bindings that a program wrote; they would drown what people wrote.
const LARGEST_FILE: u64 = 128 << 10;
/// Bytes taken of one family of packages, so that no author's style is most of the text.
const FAMILY_BYTES: usize = 1 << 20;
/// One byte in so many is held out.
const HELD_OUT_SHARE: usize = 10;
/// Bytes of a text of the user's.
const LARGEST_TEXT: u64 = 1 << 30;
/// Bytes that both parts must have at least.
const SMALLEST_PART: usize = 16 << 10;

/// Training and held-out text.
pub struct Text {
    pub train: Vec<u8>,
    pub held_out: Vec<u8>,
    /// Where it came from, and how it was split.
    pub description: String,
}

impl Text {
    /// A file: its last tenth is held out.
    pub fn from_file(path: &Path, context: usize) -> Result<Self, String> {
        let cannot = |why: &dyn Display| format!("cannot read --text {}: {why}", path.display());
        let mut train = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(LARGEST_TEXT + 1).read_to_end(&mut train))
            .map_err(|error| cannot(&error))?;
        if train.len() as u64 > LARGEST_TEXT {
            return Err(cannot(&format!(
                "it has more than the {LARGEST_TEXT} bytes that are possible"
            )));
        }
        let held_out = train.split_off(train.len() - train.len() / HELD_OUT_SHARE);
        let description = format!("{}, its last tenth held out", path.display());
        Self::checked(train, held_out, description, context)
    }

    /// The Rust sources of the packages in Cargo.lock, as cargo unpacked them.
    ///
    /// Packages of one family (the same name up to the first `-` or `_`: regex, regex-syntax) and all versions of a package
    /// share code, so a family is held out as a whole or not at all: a tenth of the text, in an order that their names alone decide.
    pub fn from_cargo_sources(context: usize) -> Result<Self, String> {
        let sources = cargo_home()?.join("registry").join("src");
        let mut families = BTreeMap::<&str, Vec<PathBuf>>::new();
        for (name, version) in locked_packages(LOCK) {
            let family = name.split(['-', '_']).next().unwrap_or(name);
            let directories = unpacked(&sources, &format!("{name}-{version}"));
            families.entry(family).or_default().extend(directories);
        }
        let mut families: Vec<(&str, Vec<u8>)> = families
            .into_iter()
            .map(|(family, directories)| (family, rust_sources(&directories)))
            .filter(|(_, text)| !text.is_empty())
            .collect();
        if families.is_empty() {
            return Err(format!(
                "no Rust sources of this crate's dependencies are under {}: name a text with --text FILE",
                sources.display()
            ));
        }
        families.sort_by_key(|(family, _)| hash(family.as_bytes()));
        let total: usize = families.iter().map(|(_, text)| text.len()).sum();
        let (mut train, mut held_out, mut held_names) = (vec![], vec![], vec![]);
        let count = families.len();
        for (family, text) in families {
            if held_out.len() < total / HELD_OUT_SHARE {
                held_out.extend(text);
                held_names.push(family);
            } else {
                train.extend(text);
            }
        }
        let description = format!(
            "Rust sources of {count} families of crates in {}; held out: {}",
            sources.display(),
            held_names.join(", ")
        );
        Self::checked(train, held_out, description, context)
    }

    /// A number that another text hardly has.
    pub fn fingerprint(&self) -> u64 {
        hash(&self.train) ^ hash(&self.held_out).rotate_left(1)
    }

    fn checked(
        train: Vec<u8>,
        held_out: Vec<u8>,
        description: String,
        context: usize,
    ) -> Result<Self, String> {
        let (trained, held) = (train.len(), held_out.len());
        let needed = SMALLEST_PART.max(2 * context);
        if trained.min(held) < needed {
            return Err(format!(
                "the text ({description}) has {trained} bytes to train on and {held} held out, but {needed} of \
                 each are needed: name a longer one with --text FILE"
            ));
        }
        Ok(Self {
            train,
            held_out,
            description,
        })
    }
}

/// Names and versions of the packages that came from a registry.
fn locked_packages(lock: &str) -> impl Iterator<Item = (&str, &str)> {
    fn value<'a>(package: &'a str, key: &str) -> Option<&'a str> {
        let mut lines = package.lines();
        let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
        line.strip_suffix('"')
    }
    lock.split("[[package]]").filter_map(|package| {
        value(package, "source").filter(|source| source.starts_with("registry+"))?;
        Some((value(package, "name")?, value(package, "version")?))
    })
}

fn cargo_home() -> Result<PathBuf, String> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .ok_or(
            "neither CARGO_HOME nor a home directory is known: name a text with --text FILE".into(),
        )
}

/// Where a package is unpacked: under each registry's folder, usually one.
fn unpacked(sources: &Path, package: &str) -> Option<PathBuf> {
    let registries = sorted_entries(sources);
    let mut directories = registries.iter().map(|registry| registry.join(package));
    directories.find(|directory| directory.is_dir())
}

/// The `.rs` files of these folders one after the other, in order of their paths, up to [`FAMILY_BYTES`].
fn rust_sources(directories: &[PathBuf]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut stack: Vec<PathBuf> = directories.iter().rev().cloned().collect();
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(sorted_entries(&path).into_iter().rev());
        } else if path.extension().is_some_and(|e| e == "rs")
            && fs::metadata(&path).is_ok_and(|m| m.len() <= LARGEST_FILE)
        {
            // A file that cannot be read is simply not part of the text.
            text.extend(fs::read(&path).unwrap_or_default());
        }
        if text.len() >= FAMILY_BYTES {
            text.truncate(FAMILY_BYTES);
            break;
        }
    }
    text
}

/// What is in a folder, by name; nothing if it cannot be read.
fn sorted_entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// FNV-1a: the same on every machine and in every version of the standard library.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Fills `batch` with the bytes at `positions`, each at least `context`.
pub fn gather(
    batch: &mut Batch,
    text: &[u8],
    positions: impl Iterator<Item = usize>,
    context: usize,
) {
    batch.contexts.clear();
    batch.targets.clear();
    for position in positions {
        batch
            .contexts
            .extend(text[position - context..position].iter().rev());
        batch.targets.push(text[position]);
    }
}

/// Positions drawn at random.
pub fn random_positions(rng: &mut StdRng, text: &[u8], context: usize, count: usize) -> Vec<usize> {
    (0..count)
        .map(|_| rng.random_range(context..text.len()))
        .collect()
}

/// At most `count` positions, evenly spread.
pub fn even_positions(text: &[u8], context: usize, count: usize) -> Vec<usize> {
    let available = text.len() - context;
    let count = count.min(available);
    (0..count)
        .map(|i| context + i * available / count)
        .collect()
}

/// Entropy of these bytes' frequencies, in nats a byte: the loss of the best model that looks at no context.
pub fn unigram_entropy(bytes: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0u64; BYTES];
    bytes.for_each(|byte| counts[byte as usize] += 1);
    let total = counts.iter().sum::<u64>() as f64;
    let shares = counts.iter().filter(|&&n| n > 0).map(|&n| n as f64 / total);
    -shares.map(|p| p * p.ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_registry_packages_only() {
        let lock = "version = 4\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\ndependencies = [\n \"one\",\n]\n\n\
                    [[package]]\nname = \"one\"\nversion = \"1.2.3\"\nsource = \"registry+https://example\"\n";
        assert_eq!(
            locked_packages(lock).collect::<Vec<_>>(),
            [("one", "1.2.3")]
        );
        assert!(locked_packages(LOCK).any(|(name, _)| name == "gemm-f32"));
    }

    #[test]
    fn contexts_are_nearest_byte_first() {
        let mut batch = Batch::default();
        gather(&mut batch, b"abcdef", [3, 5].into_iter(), 3);
        assert_eq!(
            (&batch.contexts[..], &batch.targets[..]),
            (&b"cbaedc"[..], &b"df"[..])
        );
    }

    #[test]
    fn positions_are_in_range_and_spread() {
        let text = [0; 100];
        assert_eq!(even_positions(&text, 10, 3), [10, 40, 70]);
        assert_eq!(even_positions(&text, 98, 1000), [98, 99]);
    }

    #[test]
    fn entropy_of_known_frequencies() {
        let entropy = unigram_entropy(b"aabc".iter().copied());
        assert!((entropy - 1.5 * 2f64.ln()).abs() < 1e-12);
    }
}
