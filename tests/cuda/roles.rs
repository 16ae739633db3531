//! What the headers of the products' main loops say of copies and barriers, against what the emulator counts.

use millet::cuda::View;
use millet::half::bf16;
use millet::{Cuda, Experts, ExpertsUp, Logits, Memory, MoeConfig, Router, RouterForward};
use millet::{RouterWeightGrad, Scalar, WeightGrad, stats_elements};

use super::{alone, plan_in_order};

/// A counter of the only launch of a kernel; `None` without the emulator.
fn count(kernel: &str, counter: &str) -> Option<usize> {
    let lines = cuda_emulator_loader::counters()?;
    let named = format!("{{\"kernel\":\"{kernel}\",");
    let launches: Vec<&String> = lines.iter().filter(|l| l.starts_with(&named)).collect();
    let [line] = launches[..] else {
        panic!("{kernel} was not launched once: {lines:?}");
    };
    let (_, rest) = line.split_once(&format!("\"{counter}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().parse().ok()
}

/// Counts while it runs.
fn counted(cuda: &Cuda, operation: impl FnOnce()) {
    let option = |value| cuda_emulator_loader::set_option("CUDA_EMULATOR_COUNT", value);
    cuda.stream().synchronize().unwrap();
    cuda_emulator_loader::clear();
    option(Some("1")).map(Result::unwrap);
    operation();
    cuda.stream().synchronize().unwrap();
    option(None).map(Result::unwrap);
}

/// What a pipeline of `stages` does in `steps` steps, in one warp: `cp.async`, their commits and their waits.
fn async_instructions(stages: usize, steps: usize, copies: usize) -> usize {
    let commits = stages - 1 + steps;
    let waits = steps;
    copies * steps + commits + waits
}

fn zeros<T: Scalar>(cuda: &Cuda, len: usize) -> <Cuda as Memory>::Buffer<T> {
    cuda.upload(&vec![T::zeroed(); len]).unwrap()
}

/// `csrc/mainloop/ampere.cuh`: one barrier per step and one between tiles. Eight copies per thread and step: 256 rows of four chunks by
/// 128 threads.
#[test]
fn experts_products_copy_and_wait_as_their_header_says() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    // Tiles of 128 rows, two to an expert, and two of 64 columns of a.
    let (tokens, hidden, inner, experts, top_k) = (256, 224, 128, 2, 2);
    let config = MoeConfig::builder(hidden, inner, experts, top_k)
        .build()
        .unwrap();
    let plan = plan_in_order(&cuda, &config, tokens);
    let (rows, steps) = (tokens * top_k, hidden * 2 / 64);
    let tiles = rows / 128 * (inner / 64);
    // As many as there can be tiles of rows; some find none.
    let blocks = cuda.row_tiles(&config, tokens).most * (inner / 64);
    let x = zeros::<bf16>(&cuda, tokens * hidden);
    let gate_up = zeros::<bf16>(&cuda, experts * 2 * inner * hidden);
    let mut a = zeros::<bf16>(&cuda, rows * inner);
    let scratch = cuda.scratch_elements::<bf16>(&config, tokens);
    let mut scratch = zeros::<f32>(&cuda, scratch);
    counted(&cuda, || {
        let up = ExpertsUp::<Cuda, bf16> {
            plan: &plan,
            x: View::from(&x),
            gate_up: View::from(&gate_up),
            bias: None,
            h: None,
            a: a.as_view_mut(),
            scratch: scratch.as_view_mut(),
        };
        cuda.experts_up(up).unwrap();
    });
    let kernel = "experts_up_bf16";
    let Some(arrivals) = count(kernel, "barrier_arrivals") else {
        return;
    };
    // Four warps. One barrier of each block counts the plan's tiles; there are fewer than blocks, so each has one of its own.
    assert_eq!(arrivals, 4 * (blocks + tiles * (steps + 1)));
    let copies = count(kernel, "async_copy_instructions").unwrap();
    assert_eq!(copies, 4 * tiles * async_instructions(3, steps, 8));
    // Swizzled: none of the copies and none of the fragments' loads.
    assert_eq!(count(kernel, "shared_bank_conflicts"), Some(0));
}

/// `csrc/device/mixed_product.cuh`: two copies per thread and step of 16 tokens, one barrier per step and one at the end.
#[test]
fn router_gradients_copy_and_wait_as_their_header_says() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    // One tile, and one range of the tokens.
    let (tokens, hidden, experts) = (48, 128, 64);
    let config = MoeConfig::builder(hidden, 8, experts, 2).build().unwrap();
    let logits_grad = zeros::<f32>(&cuda, tokens * experts);
    let x = zeros::<bf16>(&cuda, tokens * hidden);
    let mut grad = zeros::<bf16>(&cuda, experts * hidden);
    let scratch = cuda.scratch_elements::<bf16>(&config, tokens);
    let mut scratch = zeros::<f32>(&cuda, scratch);
    counted(&cuda, || {
        let weight_grad = RouterWeightGrad::<Cuda, bf16> {
            config: &config,
            tokens,
            logits_grad: View::from(&logits_grad),
            x: View::from(&x),
            grad: WeightGrad::Overwrite(grad.as_view_mut()),
            scratch: scratch.as_view_mut(),
        };
        cuda.router_weight_grad(weight_grad).unwrap();
    });
    let kernel = "router_weight_grad_bf16";
    let Some(copies) = count(kernel, "async_copy_instructions") else {
        return;
    };
    let steps = tokens / 16;
    // Eight warps. After the last step one wait more.
    assert_eq!(copies, 8 * (async_instructions(4, steps, 2) + 1));
    // And the ticket's barrier, and that of a phase's end.
    let arrivals = count(kernel, "barrier_arrivals").unwrap();
    assert_eq!(arrivals, 8 * (1 + steps + 1 + 1));
    assert_eq!(count(kernel, "shared_bank_conflicts"), Some(0));
}

/// `csrc/device/logits.cuh`: three copies per thread and step for 64 tokens and 128 experts.
#[test]
fn logits_are_copied_as_their_header_says() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let (tokens, hidden, experts, top_k) = (64, 256, 128, 2);
    let config = MoeConfig::builder(hidden, 8, experts, top_k)
        .build()
        .unwrap();
    let x = zeros::<bf16>(&cuda, tokens * hidden);
    let weight = zeros::<bf16>(&cuda, experts * hidden);
    let (mut ids, mut weights) = (
        zeros::<i32>(&cuda, tokens * top_k),
        zeros::<f32>(&cuda, tokens * top_k),
    );
    let (mut lse, mut counts) = (zeros::<f32>(&cuda, tokens), zeros::<i32>(&cuda, experts));
    let mut stats = zeros::<f32>(&cuda, stats_elements(&config));
    let scratch = cuda.scratch_elements::<bf16>(&config, tokens);
    let mut scratch = zeros::<f32>(&cuda, scratch);
    counted(&cuda, || {
        let forward = RouterForward::<Cuda, bf16> {
            config: &config,
            tokens,
            logits: Logits::FromTokens {
                x: View::from(&x),
                weight: View::from(&weight),
            },
            selection_bias: None,
            ids: ids.as_view_mut(),
            weights: weights.as_view_mut(),
            lse: lse.as_view_mut(),
            counts: counts.as_view_mut(),
            stats: stats.as_view_mut(),
            logits_output: None,
            scratch: scratch.as_view_mut(),
        };
        cuda.router_forward(forward).unwrap();
    });
    let Some(copies) = count("router_tokens_128_bf16", "async_copy_instructions") else {
        return;
    };
    let steps = hidden * 2 / 64;
    assert_eq!(copies, 8 * (async_instructions(4, steps, 3) + 1));
}
