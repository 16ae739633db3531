//! Routing against the CPU at the same storage type, over random configurations, shapes and inputs.
//!
//! Each operation gets the same inputs on both, so that one that is wrong does not hide behind another. Ids, maps and copies must
//! be equal, and weights to the bit; other floats obey the rule of [`assert_right`](crate::tolerance::assert_right), with f64 on
//! the CPU for the truth.

use millet::{
    AuxScale, Cpu, Element, Logits, Losses, MoeConfig, PermuteBackward, PermuteForward, Plan,
    RouterBackward, RouterForward, RouterPart, RouterWeightGrad, ScoreFunction, UnpermuteBackward,
    WeightGrad, stats_elements,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{Target, Types, allowed, capacities, grouped, types, with_types};
use crate::generate::{LogitKind, Rng, RoutingKind, SCORES};
use crate::harness::{
    HostPlan, RouterOutcome, Tensor, TestBackend, dispatch, list_tiles, narrow, scratch, unpermute,
    widen,
};
use crate::tolerance::assert_near;

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    Target::new("routing", cases(), |case| {
        with_types!(case.types, check::<B>(case))
    })
}

/// Where logits come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    Given,
    GivenNarrow,
    FromTokens,
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) config: MoeConfig,
    pub(super) types: Types,
    pub(super) tokens: usize,
    pub(super) source: Source,
    pub(super) logits: LogitKind,
    /// Ids of the caller instead of the router's.
    pub(super) routing: Option<RoutingKind>,
    pub(super) biased: bool,
    /// Does forward store logits, and does backward get the router's part of dX?
    pub(super) stores_logits: bool,
    pub(super) has_router_part: bool,
    pub(super) accumulates: bool,
    pub(super) loss_gradient: f64,
    pub(super) seed: u64,
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let experts = prop_oneof![
        6 => 1usize..=40,
        3 => prop::sample::select(vec![63, 64, 65, 100, 128, 130, 255, 256, 257]),
        1 => prop::sample::select(vec![512, 513, 1000]),
    ];
    let shape = experts.prop_flat_map(|experts| {
        let most = experts.min(64);
        let top_k = prop_oneof![6 => 1..=most.min(8), 2 => 1..=most, 1 => Just(most)];
        let tokens = match experts {
            0..64 => prop_oneof![1 => Just(0usize), 8 => 1usize..50, 1 => 200usize..400].boxed(),
            64..300 => (0usize..30).boxed(),
            _ => (0usize..6).boxed(),
        };
        let hidden = prop_oneof![
            2 => 1usize..=17,
            2 => prop::sample::select(vec![24usize, 40, 64, 72, 128, 136]),
            1 => prop::sample::select(vec![63usize, 65, 130]),
        ];
        (Just(experts), top_k, tokens, hidden)
    });
    let router = (
        prop::sample::select(SCORES.to_vec()),
        prop_oneof![Just(1.0), Just(2.5)],
        prop_oneof![2 => Just(None), 1 => (1usize..=8, 1usize..=8).prop_map(Some)],
        any::<bool>(),
    );
    let losses = (
        prop_oneof![Just(0.0), Just(0.3)],
        prop_oneof![Just(0.0), Just(0.05)],
        any::<bool>(),
        prop_oneof![Just(0.0), Just(1.0), Just(0.7)],
    );
    let input = (
        types(),
        prop::sample::select(vec![Source::Given, Source::GivenNarrow, Source::FromTokens]),
        prop::sample::select(LogitKind::ALL.to_vec()),
        prop::option::weighted(0.3, prop::sample::select(RoutingKind::ALL.to_vec())),
        any::<[bool; 3]>(),
        any::<u64>(),
    );
    (shape, router, capacities(), losses, input).prop_map(
        |(
            (experts, top_k, tokens, hidden),
            (score_function, scale, groups, biased),
            capacity,
            (aux, z, per_token, loss_gradient),
            (types, source, logits, routing, [stores_logits, has_router_part, accumulates], seed),
        )| {
            let aux_scale = match per_token {
                true => AuxScale::PerToken,
                false => AuxScale::PerAssignment,
            };
            let builder = MoeConfig::builder(hidden, 1, experts, top_k)
                .scaling_factor(scale)
                .losses(Losses::new(aux, z).aux_scale(aux_scale));
            let builder = allowed(builder, top_k, score_function, capacity);
            Case {
                config: grouped(builder, groups),
                types,
                tokens,
                source,
                logits,
                routing,
                biased: biased && score_function == ScoreFunction::Sigmoid,
                stores_logits,
                has_router_part,
                accumulates,
                loss_gradient,
                seed,
            }
        },
    )
}

/// What the operations read, rounded to the types that they read it in.
pub(super) struct Inputs {
    pub(super) tokens: usize,
    pub(super) logits: Vec<f64>,
    pub(super) x: Vec<f64>,
    pub(super) router: Vec<f64>,
    pub(super) bias: Option<Vec<f64>>,
    pub(super) rows: Vec<f64>,
    pub(super) output_grad: Vec<f64>,
    pub(super) loss_gradient: f64,
}

impl Inputs {
    pub(super) fn of<T: Element, W: Element<Acc = T::Acc>>(case: &Case) -> Self {
        let (config, tokens) = (&case.config, case.tokens);
        let (hidden, experts) = (config.hidden_size(), config.num_experts());
        let mut rng = Rng::new(case.seed);
        let stored = |values: Vec<f64>| widen(&narrow::<T>(&values));
        let logits = case.logits.logits(tokens, experts, &mut rng);
        let mut x = rng.normals(tokens * hidden, 1.0);
        if case.logits == LogitKind::NanRows {
            for row in x.chunks_exact_mut(hidden).step_by(5) {
                row[hidden / 2] = f64::NAN;
            }
        }
        let router = rng.normals(experts * hidden, 1.0 / (hidden as f64).sqrt());
        let bias = rng.normals(experts, 0.3);
        Self {
            tokens,
            logits: match case.source {
                Source::GivenNarrow => stored(logits),
                _ => logits,
            },
            x: stored(x),
            router: widen(&narrow::<W>(&router)),
            bias: case.biased.then(|| widen(&narrow::<f32>(&bias))),
            rows: stored(rng.normals(config.max_rows(tokens) * hidden, 1.0)),
            output_grad: stored(rng.normals(tokens * hidden, 1.0)),
            loss_gradient: case.loss_gradient,
        }
    }
}

/// The operations on one backend, f64 in and out.
pub(super) struct Run<'a, B: TestBackend> {
    pub(super) backend: B,
    pub(super) config: &'a MoeConfig,
    pub(super) inputs: &'a Inputs,
}

impl<'a, B: TestBackend> Run<'a, B> {
    pub(super) fn new(config: &'a MoeConfig, inputs: &'a Inputs) -> Self {
        Self {
            backend: B::create(),
            config,
            inputs,
        }
    }

    fn tensor<T: Element>(&self, values: &[f64]) -> Tensor<B, T> {
        Tensor::from_f64(&self.backend, values)
    }

    fn garbage<T: Element>(&self, len: usize) -> Tensor<B, T> {
        Tensor::garbage(&self.backend, len)
    }

    fn integers(&self, values: &[i32]) -> Tensor<B, i32> {
        Tensor::new(&self.backend, values)
    }

    /// The router's results, and the logits if wanted.
    fn forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        source: Source,
        logits: &[f64],
        stores_logits: bool,
    ) -> (RouterOutcome, Vec<f64>) {
        let (inputs, tokens) = (self.inputs, self.inputs.tokens);
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let (wide, slim) = (self.tensor::<T::Acc>(logits), self.tensor::<T>(logits));
        let (x, weight) = (
            self.tensor::<T>(&inputs.x),
            self.tensor::<W>(&inputs.router),
        );
        let bias = inputs.bias.as_ref().map(|bias| self.tensor::<T::Acc>(bias));
        let mut ids = self.integers(&vec![i32::MIN; tokens * top_k]);
        let mut weights = self.garbage::<T::Acc>(tokens * top_k);
        let mut lse = self.garbage::<T::Acc>(tokens);
        let mut counts = self.integers(&vec![i32::MIN; experts]);
        let mut stats = self.garbage::<T::Acc>(stats_elements(self.config));
        let mut stored = self.garbage::<T::Acc>(if stores_logits { tokens * experts } else { 0 });
        let mut scratch = scratch::<B, T>(&self.backend, self.config, tokens);
        self.backend
            .router_forward(RouterForward::<B, T, W> {
                config: self.config,
                tokens,
                logits: match source {
                    Source::Given => Logits::Given(wide.view()),
                    Source::GivenNarrow => Logits::GivenNarrow(slim.view()),
                    Source::FromTokens => Logits::FromTokens {
                        x: x.view(),
                        weight: weight.view(),
                    },
                },
                selection_bias: bias.as_ref().map(|bias| bias.view()),
                ids: ids.view_mut(),
                weights: weights.view_mut(),
                lse: lse.view_mut(),
                counts: counts.view_mut(),
                stats: stats.view_mut(),
                logits_output: stores_logits.then(|| stored.view_mut()),
                scratch: scratch.view_mut(),
            })
            .unwrap();
        let backend = &self.backend;
        let outcome = RouterOutcome {
            ids: ids.read(backend),
            weights: weights.to_f64(backend),
            lse: lse.to_f64(backend),
            counts: counts.read(backend),
            stats: stats.to_f64(backend),
        };
        (outcome, stored.to_f64(backend))
    }

    fn backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        source: Source,
        logits: &[f64],
        saved: &RouterOutcome,
        weights_grad: &[f64],
    ) -> Vec<f64> {
        let (inputs, tokens) = (self.inputs, self.inputs.tokens);
        let (wide, slim) = (self.tensor::<T::Acc>(logits), self.tensor::<T>(logits));
        let (x, weight) = (
            self.tensor::<T>(&inputs.x),
            self.tensor::<W>(&inputs.router),
        );
        let (ids, counts) = (self.integers(&saved.ids), self.integers(&saved.counts));
        let weights = self.tensor::<T::Acc>(&saved.weights);
        let (lse, weights_grad) = (
            self.tensor::<T::Acc>(&saved.lse),
            self.tensor::<T::Acc>(weights_grad),
        );
        let mut logits_grad = self.garbage::<T::Acc>(tokens * self.config.num_experts());
        let mut scratch = scratch::<B, T>(&self.backend, self.config, tokens);
        self.backend
            .router_backward(RouterBackward::<B, T, W> {
                config: self.config,
                tokens,
                logits: match source {
                    Source::Given => Logits::Given(wide.view()),
                    Source::GivenNarrow => Logits::GivenNarrow(slim.view()),
                    Source::FromTokens => Logits::FromTokens {
                        x: x.view(),
                        weight: weight.view(),
                    },
                },
                ids: ids.view(),
                weights: weights.view(),
                lse: lse.view(),
                counts: counts.view(),
                weights_grad: weights_grad.view(),
                loss_gradient: inputs.loss_gradient,
                logits_grad: logits_grad.view_mut(),
                scratch: scratch.view_mut(),
            })
            .unwrap();
        logits_grad.to_f64(&self.backend)
    }

    pub(super) fn weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        logits_grad: &[f64],
        accumulates: bool,
    ) -> Vec<f64> {
        let len = self.inputs.router.len();
        let (x, dz) = (
            self.tensor::<T>(&self.inputs.x),
            self.tensor::<T::Acc>(logits_grad),
        );
        let mut scratch = scratch::<B, T>(&self.backend, self.config, self.inputs.tokens);
        let mut sum = self.tensor::<T::Acc>(&vec![0.75; len]);
        let mut own = self.garbage::<W>(len);
        let grad = match accumulates {
            true => WeightGrad::Accumulate(sum.view_mut()),
            false => WeightGrad::Overwrite(own.view_mut()),
        };
        self.backend
            .router_weight_grad(RouterWeightGrad::<B, T, W> {
                config: self.config,
                tokens: self.inputs.tokens,
                logits_grad: dz.view(),
                x: x.view(),
                grad,
                scratch: scratch.view_mut(),
            })
            .unwrap();
        match accumulates {
            true => sum.to_f64(&self.backend),
            false => own.to_f64(&self.backend),
        }
    }

    pub(super) fn permute<T: Element>(&self, plan: &Plan<B>) -> Vec<f64> {
        let x = self.tensor::<T>(&self.inputs.x);
        let mut rows = self.garbage::<T>(self.inputs.rows.len());
        self.backend
            .permute(PermuteForward::<B, T> {
                plan,
                x: x.view(),
                rows: rows.view_mut(),
            })
            .unwrap();
        rows.to_f64(&self.backend)
    }

    pub(super) fn unpermute<T: Element>(
        &self,
        plan: &Plan<B>,
        rows: &[f64],
        weights: &[f64],
    ) -> Vec<f64> {
        let (rows, weights) = (self.tensor::<T>(rows), self.tensor::<T::Acc>(weights));
        unpermute(&self.backend, plan, &rows, &weights)
    }

    /// Gradients of the rows and of the weights.
    pub(super) fn unpermute_backward<T: Element>(
        &self,
        plan: &Plan<B>,
        rows: &[f64],
        weights: &[f64],
    ) -> [Vec<f64>; 2] {
        let output_grad = self.tensor::<T>(&self.inputs.output_grad);
        let mut rows_grad = self.garbage::<T>(rows.len());
        let mut weights_grad = self.garbage::<T::Acc>(weights.len());
        let (rows, weights) = (self.tensor::<T>(rows), self.tensor::<T::Acc>(weights));
        self.backend
            .unpermute_backward(UnpermuteBackward::<B, T> {
                plan,
                output_grad: output_grad.view(),
                rows: rows.view(),
                weights: weights.view(),
                rows_grad: rows_grad.view_mut(),
                weights_grad: weights_grad.view_mut(),
            })
            .unwrap();
        [
            rows_grad.to_f64(&self.backend),
            weights_grad.to_f64(&self.backend),
        ]
    }

    pub(super) fn permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        plan: &Plan<B>,
        rows_grad: &[f64],
        logits_grad: Option<&[f64]>,
    ) -> Vec<f64> {
        let rows_grad = self.tensor::<T>(rows_grad);
        let dz = logits_grad.map(|dz| self.tensor::<T::Acc>(dz));
        let weight = self.tensor::<W>(&self.inputs.router);
        let mut x_grad = self.garbage::<T>(self.inputs.x.len());
        let mut scratch = scratch::<B, T>(&self.backend, self.config, self.inputs.tokens);
        self.backend
            .permute_backward(PermuteBackward::<B, T, W> {
                plan,
                rows_grad: rows_grad.view(),
                router: dz.as_ref().map(|dz| RouterPart {
                    logits_grad: dz.view(),
                    weight: weight.view(),
                }),
                x_grad: x_grad.view_mut(),
                scratch: scratch.view_mut(),
            })
            .unwrap();
        x_grad.to_f64(&self.backend)
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    // A NaN is a NaN.
    let one = |v: &f64| if v.is_nan() { u64::MAX } else { v.to_bits() };
    values.iter().map(one).collect()
}

#[track_caller]
pub(super) fn assert_same_bits(got: &[f64], want: &[f64], what: &str) {
    if let Some(i) = (0..want.len()).find(|&i| bits(&got[i..=i]) != bits(&want[i..=i])) {
        panic!("{what}: {:e} instead of {:e} at {i}", got[i], want[i]);
    }
}

/// The first `columns`·n elements of each where no row of the references has anything but numbers.
fn finite_rows(columns: usize, tensors: [&[f64]; 3]) -> [Vec<f64>; 3] {
    let [got, same, exact] = tensors;
    let finite = |row: usize| {
        let place = row * columns..(row + 1) * columns;
        let both = same[place.clone()].iter().chain(&exact[place]);
        both.clone().all(|v| v.is_finite() && v.abs() < 1e6)
    };
    let rows: Vec<usize> = (0..same.len() / columns).filter(|&r| finite(r)).collect();
    [got, same, exact].map(|values| {
        let row = |&r: &usize| values[r * columns..(r + 1) * columns].to_vec();
        rows.iter().flat_map(row).collect()
    })
}

fn check<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>(case: &Case) -> TestCaseResult {
    let config = &case.config;
    let inputs = &Inputs::of::<T, W>(case);
    let (tokens, hidden, experts) = (case.tokens, config.hidden_size(), config.num_experts());
    let own = Run::<B>::new(config, inputs);
    let cpu = Run::<Cpu>::new(config, inputs);

    // Router. Logits are computed in another order, so what is made of them is compared from the same ones.
    let stores = case.stores_logits || case.source == Source::FromTokens;
    let (got, stored) = own.forward::<T, W>(case.source, &inputs.logits, stores);
    let (source, logits) = match case.source {
        Source::FromTokens => {
            let (_, same) = cpu.forward::<T, W>(case.source, &[], true);
            let (_, exact) = cpu.forward::<f64, f64>(case.source, &[], true);
            let nan = |values: &[f64]| values.iter().map(|v| v.is_nan()).collect::<Vec<_>>();
            assert_eq!(nan(&stored), nan(&same), "logits that are no numbers");
            let [got, same, exact] = finite_rows(experts, [&stored, &same, &exact]);
            assert_near(&got, &exact, &same, "logits");
            (Source::Given, &stored)
        }
        source => {
            if stores {
                assert_same_bits(&stored, &inputs.logits, "stored logits");
            }
            (source, &inputs.logits)
        }
    };
    let (want, _) = cpu.forward::<T, W>(source, logits, false);
    let (exact, _) = cpu.forward::<f64, f64>(Source::Given, logits, false);
    assert_eq!(got.ids, want.ids, "ids");
    assert_eq!(got.counts, want.counts, "counts");
    assert_same_bits(&got.weights, &want.weights, "weights");
    assert_eq!(got.bad_rows(), want.bad_rows(), "bad rows");
    let nan = |values: &[f64]| values.iter().map(|v| v.is_nan()).collect::<Vec<_>>();
    assert_eq!(nan(&got.lse), nan(&want.lse), "rows that lse marks as bad");
    let [lse, same, truth] = finite_rows(1, [&got.lse, &want.lse, &exact.lse]);
    assert_near(&lse, &truth, &same, "lse");
    // Where f64 tells experts apart that f32 does not, its statistics are of other experts.
    let truth = match exact.ids == want.ids {
        true => &exact,
        false => &want,
    };
    for (i, (&got, &same)) in got.stats.iter().zip(&want.stats).enumerate() {
        if same.is_finite() && truth.stats[i].abs() < 1e6 {
            assert_near(&[got], &[truth.stats[i]], &[same], &format!("stats[{i}]"));
        } else {
            assert_same_bits(&[got], &[same], &format!("stats[{i}]"));
        }
    }

    // Dispatch.
    let mut rng = Rng::new(case.seed ^ 1);
    let ids = match case.routing {
        Some(kind) => kind.ids(tokens, experts, config.top_k(), &mut rng),
        None => want.ids.clone(),
    };
    let (plan, weights) = dispatch::<B, f32>(&own.backend, config, &ids, &want.weights);
    let (cpu_plan, same) = dispatch::<Cpu, f32>(&cpu.backend, config, &ids, &want.weights);
    assert_same_plan(&own.backend, &plan, &cpu_plan);
    assert_same_bits(&weights, &same, "weights after dispatch");
    let kept = *HostPlan::read(&cpu.backend, &cpu_plan)
        .offsets
        .last()
        .unwrap() as usize;

    // Permute and unpermute. What is beyond the rows is not to be read.
    let mut rows = inputs.rows.clone();
    rows[kept * hidden..].fill(f64::NAN);
    let (got, same) = (own.permute::<T>(&plan), cpu.permute::<T>(&cpu_plan));
    let used = kept * hidden;
    assert_same_bits(&got[..used], &same[..used], "permute");
    let got = own.unpermute::<T>(&plan, &rows, &weights);
    let same = cpu.unpermute::<T>(&cpu_plan, &rows, &weights);
    let exact = cpu.unpermute::<f64>(&cpu_plan, &rows, &weights);
    assert_near(&got, &exact, &same, "unpermute");
    let got = own.unpermute_backward::<T>(&plan, &rows, &weights);
    let same = cpu.unpermute_backward::<T>(&cpu_plan, &rows, &weights);
    let exact = cpu.unpermute_backward::<f64>(&cpu_plan, &rows, &weights);
    assert_near(&got[0][..used], &exact[0][..used], &same[0][..used], "dY");
    assert_near(&got[1], &exact[1], &same[1], "dS");
    let rows = HostPlan::read(&cpu.backend, &cpu_plan).assignment_to_row;
    for (&g, _) in got[1].iter().zip(&rows).filter(|&(_, &row)| row < 0) {
        assert_eq!(
            g.to_bits(),
            0,
            "the gradient of a dropped assignment's weight"
        );
    }

    // Router backward, from what forward and dispatch left.
    let mut saved = want;
    (saved.ids, saved.weights) = (ids, weights);
    let weights_grad = same[1].clone();
    let got_dz = own.backward::<T, W>(case.source, logits, &saved, &weights_grad);
    let dz = cpu.backward::<T, W>(case.source, logits, &saved, &weights_grad);
    let exact = match case.source {
        Source::FromTokens => Source::FromTokens,
        _ => Source::Given,
    };
    let exact = cpu.backward::<f64, f64>(exact, logits, &saved, &weights_grad);
    for row in 0..tokens {
        let place = row * experts..(row + 1) * experts;
        if saved.lse[row].is_nan() {
            let zeros = got_dz[place].iter().all(|v| *v == 0.0);
            assert!(zeros, "dz of a bad row");
        }
    }
    let [got, same, exact] = finite_rows(experts, [&got_dz, &dz, &exact]);
    assert_near(&got, &exact, &same, "dz");

    // dWr and dX, from numbers only.
    let dz: Vec<f64> = (dz.iter())
        .map(|v| {
            if v.is_finite() {
                v.clamp(-4.0, 4.0)
            } else {
                0.0
            }
        })
        .collect();
    let finite_x = inputs.x.iter().all(|v| v.is_finite());
    if finite_x {
        let got = own.weight_grad::<T, W>(&dz, case.accumulates);
        let same = cpu.weight_grad::<T, W>(&dz, case.accumulates);
        let exact = cpu.weight_grad::<f64, f64>(&dz, case.accumulates);
        assert_near(&got, &exact, &same, "dWr");
    }
    let part = case.has_router_part.then_some(&dz[..]);
    let got = own.permute_backward::<T, W>(&plan, &inputs.rows, part);
    let same = cpu.permute_backward::<T, W>(&cpu_plan, &inputs.rows, part);
    let exact = cpu.permute_backward::<f64, f64>(&cpu_plan, &inputs.rows, part);
    assert_near(&got, &exact, &same, "dX");
    Ok(())
}

fn assert_same_plan<B: TestBackend>(backend: &B, got: &Plan<B>, want: &Plan<Cpu>) {
    let tiles = got.row_tiles();
    let (got, want) = (HostPlan::read(backend, got), HostPlan::read(&Cpu, want));
    for (name, got, want) in [
        ("offsets", &got.offsets, &want.offsets),
        (
            "row to assignment",
            &got.row_to_assignment,
            &want.row_to_assignment,
        ),
        (
            "assignment to row",
            &got.assignment_to_row,
            &want.assignment_to_row,
        ),
        (
            "row tiles",
            &got.row_tiles,
            &list_tiles(tiles, &want.offsets),
        ),
    ] {
        assert_eq!(got, want, "{name}");
    }
}
