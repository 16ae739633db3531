//! How a file holds the experts' weights: names, shapes, and the way to the layer's order and back.

use std::fmt;

use millet::{Element, MoeConfig, layouts};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::output::Tensor;

const GATE_UP: &str = "experts.gate_up_proj";
const DOWN: &str = "experts.down_proj";
/// The biases of both, where a file has them; the layouts of one tensor per expert have none.
pub(crate) const BIASES: [&str; 2] = ["experts.gate_up_proj_bias", "experts.down_proj_bias"];

/// The orders that are read. Shapes do not tell the first two apart: the config's key `expert_layout` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layout {
    /// As the layer takes them, and as transformers' fused modules have them.
    Fused,
    /// Transposed, gate and up columns alternating.
    GptOss,
    /// A tensor per expert and projection, as files of Qwen3, OLMoE, DeepSeek and GLM have them.
    PerExpert,
    /// The same under the names of Mixtral's files.
    Mixtral,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fused => "fused, gate rows before up rows",
            Self::GptOss => "as GPT-OSS, transposed, gate and up columns alternating",
            Self::PerExpert => "one by one, gate_proj, up_proj and down_proj",
            Self::Mixtral => "one by one, w1 as gate, w3 as up and w2 as down",
        })
    }
}

impl Layout {
    /// What the names say: tensors per expert, or else the fused layout.
    pub(crate) fn of(file: &SafeTensors<'_>) -> Self {
        let has = |name: &str| file.names().contains(&name);
        if has(GATE_UP) || has(DOWN) {
            return Self::Fused;
        }
        let first = |layout: &Self| {
            layout
                .projections()
                .is_some_and(|names| names.iter().any(|name| has(&per_expert(0, name))))
        };
        [Self::PerExpert, Self::Mixtral]
            .into_iter()
            .find(first)
            .unwrap_or(Self::Fused)
    }

    /// Names of gate, up and down where every expert has its own.
    fn projections(self) -> Option<[&'static str; 3]> {
        match self {
            Self::Fused | Self::GptOss => None,
            Self::PerExpert => Some(["gate_proj", "up_proj", "down_proj"]),
            Self::Mixtral => Some(["w1", "w3", "w2"]),
        }
    }

    /// The names that are expected, for a message.
    pub(crate) fn names(self) -> String {
        match self.projections() {
            None => format!("{GATE_UP}, {DOWN}, {}", BIASES.join(", ")),
            Some(projections) => projections
                .map(|name| format!("experts.{{e}}.{name}.weight"))
                .join(", "),
        }
    }

    /// Is `name` a tensor of this layout?
    pub(crate) fn has(self, experts: usize, name: &str) -> bool {
        let Some(projections) = self.projections() else {
            return [GATE_UP, DOWN].contains(&name) || BIASES.contains(&name);
        };
        let middle = name
            .strip_prefix("experts.")
            .and_then(|n| n.strip_suffix(".weight"));
        middle
            .and_then(|middle| middle.split_once('.'))
            .is_some_and(|(expert, projection)| {
                // The way a number is written, not "07" or "+7".
                let number = expert
                    .parse()
                    .ok()
                    .filter(|e: &usize| e.to_string() == expert);
                number.is_some_and(|e| e < experts) && projections.contains(&projection)
            })
    }

    /// Every tensor's name and shape, in symbols and in numbers, in the order that [`fuse`](Self::fuse) takes them.
    pub(crate) fn tensors(
        self,
        config: &MoeConfig,
    ) -> impl Iterator<Item = (String, &'static str, Vec<usize>)> {
        let (h, i, e) = (
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
        );
        let (gate_up, down) = match self {
            Self::GptOss => (
                (
                    "[num_experts, hidden_size, 2·intermediate_size]",
                    [e, h, 2 * i],
                ),
                ("[num_experts, intermediate_size, hidden_size]", [e, i, h]),
            ),
            _ => (
                (
                    "[num_experts, 2·intermediate_size, hidden_size]",
                    [e, 2 * i, h],
                ),
                ("[num_experts, hidden_size, intermediate_size]", [e, h, i]),
            ),
        };
        let fused = [(GATE_UP, gate_up), (DOWN, down)]
            .map(|(name, (symbols, shape))| (name.to_owned(), symbols, shape.to_vec()));
        let projections = self.projections();
        let fused = fused.into_iter().filter(move |_| projections.is_none());
        let experts = if projections.is_some() { e } else { 0 };
        let per_expert = (0..experts).flat_map(move |expert| {
            let [gate, up, down] = projections.unwrap_or_default();
            let inner = ("[intermediate_size, hidden_size]", [i, h]);
            let parts = [
                (gate, inner),
                (up, inner),
                (down, ("[hidden_size, intermediate_size]", [h, i])),
            ];
            parts
                .map(|(name, (symbols, shape))| (per_expert(expert, name), symbols, shape.to_vec()))
        });
        fused.chain(per_expert)
    }

    /// gate_up [E, 2I, H] and down [E, H, I] of the tensors in the order of [`tensors`](Self::tensors).
    pub(crate) fn fuse<T: Element>(
        self,
        config: &MoeConfig,
        tensors: Vec<Vec<T>>,
    ) -> millet::Result<(Vec<T>, Vec<T>)> {
        let (h, i, e) = (
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
        );
        if self.projections().is_some() {
            let pairs: Vec<(&[T], &[T])> = tensors
                .chunks_exact(3)
                .map(|t| (&t[0][..], &t[1][..]))
                .collect();
            let downs: Vec<&[T]> = tensors.chunks_exact(3).map(|t| &t[2][..]).collect();
            return Ok((
                layouts::fuse_gate_up(config, &pairs)?,
                layouts::fuse_down(config, &downs)?,
            ));
        }
        let [gate_up, down] = <[Vec<T>; 2]>::try_from(tensors).unwrap_or_default();
        if self == Self::Fused {
            return Ok((gate_up, down));
        }
        let rows = layouts::transpose(e, h, 2 * i, &gate_up)?;
        Ok((
            layouts::deinterleave_gate_up(config, &rows)?,
            layouts::transpose(e, i, h, &down)?,
        ))
    }

    /// The bias of gate_up, gates first, of a tensor of this layout.
    pub(crate) fn fuse_bias<T: Element>(
        self,
        config: &MoeConfig,
        gate_up: Vec<T>,
    ) -> millet::Result<Vec<T>> {
        match self {
            Self::GptOss => layouts::deinterleave_gate_up_bias(config, &gate_up),
            _ => Ok(gate_up),
        }
    }

    /// The gradients of the biases under their names.
    pub(crate) fn bias_gradients<T: Element<Acc = f32>>(
        self,
        config: &MoeConfig,
        gate_up: &[T],
        down: &[T],
    ) -> millet::Result<[Tensor; 2]> {
        let (h, i, e) = (
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
        );
        let alternating = match self {
            Self::GptOss => Some(layouts::interleave_gate_up_bias(config, gate_up)?),
            _ => None,
        };
        let gate_up = alternating.as_deref().unwrap_or(gate_up);
        let [gate_up_name, down_name] = BIASES.map(|name| format!("grad_{name}"));
        Ok([
            Tensor::real(gate_up_name, &[e, 2 * i], gate_up),
            Tensor::real(down_name, &[e, h], down),
        ])
    }

    /// The gradients under the tensors' names, each as its tensor.
    pub(crate) fn gradients<T: Element<Acc = f32>>(
        self,
        config: &MoeConfig,
        gate_up: &[T],
        down: &[T],
    ) -> millet::Result<Vec<Tensor>> {
        let (h, i, e) = (
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
        );
        let named = |data: Vec<&[T]>| -> Vec<Tensor> {
            let tensors = self.tensors(config).zip(data);
            tensors
                .map(|((name, _, shape), data)| Tensor::real(format!("grad_{name}"), &shape, data))
                .collect()
        };
        if self.projections().is_some() {
            let pairs = layouts::split_gate_up(config, gate_up)?;
            let downs = layouts::split_down(config, down)?;
            let parts = pairs.into_iter().zip(downs);
            return Ok(named(
                parts
                    .flat_map(|((gate, up), down)| [gate, up, down])
                    .collect(),
            ));
        }
        if self == Self::Fused {
            return Ok(named(vec![gate_up, down]));
        }
        let rows = layouts::interleave_gate_up(config, gate_up)?;
        let gate_up = layouts::transpose(e, 2 * i, h, &rows)?;
        let down = layouts::transpose(e, h, i, down)?;
        Ok(named(vec![&gate_up, &down]))
    }
}

fn per_expert(expert: usize, projection: &str) -> String {
    format!("experts.{expert}.{projection}.weight")
}
