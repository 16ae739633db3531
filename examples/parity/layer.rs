//! The layer's run: everything that is written.

use millet::{
    Backend, BackwardInput, Cpu, Element, Gradients, Keep, Logits, MoeLayer, RouterInput,
    RouterOutput, WeightGrad, Weights, stats_elements,
};

use crate::Result;
use crate::input::{Input, Tensors};
use crate::output::Tensor;

/// Forward and backward with storage `T` and a router weight of `W`: the tensors, and a summary of one line.
pub(crate) fn run<T: Element<Acc = f32>, W: Element<Acc = f32>>(
    input: &Input<'_>,
) -> Result<(Vec<Tensor>, String)> {
    let tensors = input.tensors::<T, W>()?;
    pass(input, &tensors).map_err(|error| error.to_string())
}

fn pass<T: Element<Acc = f32>, W: Element<Acc = f32>>(
    input: &Input<'_>,
    tensors: &Tensors<T, W>,
) -> millet::Result<(Vec<Tensor>, String)> {
    let (config, tokens) = (&input.config, input.tokens);
    let (h, i) = (config.hidden_size(), config.intermediate_size());
    let (e, k) = (config.num_experts(), config.top_k());
    let Tensors {
        x,
        router,
        bias,
        gate_up,
        down,
        grad_output,
    } = tensors;

    let layer = MoeLayer::new(Cpu, config.clone());
    let weights = Weights::<Cpu, T, W> {
        router,
        selection_bias: bias.as_deref(),
        gate_up,
        down,
    };
    let mut saved = layer.saved::<T>(tokens, Keep::Hidden)?;
    let mut workspace = layer.workspace::<T>(tokens, Keep::Hidden)?;
    let mut output = vec![T::zeroed(); x.len()];
    layer.forward(weights, x, &mut output, &mut saved, &mut workspace)?;
    let (aux, z) = layer.losses(&saved)?;
    let routing = layer.routing(&saved)?;
    let diagnostics = layer.diagnostics(&saved)?;

    let mut x_grad = vec![T::zeroed(); x.len()];
    let mut router_grad = vec![W::zeroed(); router.len()];
    let mut gate_up_grad = vec![T::zeroed(); gate_up.len()];
    let mut down_grad = vec![T::zeroed(); down.len()];
    let gradients = Gradients::<Cpu, T, W> {
        x: &mut x_grad,
        router: WeightGrad::Overwrite(&mut router_grad[..]),
        gate_up: WeightGrad::Overwrite(&mut gate_up_grad[..]),
        down: WeightGrad::Overwrite(&mut down_grad[..]),
    };
    let start = BackwardInput {
        x: &x[..],
        output_grad: &grad_output[..],
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
        "{tokens} tokens; {} of {} assignments kept; {} bad rows; aux loss {aux:e}, z-loss {z:e}",
        rows.iter().sum::<i32>(),
        kept.len(),
        diagnostics.bad_rows,
    );
    let topk_weights = weights_before_dropping(input, tensors)?;
    let tensors = vec![
        Tensor::real("output", &[tokens, h], &output),
        Tensor::integer("topk_indices", &[tokens, k], &routing.ids),
        Tensor::real("topk_weights", &[tokens, k], &topk_weights),
        Tensor::integer("kept", &[tokens, k], &kept),
        Tensor::integer("tokens_per_expert", &[e], &rows),
        Tensor::real("aux_loss", &[1], &[aux]),
        Tensor::real("z_loss", &[1], &[z]),
        Tensor::real("grad_x", &[tokens, h], &x_grad),
        Tensor::real("grad_router.weight", &[e, h], &router_grad),
        Tensor::real("grad_experts.gate_up_proj", &[e, 2 * i, h], &gate_up_grad),
        Tensor::real("grad_experts.down_proj", &[e, h, i], &down_grad),
    ];
    Ok((tensors, summary))
}

/// The router's weights [T, K] once more: those that the layer keeps may be renormalised after dropping.
fn weights_before_dropping<T: Element<Acc = f32>, W: Element<Acc = f32>>(
    input: &Input<'_>,
    tensors: &Tensors<T, W>,
) -> millet::Result<Vec<f32>> {
    let (config, tokens) = (&input.config, input.tokens);
    let assignments = tokens * config.top_k();
    let mut ids = vec![0; assignments];
    let mut weights = vec![0.0; assignments];
    let mut lse = vec![0.0; tokens];
    let mut counts = vec![0; config.num_experts()];
    let mut stats = vec![0.0; stats_elements(config)];
    let mut scratch = vec![0.0; Cpu.scratch_elements::<T>(config, tokens)];
    let input = RouterInput::<Cpu, T, W> {
        logits: Logits::FromTokens {
            x: &tensors.x[..],
            weight: &tensors.router[..],
        },
        selection_bias: tensors.bias.as_deref(),
    };
    let output = RouterOutput {
        ids: &mut ids[..],
        weights: &mut weights[..],
        lse: &mut lse[..],
        counts: &mut counts[..],
        stats: &mut stats[..],
        logits: None,
    };
    Cpu.router_forward::<T, W>(config, tokens, input, output, &mut scratch)?;
    Ok(weights)
}
