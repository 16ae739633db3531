//! Presets, costs and the scaling law against published or independently calculated figures. A figure is given as printed,
//! and ours must round to it.

use std::collections::HashSet;

use approx::{abs_diff_eq, assert_abs_diff_eq};
use millet::presets::{self, Evidence, Layers, ModelSize, Preset, SharedExperts, System};
use millet::scaling_law::{FlopCost, ScalingLaw, Transformer};
use millet::{
    Activation, Capacity, ConfigError, DropPolicy, ExpertBias, GroupLimit, MoeConfig, ScoreFunction,
};

const BF16: usize = 2;
const F32: usize = 4;

/// Asserts that `value` rounds to `printed`, at as many decimals as `printed` has.
#[track_caller]
fn assert_rounds_to(printed: &str, value: f64, what: &str) {
    let decimals = printed.split_once('.').map_or(0, |(_, tail)| tail.len());
    let half_unit = 0.5 * 10f64.powi(-(decimals as i32));
    let expected: f64 = printed.parse().unwrap();
    assert!(
        abs_diff_eq!(value, expected, epsilon = half_unit * (1.0 + 1e-9)),
        "{what}: {value} does not round to {printed}"
    );
}

fn preset(name: &str) -> Preset {
    presets::by_name(name).unwrap()
}

#[test]
fn every_name_is_unique_and_finds_its_preset() {
    let all: Vec<Preset> = presets::all().collect();
    assert_eq!(all.len(), 8 + 12 + 19);
    let names: HashSet<String> = all.iter().map(|p| p.name.to_ascii_lowercase()).collect();
    assert_eq!(names.len(), all.len());
    for expected in all {
        assert_eq!(presets::by_name(expected.name).unwrap(), expected);
        assert_eq!(preset(&expected.name.to_ascii_uppercase()), expected);
        assert!(!expected.source.is_empty(), "{}", expected.name);
    }
}

#[test]
fn an_unknown_name_is_told_the_names() {
    let error = presets::by_name("olmo").unwrap_err();
    assert_eq!(error.given, "olmo");
    let message = error.to_string();
    for name in ["`olmo`", "OLMoE-1B-7B", "1xFLOPs-G8-11B", "GLM-5"] {
        assert!(message.contains(name), "{name} is not in: {message}");
    }
}

/// Sizes of the four systems, from the paper's rule, and its recipe.
#[test]
fn systems_follow_the_papers_rule_and_recipe() {
    let rule = [
        (System::OneFlopsG1, "1xFLOPs-G1", 8, 1, 1),
        (System::TwoFlopsG1, "2xFLOPs-G1", 8, 2, 1),
        (System::OneFlopsG8, "1xFLOPs-G8", 64, 8, 8),
        (System::TwoFlopsG8, "2xFLOPs-G8", 64, 16, 8),
    ];
    for (system, name, experts, top_k, granularity) in rule {
        assert_eq!(system.name(), name);
        for (size, suffix, hidden, d_ff, layers) in [
            (ModelSize::B11, "11B", 2048, 8192, 24),
            (ModelSize::B56, "56B", 4096, 16384, 32),
        ] {
            let preset = preset(&format!("{name}-{suffix}"));
            assert_eq!(preset, system.preset(size));
            assert_eq!(preset.evidence, Evidence::Reconstructed);
            assert!(preset.to_string().contains("reconstructed"), "{preset}");
            let config = &preset.config;
            assert_eq!(config.hidden_size(), hidden);
            assert_eq!(config.intermediate_size(), d_ff / granularity);
            assert_eq!((config.num_experts(), config.top_k()), (experts, top_k));
            assert_eq!(preset.layers.unwrap().total, layers);
            let capacity = config.capacity().unwrap();
            assert_eq!(capacity.factor(), 1.5);
            assert_eq!(capacity.drop_policy(), DropPolicy::Probability);
            assert_eq!((config.losses().aux(), config.losses().z()), (1e-2, 1e-3));
            let expected = match top_k {
                1 => ScoreFunction::SoftmaxBeforeTopK,
                _ => ScoreFunction::SoftmaxAfterTopK,
            };
            assert_eq!(config.router().score_function(), expected);
        }
    }
}

/// The counts that arXiv 2506.02890 publishes, and the digits that the reconstruction gives.
#[test]
fn reconstructed_models_have_the_published_parameters() {
    // Name, published total and active (billions; none published for the 56B Switch), ours at two decimals.
    let rows = [
        ("1xFLOPs-G1-11B", "11", Some("2.7"), "11.12", "2.66"),
        ("2xFLOPs-G1-11B", "11", Some("3.9"), "11.12", "3.87"),
        ("1xFLOPs-G8-11B", "11", Some("2.7"), "11.12", "2.66"),
        ("2xFLOPs-G8-11B", "11", Some("3.9"), "11.12", "3.87"),
        ("1xFLOPs-G1-56B", "56", None, "55.79", "10.69"),
        ("2xFLOPs-G1-56B", "56", Some("17"), "55.79", "17.13"),
        ("1xFLOPs-G8-56B", "56", None, "55.79", "10.70"),
        ("2xFLOPs-G8-56B", "56", Some("17"), "55.79", "17.14"),
    ];
    for (name, published_total, published_active, total, active) in rows {
        let parameters = preset(name).model_parameters().unwrap();
        let [ours_total, ours_active] =
            [parameters.total, parameters.active].map(|count| count as f64 / 1e9);
        assert_rounds_to(published_total, ours_total, name);
        if let Some(published) = published_active {
            assert_rounds_to(published, ours_active, name);
        }
        assert_rounds_to(total, ours_total, name);
        assert_rounds_to(active, ours_active, name);
    }
    assert_eq!(preset("OLMoE-1B-7B").model_parameters(), None);
}

/// The paper's premise: a fine-grained system costs what its coarse twin costs, but for the router.
#[test]
fn granularity_keeps_experts_parameters_flops_and_saved_bytes() {
    for size in ModelSize::ALL {
        for (coarse, fine) in [
            (System::OneFlopsG1, System::OneFlopsG8),
            (System::TwoFlopsG1, System::TwoFlopsG8),
        ] {
            let (coarse, fine) = (coarse.preset(size).config, fine.preset(size).config);
            assert_eq!(coarse.parameters().experts, fine.parameters().experts);
            assert_eq!(
                coarse.parameters().active_experts,
                fine.parameters().active_experts
            );
            assert_eq!(8 * coarse.parameters().router, fine.parameters().router);
            assert_eq!(
                coarse.forward_flops(4096).experts,
                fine.forward_flops(4096).experts
            );
            assert_eq!(
                coarse.saved_bytes(4096, BF16).h,
                fine.saved_bytes(4096, BF16).h
            );
        }
    }
}

/// The twelve benchmark shapes keep I·K in each group of three, and FLOPs are counted as the paper's rates count them.
#[test]
fn sonic_shapes_keep_their_flops_and_give_the_published_rates() {
    let shapes = presets::sonic_moe();
    for group in shapes.chunks(3) {
        let flops = |p: &Preset| p.config.forward_flops(p.tokens.unwrap()).experts;
        let size = |p: &Preset| p.config.parameters().experts;
        for preset in group {
            assert_eq!(flops(preset), flops(&group[0]));
            assert_eq!(size(preset), size(&group[0]));
            let c = &preset.config;
            let name = format!(
                "sonic-h{}-i{}-e{}",
                c.hidden_size(),
                c.intermediate_size(),
                c.num_experts()
            );
            assert_eq!(preset.name, name);
            assert_eq!(c.router().score_function(), ScoreFunction::SoftmaxAfterTopK);
        }
    }
    // Forward 1.237 ms and 375 TFLOPS, backward 2.29 ms and 405 TFLOPS: the router is timed but its FLOPs are not counted.
    let preset = preset("sonic-h1536-i256-e128");
    let tokens = preset.tokens.unwrap();
    let forward = preset.config.forward_flops(tokens).experts;
    assert_rounds_to("375", forward / 1.237e-3 / 1e12, "forward TFLOPS");
    let backward = preset.config.backward_flops(tokens).experts;
    assert_rounds_to("405", backward / 2.29e-3 / 1e12, "backward TFLOPS");
}

/// Layer figures at T = 16384 in bf16: rows an expert, FLOP per byte, weights in GiB, forward TFLOP of the experts, saved x
/// and h in MiB, padding to 128 rows in percent.
#[test]
fn load_at_16384_tokens() {
    let tokens = 16384;
    let named = |name: &str| preset(name).config;
    let sized = |h, i, e, k| MoeConfig::builder(h, i, e, k).build().unwrap();
    #[rustfmt::skip]
    let rows = [
        (named("1xFLOPs-G8-11B"), ["2048", "683", "0.75", "1.65", "576", "3.1"]),
        (named("2xFLOPs-G8-11B"), ["4096", "819", "0.75", "3.30", "1088", "1.6"]),
        (named("OLMoE-1B-7B"), ["2048", "683", "0.75", "1.65", "576", "3.1"]),
        (named("1xFLOPs-G8-56B"), ["2048", "1024", "3.0", "6.6", "1152", "3.1"]),
        (named("2xFLOPs-G8-56B"), ["4096", "1365", "3.0", "13.2", "2176", "1.6"]),
        (named("Granite-3.0-1B-A400M"), ["4096", "455", "0.09", "0.41", "288", "1.6"]),
        (named("Qwen3-30B-A3B"), ["1024", "461", "1.13", "1.24", "448", "6.3"]),
        (named("Qwen3-235B-A22B"), ["1024", "636", "4.5", "4.95", "896", "6.3"]),
        (named("Qwen3-Next-80B-A3B"), ["320", "210", "3.0", "1.03", "384", "20"]),
        (named("DeepSeek-V2-Lite"), ["1536", "690", "1.03", "1.70", "592", "4.2"]),
        (named("DeepSeek-V3"), ["512", "422", "21.0", "11.5", "1248", "12.5"]),
        (named("Kimi-K2"), ["341", "299", "31.5", "11.5", "1248", "18.8"]),
        (named("GPT-OSS-20B"), ["2048", "1051", "1.48", "3.26", "810", "3.1"]),
        (named("GPT-OSS-120B"), ["512", "414", "5.93", "3.26", "810", "12.5"]),
        (named("MiniMax-M2"), ["512", "384", "6.75", "3.71", "864", "12.5"]),
        (named("GLM-4.5"), ["819", "560", "7.0", "6.2", "928", "7.8"]),
        (sized(4096, 2048, 256, 6), ["384", "323", "12.0", "4.95", "896", "16.7"]), // DeepSeek-V4-Flash
        (sized(7168, 3072, 384, 6), ["256", "237", "47.3", "13.0", "1376", "25"]), // DeepSeek-V4-Pro
        (sized(2816, 704, 128, 8), ["1024", "463", "1.42", "1.56", "440", "6.3"]), // Gemma-4-26B-A4B
        (named("sonic-h1536-i256-e128"), ["1024", "249", "0.28", "0.31", "176", "6.3"]),
        (named("sonic-h4096-i256-e256"), ["1024", "267", "1.5", "1.65", "384", "6.3"]),
    ];
    for (config, [rows, intensity, weights, forward, saved, padding]) in rows {
        let what = |figure: &str| format!("{figure} of {config:?}");
        let bytes = config.saved_bytes(tokens, BF16);
        let gib = config.parameters().experts as f64 * BF16 as f64 / f64::from(1 << 30);
        assert_rounds_to(rows, config.mean_rows_per_expert(tokens), &what("rows"));
        assert_rounds_to(
            intensity,
            config.arithmetic_intensity(tokens, BF16),
            &what("intensity"),
        );
        assert_rounds_to(weights, gib, &what("weights"));
        assert_rounds_to(
            forward,
            config.forward_flops(tokens).experts / 1e12,
            &what("forward"),
        );
        assert_rounds_to(
            saved,
            (bytes.x + bytes.h) as f64 / f64::from(1 << 20),
            &what("saved"),
        );
        assert_rounds_to(
            padding,
            100.0 * config.padding_share(tokens, 128),
            &what("padding"),
        );
    }
}

/// Routing, scale, groups, bias, layers and shared experts of every model, as its public configuration has them.
#[test]
fn models_have_their_routing() {
    use ScoreFunction::{Sigmoid, SoftmaxAfterTopK as After, SoftmaxBeforeTopK as Before};
    // Sizes H, I, E, K; score function; scale; groups; layers (all, leading dense); shared experts (count, width).
    #[rustfmt::skip]
    let rows = [
        ("OLMoE-1B-7B", [2048, 1024, 64, 8], Before, 1.0, None, (16, 0), None),
        ("Granite-3.0-1B-A400M", [1024, 512, 32, 8], After, 1.0, None, (24, 0), None),
        ("Granite-3.0-3B-A800M", [1536, 512, 40, 8], After, 1.0, None, (32, 0), None),
        ("Mixtral-8x7B", [4096, 14336, 8, 2], After, 1.0, None, (32, 0), None),
        ("Mixtral-8x22B", [6144, 16384, 8, 2], After, 1.0, None, (56, 0), None),
        ("Qwen3-30B-A3B", [2048, 768, 128, 8], After, 1.0, None, (48, 0), None),
        ("Qwen3-235B-A22B", [4096, 1536, 128, 8], After, 1.0, None, (94, 0), None),
        ("Qwen3-Next-80B-A3B", [2048, 512, 512, 10], After, 1.0, None, (48, 0), Some((1, 512))),
        ("Qwen3.5-397B-A17B", [4096, 1024, 512, 10], After, 1.0, None, (60, 0), None),
        ("DeepSeek-V2-Lite", [2048, 1408, 64, 6], Before, 1.0, None, (27, 1), Some((2, 1408))),
        ("DeepSeek-V2", [5120, 1536, 160, 6], Before, 16.0, Some((8, 3)), (60, 1), Some((2, 1536))),
        ("GPT-OSS-20B", [2880, 2880, 32, 4], After, 1.0, None, (24, 0), None),
        ("GPT-OSS-120B", [2880, 2880, 128, 4], After, 1.0, None, (36, 0), None),
        ("DeepSeek-V3", [7168, 2048, 256, 8], Sigmoid, 2.5, Some((8, 4)), (61, 3), Some((1, 2048))),
        ("Kimi-K2", [7168, 2048, 384, 8], Sigmoid, 2.827, None, (61, 1), Some((1, 2048))),
        ("GLM-4.5", [5120, 1536, 160, 8], Sigmoid, 2.5, None, (92, 3), Some((1, 1536))),
        ("GLM-4.5-Air", [4096, 1408, 128, 8], Sigmoid, 1.0, None, (46, 1), Some((1, 1408))),
        ("MiniMax-M2", [3072, 1536, 256, 8], Sigmoid, 1.0, None, (62, 0), None),
        ("GLM-5", [6144, 2048, 256, 8], Sigmoid, 2.5, None, (78, 3), Some((1, 2048))),
    ];
    let names: Vec<&str> = presets::models().map(|p| p.name).collect();
    assert_eq!(names, rows.map(|row| row.0));
    for (name, sizes, score, scale, groups, (total, leading_dense), shared) in rows {
        let preset = preset(name);
        let c = &preset.config;
        let given = [
            c.hidden_size(),
            c.intermediate_size(),
            c.num_experts(),
            c.top_k(),
        ];
        assert_eq!(given, sizes, "{name}");
        assert_eq!(c.router().score_function(), score, "{name}");
        assert_eq!(c.router().scaling_factor(), scale, "{name}");
        let groups = groups.map(|(groups, selected)| GroupLimit { groups, selected });
        assert_eq!(c.router().groups(), groups, "{name}");
        let layers = Layers {
            total,
            leading_dense,
        };
        assert_eq!(preset.layers, Some(layers), "{name}");
        let shared = shared.map(|(count, intermediate_size)| SharedExperts {
            count,
            intermediate_size,
        });
        assert_eq!(preset.shared_experts, shared, "{name}");
        assert_eq!(preset.selection_bias, score == Sigmoid, "{name}");
        assert_eq!(c.capacity(), None, "{name}");
    }
}

#[test]
fn costs_of_a_small_layer_by_hand() {
    // H = 8, I = 4, E = 6, K = 2; T = 10, so 20 rows.
    let config = MoeConfig::builder(8, 4, 6, 2).build().unwrap();
    let parameters = config.parameters();
    assert_eq!((parameters.router, parameters.experts), (48, 576));
    assert_eq!((parameters.total(), parameters.active()), (624, 240));
    let (forward, backward) = (config.forward_flops(10), config.backward_flops(10));
    assert_eq!((forward.router, forward.experts), (960.0, 3840.0));
    assert_eq!((backward.router, backward.experts), (1920.0, 7680.0));
    assert_eq!(forward.total() + backward.total(), 14400.0);

    let bf16 = config.saved_bytes(10, BF16);
    assert_eq!((bf16.x, bf16.h), (160, 320));
    assert_eq!((bf16.topk_ids, bf16.topk_weights), (80, 80));
    assert_eq!((bf16.row_maps, bf16.offsets, bf16.logsumexp), (160, 52, 40));
    assert_eq!(bf16.statistics, 4 * (5 + 2 + 6));
    // The contract's 2H + 4·I·K + O(K) bytes a token, O(K) spelt out.
    assert_eq!(
        bf16.total(),
        10 * (2 * 8 + 4 * 4 * 2 + 16 * 2 + 4) + 4 * (2 * 6 + 1) + 4 * (5 + 2 + 6)
    );
    assert_eq!(bf16.total_without_h(), bf16.total() - 320);
    let f32 = config.saved_bytes(10, F32);
    assert_eq!((f32.x, f32.h), (320, 640));
    assert_eq!(f32.row_maps, bf16.row_maps);

    // Each expert: rows in, weights in, result out, for both products, h's write not counted.
    let rows = 20.0 / 6.0;
    let flops = 6.0 * rows * 4.0 * 8.0;
    let up = rows * 8.0 + 2.0 * 4.0 * 8.0 + rows * 4.0;
    let down = rows * 4.0 + 4.0 * 8.0 + rows * 8.0;
    for (element_bytes, bytes) in [(BF16, 2.0 * (up + down)), (F32, 4.0 * (up + down))] {
        let intensity = config.arithmetic_intensity(10, element_bytes);
        assert_abs_diff_eq!(intensity, flops / bytes, epsilon = 1e-12);
    }
    assert_abs_diff_eq!(
        config.padding_share(10, 16),
        8.0 * 6.0 / 20.0,
        epsilon = 1e-12
    );
}

#[test]
fn capacity_bounds_the_rows_that_are_paid_for() {
    let layer = |capacity: Option<f64>| {
        let builder = MoeConfig::builder(8, 4, 4, 2);
        match capacity {
            Some(factor) => builder.capacity(Capacity::new(factor)),
            None => builder,
        }
        .build()
        .unwrap()
    };
    // T = 16: 32 assignments; at factor 0.5 an expert keeps 4, so 16 rows at most.
    let (all, half, loose, none) = (
        layer(None),
        layer(Some(0.5)),
        layer(Some(1.5)),
        layer(Some(0.0)),
    );
    assert_eq!(
        half.forward_flops(16).experts * 2.0,
        all.forward_flops(16).experts
    );
    assert_eq!(
        half.backward_flops(16).router,
        all.backward_flops(16).router
    );
    assert_eq!(
        half.saved_bytes(16, BF16).h * 2,
        all.saved_bytes(16, BF16).h
    );
    // Ids, weights and one of the two maps hold every assignment, dropped or not; the other map only rows.
    let dropped = all.max_rows(16) - half.max_rows(16);
    assert_eq!(
        half.saved_bytes(16, BF16).total_without_h() + 4 * dropped as u64,
        all.saved_bytes(16, BF16).total_without_h()
    );
    assert_eq!(loose.saved_bytes(16, BF16), all.saved_bytes(16, BF16));
    assert_eq!(none.forward_flops(16).experts, 0.0);
    assert_eq!(none.arithmetic_intensity(16, BF16), 0.0);
    assert_eq!(none.padding_share(16, 128), 0.0);
}

#[test]
fn no_tokens_cost_nothing() {
    let config = preset("DeepSeek-V3").config;
    assert_eq!(config.forward_flops(0).total(), 0.0);
    assert_eq!(
        config.saved_bytes(0, BF16).total(),
        4 * (2 * 256 + 1) + 4 * (5 + 8 + 256)
    );
    assert_eq!(config.arithmetic_intensity(0, BF16), 0.0);
    assert_eq!(config.padding_share(0, 128), 0.0);
}

/// The table of compute-optimal models of arXiv 2402.07871: active parameters, tokens, G, FLOPs, loss; then what follows
/// from them, as calculated independently of this crate: d, experts, width of one, routing against the rest in percent.
const COMPUTE_OPTIMAL: [([f64; 5], [&str; 4]); 7] = [
    (
        [1e8, 4.37e9, 8.0, 2.95e18, 3.133],
        ["811", "512", "405", "12.3"],
    ),
    (
        [1e9, 28.94e9, 16.0, 1.93e20, 2.491],
        ["1747", "1024", "437", "11.4"],
    ),
    (
        [3e9, 72.90e9, 16.0, 1.41e21, 2.245],
        ["2520", "1024", "630", "7.9"],
    ),
    (
        [7e9, 137.60e9, 32.0, 6.46e21, 2.076],
        ["3342", "2048", "418", "11.9"],
    ),
    (
        [70e9, 941.07e9, 32.0, 4.16e23, 1.694],
        ["7201", "2048", "900", "5.5"],
    ),
    (
        [300e9, 2.96e12, 64.0, 5.69e24, 1.503],
        ["11696", "4096", "731", "6.8"],
    ),
    (
        [1e12, 7.94e12, 64.0, 4.97e25, 1.367],
        ["17472", "4096", "1092", "4.6"],
    ),
];

#[test]
fn scaling_law_gives_the_papers_flops_and_losses() {
    let cost = FlopCost::default();
    for ([active, tokens, granularity, flops, loss], derived) in COMPUTE_OPTIMAL {
        let model = Transformer::with_active_parameters(active, 64.0, granularity);
        assert_abs_diff_eq!(model.active_parameters() / active, 1.0, epsilon = 1e-12);
        assert_abs_diff_eq!(model.parameters() / active, 43.0, epsilon = 1e-9);
        let ratio = model.flops_per_token(&cost) * tokens / flops;
        assert!(
            abs_diff_eq!(ratio, 1.0, epsilon = 0.01),
            "{active:e}: FLOPs {ratio} of the paper's"
        );
        let lower = loss - ScalingLaw::MOE_E64.loss(model.parameters(), tokens, granularity);
        assert!(
            (0.011..0.0235).contains(&lower),
            "{active:e}: loss {lower} below the paper's"
        );
        let routing = model.routing_share(&cost);
        let [hidden_size, experts, width, routing_to_rest] = derived;
        assert_rounds_to(hidden_size, model.hidden_size, "d");
        assert_rounds_to(experts, model.num_experts(), "experts");
        assert_rounds_to(width, model.expert_width(), "expert width");
        assert_rounds_to(
            routing_to_rest,
            100.0 * routing / (1.0 - routing),
            "routing",
        );
    }
}

#[test]
fn the_optimum_of_each_budget_is_the_papers() {
    let cost = FlopCost::default();
    let granularities = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    for ([active, tokens, granularity, flops, loss], _) in COMPUTE_OPTIMAL {
        let law = ScalingLaw::MOE_E64;
        let best = law
            .compute_optimal_granularity(&cost, flops, &granularities)
            .unwrap();
        assert_eq!(best.model.granularity, granularity, "{flops:e} FLOPs");
        let [size, data] = [
            best.model.active_parameters() / active,
            best.tokens / tokens,
        ];
        assert!(
            abs_diff_eq!(size, 1.0, epsilon = 0.03),
            "{flops:e} FLOPs: {size} of the paper's N"
        );
        assert!(
            abs_diff_eq!(data, 1.0, epsilon = 0.03),
            "{flops:e} FLOPs: {data} of the paper's D"
        );
        assert!(
            (0.011..0.024).contains(&(loss - best.loss)),
            "{flops:e} FLOPs: {}",
            best.loss
        );
        // The budget is spent, and a little more or less width is worse.
        let spent = best.model.flops_per_token(&cost) * best.tokens;
        assert_abs_diff_eq!(spent / flops, 1.0, epsilon = 1e-12);
        for factor in [0.98, 1.02] {
            let other = Transformer::new(factor * best.model.hidden_size, 64.0, granularity);
            let tokens = flops / other.flops_per_token(&cost);
            assert!(law.loss(other.parameters(), tokens, granularity) > best.loss);
        }
    }
}

/// "A dense model needs 20 times the compute" at 1e20 FLOPs.
#[test]
fn a_dense_model_needs_twenty_times_the_compute() {
    let cost = FlopCost::default();
    let moe = ScalingLaw::MOE_E64
        .compute_optimal_granularity(&cost, 1e20, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
        .unwrap();
    let dense = |times: f64| {
        ScalingLaw::DENSE
            .compute_optimal(&cost, times * 1e20, 1.0)
            .unwrap()
            .loss
    };
    assert!(dense(20.0) > moe.loss && moe.loss > dense(22.0));
    // Twelve d² a block and nothing to route.
    let model = Transformer::new(640.0, 1.0, 1.0);
    assert_eq!(model.parameters(), 12.0 * 640.0 * 640.0 * 10.0);
    assert_eq!(model.flops_per_token(&cost), 6.0 * model.parameters());
}

/// Losses of the four fits at the points below.
const EXPECTED: [[f64; 4]; 4] = [
    [
        3.377234283761,
        3.222294103520,
        2.732950940946,
        2.920816023256,
    ],
    [
        3.387642981738,
        3.232815956475,
        2.751606960249,
        2.939385863771,
    ],
    [
        3.231191980612,
        3.146721332347,
        2.646066797107,
        2.667536278782,
    ],
    [
        3.101132501405,
        3.101132501405,
        2.656065745163,
        2.539710666312,
    ],
];

/// Every constant of every fit, at four points, from the formula evaluated outside this crate.
#[test]
fn every_fit_has_the_papers_constants() {
    let cases = [
        (ScalingLaw::MOE_E64, 64.0, EXPECTED[0]),
        (ScalingLaw::MOE_E64_WITHOUT_BEST_RUNS, 64.0, EXPECTED[1]),
        (ScalingLaw::MOE_E16, 16.0, EXPECTED[2]),
        (ScalingLaw::DENSE, 1.0, EXPECTED[3]),
    ];
    for (law, expansion_rate, expected) in cases {
        assert_eq!(law.expansion_rate, expansion_rate);
        let points = [
            (1e9, 1e10, 1.0),
            (1e9, 1e10, 16.0),
            (4e10, 1e10, 1.0),
            (1e9, 5e11, 1.0),
        ];
        for ((parameters, tokens, granularity), expected) in points.into_iter().zip(expected) {
            let loss = law.loss(parameters, tokens, granularity);
            assert!(
                abs_diff_eq!(loss, expected, epsilon = 1e-9),
                "{law:?}: {loss}, not {expected}"
            );
        }
    }
}

#[test]
fn budgets_and_granularities_that_cannot_be_are_refused() {
    let (law, cost) = (ScalingLaw::MOE_E64, FlopCost::default());
    for budget in [0.0, -1e20, f64::INFINITY, f64::NAN] {
        let error = law.compute_optimal(&cost, budget, 8.0).unwrap_err();
        assert!(
            error.to_string().starts_with("FLOP budget must be"),
            "{error}"
        );
    }
    for granularity in [0.5, f64::INFINITY, f64::NAN] {
        let error = law.compute_optimal(&cost, 1e20, granularity).unwrap_err();
        assert!(
            error.to_string().starts_with("granularity must be"),
            "{error}"
        );
    }
    let error = law
        .compute_optimal_granularity(&cost, 1e20, &[])
        .unwrap_err();
    assert_eq!(
        error,
        ConfigError::Zero {
            what: "number of granularities"
        }
    );
    // Absurd budgets still have an optimum.
    for budget in [1e-300, 1.0, 1e300] {
        let best = law.compute_optimal(&cost, budget, 8.0).unwrap();
        let spent = best.model.flops_per_token(&cost) * best.tokens;
        assert_abs_diff_eq!(spent / budget, 1.0, epsilon = 1e-9);
        assert!(best.loss.is_finite());
    }
}

/// GPT-OSS alone has experts other than SwiGLU without biases; its 20B model has 20.9 billion parameters, of which attention and the
/// vocabulary are 1.8.
#[test]
fn gpt_oss_has_biases_and_clamps() {
    for preset in presets::all() {
        let (activation, bias) = match preset.name.starts_with("GPT-OSS") {
            true => (Activation::GPT_OSS, ExpertBias::GateUpAndDown),
            false => (Activation::SwiGlu, ExpertBias::None),
        };
        let config = &preset.config;
        assert_eq!(
            (config.activation(), config.expert_bias()),
            (activation, bias)
        );
    }
    let parameters = preset("GPT-OSS-20B").config.parameters();
    assert_eq!(parameters.experts, 32 * (3 * 2880 * 2880 + 3 * 2880));
    assert_rounds_to(
        "19.12",
        24.0 * parameters.experts as f64 / 1e9,
        "GPT-OSS-20B",
    );
    assert_eq!(parameters.active_experts * 8, parameters.experts);
}
