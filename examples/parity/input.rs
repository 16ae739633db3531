//! The file that is read: its tensors, checked against its config.

use millet::{Element, ExpertBias, MoeConfig};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::experts::{BIASES, Layout};
use crate::{Result, config};

const X: &str = "x";
const ROUTER: &str = "router.weight";
const BIAS: &str = "router.selection_bias";
const GRAD: &str = "grad_output";
const NAMES: [&str; 4] = [X, ROUTER, BIAS, GRAD];

/// Metadata keys that are read or, as `format` that Hugging Face tools write, mean nothing here.
const METADATA: [&str; 2] = ["config", "format"];

/// A file whose tensors are there, f32 or bf16, and of the shapes that its config gives.
pub(crate) struct Input<'a> {
    pub(crate) config: MoeConfig,
    pub(crate) tokens: usize,
    pub(crate) layout: Layout,
    x: TensorView<'a>,
    router: TensorView<'a>,
    bias: Option<TensorView<'a>>,
    /// In the order of the layout.
    experts: Vec<(String, TensorView<'a>)>,
    expert_biases: Option<[TensorView<'a>; 2]>,
    grad_output: TensorView<'a>,
}

/// An input's tensors in the layer's types.
pub(crate) struct Tensors<T, W> {
    pub(crate) x: Vec<T>,
    pub(crate) router: Vec<W>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) gate_up: Vec<T>,
    pub(crate) down: Vec<T>,
    /// Of gate_up and of down.
    pub(crate) expert_biases: Option<[Vec<T>; 2]>,
    pub(crate) grad_output: Vec<T>,
}

impl<'a> Input<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let malformed = |error| format!("not a safetensors file: {error}");
        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if let Some(key) = metadata
            .keys()
            .filter(|key| !METADATA.contains(&key.as_str()))
            .min()
        {
            return Err(format!("unknown metadata key {key:?}; expected `config`"));
        }
        let json = metadata
            .get("config")
            .ok_or("the metadata key `config` is missing: the layer's configuration, as JSON")?;
        let has_biases = BIASES.iter().any(|name| file.names().contains(name));
        let (config, layout) = config::parse(
            json,
            match has_biases {
                true => ExpertBias::GateUpAndDown,
                false => ExpertBias::None,
            },
        )?;
        let layout = layout.unwrap_or_else(|| Layout::of(&file));
        let (h, e) = (config.hidden_size(), config.num_experts());
        let is_known = |name: &str| NAMES.contains(&name) || layout.has(e, name);
        if let Some(name) = file.names().into_iter().filter(|n| !is_known(n)).min() {
            let (names, experts) = (NAMES.join(", "), layout.names());
            return Err(format!(
                "unknown tensor {name:?}; expected {names} and, with experts {layout}, {experts}"
            ));
        }

        let tensor = |name: &str| {
            let missing = |_| format!("tensor `{name}` is missing");
            let tensor = file.tensor(name).map_err(missing)?;
            match tensor.dtype() {
                Dtype::F32 | Dtype::BF16 => Ok(tensor),
                other => Err(format!("`{name}` must be F32 or BF16, but is {other}")),
            }
        };
        let x = tensor(X)?;
        let tokens = match *x.shape() {
            [tokens, width] if width == h => tokens,
            ref other => {
                return Err(format!(
                    "`x` must be [T, hidden_size={h}], but is {other:?}"
                ));
            }
        };
        let of_shape = |name: &str, symbols: &str, shape: &[usize]| {
            let tensor = tensor(name)?;
            if tensor.shape() == shape {
                Ok(tensor)
            } else {
                let given = tensor.shape();
                Err(format!(
                    "`{name}` must be {symbols} = {shape:?}, but is {given:?}"
                ))
            }
        };
        let (i, [gate_up, down]) = (config.intermediate_size(), BIASES);
        let expert_biases = has_biases.then(|| -> Result<_> {
            Ok([
                of_shape(gate_up, "[num_experts, 2·intermediate_size]", &[e, 2 * i])?,
                of_shape(down, "[num_experts, hidden_size]", &[e, h])?,
            ])
        });
        let bias = file.names().contains(&BIAS);
        let bias = bias.then(|| of_shape(BIAS, "[num_experts]", &[e]));
        Ok(Self {
            tokens,
            router: of_shape(ROUTER, "[num_experts, hidden_size]", &[e, h])?,
            bias: bias.transpose()?,
            experts: layout
                .tensors(&config)
                .map(|(name, symbols, shape)| Ok((name.clone(), of_shape(&name, symbols, &shape)?)))
                .collect::<Result<_>>()?,
            expert_biases: expert_biases.transpose()?,
            layout,
            grad_output: of_shape(GRAD, "[T of `x`, hidden_size]", &[tokens, h])?,
            x,
            config,
        })
    }

    /// The type that the router weight was given in.
    pub(crate) fn router_dtype(&self) -> Dtype {
        self.router.dtype()
    }

    /// Rounds every tensor to its type in the layer.
    pub(crate) fn tensors<T: Element<Acc = f32>, W: Element<Acc = f32>>(
        &self,
    ) -> Result<Tensors<T, W>> {
        let experts: Vec<Vec<T>> = self
            .experts
            .iter()
            .map(|(name, tensor)| convert(name, tensor))
            .collect::<Result<_>>()?;
        let (gate_up, down) = self
            .layout
            .fuse(&self.config, experts)
            .map_err(|error| error.to_string())?;
        let biases = self
            .expert_biases
            .as_ref()
            .map(|[gate_up, down]| -> Result<_> {
                let gate_up = convert(BIASES[0], gate_up)?;
                let gate_up = self.layout.fuse_bias(&self.config, gate_up);
                let gate_up = gate_up.map_err(|error| error.to_string())?;
                Ok([gate_up, convert(BIASES[1], down)?])
            });
        Ok(Tensors {
            x: convert(X, &self.x)?,
            router: convert(ROUTER, &self.router)?,
            bias: self
                .bias
                .as_ref()
                .map(|bias| convert(BIAS, bias))
                .transpose()?,
            gate_up,
            down,
            expert_biases: biases.transpose()?,
            grad_output: convert(GRAD, &self.grad_output)?,
        })
    }
}

/// Rounds to `T`. A finite value that would become infinite is refused; infinities and NaN that are there stay.
fn convert<T: Element<Acc = f32>>(name: &str, tensor: &TensorView<'_>) -> Result<Vec<T>> {
    let data = tensor.data();
    let round = |value: f32| {
        let rounded = T::narrow(value);
        if value.is_finite() && !rounded.widen().is_finite() {
            return Err(format!(
                "`{name}` holds {value:e}, too large for {}",
                T::DTYPE
            ));
        }
        Ok(rounded)
    };
    if tensor.dtype() == Dtype::BF16 {
        // A bf16 is the upper half of an f32.
        let (pairs, _) = data.as_chunks::<2>();
        pairs
            .iter()
            .map(|&[low, high]| round(f32::from_le_bytes([0, 0, low, high])))
            .collect()
    } else {
        let (quads, _) = data.as_chunks::<4>();
        quads
            .iter()
            .map(|&quad| round(f32::from_le_bytes(quad)))
            .collect()
    }
}
