//! Every misuse is an error that names the operation, what was expected and what was given; nothing panics.

use std::collections::{BTreeMap, BTreeSet};

use millet::half::{bf16, f16};
use millet::{
    BackwardInput, Capacity, ConfigError, DispatchForward, Element, Error, ExpertBias,
    ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad, ExpertsInputGrad,
    ExpertsUp, ExpertsUpWeightGrad, GroupLimit, Keep, Logits, Losses, MoeConfig, MoeLayer,
    PermuteBackward, PermuteForward, Plan, Result, RouterBackward, RouterForward, RouterPart,
    RouterWeightGrad, ScoreFunction, UnpermuteBackward, UnpermuteForward, WeightGrad, Weights,
    stats_elements,
};

use crate::harness::{
    GradTensors, HostPlan, Outcome, Problem, Tensor, TestBackend, dispatch, expert_bias_views, run,
    scratch,
};

const TOKENS: usize = 5;

fn config() -> MoeConfig {
    MoeConfig::builder(3, 2, 4, 2)
        .score_function(ScoreFunction::Sigmoid)
        .expert_bias(ExpertBias::GateUpAndDown)
        .build()
        .unwrap()
}

/// Lengths of tensors: the right ones, but for one that a case changes.
#[derive(Default)]
struct Lengths {
    wrong: Option<(&'static str, usize)>,
    right: BTreeMap<&'static str, usize>,
    tokens: usize,
}

impl Lengths {
    fn of(&mut self, name: &'static str, right: usize) -> usize {
        let known = self.right.insert(name, right);
        assert!(known.is_none(), "two tensors are called {name}");
        match self.wrong {
            Some((wrong, length)) if wrong == name => length,
            _ => right,
        }
    }

    fn floats<B: TestBackend>(
        &mut self,
        backend: &B,
        name: &'static str,
        right: usize,
    ) -> Tensor<B, f32> {
        let length = self.of(name, right);
        Tensor::filled(backend, length, 0.5)
    }

    fn scratch<B: TestBackend>(&mut self, backend: &B, config: &MoeConfig) -> Tensor<B, f32> {
        let right = backend.scratch_elements::<f32>(config, TOKENS);
        self.floats(backend, "scratch", right)
    }

    fn plan<B: TestBackend>(&self, backend: &B, config: &MoeConfig) -> Plan<B> {
        let ids: Vec<i32> = (0..10).map(|a| a % 4).collect();
        dispatch::<B, f32>(backend, config, &ids, &[0.5; 10]).0
    }
}

type Operation<B> = (&'static str, fn(&B, &MoeConfig, &mut Lengths) -> Result<()>);

/// Every operation of routing, on tensors of the lengths it is told.
fn routing<B: TestBackend>() -> Vec<Operation<B>> {
    vec![
        ("router forward", |b, c, l| router_forward(b, c, l, false)),
        ("router forward", |b, c, l| router_forward(b, c, l, true)),
        ("router backward", |b, c, l| {
            let (x, weight) = (l.floats(b, "x", 15), l.floats(b, "router weight", 12));
            let ids = Tensor::<B, i32>::filled(b, l.of("ids", 10), 1);
            let (weights, lse) = (l.floats(b, "weights", 10), l.floats(b, "lse", 5));
            let counts = Tensor::<B, i32>::filled(b, l.of("counts", 4), 1);
            let weights_grad = l.floats(b, "weights_grad", 10);
            let mut logits_grad = l.floats(b, "logits_grad", 20);
            let mut scratch = l.scratch(b, c);
            b.router_backward(RouterBackward::<B, f32> {
                config: c,
                tokens: l.tokens,
                logits: Logits::FromTokens {
                    x: x.view(),
                    weight: weight.view(),
                },
                ids: ids.view(),
                weights: weights.view(),
                lse: lse.view(),
                counts: counts.view(),
                weights_grad: weights_grad.view(),
                loss_gradient: 1.0,
                logits_grad: logits_grad.view_mut(),
                scratch: scratch.view_mut(),
            })
        }),
        ("router weight gradient", |b, c, l| {
            let (dz, x) = (l.floats(b, "logits_grad", 20), l.floats(b, "x", 15));
            let mut grad = l.floats(b, "weight gradient", 12);
            let mut scratch = l.scratch(b, c);
            b.router_weight_grad(RouterWeightGrad::<B, f32> {
                config: c,
                tokens: l.tokens,
                logits_grad: dz.view(),
                x: x.view(),
                grad: WeightGrad::Overwrite(grad.view_mut()),
                scratch: scratch.view_mut(),
            })
        }),
        ("dispatch", |b, c, l| {
            let ids = Tensor::<B, i32>::filled(b, l.of("ids", 10), 1);
            let mut weights = l.floats(b, "weights", 10);
            let mut scratch = l.scratch(b, c);
            b.dispatch(DispatchForward::<B, f32> {
                config: c,
                tokens: l.tokens,
                ids: ids.view(),
                weights: weights.view_mut(),
                plan: &mut Plan::new(b, c, TOKENS)?,
                scratch: scratch.view_mut(),
            })
        }),
    ]
}

/// The operations on rows, whose number of tokens is the plan's.
fn permutation<B: TestBackend>() -> Vec<Operation<B>> {
    vec![
        ("permute", |b, c, l| {
            let plan = &l.plan(b, c);
            let (x, mut rows) = (l.floats(b, "x", 15), l.floats(b, "rows", 30));
            b.permute(PermuteForward::<B, f32> {
                plan,
                x: x.view(),
                rows: rows.view_mut(),
            })
        }),
        ("permute backward", |b, c, l| {
            let plan = &l.plan(b, c);
            let (rows_grad, mut x) = (l.floats(b, "rows_grad", 30), l.floats(b, "x_grad", 15));
            let (dz, weight) = (
                l.floats(b, "logits_grad", 20),
                l.floats(b, "router weight", 12),
            );
            let mut scratch = l.scratch(b, c);
            b.permute_backward(PermuteBackward::<B, f32> {
                plan,
                rows_grad: rows_grad.view(),
                router: Some(RouterPart {
                    logits_grad: dz.view(),
                    weight: weight.view(),
                }),
                x_grad: x.view_mut(),
                scratch: scratch.view_mut(),
            })
        }),
        ("unpermute", |b, c, l| {
            let plan = &l.plan(b, c);
            let (rows, weights) = (l.floats(b, "rows", 30), l.floats(b, "weights", 10));
            let mut output = l.floats(b, "output", 15);
            b.unpermute(UnpermuteForward::<B, f32> {
                plan,
                rows: rows.view(),
                weights: weights.view(),
                output: output.view_mut(),
            })
        }),
        ("unpermute backward", |b, c, l| {
            let plan = &l.plan(b, c);
            let (output_grad, rows) = (l.floats(b, "output_grad", 15), l.floats(b, "rows", 30));
            let weights = l.floats(b, "weights", 10);
            let mut rows_grad = l.floats(b, "rows_grad", 30);
            let mut weights_grad = l.floats(b, "weights_grad", 10);
            b.unpermute_backward(UnpermuteBackward::<B, f32> {
                plan,
                output_grad: output_grad.view(),
                rows: rows.view(),
                weights: weights.view(),
                rows_grad: rows_grad.view_mut(),
                weights_grad: weights_grad.view_mut(),
            })
        }),
    ]
}

/// The same for the experts.
fn experts<B: TestBackend>() -> Vec<Operation<B>> {
    vec![
        ("experts up", |b, c, l| {
            let plan = &l.plan(b, c);
            let (x, gate_up) = (l.floats(b, "x", 15), l.floats(b, "gate_up", 48));
            let bias = l.floats(b, "gate_up bias", 16);
            let (mut h, mut a) = (l.floats(b, "h", 40), l.floats(b, "a", 20));
            let mut scratch = l.scratch(b, c);
            b.experts_up(ExpertsUp::<B, f32> {
                plan,
                x: x.view(),
                gate_up: gate_up.view(),
                bias: Some(bias.view()),
                h: Some(h.view_mut()),
                a: a.view_mut(),
                scratch: scratch.view_mut(),
            })
        }),
        ("experts down", |b, c, l| {
            let plan = &l.plan(b, c);
            let (a, down) = (l.floats(b, "a", 20), l.floats(b, "down", 24));
            let bias = l.floats(b, "down bias", 12);
            let (weights, mut output) = (l.floats(b, "weights", 10), l.floats(b, "output", 15));
            let mut scratch = l.scratch(b, c);
            b.experts_down(ExpertsDown::<B, f32> {
                plan,
                a: a.view(),
                down: down.view(),
                bias: Some(bias.view()),
                weights: weights.view(),
                output: output.view_mut(),
                scratch: scratch.view_mut(),
            })
        }),
        ("experts down backward", |b, c, l| {
            let plan = &l.plan(b, c);
            let (output_grad, down) = (l.floats(b, "output_grad", 15), l.floats(b, "down", 24));
            let (weights, mut h) = (l.floats(b, "weights", 10), l.floats(b, "h", 40));
            let bias = l.floats(b, "down bias", 12);
            let mut weighted_a = l.floats(b, "weighted_a", 20);
            let mut weights_grad = l.floats(b, "weights_grad", 10);
            let mut scratch = l.scratch(b, c);
            b.experts_down_backward(ExpertsDownBackward::<B, f32> {
                plan,
                output_grad: output_grad.view(),
                down: down.view(),
                bias: Some(bias.view()),
                weights: weights.view(),
                h: h.view_mut(),
                weighted_a: weighted_a.view_mut(),
                weights_grad: weights_grad.view_mut(),
                scratch: scratch.view_mut(),
            })
        }),
        ("experts down weight gradient", |b, c, l| {
            let plan = &l.plan(b, c);
            let output_grad = l.floats(b, "output_grad", 15);
            let weighted_a = l.floats(b, "weighted_a", 20);
            let mut grad = l.floats(b, "weight gradient", 24);
            let mut scratch = l.scratch(b, c);
            b.experts_down_weight_grad(ExpertsDownWeightGrad::<B, f32> {
                plan,
                output_grad: output_grad.view(),
                weighted_a: weighted_a.view(),
                grad: WeightGrad::Accumulate(grad.view_mut()),
                scratch: scratch.view_mut(),
            })
        }),
        ("experts up weight gradient", |b, c, l| {
            let plan = &l.plan(b, c);
            let (x, h_grad) = (l.floats(b, "x", 15), l.floats(b, "h_grad", 40));
            let mut grad = l.floats(b, "weight gradient", 48);
            let mut scratch = l.scratch(b, c);
            b.experts_up_weight_grad(ExpertsUpWeightGrad::<B, f32> {
                plan,
                x: x.view(),
                h_grad: h_grad.view(),
                grad: WeightGrad::Overwrite(grad.view_mut()),
                scratch: scratch.view_mut(),
            })
        }),
        ("experts bias gradient", |b, c, l| {
            let plan = &l.plan(b, c);
            let (h_grad, weights) = (l.floats(b, "h_grad", 40), l.floats(b, "weights", 10));
            let output_grad = l.floats(b, "output_grad", 15);
            let mut gate_up = l.floats(b, "gate_up bias gradient", 16);
            let mut down = l.floats(b, "down bias gradient", 12);
            b.experts_bias_grad(ExpertsBiasGrad::<B, f32> {
                plan,
                h_grad: h_grad.view(),
                output_grad: output_grad.view(),
                weights: weights.view(),
                gate_up: WeightGrad::Overwrite(gate_up.view_mut()),
                down: WeightGrad::Accumulate(down.view_mut()),
            })
        }),
        ("experts input gradient", |b, c, l| {
            let plan = &l.plan(b, c);
            let (h_grad, gate_up) = (l.floats(b, "h_grad", 40), l.floats(b, "gate_up", 48));
            let (dz, router) = (
                l.floats(b, "logits_grad", 20),
                l.floats(b, "router weight", 12),
            );
            let mut x_grad = l.floats(b, "x_grad", 15);
            let mut scratch = l.scratch(b, c);
            b.experts_input_grad(ExpertsInputGrad::<B, f32> {
                plan,
                h_grad: h_grad.view(),
                gate_up: gate_up.view(),
                router: RouterPart {
                    logits_grad: dz.view(),
                    weight: router.view(),
                },
                x_grad: x_grad.view_mut(),
                scratch: scratch.view_mut(),
            })
        }),
    ]
}

fn router_forward<B: TestBackend>(
    b: &B,
    c: &MoeConfig,
    l: &mut Lengths,
    given: bool,
) -> Result<()> {
    let (x, weight, logits);
    let source = if given {
        logits = l.floats(b, "logits", 20);
        Logits::Given(logits.view())
    } else {
        (x, weight) = (l.floats(b, "x", 15), l.floats(b, "router weight", 12));
        Logits::FromTokens {
            x: x.view(),
            weight: weight.view(),
        }
    };
    let bias = l.floats(b, "selection bias", 4);
    let mut ids = Tensor::<B, i32>::filled(b, l.of("ids", 10), 0);
    let (mut weights, mut lse) = (l.floats(b, "weights", 10), l.floats(b, "lse", 5));
    let mut counts = Tensor::<B, i32>::filled(b, l.of("counts", 4), 0);
    let mut stats = l.floats(b, "stats", stats_elements(c));
    let mut logits_out = l.floats(b, "logits output", 20);
    let mut scratch = l.scratch(b, c);
    b.router_forward(RouterForward::<B, f32> {
        config: c,
        tokens: l.tokens,
        logits: source,
        selection_bias: Some(bias.view()),
        ids: ids.view_mut(),
        weights: weights.view_mut(),
        lse: lse.view_mut(),
        counts: counts.view_mut(),
        stats: stats.view_mut(),
        logits_output: Some(logits_out.view_mut()),
        scratch: scratch.view_mut(),
    })
}

pub(super) fn every_tensor_of_routing_has_its_length_checked<B: TestBackend>() {
    let (routing, permutation) = (routing(), permutation());
    assert!(check_lengths::<B>(routing.into_iter().chain(permutation).collect()) > 150);
}

pub(super) fn every_tensor_of_the_experts_has_its_length_checked<B: TestBackend>() {
    assert!(check_lengths::<B>(experts()) > 100);
}

fn check_lengths<B: TestBackend>(operations: Vec<Operation<B>>) -> usize {
    let (backend, config) = (B::create(), config());
    let mut cases = 0;
    let mut needs_scratch = BTreeSet::new();
    for (name, operation) in operations {
        let mut lengths = Lengths {
            tokens: TOKENS,
            ..Lengths::default()
        };
        operation(&backend, &config, &mut lengths).unwrap();
        for (tensor, right) in lengths.right {
            for length in [0, 1, right - 1, right + 1, 2 * right] {
                if length == right || (tensor == "scratch" && length > right) {
                    continue;
                }
                cases += 1;
                let wrong = Some((tensor, length));
                let mut lengths = Lengths {
                    wrong,
                    tokens: TOKENS,
                    ..Lengths::default()
                };
                let result = operation(&backend, &config, &mut lengths);
                if tensor == "scratch" {
                    match result {
                        Err(Error::WorkspaceTooSmall {
                            operation,
                            need,
                            have,
                        }) => {
                            assert_eq!((operation, have), (name, length));
                            assert!(need <= right);
                            needs_scratch.insert(name);
                        }
                        // An operation may need less than the most that any one needs, or none.
                        Ok(()) if length > 1 || !needs_scratch.contains(name) => {}
                        other => panic!("{name}: scratch of {length}: {other:?}"),
                    }
                    continue;
                }
                let Err(error @ Error::Shape { .. }) = result else {
                    panic!("{name}: `{tensor}` of {length} instead of {right}: {result:?}");
                };
                let Error::Shape {
                    operation,
                    tensor: named,
                    expected,
                    given,
                    ..
                } = &error
                else {
                    unreachable!()
                };
                assert_eq!((*operation, *named), (name, tensor));
                assert_eq!((*expected, *given), (right, length), "{name}: `{tensor}`");
                let message = error.to_string();
                for part in [name, tensor, &right.to_string(), &length.to_string()] {
                    assert!(message.contains(part), "`{message}` does not say {part}");
                }
            }
        }
    }
    assert!(needs_scratch.len() > 1, "{needs_scratch:?}");
    cases
}

pub(super) fn absurd_numbers_of_tokens_are_refused_in_routing<B: TestBackend>() {
    let (backend, config) = (B::create(), config());
    for (name, operation) in routing() {
        for tokens in [TOKENS + 1, 1 << 30, 1 << 62, usize::MAX / 2, usize::MAX] {
            let result = operation(
                &backend,
                &config,
                &mut Lengths {
                    tokens,
                    ..Lengths::default()
                },
            );
            let refused = matches!(
                result,
                Err(Error::Shape { operation, .. } | Error::TooManyTokens { operation, .. })
                    if operation == name
            );
            assert!(refused, "{name}, {tokens} tokens: {result:?}");
        }
    }
}

pub(super) fn absurd_numbers_of_tokens_are_refused<B: TestBackend>() {
    let layer = MoeLayer::new(B::create(), config());
    for tokens in [1 << 30, usize::MAX] {
        let (saved, workspace) = (
            layer.saved::<f32>(tokens, Keep::Hidden).err().unwrap(),
            layer.workspace::<f32>(tokens, Keep::Hidden).err().unwrap(),
        );
        for error in [saved, workspace] {
            let Error::TooManyTokens { given, limit, .. } = error else {
                panic!("{error}");
            };
            assert_eq!((given, limit), (tokens, (i32::MAX as usize - 4096) / 2));
        }
    }
}

/// Dispatch of as many ids into a plan.
fn dispatch_into<B: TestBackend>(
    backend: &B,
    config: &MoeConfig,
    plan: &mut Plan<B>,
    ids: &[i32],
) -> Result<()> {
    let tokens = ids.len() / config.top_k();
    let ids = Tensor::<B, i32>::new(backend, ids);
    let mut weights = Tensor::<B, f32>::filled(backend, tokens * config.top_k(), 0.5);
    let mut scratch = scratch::<B, f32>(backend, config, tokens);
    backend.dispatch(DispatchForward::<B, f32> {
        config,
        tokens,
        ids: ids.view(),
        weights: weights.view_mut(),
        plan,
        scratch: scratch.view_mut(),
    })
}

pub(super) fn a_plan_has_room_for_what_it_was_made_for<B: TestBackend>() {
    let (backend, config) = (&B::create(), &config());
    let error = Plan::new(backend, config, 1 << 30).err().unwrap();
    assert!(matches!(error, Error::TooManyTokens { .. }), "{error}");

    let plan = &mut Plan::new(backend, config, TOKENS).unwrap();
    assert_eq!((plan.tokens(), plan.max_tokens()), (0, TOKENS));
    // Of no tokens until something was dispatched.
    let mut rows = Tensor::<B, f32>::filled(backend, 3, 7.0);
    let none = Tensor::<B, f32>::new(backend, &[]);
    let mut permute = |plan: &Plan<B>, x: &Tensor<B, f32>| {
        backend.permute(PermuteForward::<B, f32> {
            plan,
            x: x.view(),
            rows: rows.view_mut(),
        })
    };
    let error = permute(plan, &none).unwrap_err();
    assert_names(&error, "permute", "rows", 0, 3);

    for tokens in [3, TOKENS] {
        dispatch_into(backend, config, plan, &vec![1; 2 * tokens]).unwrap();
        assert_eq!(plan.tokens(), tokens);
        let x = Tensor::<B, f32>::filled(backend, 3 * tokens, 0.5);
        let error = permute(plan, &x).unwrap_err();
        assert_names(&error, "permute", "rows", 6 * tokens, 3);
    }
    let error = dispatch_into(backend, config, plan, &[1; 2 * (TOKENS + 1)]).unwrap_err();
    let Error::TooManyTokens {
        operation: "dispatch",
        given: 6,
        limit: TOKENS,
        reason,
    } = error
    else {
        panic!("{error}");
    };
    assert!(reason.contains("Plan"));

    // Every size that the memory, or what a later operation reads, depends on.
    let sizes = |h, i, e, k| {
        MoeConfig::builder(h, i, e, k).score_function(ScoreFunction::SoftmaxBeforeTopK)
    };
    for (other, name) in [
        (sizes(4, 2, 4, 2), "hidden_size 4"),
        (sizes(3, 1, 4, 2), "intermediate_size 1"),
        (sizes(3, 2, 5, 2), "num_experts 5"),
        (sizes(3, 2, 4, 1), "top_k 1"),
        (
            sizes(3, 2, 4, 2).capacity(Capacity::new(1.0)),
            "capacity factor Some(1.0)",
        ),
    ] {
        let other = other.build().unwrap();
        let error = dispatch_into(backend, &other, plan, &[1; 2]).unwrap_err();
        let plans = matches!(error, Error::WrongConfiguration { object: "Plan", .. });
        assert!(plans && error.to_string().contains(name), "{error}");
    }
    assert_eq!(plan.tokens(), TOKENS);
    // Another choice of the same sizes.
    let other = sizes(3, 2, 4, 2).build().unwrap();
    dispatch_into(backend, &other, plan, &[1; 2]).unwrap();
    assert_eq!((plan.tokens(), plan.config()), (1, &other));
}

pub(super) fn a_refused_dispatch_leaves_the_plan<B: TestBackend>() {
    let (backend, config) = (&B::create(), &config());
    let plan = &mut Plan::new(backend, config, TOKENS).unwrap();
    dispatch_into(backend, config, plan, &[0, 3, 3, 1]).unwrap();
    let (offsets, rows) = ([0, 1, 2, 2, 4], [0, 3, 1, 2]);
    for tokens in [1, 3] {
        let ids = Tensor::<B, i32>::filled(backend, 2 * tokens, 2);
        let mut weights = Tensor::<B, f32>::filled(backend, 2 * tokens, 0.5);
        let mut scratch = Tensor::<B, f32>::new(backend, &[]);
        let arguments = DispatchForward::<B, f32> {
            config,
            tokens,
            ids: ids.view(),
            weights: weights.view_mut(),
            plan,
            scratch: scratch.view_mut(),
        };
        let error = backend.dispatch(arguments).unwrap_err();
        assert!(matches!(error, Error::WorkspaceTooSmall { .. }), "{error}");
        let map = HostPlan::read(backend, plan);
        assert_eq!((plan.tokens(), &map.offsets[..]), (2, &offsets[..]));
        assert_eq!(map.row_to_assignment, rows);
    }
}

pub(super) fn a_selection_bias_needs_a_sigmoid<B: TestBackend>() {
    let softmax = MoeConfig::builder(3, 2, 4, 2).build().unwrap();
    for (name, operation) in routing::<B>().into_iter().take(2) {
        let mut lengths = Lengths {
            tokens: TOKENS,
            ..Lengths::default()
        };
        let error = operation(&B::create(), &softmax, &mut lengths).unwrap_err();
        assert!(matches!(error, Error::Unsupported { operation, .. } if operation == name));
        let message = error.to_string();
        assert!(
            message.contains("Sigmoid") && message.contains("SoftmaxAfterTopK"),
            "{message}"
        );
    }
}

/// A whole layer on lengths; `None` for the right ones.
struct Layer<B: TestBackend> {
    layer: MoeLayer<B>,
    problem: Problem,
    saved: millet::Saved<B, f32>,
    workspace: millet::Workspace<B, f32>,
}

/// The expert biases' gradients: given where the biases are not, or the other way.
const GRADIENTS: &str = "expert_bias gradients";

type Change = Option<(&'static str, usize)>;

impl<B: TestBackend> Layer<B> {
    fn new(config: MoeConfig) -> Self {
        let layer = MoeLayer::new(B::create(), config);
        Self {
            problem: Problem::random(layer.config(), TOKENS, 1),
            saved: layer.saved(TOKENS, Keep::Hidden).unwrap(),
            workspace: layer.workspace(TOKENS, Keep::Hidden).unwrap(),
            layer,
        }
    }

    fn tensor(&self, change: Change, name: &str, values: &[f64]) -> Tensor<B, f32> {
        let mut values = values.to_vec();
        if let Some((_, length)) = change.filter(|(changed, _)| *changed == name) {
            values.resize(length, 0.0);
        }
        Tensor::from_f64(self.layer.backend(), &values)
    }

    fn forward(&mut self, change: Change) -> Result<Vec<f64>> {
        let x = self.tensor(change, "x", &self.problem.x);
        let router = self.tensor(change, "router weight", &self.problem.router);
        let bias = self.problem.bias.as_deref();
        let bias = bias.map(|bias| self.tensor(change, "selection bias", bias));
        let gate_up = self.tensor(change, "gate_up", &self.problem.gate_up);
        let down = self.tensor(change, "down", &self.problem.down);
        let expert_bias = self.expert_bias(change);
        let mut output = self.tensor(change, "output", &self.problem.x);
        let weights = Weights {
            router: router.view(),
            selection_bias: bias.as_ref().map(|bias| bias.view()),
            gate_up: gate_up.view(),
            down: down.view(),
            expert_bias: expert_bias.as_ref().map(expert_bias_views),
        };
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        self.layer
            .forward(weights, x.view(), output.view_mut(), saved, workspace)?;
        Ok(output.to_f64(self.layer.backend()))
    }

    fn expert_bias(&self, change: Change) -> Option<[Tensor<B, f32>; 2]> {
        let problem = &self.problem;
        (!problem.gate_up_bias.is_empty()).then(|| {
            [
                self.tensor(change, "gate_up bias", &problem.gate_up_bias),
                self.tensor(change, "down bias", &problem.down_bias),
            ]
        })
    }

    fn backward(&mut self, change: Change, loss_gradient: f64) -> Result<[Vec<f64>; 6]> {
        let problem = &self.problem;
        let x = self.tensor(change, "x", &problem.x);
        let output_grad = self.tensor(change, "output_grad", &problem.output_grad);
        let router = self.tensor(change, "router weight", &problem.router);
        let bias = problem.bias.as_deref();
        let bias = bias.map(|bias| self.tensor(change, "selection bias", bias));
        let gate_up = self.tensor(change, "gate_up", &problem.gate_up);
        let down = self.tensor(change, "down", &problem.down);
        let mut grads = GradTensors::<B, f32, f32> {
            x: self.tensor(change, "x gradient", &problem.x),
            router: self.tensor(change, "router gradient", &problem.router),
            gate_up: self.tensor(change, "gate_up gradient", &problem.gate_up),
            down: self.tensor(change, "down gradient", &problem.down),
            gate_up_bias: self.tensor(change, "gate_up bias gradient", &problem.gate_up_bias),
            down_bias: self.tensor(change, "down bias gradient", &problem.down_bias),
        };
        let expert_bias = self.expert_bias(change);
        let weights = Weights {
            router: router.view(),
            selection_bias: bias.as_ref().map(|bias| bias.view()),
            gate_up: gate_up.view(),
            down: down.view(),
            expert_bias: expert_bias.as_ref().map(expert_bias_views),
        };
        let as_weights = change.is_none_or(|(changed, _)| changed != GRADIENTS);
        let given = expert_bias.is_some() == as_weights;
        let input = BackwardInput {
            x: x.view(),
            output_grad: output_grad.view(),
            loss_gradient,
        };
        let gradients = grads.overwritten(given);
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        self.layer
            .backward(weights, input, saved, workspace, gradients)?;
        Ok(grads.to_f64(self.layer.backend()))
    }
}

fn assert_names(error: &Error, operation: &str, tensor: &str, expected: usize, given: usize) {
    let Error::Shape {
        operation: o,
        tensor: t,
        expected: e,
        given: g,
        ..
    } = error
    else {
        panic!("`{tensor}` of {given} instead of {expected}: {error}");
    };
    assert_eq!((*o, *t, *e, *g), (operation, tensor, expected, given));
}

pub(super) fn the_layer_checks_before_it_writes<B: TestBackend>() {
    let config = config();
    let mut layer = Layer::<B>::new(config.clone());
    let want: Outcome = run::<B, f32, f32>(&config, &layer.problem, Keep::Hidden, 1.0);
    for (tensor, right) in [
        ("router weight", 12),
        ("selection bias", 4),
        ("gate_up", 48),
        ("down", 24),
        ("gate_up bias", 16),
        ("down bias", 12),
        ("output", 15),
    ] {
        for length in [0, right - 1, right + 1] {
            let error = layer.forward(Some((tensor, length))).unwrap_err();
            assert_names(&error, "layer forward", tensor, right, length);
        }
    }
    let error = layer.forward(Some(("x", 14))).unwrap_err();
    assert_names(&error, "layer forward", "x", 12, 14); // 4 tokens and a bit
    assert_eq!(layer.forward(None).unwrap(), want.output);

    for (tensor, right) in [
        ("x", 15),
        ("output_grad", 15),
        ("router weight", 12),
        ("selection bias", 4),
        ("gate_up", 48),
        ("down", 24),
        ("gate_up bias", 16),
        ("down bias", 12),
        ("x gradient", 15),
        ("router gradient", 12),
        ("gate_up gradient", 48),
        ("down gradient", 24),
        ("gate_up bias gradient", 16),
        ("down bias gradient", 12),
    ] {
        for length in [0, right - 3, right + 3] {
            let error = layer.backward(Some((tensor, length)), 1.0).unwrap_err();
            match error {
                Error::TooManyTokens {
                    given: 6,
                    limit: TOKENS,
                    ..
                } if tensor == "x" => {}
                error => assert_names(&error, "layer backward", tensor, right, length),
            }
        }
    }
    for loss_gradient in [f64::NAN, f64::INFINITY] {
        let error = layer.backward(None, loss_gradient).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Unsupported {
                    operation: "layer backward",
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("loss_gradient must be finite"),
            "{error}"
        );
    }
    // None of the refusals used anything up.
    let got = layer.backward(None, 1.0).unwrap();
    let want = [
        want.x_grad,
        want.router_grad,
        want.gate_up_grad,
        want.down_grad,
        want.gate_up_bias_grad,
        want.down_bias_grad,
    ];
    assert_eq!(got, want);

    // A bias beside a softmax is refused by the layer too, before anything is used up.
    let mut softmax = Layer::<B>::new(MoeConfig::builder(3, 2, 4, 2).build().unwrap());
    softmax.forward(None).unwrap();
    softmax.problem.bias = Some(vec![0.0; 4]);
    for error in [
        softmax.backward(None, 1.0).unwrap_err(),
        softmax.forward(None).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("Sigmoid"), "{error}");
    }
    softmax.problem.bias = None;
    softmax.forward(None).unwrap();
    softmax.backward(None, 1.0).unwrap();
}

/// Expert biases and their gradients are given if the configuration has them, and only then.
pub(super) fn expert_biases_are_given_as_configured<B: TestBackend>() {
    let plain = MoeConfig::builder(3, 2, 4, 2).build().unwrap();
    for (config, what, chosen) in [
        (config(), "is missing", "ExpertBias::GateUpAndDown"),
        (plain, "is given", "ExpertBias::None"),
    ] {
        let refused = |result: Result<()>, parts: &[&str]| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            for part in parts.iter().chain(&[what, chosen]) {
                assert!(error.to_string().contains(part), "{error}");
            }
        };
        let mut layer = Layer::<B>::new(config);
        layer.forward(None).unwrap();
        let right = layer.problem.clone();
        let (gate_up, down) = (
            &mut layer.problem.gate_up_bias,
            &mut layer.problem.down_bias,
        );
        if gate_up.is_empty() {
            (*gate_up, *down) = (vec![0.5; 16], vec![0.5; 12]);
        } else {
            (*gate_up, *down) = (Vec::new(), Vec::new());
        }
        let forward = layer.forward(None).map(drop);
        refused(forward, &["layer forward", "`expert_bias`"]);
        let backward = layer.backward(None, 1.0).map(drop);
        refused(backward, &["layer backward", "`expert_bias`"]);
        layer.problem = right;
        let backward = layer.backward(Some((GRADIENTS, 0)), 1.0).map(drop);
        refused(backward, &["layer backward", GRADIENTS]);
        layer.backward(None, 1.0).unwrap();
    }
    // Operations, too.
    let plain = MoeConfig::builder(3, 2, 4, 2).build().unwrap();
    for (name, operation) in experts::<B>() {
        let mut lengths = Lengths {
            tokens: TOKENS,
            ..Lengths::default()
        };
        let result = operation(&B::create(), &plain, &mut lengths);
        if !lengths.right.keys().any(|tensor| tensor.contains("bias")) {
            result.unwrap();
            continue;
        }
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Unsupported { operation, .. } if operation == name));
        assert!(error.to_string().contains("ExpertBias::None"), "{error}");
    }
}

pub(super) fn a_pass_in_too_little_memory_is_refused<B: TestBackend>() {
    let mut layer = Layer::<B>::new(config());
    layer.workspace = layer.layer.workspace(TOKENS - 1, Keep::Hidden).unwrap();
    let error = layer.forward(None).unwrap_err();
    let Error::TooManyTokens {
        operation: "layer forward",
        given: 5,
        limit: 4,
        reason,
    } = error
    else {
        panic!("{error}");
    };
    assert!(reason.contains("Workspace"));

    let mut layer = Layer::<B>::new(config());
    layer.saved = layer.layer.saved(TOKENS - 1, Keep::Hidden).unwrap();
    let error = layer.forward(None).unwrap_err();
    let Error::TooManyTokens {
        operation: "layer forward",
        given: 5,
        limit: 4,
        reason,
    } = error
    else {
        panic!("{error}");
    };
    assert!(reason.contains("Saved"));
}

pub(super) fn backward_needs_what_forward_kept<B: TestBackend>() {
    let refused = |layer: &mut Layer<B>, part: &str| {
        let error = layer.backward(None, 1.0).unwrap_err();
        assert!(
            matches!(
                error,
                Error::NotSaved {
                    operation: "layer backward",
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains(part),
            "`{error}` does not say {part}"
        );
    };
    let mut layer = Layer::<B>::new(config());
    refused(&mut layer, "no forward pass");
    for error in [
        layer.layer.losses(&layer.saved).unwrap_err(),
        layer.layer.routing(&layer.saved).unwrap_err(),
        layer.layer.diagnostics(&layer.saved).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotSaved { .. }), "{error}");
    }
    layer.forward(None).unwrap();
    layer.backward(None, 1.0).unwrap();
    refused(&mut layer, "used up");
    // What was measured stays readable.
    layer.layer.losses(&layer.saved).unwrap();

    layer.saved = layer.layer.saved(TOKENS, Keep::Nothing).unwrap();
    layer.forward(None).unwrap();
    refused(&mut layer, "the `Saved` was made with Keep::Nothing");

    layer.saved = layer.layer.saved(TOKENS, Keep::Hidden).unwrap();
    layer.workspace = layer.layer.workspace(TOKENS, Keep::Nothing).unwrap();
    layer.forward(None).unwrap();
    refused(&mut layer, "the `Workspace` was made with Keep::Nothing");

    layer.saved = layer.layer.saved(TOKENS, Keep::Routing).unwrap();
    layer.workspace = layer.layer.workspace(TOKENS, Keep::Hidden).unwrap();
    layer.forward(None).unwrap();
    refused(&mut layer, "Keep::Routing");

    // A forward pass that was refused leaves the one before in place.
    let mut layer = Layer::<B>::new(config());
    layer.forward(None).unwrap();
    layer.forward(Some(("gate_up", 47))).unwrap_err();
    layer.backward(None, 1.0).unwrap();
}

pub(super) fn memory_of_another_configuration_is_refused<B: TestBackend>() {
    let sizes = |h, i, e, k| MoeConfig::builder(h, i, e, k).losses(Losses::new(1e-2, 1e-3));
    let own = || sizes(16, 8, 8, 2);
    let others = [
        (sizes(24, 8, 8, 2), ["hidden_size 16", "hidden_size 24"]),
        (
            sizes(16, 24, 8, 2),
            ["intermediate_size 8", "intermediate_size 24"],
        ),
        (sizes(16, 8, 4, 2), ["num_experts 8", "num_experts 4"]),
        (sizes(16, 8, 600, 2), ["num_experts 8", "num_experts 600"]),
        (sizes(16, 8, 8, 4), ["top_k 2", "top_k 4"]),
        (
            own().capacity(Capacity::new(0.5)),
            ["capacity factor None", "capacity factor Some(0.5)"],
        ),
    ];
    let names = |error: Error, object: &str, parts: [&str; 2], operation: &str| {
        let Error::WrongConfiguration {
            expected, given, ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!([&expected[..], &given[..]], parts);
        let message = error.to_string();
        for part in [operation, object, parts[0], parts[1]] {
            assert!(message.contains(part), "`{message}` does not say {part}");
        }
    };
    for (other, parts) in others {
        let other = MoeLayer::new(B::create(), other.build().unwrap());
        let mut layer = Layer::<B>::new(own().build().unwrap());
        layer.forward(None).unwrap();
        layer.workspace = other.workspace(TOKENS, Keep::Hidden).unwrap();
        names(
            layer.backward(None, 1.0).unwrap_err(),
            "`Workspace`",
            parts,
            "layer backward",
        );
        names(
            layer.forward(None).unwrap_err(),
            "`Workspace`",
            parts,
            "layer forward",
        );
        layer.workspace = layer.layer.workspace(TOKENS, Keep::Hidden).unwrap();
        layer.backward(None, 1.0).unwrap();
        layer.saved = other.saved(TOKENS, Keep::Hidden).unwrap();
        names(
            layer.forward(None).unwrap_err(),
            "`Saved`",
            parts,
            "layer forward",
        );
    }

    // Other choices of the same sizes: memory may be shared, but what a pass left is read by its own configuration only.
    let choices = [
        (own().losses(Losses::new(0.0, 1e-3)), "losses"),
        (own().scaling_factor(2.5), "scaling_factor 2.5"),
        (
            own().score_function(ScoreFunction::SoftmaxBeforeTopK),
            "score_function SoftmaxBeforeTopK",
        ),
        (
            own().groups(GroupLimit {
                groups: 2,
                selected: 1,
            }),
            "groups",
        ),
    ];
    for (choice, part) in choices {
        let mut layer = Layer::<B>::new(own().build().unwrap());
        layer.forward(None).unwrap();
        let own = std::mem::replace(
            &mut layer.layer,
            MoeLayer::new(B::create(), choice.build().unwrap()),
        );
        let errors = [
            layer.backward(None, 1.0).unwrap_err(),
            layer.layer.losses(&layer.saved).unwrap_err(),
            layer.layer.diagnostics(&layer.saved).unwrap_err(),
            layer.layer.routing(&layer.saved).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(
                    error,
                    Error::WrongConfiguration {
                        object: "Saved",
                        ..
                    }
                ),
                "{error}"
            );
            assert!(error.to_string().contains(part), "{error}");
        }
        own.losses(&layer.saved).unwrap();
        layer.forward(None).unwrap();
        layer.backward(None, 1.0).unwrap();
        own.losses(&layer.saved).unwrap_err();
    }
}

/// Tokens and router weights of all types, where the widened router weight is most of the scratch.
pub(super) fn every_pair_of_types_has_its_scratch<B: TestBackend>() {
    fn pass<B: TestBackend, T: Element<Acc = f32>, W: Element<Acc = f32>>() {
        let config = MoeConfig::builder(256, 8, 256, 2).build().unwrap();
        let problem = Problem::random(&config, 3, 4);
        let layer = MoeLayer::new(B::create(), config);
        let backend = layer.backend();
        let inputs = problem.upload::<B, T, W>(backend);
        let (weights, x) = (inputs.weights(), inputs.x.view());
        let mut saved = layer.saved::<T>(3, Keep::Hidden).unwrap();
        let mut workspace = layer.workspace::<T>(3, Keep::Hidden).unwrap();
        let mut output = Tensor::<B, T>::garbage(backend, problem.x.len());
        let mut grads = GradTensors::<B, T, W>::garbage(backend, &problem);
        let forward = layer.forward(weights, x, output.view_mut(), &mut saved, &mut workspace);
        let taken = B::ANY_ROUTER_WEIGHT || [T::DTYPE, T::Acc::DTYPE].contains(&W::DTYPE);
        if !taken {
            let error = forward.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            for name in [T::DTYPE.name(), W::DTYPE.name()] {
                assert!(error.to_string().contains(name), "{error}");
            }
            return;
        }
        forward.unwrap_or_else(|error| panic!("{} with {}: {error}", T::DTYPE, W::DTYPE));
        let gradients = grads.overwritten(false);
        let input = BackwardInput {
            x,
            output_grad: x,
            loss_gradient: 1.0,
        };
        layer
            .backward(weights, input, &mut saved, &mut workspace, gradients)
            .unwrap_or_else(|error| panic!("{} with {}: {error}", T::DTYPE, W::DTYPE));
    }
    pass::<B, f32, f32>();
    pass::<B, f32, bf16>();
    pass::<B, f32, f16>();
    pass::<B, bf16, f32>();
    pass::<B, bf16, bf16>();
    pass::<B, bf16, f16>();
    pass::<B, f16, f32>();
    pass::<B, f16, bf16>();
    pass::<B, f16, f16>();
}

pub(super) fn experts_split_unevenly_over_ranks<B: TestBackend>() {
    let mut layer = Layer::<B>::new(config());
    layer.forward(None).unwrap();
    let diagnostics = layer.layer.diagnostics(&layer.saved).unwrap();
    assert!(diagnostics.group_imbalance(2).unwrap() >= 1.0);
    for ranks in [0, 3, 8] {
        let error = diagnostics.group_imbalance(ranks).unwrap_err();
        let what = "expert-parallel groups";
        assert_eq!(
            error,
            ConfigError::UnevenGroups {
                what,
                groups: ranks,
                num_experts: 4
            }
        );
    }
}
