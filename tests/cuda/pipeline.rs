//! Every operation of routing, one after the other in one stream, with nothing in between.

use millet::cuda::View;
use millet::cudarc::driver::CudaSlice;
use millet::{
    Capacity, Cuda, Dispatch, DispatchForward, DropPolicy, Element, Logits, Losses, Memory,
    MoeConfig, Permute, PermuteBackward, PermuteForward, Plan, Real, Renormalize, Result, Router,
    RouterBackward, RouterForward, RouterPart, RouterWeightGrad, Scalar, ScoreFunction,
    UnpermuteBackward, UnpermuteForward, WeightGrad, stats_elements,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A router with everything in it: bias, dropping, renormalisation, both losses.
pub(crate) fn config(hidden: usize, experts: usize, top_k: usize) -> MoeConfig {
    let capacity = Capacity::new(0.8)
        .policy(DropPolicy::Probability)
        .renormalize(Renormalize::AfterDrop);
    MoeConfig::builder(hidden, 1, experts, top_k)
        .score_function(ScoreFunction::Sigmoid)
        .capacity(capacity)
        .losses(Losses::new(0.3, 0.05))
        .build()
        .unwrap()
}

/// Where the router's logits come from. With those that are given there is no router weight, and no gradient of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Source {
    Given,
    Tokens,
}

/// All tensors; those that operations write hold what is no result until they have.
pub(crate) struct Pipeline<T: Element> {
    cuda: Cuda,
    config: MoeConfig,
    tokens: usize,
    source: Source,
    given: CudaSlice<f32>,
    x: CudaSlice<T>,
    weight: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    rows_in: CudaSlice<T>,
    output_grad: CudaSlice<T>,
    ids: CudaSlice<i32>,
    weights: CudaSlice<f32>,
    lse: CudaSlice<f32>,
    counts: CudaSlice<i32>,
    stats: CudaSlice<f32>,
    logits: CudaSlice<f32>,
    plan: Plan<Cuda>,
    permuted: CudaSlice<T>,
    output: CudaSlice<T>,
    rows_grad: CudaSlice<T>,
    weights_grad: CudaSlice<f32>,
    logits_grad: CudaSlice<f32>,
    weight_grad: CudaSlice<f32>,
    x_grad: CudaSlice<T>,
    scratch: CudaSlice<f32>,
}

impl<T: Element<Acc = f32>> Pipeline<T> {
    pub(crate) fn new(cuda: &Cuda, config: &MoeConfig, tokens: usize, source: Source) -> Self {
        let (hidden, experts) = (config.hidden_size(), config.num_experts());
        let assignments = tokens * config.top_k();
        let rows = config.max_rows(tokens);
        let (stored, floats, integers) = (
            |len| cuda.allocate::<T>(len).unwrap(),
            |len| cuda.allocate::<f32>(len).unwrap(),
            |len| cuda.allocate::<i32>(len).unwrap(),
        );
        Self {
            tokens,
            source,
            given: floats(tokens * experts),
            x: stored(tokens * hidden),
            weight: floats(experts * hidden),
            bias: floats(experts),
            rows_in: stored(rows * hidden),
            output_grad: stored(tokens * hidden),
            ids: integers(assignments),
            weights: floats(assignments),
            lse: floats(tokens),
            counts: integers(experts),
            stats: floats(stats_elements(config)),
            logits: floats(tokens * experts),
            plan: Plan::new(cuda, config, tokens).unwrap(),
            permuted: stored(rows * hidden),
            output: stored(tokens * hidden),
            rows_grad: stored(rows * hidden),
            weights_grad: floats(assignments),
            logits_grad: floats(tokens * experts),
            weight_grad: floats(experts * hidden),
            x_grad: stored(tokens * hidden),
            scratch: floats(cuda.scratch_elements::<T>(config, tokens)),
            cuda: cuda.clone(),
            config: config.clone(),
        }
    }

    /// Other inputs in the same memory, and garbage in all the rest.
    pub(crate) fn fill(&mut self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let cuda = &self.cuda;
        let scale = 1.0 / (self.config.hidden_size() as f32).sqrt();
        numbers(cuda, &mut self.given, 1.0, &mut rng);
        numbers(cuda, &mut self.x, 1.0, &mut rng);
        numbers(cuda, &mut self.weight, scale, &mut rng);
        numbers(cuda, &mut self.bias, 0.2, &mut rng);
        numbers(cuda, &mut self.rows_in, 1.0, &mut rng);
        numbers(cuda, &mut self.output_grad, 1.0, &mut rng);
        for integers in [&mut self.ids, &mut self.counts] {
            constant(cuda, integers, i32::MIN);
        }
        for floats in [
            &mut self.weights,
            &mut self.lse,
            &mut self.stats,
            &mut self.logits,
            &mut self.weights_grad,
            &mut self.logits_grad,
            &mut self.weight_grad,
            &mut self.scratch,
        ] {
            constant(cuda, floats, f32::NAN);
        }
        for stored in [
            &mut self.permuted,
            &mut self.output,
            &mut self.rows_grad,
            &mut self.x_grad,
        ] {
            constant(cuda, stored, T::narrow(f32::NAN));
        }
    }

    /// Submits everything.
    pub(crate) fn submit(&mut self) -> Result<()> {
        let (cuda, config, tokens) = (&self.cuda, &self.config, self.tokens);
        let logits = match self.source {
            Source::Given => Logits::Given((&self.given).into()),
            Source::Tokens => Logits::FromTokens {
                x: (&self.x).into(),
                weight: (&self.weight).into(),
            },
        };
        cuda.router_forward(RouterForward::<Cuda, T, f32> {
            config,
            tokens,
            logits,
            selection_bias: Some((&self.bias).into()),
            ids: self.ids.as_view_mut(),
            weights: self.weights.as_view_mut(),
            lse: self.lse.as_view_mut(),
            counts: self.counts.as_view_mut(),
            stats: self.stats.as_view_mut(),
            logits_output: Some(self.logits.as_view_mut()),
            scratch: self.scratch.as_view_mut(),
        })?;
        cuda.dispatch(DispatchForward {
            config,
            tokens,
            ids: (&self.ids).into(),
            weights: self.weights.as_view_mut(),
            plan: &mut self.plan,
            scratch: self.scratch.as_view_mut(),
        })?;
        let plan = &self.plan;
        cuda.permute(PermuteForward {
            plan,
            x: (&self.x).into(),
            rows: self.permuted.as_view_mut(),
        })?;
        cuda.unpermute(UnpermuteForward {
            plan,
            rows: (&self.rows_in).into(),
            weights: (&self.weights).into(),
            output: self.output.as_view_mut(),
        })?;
        cuda.unpermute_backward(UnpermuteBackward {
            plan,
            output_grad: (&self.output_grad).into(),
            rows: (&self.rows_in).into(),
            weights: (&self.weights).into(),
            rows_grad: self.rows_grad.as_view_mut(),
            weights_grad: self.weights_grad.as_view_mut(),
        })?;
        cuda.router_backward(RouterBackward::<Cuda, T, f32> {
            config,
            tokens,
            logits,
            ids: (&self.ids).into(),
            weights: (&self.weights).into(),
            lse: (&self.lse).into(),
            counts: (&self.counts).into(),
            weights_grad: (&self.weights_grad).into(),
            loss_gradient: 0.7,
            logits_grad: self.logits_grad.as_view_mut(),
            scratch: self.scratch.as_view_mut(),
        })?;
        let router = match self.source {
            Source::Given => None,
            Source::Tokens => {
                cuda.router_weight_grad(RouterWeightGrad {
                    config,
                    tokens,
                    logits_grad: (&self.logits_grad).into(),
                    x: (&self.x).into(),
                    grad: WeightGrad::Overwrite(self.weight_grad.as_view_mut()),
                    scratch: self.scratch.as_view_mut(),
                })?;
                Some(RouterPart {
                    logits_grad: (&self.logits_grad).into(),
                    weight: (&self.weight).into(),
                })
            }
        };
        cuda.permute_backward(PermuteBackward::<_, T, f32> {
            plan,
            rows_grad: (&self.rows_grad).into(),
            router,
            x_grad: self.x_grad.as_view_mut(),
            scratch: self.scratch.as_view_mut(),
        })
    }

    /// What was written, to the bit.
    pub(crate) fn results(&self) -> Vec<(&'static str, Vec<u8>)> {
        let map = self.plan.map();
        vec![
            ("ids", self.bytes(&self.ids)),
            ("weights", self.bytes(&self.weights)),
            ("lse", self.bytes(&self.lse)),
            ("counts", self.bytes(&self.counts)),
            ("stats", self.bytes(&self.stats)),
            ("logits", self.bytes(&self.logits)),
            ("offsets", self.bytes_of(map.offsets)),
            ("row to assignment", self.bytes_of(map.row_to_assignment)),
            ("assignment to row", self.bytes_of(map.assignment_to_row)),
            ("row tiles", self.bytes_of(map.row_tiles)),
            ("permuted", self.bytes(&self.permuted)),
            ("output", self.bytes(&self.output)),
            ("dY", self.bytes(&self.rows_grad)),
            ("dS", self.bytes(&self.weights_grad)),
            ("dz", self.bytes(&self.logits_grad)),
            ("dWr", self.bytes(&self.weight_grad)),
            ("dX", self.bytes(&self.x_grad)),
        ]
    }

    fn bytes<S: Scalar>(&self, slice: &CudaSlice<S>) -> Vec<u8> {
        self.bytes_of(slice.into())
    }

    fn bytes_of<S: Scalar>(&self, view: View<'_, S>) -> Vec<u8> {
        bytemuck::cast_slice(&self.cuda.read(view).unwrap()).to_vec()
    }
}

#[track_caller]
pub(crate) fn assert_same(
    got: &[(&'static str, Vec<u8>)],
    want: &[(&'static str, Vec<u8>)],
    what: &str,
) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert!(got == want, "{name} differs: {what}");
    }
}

fn numbers<S: Element<Acc = f32>>(
    cuda: &Cuda,
    slice: &mut CudaSlice<S>,
    scale: f32,
    rng: &mut SmallRng,
) {
    let values: Vec<S> = (0..slice.len())
        .map(|_| S::narrow(f32::from_f64(rng.random_range(-1.7..1.7)) * scale))
        .collect();
    cuda.stream().memcpy_htod(&values, slice).unwrap();
}

fn constant<S: Scalar>(cuda: &Cuda, slice: &mut CudaSlice<S>, value: S) {
    let values = vec![value; slice.len()];
    cuda.stream().memcpy_htod(&values, slice).unwrap();
}
