//! The same bits on every run and in any memory.

use millet::{Capacity, Keep, MoeConfig, MoeLayer};

use crate::generate::{self, SCORES, base};
use crate::harness::{Outcome, Problem, Tensor, TestBackend, run, run_with};

/// Half the tokens where they are slow.
fn large<B: TestBackend>() -> [(MoeConfig, usize); 3] {
    generate::large(B::SLOWNESS.min(2) as usize)
}

pub(super) fn repeats_change_no_bit<B: TestBackend>() {
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

pub(super) fn larger_memory_changes_no_bit<B: TestBackend>() {
    for (config, tokens) in large::<B>() {
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

pub(super) fn keeping_nothing_changes_no_output_bit<B: TestBackend>() {
    for (config, tokens) in large::<B>() {
        let problem = Problem::random(&config, tokens, 3);
        let trained = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        let layer = MoeLayer::new(B::create(), config.clone());
        let backend = layer.backend();
        let inputs = problem.upload::<B, f32, f32>(backend);
        let mut saved = layer.saved::<f32>(tokens, Keep::Nothing).unwrap();
        let mut workspace = layer.workspace::<f32>(tokens, Keep::Nothing).unwrap();
        let mut output = Tensor::<B, f32>::garbage(backend, problem.x.len());
        layer
            .forward(
                inputs.weights(),
                inputs.x.view(),
                output.view_mut(),
                &mut saved,
                &mut workspace,
            )
            .unwrap();
        assert_eq!(output.to_f64(backend), trained.output);
    }
}
