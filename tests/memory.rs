//! What a layer keeps, and what it takes at most: counted by the allocator.

use millet::half::bf16;
use millet::{
    BackwardInput, Capacity, Cpu, Gradients, Keep, Losses, Memory, MoeConfig, MoeLayer, WeightGrad,
    Weights,
};
use millet_testing::allocator::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Scratch of published layers in bf16: little for one token, and never less for more tokens.
fn scratch_grows_with_the_tokens() {
    let megabytes =
        |config: &MoeConfig, tokens| Cpu.scratch_elements::<bf16>(config, tokens) as f64 * 4e-6;
    for preset in millet::presets::all() {
        let config = &preset.config;
        let steps = [
            1,
            2,
            16,
            100,
            256,
            257,
            1000,
            4096,
            1 << 17,
            1 << 30,
            usize::MAX,
        ];
        let sizes = steps.map(|tokens| megabytes(config, tokens));
        println!("{}: {sizes:.1?} MB on 2 threads", preset.name);
        assert!(sizes.is_sorted(), "{}: {sizes:?}", preset.name);
        // The router's weight, and 8 MB per thread.
        let router = (config.num_experts() * config.hidden_size()) as f64 * 4e-6;
        assert!(sizes[0] < router + 2.0 * 8.0, "{}: {sizes:?}", preset.name);
    }
    let largest = MoeConfig::builder(1 << 20, 1 << 20, 1 << 16, 64)
        .build()
        .unwrap();
    assert!(megabytes(&largest, usize::MAX) >= megabytes(&largest, 1 << 20));
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_layer_keeps_what_it_says_and_takes_little_more() {
    // Two lanes: scratch grows with the number of cores.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    pool.install(|| {
        scratch_grows_with_the_tokens();
        saved_is_what_the_configuration_counts();
        peak_is_within_a_fifth_of_the_floor();
    });
}

fn saved_is_what_the_configuration_counts() {
    let tokens = 100;
    let dropless = MoeConfig::builder(64, 32, 16, 4);
    let dropping = dropless.clone().capacity(Capacity::new(0.5));
    for config in [dropless, dropping].map(|builder| builder.build().unwrap()) {
        let counted = config.saved_bytes(tokens, 4);
        let layer = MoeLayer::new(Cpu, config);
        assert_eq!(layer.saved_bytes::<f32>(tokens), counted);
        for (keep, expected) in [
            (Keep::Hidden, counted.total() - counted.x),
            (Keep::Routing, counted.total_without_h() - counted.x),
        ] {
            let before = Counting::of_this_thread();
            let saved = layer.saved::<f32>(tokens, keep).unwrap();
            assert_eq!(
                (Counting::of_this_thread() - before) as u64,
                expected,
                "{keep:?}"
            );
            drop(saved);
            assert_eq!(Counting::of_this_thread(), before);
        }
    }
}

fn peak_is_within_a_fifth_of_the_floor() {
    let (tokens, hidden, inner, experts) = (4096, 512, 256, 64);
    let builder = MoeConfig::builder(hidden, inner, experts, 8).losses(Losses::new(1e-2, 1e-3));
    let config = builder.build().unwrap();
    let saved_bytes = config.saved_bytes(tokens, 4);
    let layer = MoeLayer::new(Cpu, config);

    let before = Counting::restart_peak();
    let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
    let (x, output_grad) = (wave(tokens * hidden), wave(tokens * hidden));
    let weights = [hidden, 2 * inner * hidden, hidden * inner].map(|n| wave(experts * n));
    let mut gradients = weights.each_ref().map(|w| vec![0.0f32; w.len()]);
    let (mut output, mut x_grad) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let floor = Counting::now() - before + (saved_bytes.total() - saved_bytes.x) as usize;

    let mut saved = layer.saved::<f32>(tokens, Keep::Hidden).unwrap();
    let mut workspace = layer.workspace::<f32>(tokens, Keep::Hidden).unwrap();
    let [router, gate_up, down] = &weights;
    let weights = Weights::<Cpu, f32> {
        router,
        selection_bias: None,
        gate_up,
        down,
        expert_bias: None,
    };
    layer
        .forward(weights, &x, &mut output, &mut saved, &mut workspace)
        .unwrap();
    let [router, gate_up, down] = &mut gradients;
    let gradients = Gradients::<Cpu, f32> {
        x: &mut x_grad,
        router: WeightGrad::Overwrite(&mut router[..]),
        gate_up: WeightGrad::Overwrite(&mut gate_up[..]),
        down: WeightGrad::Overwrite(&mut down[..]),
        expert_bias: None,
    };
    let input = BackwardInput {
        x: &x[..],
        output_grad: &output_grad[..],
        loss_gradient: 1.0,
    };
    layer
        .backward(weights, input, &mut saved, &mut workspace, gradients)
        .unwrap();

    let peak = Counting::peak() - before;
    let mebibytes = |bytes: usize| bytes as f64 / 1048576.0;
    println!(
        "peak, forward and backward: {:.1} MiB = {:.3} of inputs, outputs, gradients and saved bytes ({:.1} MiB)",
        mebibytes(peak),
        peak as f64 / floor as f64,
        mebibytes(floor)
    );
    assert!(
        peak as f64 <= 1.2 * floor as f64,
        "{peak} bytes, {floor} at least"
    );
}
