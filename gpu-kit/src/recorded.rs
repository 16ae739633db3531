//! What the emulator computes of every [case](crate::launches), kept in the kit, against what a card does; and a card against itself.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use cuda_emulator_loader as emulator;
use millet::Cuda;
use millet::half::{bf16, f16};
use serde_json::{Value, json};

use crate::launches::{Case, Kind, Output, Size, cases};
use crate::record::record;
use crate::{Result, is_emulated};

/// Which output lies where in the other.
const INDEX: &str = "expected.json";
const BYTES: &str = "expected.bin";

/// Writes the outputs of all cases into a folder, with the names of the kernels that ran.
pub(crate) fn write(folder: &Path) -> Result<()> {
    if !is_emulated() {
        return Err(
            "record: a card is compared with the emulator, so the emulator must write the record"
                .into(),
        );
    }
    let cuda = Cuda::device(0)?;
    option("CUDA_EMULATOR_COUNT", "1")?;
    emulator::clear();
    let (mut index, mut bytes) = (Vec::new(), Vec::new());
    let mut kernels = BTreeSet::new();
    for case in cases(Size::Small) {
        for output in case.run(&cuda)? {
            index.push(json!({
                "case": case.name, "output": output.name, "element": output.element,
                "offset": bytes.len(), "bytes": output.bytes.len(),
            }));
            bytes.extend(output.bytes);
        }
        for line in emulator::counters().unwrap_or_default() {
            let counters: Value = serde_json::from_str(&line)?;
            kernels.extend(counters["kernel"].as_str().map(String::from));
        }
        emulator::clear();
    }
    let device = cuda.stream().context().name()?;
    println!(
        "{} outputs of {} kernels on {device}",
        index.len(),
        kernels.len()
    );
    let index = json!({"device": device, "kernels": kernels, "outputs": index});
    fs::write(folder.join(INDEX), format!("{index}\n"))?;
    fs::write(folder.join(BYTES), bytes)?;
    Ok(())
}

fn option(name: &str, value: &str) -> Result<()> {
    if let Some(set) = emulator::set_option(name, Some(value)) {
        set?;
    }
    Ok(())
}

/// How an output differs from what was recorded.
#[derive(Debug, PartialEq)]
struct Difference {
    /// Elements that are not the same bits, of all.
    elements: usize,
    of: usize,
    /// The first of them, with both values.
    first: usize,
    expected: f64,
    given: f64,
    /// The largest difference: in units in the last place, and over the largest value that was expected.
    ulps: u64,
    relative: f64,
    is_rounding: bool,
}

/// Runs every case and lists what is not the same bits. An error where it is more than rounding.
pub(crate) fn compare(folder: &Path) -> Result<()> {
    let read =
        |name: &str| fs::read(folder.join(name)).map_err(|e| format!("{name} of the kit: {e}"));
    let index: Value = serde_json::from_slice(&read(INDEX)?)?;
    let bytes = read(BYTES)?;
    let expected = |case: &Case, output: &Output| -> Option<&[u8]> {
        let entry = index["outputs"].as_array()?.iter().find(|entry| {
            entry["case"] == case.name.as_str()
                && entry["output"] == output.name.as_str()
                && entry["element"] == output.element
        })?;
        let number = |name: &str| usize::try_from(entry[name].as_u64()?).ok();
        let start = number("offset")?;
        bytes.get(start..start + number("bytes")?)
    };
    let mut cuda = Cuda::device(0)?;
    let (mut outputs, mut equal, mut rounded, mut wrong) = (0, 0, 0, Vec::new());
    for case in cases(Size::Small) {
        // What a driver refuses is a panic of the tests' tensors.
        let run = panic::catch_unwind(AssertUnwindSafe(|| case.run(&cuda)));
        let run = run.unwrap_or_else(|_| Err(format!("{}: see above", case.name).into()));
        let found = match run {
            Ok(found) => found,
            Err(error) => {
                println!("{error}");
                wrong.push(error.to_string());
                // A fault breaks the context, and once nobody holds that there is another.
                drop(cuda);
                cuda = Cuda::device(0)?;
                continue;
            }
        };
        for output in found {
            outputs += 1;
            let name = format!("{} {}", case.name, output.name);
            let Some(expected) = expected(&case, &output) else {
                wrong.push(format!(
                    "{name}: not in the record; the kit is of another build"
                ));
                continue;
            };
            let Some(found) = difference(expected, &output)? else {
                equal += 1;
                continue;
            };
            let kind = if found.is_rounding {
                "tensor-core rounding"
            } else {
                "wrong"
            };
            let line = format!(
                "{name}: {kind}: {} of {} elements; the largest by {} ulps, {:.1e} of the largest value; [{}] is {:e}, the emulator's {:e}",
                found.elements,
                found.of,
                found.ulps,
                found.relative,
                found.first,
                found.given,
                found.expected
            );
            println!("{line}");
            record(&json!({
                "kind": "difference", "case": case.name, "output": output.name, "element": output.element, "is": kind,
                "elements": found.elements, "of": found.of, "ulps": found.ulps, "relative": found.relative,
                "first": found.first, "expected": found.expected, "given": found.given,
            }))?;
            if found.is_rounding {
                rounded += 1;
            } else {
                wrong.push(line);
            }
        }
    }
    record(&json!({
        "kind": "compared", "with": index["device"], "outputs": outputs, "equal": equal, "rounding": rounded, "wrong": wrong.len(),
    }))?;
    let summary = format!(
        "{outputs} outputs: {equal} equal, {rounded} by tensor-core rounding, {} wrong",
        wrong.len()
    );
    match wrong.first() {
        None => {
            println!("{summary}");
            Ok(())
        }
        Some(first) => Err(format!("{summary}; the first: {first}").into()),
    }
}

/// The bytes of an element as a number, and its place in the order of numbers of its type.
fn element(output: &Output, bytes: &[u8]) -> Option<(f64, i64)> {
    // Sign and magnitude to a line without a gap at zero.
    let line = |bits: i64, sign: i64| {
        if bits & sign == 0 {
            bits
        } else {
            -(bits & (sign - 1))
        }
    };
    Some(match output.element {
        "i32" => {
            let value = i32::from_le_bytes(bytes.try_into().ok()?);
            (f64::from(value), i64::from(value))
        }
        "f32" => {
            let bits = u32::from_le_bytes(bytes.try_into().ok()?);
            (
                f64::from(f32::from_bits(bits)),
                line(i64::from(bits), 1 << 31),
            )
        }
        "f64" => {
            let bits = u64::from_le_bytes(bytes.try_into().ok()?);
            (
                f64::from_bits(bits),
                line((bits >> 1).cast_signed(), 1 << 62),
            )
        }
        "bf16" | "f16" => {
            let bits = u16::from_le_bytes(bytes.try_into().ok()?);
            let value = match output.element {
                "bf16" => bf16::from_bits(bits).to_f64(),
                _ => f16::from_bits(bits).to_f64(),
            };
            (value, line(i64::from(bits), 1 << 15))
        }
        _ => return None,
    })
}

/// How far from the largest value of the output an element may be for rounding to explain it: two units in the last place of that value
/// where the type is narrow; in f32, whose products are sums of several instructions' results, what 22 bits leave of a long sum.
fn bound(element: &str) -> f64 {
    match element {
        "bf16" => 2.0 * 2f64.powi(-8),
        "f16" => 2.0 * 2f64.powi(-11),
        _ => 2f64.powi(-16),
    }
}

fn difference(expected: &[u8], output: &Output) -> Result<Option<Difference>> {
    if expected == output.bytes {
        return Ok(None);
    }
    let size = match output.element {
        "f64" => 8,
        "bf16" | "f16" => 2,
        _ => 4,
    };
    if expected.len() != output.bytes.len() {
        return Err(format!(
            "{}: {} bytes, but {} were recorded",
            output.name,
            output.bytes.len(),
            expected.len()
        )
        .into());
    }
    let pairs = || {
        expected
            .chunks(size)
            .zip(output.bytes.chunks(size))
            .enumerate()
    };
    let value = |bytes: &[u8]| element(output, bytes).ok_or("an element of an unknown type");
    let mut largest = 0f64;
    for (_, (expected, _)) in pairs() {
        let (expected, _) = value(expected)?;
        if expected.is_finite() {
            largest = largest.max(expected.abs());
        }
    }
    let mut found: Option<Difference> = None;
    for (at, (expected, given)) in pairs().filter(|(_, (expected, given))| expected != given) {
        let ((expected, place), (given, other)) = (value(expected)?, value(given)?);
        let found = found.get_or_insert(Difference {
            elements: 0,
            of: output.bytes.len() / size,
            first: at,
            expected,
            given,
            ulps: 0,
            relative: 0.0,
            is_rounding: output.kind == Kind::Products,
        });
        found.elements += 1;
        found.ulps = found.ulps.max(place.abs_diff(other));
        let relative = (expected - given).abs() / largest;
        // NaN against a number is no rounding.
        found.is_rounding &= relative <= bound(output.element);
        found.relative = if relative.is_nan() {
            f64::INFINITY
        } else {
            found.relative.max(relative)
        };
    }
    Ok(found)
}

/// Prints a hash of each output of larger cases. Each runs several times and must give the same bits; another process must print the same.
pub(crate) fn bits() -> Result<()> {
    let cuda = Cuda::device(0)?;
    let (size, times) = if is_emulated() {
        (Size::Small, 1)
    } else {
        (Size::Large, 3)
    };
    for case in cases(size) {
        let first = case.run(&cuda)?;
        for _ in 1..times {
            for (output, before) in case.run(&cuda)?.iter().zip(&first) {
                if output.bytes != before.bytes {
                    return Err(
                        format!("{} {}: other bits the next time", case.name, output.name).into(),
                    );
                }
            }
        }
        for output in first {
            let mut hasher = DefaultHasher::new();
            output.bytes.hash(&mut hasher);
            println!("{} {} {:016x}", case.name, output.name, hasher.finish());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(element: &'static str, kind: Kind, bytes: Vec<u8>) -> Output {
        Output {
            name: "x".into(),
            kind,
            element,
            bytes,
        }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn differences_have_a_kind() {
        let expected = floats(&[1.0, -2.0, 0.0]);
        let next = f32::from_bits(1f32.to_bits() + 1);
        let of = |kind, values: &[f32]| {
            difference(&expected, &output("f32", kind, floats(values))).unwrap()
        };
        assert_eq!(of(Kind::Exact, &[1.0, -2.0, 0.0]), None);
        let found = of(Kind::Products, &[next, -2.0, 0.0]).unwrap();
        assert!(
            found.is_rounding
                && found.ulps == 1
                && found.elements == 1
                && found.of == 3
                && found.first == 0
        );
        assert!(!of(Kind::Exact, &[next, -2.0, 0.0]).unwrap().is_rounding);
        assert!(!of(Kind::Products, &[1.1, -2.0, 0.0]).unwrap().is_rounding);
        let nan = of(Kind::Products, &[1.0, f32::NAN, 0.0]).unwrap();
        assert!(!nan.is_rounding && nan.first == 1);
        // −0 is another bit pattern, but the same place.
        let zero = of(Kind::Products, &[1.0, -2.0, -0.0]).unwrap();
        assert!(zero.is_rounding && zero.ulps == 0);
        assert!(difference(&expected, &output("f32", Kind::Exact, floats(&[1.0]))).is_err());
    }

    #[test]
    fn narrow_types_have_their_own_units() {
        let bytes = |value: f64| bf16::from_f64(value).to_bits().to_le_bytes().to_vec();
        let found = difference(
            &bytes(1.0),
            &output("bf16", Kind::Products, bytes(1.0078125)),
        );
        let found = found.unwrap().unwrap();
        assert!(found.is_rounding && found.ulps == 1 && found.relative == 0.0078125);
    }
}
