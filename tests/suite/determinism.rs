//! The same bits on every run, on any number of threads, in any memory.

use millet::half::bf16;
use millet::{Capacity, DropPolicy, Element, Keep, MoeConfig, MoeLayer, ScoreFunction};

use crate::generate::{SCORES, base};
use crate::harness::{Outcome, Problem, TestBackend, run, run_with};

cpu_tests!(
    threads_change_no_bit,
    memory_of_one_pool_serves_another,
    weights_in_blocks_change_little,
);

layer_tests!(
    repeats_change_no_bit,
    larger_memory_changes_no_bit,
    keeping_nothing_changes_no_output_bit,
);

/// Sizes past every block of the implementation, so that there is something to split; half the tokens where they are slow.
fn configs<B: TestBackend>() -> Vec<(MoeConfig, usize)> {
    let limited = |policy| Capacity::new(0.8).policy(policy);
    let all = [
        (
            base(20, 6, 6, 2)
                .capacity(limited(DropPolicy::Probability))
                .build()
                .unwrap(),
            700,
        ),
        (
            base(300, 9, 3, 2)
                .score_function(ScoreFunction::Sigmoid)
                .capacity(limited(DropPolicy::SlotMajor))
                .build()
                .unwrap(),
            150,
        ),
        (
            base(8, 70, 40, 8)
                .score_function(ScoreFunction::SoftmaxBeforeTopK)
                .build()
                .unwrap(),
            400,
        ),
    ];
    let share = B::SLOWNESS.min(2) as usize;
    all.map(|(config, tokens)| (config, tokens / share)).into()
}

fn on_threads<R: Send>(threads: usize, job: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(job)
}

fn threads_change_no_bit<B: TestBackend>() {
    fn check<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>() {
        for (config, tokens) in configs::<B>() {
            let problem = Problem::random(&config, tokens, 1).rounded::<T, W>();
            let [one, two, three, five] = [1, 2, 3, 5].map(|threads| {
                on_threads(threads, || {
                    run::<B, T, W>(&config, &problem, Keep::Hidden, 1.0)
                })
            });
            for (more, threads) in [(two, 2), (three, 3), (five, 5)] {
                one.assert_same_bits(&more, &format!("{threads} threads, {}", T::NAME));
            }
        }
    }
    check::<B, B::Exact, B::Exact>();
    check::<B, f32, f32>();
    check::<B, bf16, f32>();
}

fn memory_of_one_pool_serves_another<B: TestBackend + Sync>() {
    for (config, tokens) in configs::<B>() {
        let problem = Problem::random(&config, tokens, 5).rounded::<bf16, f32>();
        let expected = on_threads(1, || {
            run::<B, bf16, f32>(&config, &problem, Keep::Routing, 1.0)
        });
        let layer = MoeLayer::new(B::create(), config.clone());
        for (made, used) in [(1, 4), (2, 3), (4, 1), (3, 2)] {
            let (mut saved, mut workspace) = on_threads(made, || {
                (
                    layer.saved::<bf16>(tokens, Keep::Routing).unwrap(),
                    layer.workspace::<bf16>(tokens, Keep::Routing).unwrap(),
                )
            });
            let outcome = on_threads(used, || {
                run_with::<B, bf16, f32>(&layer, &problem, &mut saved, &mut workspace, 1.0)
            });
            expected.assert_same_bits(&outcome, &format!("made by {made}, used by {used}"));
        }
    }
}

/// Weights of more than a block, widened in parts, against the same values in f32, which are multiplied whole.
fn weights_in_blocks_change_little<B: TestBackend>() {
    let config = base(1100, 2100, 2, 2).build().unwrap();
    let problem = Problem::random(&config, 5, 6).rounded::<bf16, bf16>();
    let wide = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
    let narrow = run::<B, bf16, bf16>(&config, &problem, Keep::Hidden, 1.0);
    narrow.assert_same_routing(&wide, "bf16");
    for ((name, narrow), (_, wide)) in narrow.floats().into_iter().zip(wide.floats()) {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = square(&mut narrow.iter().zip(wide).map(|(n, w)| n - w));
        let scale = square(&mut wide.iter().copied());
        assert!(error <= 1e-3 * scale, "{name}: {error} of {scale}");
    }
}

fn repeats_change_no_bit<B: TestBackend>() {
    for score_function in SCORES {
        let config = base(24, 7, 12, 4)
            .score_function(score_function)
            .capacity(Capacity::new(1.0))
            .build()
            .unwrap();
        let layer = MoeLayer::new(B::create(), config.clone());
        let mut saved = layer.saved::<f32>(300, Keep::Hidden).unwrap();
        let mut workspace = layer.workspace::<f32>(300, Keep::Hidden).unwrap();
        let mut pass = |problem: &Problem| -> Outcome {
            run_with::<B, f32, f32>(&layer, problem, &mut saved, &mut workspace, 1.0)
        };
        let slowness = B::SLOWNESS as usize;
        let problem = Problem::random(&config, 260 / slowness, 8);
        let first = pass(&problem);
        for repeat in 0..30 / slowness {
            if repeat % 3 == 0 {
                // Another batch leaves its traces in all memory.
                pass(&Problem::random(
                    &config,
                    300 / slowness - repeat,
                    repeat as u64,
                ));
            }
            first.assert_same_bits(&pass(&problem), &format!("repeat {repeat}"));
        }
    }
}

fn larger_memory_changes_no_bit<B: TestBackend>() {
    for (config, tokens) in configs::<B>() {
        let problem = Problem::random(&config, tokens, 2);
        let exact = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        for (saved_tokens, workspace_tokens) in [(tokens + 77, tokens), (tokens, 3 * tokens)] {
            let layer = MoeLayer::new(B::create(), config.clone());
            let mut saved = layer.saved::<f32>(saved_tokens, Keep::Hidden).unwrap();
            let mut workspace = layer
                .workspace::<f32>(workspace_tokens, Keep::Hidden)
                .unwrap();
            let larger = run_with::<B, f32, f32>(&layer, &problem, &mut saved, &mut workspace, 1.0);
            exact.assert_same_bits(&larger, "larger memory");
        }
    }
}

fn keeping_nothing_changes_no_output_bit<B: TestBackend>() {
    use crate::harness::Tensor;
    for (config, tokens) in configs::<B>() {
        let problem = Problem::random(&config, tokens, 3);
        let trained = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        let layer = MoeLayer::new(B::create(), config.clone());
        let backend = layer.backend();
        let tensor = |values: &[f64]| Tensor::<B, f32>::from_f64(backend, values);
        let (x, router) = (tensor(&problem.x), tensor(&problem.router));
        let (gate_up, down) = (tensor(&problem.gate_up), tensor(&problem.down));
        let bias = problem.bias.as_deref().map(tensor);
        let weights = millet::Weights {
            router: router.view(),
            selection_bias: bias.as_ref().map(|bias| bias.view()),
            gate_up: gate_up.view(),
            down: down.view(),
        };
        let mut saved = layer.saved::<f32>(tokens, Keep::Nothing).unwrap();
        let mut workspace = layer.workspace::<f32>(tokens, Keep::Nothing).unwrap();
        let mut output = Tensor::<B, f32>::garbage(backend, problem.x.len());
        layer
            .forward(
                weights,
                x.view(),
                output.view_mut(),
                &mut saved,
                &mut workspace,
            )
            .unwrap();
        assert_eq!(output.to_f64(backend), trained.output);
    }
}
