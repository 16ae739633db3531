//! The language model: preceding bytes' embeddings → blocks of (norm → MoE, added to the residual stream) → norm → logits.
//!
//! [`Model`] has the parameters. [`Pass`] has the memory of one pass and the layer that it runs, so that the same parameters can be
//! trained with a capacity limit and evaluated without.
//!
//! The MoE runs on any backend, all the rest on the CPU: a block copies its tokens and weights to the backend's memory before a
//! forward, the gradient of its output before a backward, and reads back what comes out. A trainer whose tensors live on the device has
//! nothing to copy.

use millet::{
    Backend, BackwardInput, Diagnostics, Gradients, Keep, MoeConfig, MoeLayer, Saved, WeightGrad,
    Weights, Workspace,
};
use rand::rngs::StdRng;

use crate::embedding::{BYTES, ContextEmbedding};
use crate::head::Head;
use crate::norm::RmsNorm;
use crate::parameter::Parameter;

pub struct Model {
    embedding: ContextEmbedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Head,
}

/// Parameters of one block.
struct Block {
    norm: RmsNorm,
    /// [E, H].
    router: Parameter,
    /// [E, 2I, H].
    gate_up: Parameter,
    /// [E, H, I].
    down: Parameter,
}

/// Memory of a pass over at most T tokens, and the layer it runs.
pub struct Pass<B: Backend> {
    layer: MoeLayer<B>,
    blocks: Vec<BlockMemory<B>>,
    /// One for all blocks: it is free again when a block's forward or backward returns.
    workspace: Workspace<B, f32>,
    /// What a layer makes, likewise.
    results: Results<B>,
    /// The residual stream behind the last block, and normed [T, H].
    x: Vec<f32>,
    normed: Vec<f32>,
    /// [T, 256].
    logits: Vec<f32>,
    /// Gradients of the residual stream, and of what is behind a norm [T, H].
    x_grad: Vec<f32>,
    normed_grad: Vec<f32>,
}

/// What a block's backward needs of its forward.
struct BlockMemory<B: Backend> {
    /// The residual stream in front of the block [T, H].
    x: Vec<f32>,
    /// What the layer was given, from the first forward on.
    given: Option<Given<B>>,
    saved: Saved<B, f32>,
}

/// A layer's input [T, H] and weights in the backend's memory.
struct Given<B: Backend> {
    normed: B::Buffer<f32>,
    router: B::Buffer<f32>,
    gate_up: B::Buffer<f32>,
    down: B::Buffer<f32>,
}

/// A layer's output [T, H] and gradients in the backend's memory.
struct Results<B: Backend> {
    output: B::Buffer<f32>,
    x: B::Buffer<f32>,
    router: B::Buffer<f32>,
    gate_up: B::Buffer<f32>,
    down: B::Buffer<f32>,
}

/// Losses of a training batch.
#[derive(Clone, Copy, Default)]
pub struct Losses {
    /// Mean cross-entropy, nats a byte.
    pub cross_entropy: f64,
    /// Load-balancing loss, summed over the blocks, coefficient included.
    pub aux: f64,
    /// Router z-loss, likewise.
    pub z: f64,
}

/// Bytes to predict, each with those in front of it.
#[derive(Default)]
pub struct Batch {
    /// [T, C], nearest byte first.
    pub contexts: Vec<u8>,
    /// [T].
    pub targets: Vec<u8>,
}

impl Model {
    /// Random parameters for layers of this configuration.
    pub fn new(rng: &mut StdRng, config: &MoeConfig, blocks: usize, context: usize) -> Self {
        let hidden = config.hidden_size();
        // What does not depend on the kind of MoE comes first, so that it starts out equal for all kinds.
        let embedding = ContextEmbedding::new(rng, context, hidden);
        let head = Head::new(rng, hidden);
        Self {
            embedding,
            head,
            norm: RmsNorm::new(hidden),
            blocks: (0..blocks).map(|_| Block::new(rng, config)).collect(),
        }
    }

    /// Elements of each of the [`parameters`](Self::parameters).
    pub fn sizes(config: &MoeConfig, blocks: usize, context: usize) -> Vec<usize> {
        let hidden = config.hidden_size();
        let weight = config.num_experts() * hidden;
        let inner = weight * config.intermediate_size();
        let block = [hidden, weight, 2 * inner, inner];
        let mut sizes = vec![context * BYTES * hidden, BYTES * hidden, hidden];
        (0..blocks).for_each(|_| sizes.extend(block));
        sizes
    }

    /// All parameters, in a fixed order.
    pub fn parameters(&mut self) -> Vec<&mut Parameter> {
        let mut all = vec![
            &mut self.embedding.tables,
            &mut self.head.weight,
            &mut self.norm.gain,
        ];
        for block in &mut self.blocks {
            let Block {
                norm,
                router,
                gate_up,
                down,
            } = block;
            all.extend([&mut norm.gain, router, gate_up, down]);
        }
        all
    }

    /// Loss of each token [T], in nats.
    pub fn forward<B: Backend>(
        &self,
        pass: &mut Pass<B>,
        batch: &Batch,
    ) -> millet::Result<Vec<f32>> {
        let tokens = batch.targets.len();
        let size = tokens * pass.layer.config().hidden_size();
        self.embedding.forward(&batch.contexts, &mut pass.x[..size]);
        for (block, memory) in self.blocks.iter().zip(&mut pass.blocks) {
            memory.x[..size].copy_from_slice(&pass.x[..size]);
            let normed = &mut pass.normed[..size];
            block.norm.forward(&memory.x[..size], normed);
            let backend = pass.layer.backend();
            let given = memory.given.insert(block.give(backend, normed)?);
            pass.layer.forward(
                block.weights(given),
                B::view(&given.normed, size),
                B::view_mut(&mut pass.results.output, size),
                &mut memory.saved,
                &mut pass.workspace,
            )?;
            let output = backend.read(B::view(&pass.results.output, size))?;
            add(&mut pass.x[..size], &output);
        }
        let normed = &mut pass.normed[..size];
        self.norm.forward(&pass.x[..size], normed);
        let logits = &mut pass.logits[..tokens * BYTES];
        Ok(self.head.losses(normed, &batch.targets, logits))
    }

    /// Forward and backward: sets the gradient of every parameter, of mean cross-entropy + aux + z.
    pub fn gradients<B: Backend>(
        &mut self,
        pass: &mut Pass<B>,
        batch: &Batch,
    ) -> millet::Result<Losses> {
        let token_losses = self.forward(pass, batch)?;
        let tokens = token_losses.len();
        let size = tokens * pass.layer.config().hidden_size();
        let sum: f64 = token_losses.iter().map(|&loss| f64::from(loss)).sum();
        let mut losses = Losses {
            cross_entropy: sum / tokens as f64,
            ..Losses::default()
        };

        let x_grad = &mut pass.x_grad[..size];
        let normed_grad = &mut pass.normed_grad[..size];
        let logits = &mut pass.logits[..tokens * BYTES];
        let normed = &pass.normed[..size];
        self.head
            .backward(normed, &batch.targets, logits, normed_grad);
        x_grad.fill(0.0);
        self.norm.backward(&pass.x[..size], normed_grad, x_grad);
        for (block, memory) in self.blocks.iter_mut().zip(&mut pass.blocks).rev() {
            let (aux, z) = pass.layer.losses(&memory.saved)?;
            losses.aux += f64::from(aux);
            losses.z += f64::from(z);
            let (workspace, results) = (&mut pass.workspace, &mut pass.results);
            let normed_grad = block.backward(&pass.layer, memory, x_grad, workspace, results)?;
            block.norm.backward(&memory.x[..size], &normed_grad, x_grad);
        }
        self.embedding.backward(&batch.contexts, x_grad);
        Ok(losses)
    }
}

impl Block {
    fn new(rng: &mut StdRng, config: &MoeConfig) -> Self {
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let experts = config.num_experts();
        let fan_in = |n: usize| 1.0 / (n as f32).sqrt();
        Self {
            norm: RmsNorm::new(hidden),
            router: Parameter::matrix(rng, experts * hidden, 0.02),
            gate_up: Parameter::matrix(rng, experts * 2 * inner * hidden, fan_in(hidden)),
            down: Parameter::matrix(rng, experts * hidden * inner, fan_in(inner)),
        }
    }

    /// Copies what the layer needs to the backend.
    fn give<B: Backend>(&self, backend: &B, normed: &[f32]) -> millet::Result<Given<B>> {
        Ok(Given {
            normed: backend.upload(normed)?,
            router: backend.upload(&self.router.value)?,
            gate_up: backend.upload(&self.gate_up.value)?,
            down: backend.upload(&self.down.value)?,
        })
    }

    /// The layer owns no weights: it is lent these.
    fn weights<'a, B: Backend>(&self, given: &'a Given<B>) -> Weights<'a, B, f32> {
        Weights {
            router: B::view(&given.router, self.router.value.len()),
            selection_bias: None,
            gate_up: B::view(&given.gate_up, self.gate_up.value.len()),
            down: B::view(&given.down, self.down.value.len()),
            expert_bias: None,
        }
    }

    /// Sets the gradients of the layer's weights, and gives that of its input [T, H].
    fn backward<B: Backend>(
        &mut self,
        layer: &MoeLayer<B>,
        memory: &mut BlockMemory<B>,
        output_grad: &[f32],
        workspace: &mut Workspace<B, f32>,
        results: &mut Results<B>,
    ) -> millet::Result<Vec<f32>> {
        let (backend, size) = (layer.backend(), output_grad.len());
        let given = memory.given.as_ref().expect("forward comes first");
        let output_grad = backend.upload(output_grad)?;
        let input = BackwardInput {
            x: B::view(&given.normed, size),
            output_grad: B::view(&output_grad, size),
            loss_gradient: 1.0,
        };
        let [router, gate_up, down] =
            [&self.router, &self.gate_up, &self.down].map(|p| p.value.len());
        let gradients = Gradients {
            x: B::view_mut(&mut results.x, size),
            router: WeightGrad::Overwrite(B::view_mut(&mut results.router, router)),
            gate_up: WeightGrad::Overwrite(B::view_mut(&mut results.gate_up, gate_up)),
            down: WeightGrad::Overwrite(B::view_mut(&mut results.down, down)),
            expert_bias: None,
        };
        let weights = self.weights(given);
        layer.backward::<f32, f32>(weights, input, &mut memory.saved, workspace, gradients)?;
        self.router.grad = backend.read(B::view(&results.router, router))?;
        self.gate_up.grad = backend.read(B::view(&results.gate_up, gate_up))?;
        self.down.grad = backend.read(B::view(&results.down, down))?;
        backend.read(B::view(&results.x, size))
    }
}

impl<B: Backend> Pass<B> {
    /// Memory for up to `tokens` tokens of a model with `blocks` blocks.
    pub fn new(
        backend: B,
        config: MoeConfig,
        blocks: usize,
        tokens: usize,
        keep: Keep,
    ) -> millet::Result<Self> {
        let size = tokens * config.hidden_size();
        let weights = config.num_experts() * config.hidden_size();
        let inner = config.intermediate_size();
        let training = |elements: usize| if keep == Keep::Nothing { 0 } else { elements };
        let results = Results {
            output: backend.allocate(size)?,
            x: backend.allocate(training(size))?,
            router: backend.allocate(training(weights))?,
            gate_up: backend.allocate(training(weights * 2 * inner))?,
            down: backend.allocate(training(weights * inner))?,
        };
        let layer = MoeLayer::new(backend, config);
        let block = || {
            Ok(BlockMemory {
                x: vec![0.0; size],
                given: None,
                saved: layer.saved(tokens, keep)?,
            })
        };
        Ok(Self {
            blocks: (0..blocks)
                .map(|_| block())
                .collect::<millet::Result<_>>()?,
            workspace: layer.workspace(tokens, keep)?,
            layer,
            results,
            x: vec![0.0; size],
            normed: vec![0.0; size],
            logits: vec![0.0; tokens * BYTES],
            x_grad: vec![0.0; size],
            normed_grad: vec![0.0; size],
        })
    }

    /// What each block's router measured in the last forward.
    pub fn diagnostics(&self) -> millet::Result<Vec<Diagnostics>> {
        let blocks = self.blocks.iter();
        blocks.map(|b| self.layer.diagnostics(&b.saved)).collect()
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millet::Cpu;
    use rand::{RngExt, SeedableRng};

    /// Mean loss, in f64.
    fn loss(model: &Model, pass: &mut Pass<Cpu>, batch: &Batch) -> f64 {
        let losses = model.forward(pass, batch).unwrap();
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64
    }

    /// Every parameter's gradient against central differences, along directions that mix the gradient with noise: the
    /// gradient gives a change well above the rounding of f32, the noise finds what the gradient misses.
    #[test]
    fn gradients_match_finite_differences() {
        let rng = &mut StdRng::seed_from_u64(7);
        let (context, tokens, blocks) = (2, 40, 2);
        // All experts are picked, so that no step crosses from one choice of experts to another.
        let config = MoeConfig::builder(6, 5, 3, 3).build().unwrap();
        let mut model = Model::new(rng, &config, blocks, context);
        let mut pass = Pass::new(Cpu, config, blocks, tokens, Keep::Hidden).unwrap();
        let batch = Batch {
            contexts: (0..tokens * context)
                .map(|_| rng.random_range(0..4))
                .collect(),
            targets: (0..tokens).map(|_| rng.random_range(0..4)).collect(),
        };
        let losses = model.gradients(&mut pass, &batch).unwrap();
        assert!((losses.cross_entropy - loss(&model, &mut pass, &batch)).abs() < 1e-6);

        for index in 0..model.parameters().len() {
            let parameter = &model.parameters()[index];
            let (value, grad) = (parameter.value.clone(), parameter.grad.clone());
            let norm = grad.iter().map(|g| g * g).sum::<f32>().sqrt();
            assert!(norm > 1e-4, "parameter {index} has no gradient to speak of");
            for _ in 0..3 {
                let spread = 1.0 / (grad.len() as f32).sqrt();
                let direction: Vec<f32> = grad
                    .iter()
                    .map(|g| {
                        let keep = if rng.random() { g / norm } else { 0.0 };
                        keep + if rng.random() { spread } else { -spread }
                    })
                    .collect();
                let mut loss_at = |step: f32| {
                    let moved = value.iter().zip(&direction).map(|(v, d)| v + step * d);
                    model.parameters()[index].value = moved.collect();
                    loss(&model, &mut pass, &batch)
                };
                let step = 1e-2;
                let difference = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
                loss_at(0.0);
                let products = grad.iter().zip(&direction);
                let slope: f64 = products.map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                let error = (difference - slope).abs() / f64::from(norm);
                assert!(
                    error < 5e-3,
                    "parameter {index}: slope {slope}, by differences {difference}, off by {error} of the norm"
                );
            }
        }
    }
}
