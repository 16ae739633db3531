//! The layer's run: everything that is written.

use millet::{
    Backend, BackwardInput, Element, ExpertBiasGrads, ExpertBiases, Gradients, Keep, Logits,
    MoeLayer, RouterForward, Scalar, WeightGrad, Weights, stats_elements,
};

use crate::Result;
use crate::input::{Input, Tensors};
use crate::output::Tensor;

/// Forward and backward with storage `T` and a router weight of `W`: the tensors, and a summary of one line.
pub(crate) fn run<B: Backend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    backend: B,
    input: &Input<'_>,
) -> Result<(Vec<Tensor>, String)> {
    let tensors = input.tensors::<T, W>()?;
    let pass = || {
        pass(
            &MoeLayer::new(backend, input.config.clone()),
            input,
            &tensors,
        )
    };
    pass().map_err(|error| error.to_string())
}

/// Bytes that a run takes, about, beside the file: a small one can ask for much, as its logits have T·E elements.
pub(crate) fn memory<B: Backend>(backend: &B, input: &Input<'_>) -> f64 {
    let config = &input.config;
    let scratch = backend.scratch_elements::<f32>(config, input.tokens) as f64;
    let [t, e, k, h, i] = [
        input.tokens,
        config.num_experts(),
        config.top_k(),
        config.hidden_size(),
        config.intermediate_size(),
    ]
    .map(|n| n as f64);
    // Tokens, weights and their gradients; then what the layer keeps: h, a and the logits' gradient.
    let tensors = 2.0 * (2.0 * t * h + e * h * (1.0 + 3.0 * i));
    4.0 * (scratch + tensors + t * (e + k * (4.0 + 3.0 * i)))
}

fn pass<B: Backend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    layer: &MoeLayer<B>,
    input: &Input<'_>,
    tensors: &Tensors<T, W>,
) -> millet::Result<(Vec<Tensor>, String)> {
    let backend = layer.backend();
    let (config, tokens) = (&input.config, input.tokens);
    let h = config.hidden_size();
    let (e, k) = (config.num_experts(), config.top_k());
    let x = &Device::upload(backend, &tensors.x)?;
    let grad_output = Device::upload(backend, &tensors.grad_output)?;
    let router = &Device::upload(backend, &tensors.router)?;
    let bias = tensors.bias.as_deref();
    let bias = &bias.map(|bias| Device::upload(backend, bias)).transpose()?;
    let gate_up = Device::upload(backend, &tensors.gate_up)?;
    let down = Device::upload(backend, &tensors.down)?;
    let biases = match &tensors.expert_biases {
        None => None,
        Some([gate_up, down]) => Some([
            Device::upload(backend, gate_up)?,
            Device::upload(backend, down)?,
        ]),
    };

    let weights = Weights::<B, T, W> {
        router: router.view(),
        selection_bias: bias.as_ref().map(Device::view),
        gate_up: gate_up.view(),
        down: down.view(),
        expert_bias: biases.as_ref().map(|[gate_up, down]| ExpertBiases {
            gate_up: gate_up.view(),
            down: down.view(),
        }),
    };
    let mut saved = layer.saved::<T>(tokens, Keep::Hidden)?;
    let mut workspace = layer.workspace::<T>(tokens, Keep::Hidden)?;
    let mut output = Device::<B, T>::new(backend, x.len)?;
    let (x, out) = (x.view(), output.view_mut());
    layer.forward(weights, x, out, &mut saved, &mut workspace)?;
    let (aux, z) = layer.losses(&saved)?;
    let routing = layer.routing(&saved)?;
    let diagnostics = layer.diagnostics(&saved)?;

    let mut x_grad = Device::<B, T>::new(backend, output.len)?;
    let mut router_grad = Device::<B, W>::new(backend, router.len)?;
    let mut gate_up_grad = Device::<B, T>::new(backend, gate_up.len)?;
    let mut down_grad = Device::<B, T>::new(backend, down.len)?;
    let mut bias_grads = match &biases {
        None => None,
        Some([gate_up, down]) => Some([
            Device::<B, T>::new(backend, gate_up.len)?,
            Device::<B, T>::new(backend, down.len)?,
        ]),
    };
    let gradients = Gradients::<B, T, W> {
        x: x_grad.view_mut(),
        router: WeightGrad::Overwrite(router_grad.view_mut()),
        gate_up: WeightGrad::Overwrite(gate_up_grad.view_mut()),
        down: WeightGrad::Overwrite(down_grad.view_mut()),
        expert_bias: bias_grads.as_mut().map(|[gate_up, down]| ExpertBiasGrads {
            gate_up: WeightGrad::Overwrite(gate_up.view_mut()),
            down: WeightGrad::Overwrite(down.view_mut()),
        }),
    };
    let start = BackwardInput {
        x,
        output_grad: grad_output.view(),
        loss_gradient: 1.0,
    };
    layer.backward(weights, start, &mut saved, &mut workspace, gradients)?;

    let kept: Vec<i32> = routing
        .assignment_to_row
        .iter()
        .map(|&row| i32::from(row >= 0))
        .collect();
    let rows: Vec<i32> = routing.offsets.windows(2).map(|w| w[1] - w[0]).collect();
    let summary = format!(
        "{tokens} tokens; experts {}; {} of {} assignments kept; {} bad rows; aux loss {aux:e}, z-loss {z:e}",
        input.layout,
        rows.iter().sum::<i32>(),
        kept.len(),
        diagnostics.bad_rows,
    );
    let topk_weights = weights_before_dropping(layer, tokens, &weights, x)?;
    let output = output.read(backend)?;
    let (x_grad, router_grad) = (x_grad.read(backend)?, router_grad.read(backend)?);
    let (gate_up_grad, down_grad) = (gate_up_grad.read(backend)?, down_grad.read(backend)?);
    let mut tensors = vec![
        Tensor::real("output", &[tokens, h], &output),
        Tensor::integer("topk_indices", &[tokens, k], &routing.ids),
        Tensor::real("topk_weights", &[tokens, k], &topk_weights),
        Tensor::integer("kept", &[tokens, k], &kept),
        Tensor::integer("tokens_per_expert", &[e], &rows),
        Tensor::real("aux_loss", &[1], &[aux]),
        Tensor::real("z_loss", &[1], &[z]),
        Tensor::real("grad_x", &[tokens, h], &x_grad),
        Tensor::real("grad_router.weight", &[e, h], &router_grad),
    ];
    tensors.extend(input.layout.gradients(config, &gate_up_grad, &down_grad)?);
    if let Some([gate_up, down]) = bias_grads {
        let (gate_up, down) = (gate_up.read(backend)?, down.read(backend)?);
        tensors.extend(input.layout.bias_gradients(config, &gate_up, &down)?);
    }
    Ok((tensors, summary))
}

/// The router's weights [T, K] once more: those that the layer keeps may be renormalised after dropping.
fn weights_before_dropping<'a, B: Backend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    layer: &MoeLayer<B>,
    tokens: usize,
    layer_weights: &Weights<'a, B, T, W>,
    x: B::View<'a, T>,
) -> millet::Result<Vec<f32>> {
    let (backend, config) = (layer.backend(), layer.config());
    let assignments = tokens * config.top_k();
    let floats = |len| Device::<B, f32>::new(backend, len);
    let mut ids = Device::<B, i32>::new(backend, assignments)?;
    let mut weights = floats(assignments)?;
    let mut lse = floats(tokens)?;
    let mut counts = Device::<B, i32>::new(backend, config.num_experts())?;
    let mut stats = floats(stats_elements(config))?;
    let mut scratch = floats(backend.scratch_elements::<T>(config, tokens))?;
    backend.router_forward(RouterForward::<B, T, W> {
        config,
        tokens,
        logits: Logits::FromTokens {
            x: B::shorten(x),
            weight: B::shorten(layer_weights.router),
        },
        selection_bias: layer_weights.selection_bias.map(B::shorten),
        ids: ids.view_mut(),
        weights: weights.view_mut(),
        lse: lse.view_mut(),
        counts: counts.view_mut(),
        stats: stats.view_mut(),
        logits_output: None,
        scratch: scratch.view_mut(),
    })?;
    weights.read(backend)
}

/// Memory of the backend, and how many elements it has.
struct Device<B: Backend, T: Scalar> {
    buffer: B::Buffer<T>,
    len: usize,
}

impl<B: Backend, T: Scalar> Device<B, T> {
    fn new(backend: &B, len: usize) -> millet::Result<Self> {
        let buffer = backend.allocate(len)?;
        Ok(Self { buffer, len })
    }

    fn upload(backend: &B, host: &[T]) -> millet::Result<Self> {
        let (buffer, len) = (backend.upload(host)?, host.len());
        Ok(Self { buffer, len })
    }

    fn view(&self) -> B::View<'_, T> {
        B::view(&self.buffer, self.len)
    }

    fn view_mut(&mut self) -> B::ViewMut<'_, T> {
        B::view_mut(&mut self.buffer, self.len)
    }

    fn read(&self, backend: &B) -> millet::Result<Vec<T>> {
        backend.read(self.view())
    }
}
