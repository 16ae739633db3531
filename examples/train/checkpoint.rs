//! A training at one of its steps, as a safetensors file: for each parameter its value and the optimizer's two moments, and in the
//! metadata the step and what the training is. Batches are drawn from the seed, so the step also says which come next.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::files;
use crate::model::Model;
use crate::optimizer::AdamW;

/// The metadata key: one, so that equal trainings give equal files.
const KEY: &str = "millet_train";
/// A parameter's tensors, behind its number.
const PARTS: [&str; 3] = ["value", "first_moment", "second_moment"];
/// More than names and metadata take.
const HEADER: u64 = 1 << 20;

/// What [`save`] wrote.
pub struct Checkpoint {
    /// Steps done.
    pub step: usize,
    /// Value and moments of every parameter.
    parameters: Vec<[Vec<f32>; 3]>,
}

fn name(parameter: usize, part: &str) -> String {
    format!("{parameter}.{part}")
}

/// Writes a training that is `identity`, whole or not at all.
pub fn save(
    path: &Path,
    identity: &Value,
    model: &mut Model,
    optimizer: &AdamW,
) -> Result<(), String> {
    let mut tensors = Vec::new();
    let parameters = model.parameters();
    for (i, (parameter, moments)) in parameters.iter().zip(&optimizer.moments).enumerate() {
        let parts = [&parameter.value, &moments.first, &moments.second];
        for (part, values) in PARTS.iter().zip(parts) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push((name(i, part), values.len(), bytes));
        }
    }
    let description = json!({ "step": optimizer.step, "training": identity }).to_string();
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, len, bytes)| Ok((name, TensorView::new(Dtype::F32, vec![*len], bytes)?)))
        .collect();
    let metadata = HashMap::from([(KEY.to_owned(), description)]);
    let bytes = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    files::replace(path, &bytes)
}

/// Reads what [`save`] wrote for the training that is `identity`, with parameters of these sizes.
pub fn load(path: &Path, identity: &Value, sizes: &[usize]) -> Result<Checkpoint, String> {
    let parsed = read(path, sizes).and_then(|bytes| parse(&bytes, identity, sizes));
    parsed.map_err(|error| format!("--resume {}: {error}", path.display()))
}

/// Not more than such a file has.
fn read(path: &Path, sizes: &[usize]) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read it: {error}"))?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let tensors: u64 = sizes.iter().map(|&size| 12 * size as u64).sum();
    let (most, given) = (tensors + HEADER, metadata.len());
    if given > most {
        return Err(format!(
            "a checkpoint of this training has at most {most} bytes, but the file has {given}"
        ));
    }
    fs::read(path).map_err(|error| format!("cannot read it: {error}"))
}

fn parse(bytes: &[u8], identity: &Value, sizes: &[usize]) -> Result<Checkpoint, String> {
    let malformed = |error| format!("not a whole safetensors file: {error}");
    let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
    let description = header.metadata().as_ref().and_then(|m| m.get(KEY));
    let description = description.ok_or_else(|| {
        format!("not a checkpoint of this program: the metadata key `{KEY}` is missing")
    })?;
    let description: Value = serde_json::from_str(description)
        .map_err(|error| format!("metadata key `{KEY}`: {error}"))?;
    let theirs = &description["training"];
    if let Some((key, ours)) = identity
        .as_object()
        .into_iter()
        .flatten()
        .find(|(key, ours)| theirs[key.as_str()] != **ours)
    {
        let theirs = &theirs[key.as_str()];
        return Err(format!(
            "it is of a training with {key} {theirs}, but this one has {ours}"
        ));
    }
    let step = description["step"].as_u64();
    let step = step.ok_or_else(|| format!("metadata key `{KEY}` has no step"))? as usize;

    if file.len() != PARTS.len() * sizes.len() {
        let (expected, given) = (PARTS.len() * sizes.len(), file.len());
        return Err(format!("{expected} tensors expected, but it has {given}"));
    }
    let tensor = |parameter: usize, part: &str| {
        let (name, size) = (name(parameter, part), sizes[parameter]);
        let tensor = file
            .tensor(&name)
            .map_err(|_| format!("tensor `{name}` is missing"))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [size] {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            return Err(format!(
                "`{name}` must be F32 [{size}], but is {dtype} {shape:?}"
            ));
        }
        let (quads, _) = tensor.data().as_chunks::<4>();
        Ok(quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect())
    };
    let parameters = (0..sizes.len()).map(|i| {
        let [value, first, second] = PARTS.map(|part| tensor(i, part));
        Ok([value?, first?, second?])
    });
    Ok(Checkpoint {
        step,
        parameters: parameters.collect::<Result<_, String>>()?,
    })
}

impl Checkpoint {
    /// Puts everything where it was.
    pub fn restore(self, model: &mut Model, optimizer: &mut AdamW) {
        optimizer.step = self.step;
        let moments = optimizer.moments.iter_mut();
        let targets = model.parameters().into_iter().zip(moments);
        for ((parameter, moments), [value, first, second]) in targets.zip(self.parameters) {
            parameter.value = value;
            moments.first = first;
            moments.second = second;
        }
    }
}
