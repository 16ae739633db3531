//! The case file: a launch and its data in JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::data::Element;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// PTX text, or a fatbin that contains some.
    pub(crate) module: PathBuf,
    /// May be left out when the module has one kernel.
    pub(crate) kernel: Option<String>,
    pub(crate) grid: Extent,
    pub(crate) block: Extent,
    /// Dynamic shared memory, bytes.
    #[serde(default)]
    pub(crate) shared: u32,
    #[serde(default)]
    pub(crate) cooperative: bool,
    /// As in `CUDA_EMULATOR_DEVICE`.
    pub(crate) device: Option<String>,
    /// `{"check": "all"}` is `CUDA_EMULATOR_CHECK=all`, and so on.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, Value>,
    /// The kernel's arguments in order.
    #[serde(default)]
    pub(crate) args: Vec<Argument>,
}

/// One number, or up to three of them.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number or a list of up to three numbers"
)]
pub(crate) enum Extent {
    One(u32),
    Some(Vec<u32>),
}

impl Extent {
    /// Sizes left out are 1.
    pub(crate) fn resolve(&self, what: &str) -> Result<[u32; 3], String> {
        let given = match self {
            Extent::One(x) => std::slice::from_ref(x),
            Extent::Some(list) => list,
        };
        if given.is_empty() || given.len() > 3 {
            return Err(format!(
                "{what}: expected one to three numbers, found {}",
                given.len()
            ));
        }
        let mut extent = [1; 3];
        extent[..given.len()].copy_from_slice(given);
        Ok(extent)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Argument {
    Scalar(Scalar),
    Buffer(Buffer),
    /// A structure by value, as hexadecimal digits of its bytes.
    Bytes(String),
    Pointer(Pointer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scalar {
    #[serde(rename = "type")]
    pub(crate) element: Element,
    pub(crate) value: Value,
}

/// Device memory; the argument is its address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Buffer {
    /// For reports and for pointers to it.
    pub(crate) name: Option<String>,
    #[serde(rename = "type")]
    pub(crate) element: Element,
    /// Elements; may be left out when `init` says it.
    pub(crate) len: Option<u64>,
    #[serde(default)]
    pub(crate) init: Pattern,
    /// How many of the first elements to print after the launch.
    #[serde(default)]
    pub(crate) print: u64,
    /// A file for the bytes after the launch.
    pub(crate) save: Option<PathBuf>,
    pub(crate) expect: Option<Expectation>,
}

/// The address of (an element of) another argument's buffer, or null.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pointer {
    pub(crate) to: Option<String>,
    /// Bytes.
    #[serde(default)]
    pub(crate) offset: u64,
}

/// What a buffer holds.
#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    /// Nothing: the checkers report reads before writes.
    Uninitialized,
    #[default]
    Zeros,
    /// 0, 1, 2, …
    Iota,
    Fill(Value),
    Random(Random),
    Values(Vec<Value>),
    /// Raw little-endian elements.
    File(PathBuf),
}

/// Uniform in `low..high`; both ends are included for integers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Random {
    #[serde(default)]
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) low: f64,
    #[serde(default = "one")]
    pub(crate) high: f64,
}

fn one() -> f64 {
    1.0
}

/// An element passes if it differs by at most `atol + rtol × |expected|`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expectation {
    pub(crate) data: Pattern,
    #[serde(default)]
    pub(crate) atol: f64,
    #[serde(default)]
    pub(crate) rtol: f64,
}

impl Case {
    pub(crate) fn read(path: &Path) -> Result<Case, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }
}
