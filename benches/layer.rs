//! The layer, forward and backward, against one large product on the same cores, and the four systems of arXiv 2506.02890
//! side by side. Prints ratios of what was measured in this run: absolute CPU times say little about another machine.
//!
//! `cargo bench --bench layer` runs all; `cargo bench --bench layer -- systems` a part.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode};
use millet::presets;
use millet::{
    BackwardInput, Cpu, Dispatch, DispatchForward, Gradients, Keep, Logits, Losses, Memory,
    MoeConfig, MoeLayer, Plan, Router, RouterBackward, RouterForward, RouterWeightGrad, WeightGrad,
    Weights, stats_elements,
};

/// Counts what is allocated now and at most.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Seconds of every iteration of each benchmark, to print ratios of medians.
#[derive(Default)]
struct Times(RefCell<BTreeMap<String, Vec<f64>>>);

impl Times {
    fn add(&self, name: &str, elapsed: Duration) {
        self.0
            .borrow_mut()
            .entry(name.into())
            .or_default()
            .push(elapsed.as_secs_f64());
    }

    /// The median, if it was measured.
    fn get(&self, name: &str) -> Option<f64> {
        let mut times = self.0.borrow().get(name)?.clone();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }
}

fn measure(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    times: &Times,
    mut run: impl FnMut(),
) {
    let mut group = criterion.benchmark_group(group);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let start = Instant::now();
                run();
                let elapsed = start.elapsed();
                total += elapsed;
                times.add(name, elapsed);
            }
            total
        });
    });
    group.finish();
}

/// Values of order 1 that look random.
fn values(n: usize, scale: f32) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1.7 * scale
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// A layer with everything it needs, as a trainer holds it.
struct Case {
    layer: MoeLayer<Cpu>,
    tokens: usize,
    x: Vec<f32>,
    output: Vec<f32>,
    x_grad: Vec<f32>,
    weights: [Vec<f32>; 3],
    gradients: [Vec<f32>; 3],
    saved: millet::Saved<Cpu, f32>,
    workspace: millet::Workspace<Cpu, f32>,
}

impl Case {
    fn new(config: MoeConfig, tokens: usize, keep: Keep) -> Self {
        let (hidden, inner, experts) = (
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
        );
        let sizes = [
            experts * hidden,
            experts * 2 * inner * hidden,
            experts * hidden * inner,
        ];
        let scales = [hidden, hidden, inner].map(|n| (n as f32).powf(-0.5));
        let layer = MoeLayer::new(Cpu, config);
        Self {
            tokens,
            x: values(tokens * hidden, 1.0),
            output: vec![0.0; tokens * hidden],
            x_grad: vec![0.0; tokens * hidden],
            weights: std::array::from_fn(|i| values(sizes[i], scales[i])),
            gradients: sizes.map(|n| vec![0.0; n]),
            saved: layer.saved(tokens, keep).expect("fits"),
            workspace: layer.workspace(tokens, keep).expect("fits"),
            layer,
        }
    }

    fn weights(&self) -> Weights<'_, Cpu, f32> {
        let [router, gate_up, down] = &self.weights;
        Weights {
            router,
            selection_bias: None,
            gate_up,
            down,
            expert_bias: None,
        }
    }

    fn forward(&mut self) {
        let [router, gate_up, down] = &self.weights;
        let weights = Weights::<Cpu, f32> {
            router,
            selection_bias: None,
            gate_up,
            down,
            expert_bias: None,
        };
        let result = self.layer.forward(
            weights,
            &self.x,
            &mut self.output,
            &mut self.saved,
            &mut self.workspace,
        );
        result.expect("shapes fit");
    }

    fn backward(&mut self) {
        let [router, gate_up, down] = &self.weights;
        let weights = Weights::<Cpu, f32> {
            router,
            selection_bias: None,
            gate_up,
            down,
            expert_bias: None,
        };
        let [router, gate_up, down] = &mut self.gradients;
        let gradients = Gradients::<Cpu, f32> {
            x: &mut self.x_grad,
            router: WeightGrad::Overwrite(&mut router[..]),
            gate_up: WeightGrad::Overwrite(&mut gate_up[..]),
            down: WeightGrad::Overwrite(&mut down[..]),
            expert_bias: None,
        };
        // The output serves as its own gradient: values of the right size.
        let input = BackwardInput {
            x: &self.x[..],
            output_grad: &self.output[..],
            loss_gradient: 1.0,
        };
        let result = self.layer.backward(
            weights,
            input,
            &mut self.saved,
            &mut self.workspace,
            gradients,
        );
        result.expect("shapes fit");
    }

    /// FLOPs of the experts alone, forward and backward: what a product's rate is compared with.
    fn expert_flops(&self) -> f64 {
        let config = self.layer.config();
        config.forward_flops(self.tokens).experts + config.backward_flops(self.tokens).experts
    }
}

/// The rate of one large product, all cores.
fn dense_product(criterion: &mut Criterion, times: &Times, name: &str) {
    const N: usize = 2048;
    let (a, b) = (values(N * N, 1.0), values(N * N, 1.0));
    let mut c = vec![0.0f32; N * N];
    measure(criterion, "product", name, times, || {
        let n = N as isize;
        // SAFETY: three N×N matrices, the output exclusively borrowed.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                N,
                N,
                N,
                c.as_mut_ptr(),
                n,
                1,
                false,
                b.as_ptr(),
                n,
                1,
                a.as_ptr(),
                n,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm_common::Parallelism::Rayon(0),
            );
        }
        black_box(&mut c);
    });
}

fn layer(criterion: &mut Criterion, times: &Times) {
    let (tokens, hidden, inner, experts, top_k) = (4096, 512, 256, 64, 8);
    let builder = MoeConfig::builder(hidden, inner, experts, top_k).losses(Losses::new(1e-2, 1e-3));
    let config = builder.build().expect("valid");

    // Memory first, while nothing else is alive.
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut case = Case::new(config.clone(), tokens, Keep::Hidden);
    case.forward();
    case.backward();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let floats = 4 * tokens * hidden + 2 * case.weights.iter().map(Vec::len).sum::<usize>();
    let saved = config.saved_bytes(tokens, 4);
    // x is among the inputs already; the output's gradient is the fourth tensor of T×H.
    let floor = floats * 4 + (saved.total() - saved.x) as usize;
    // This case lets the output be its own gradient, a trainer has one more.
    let peak = peak + tokens * hidden * 4;
    println!(
        "peak memory, forward and backward: {:.1} MiB = {:.3} of inputs, outputs, gradients and saved bytes ({:.1} MiB)",
        peak as f64 / 1048576.0,
        peak as f64 / floor as f64,
        floor as f64 / 1048576.0
    );

    dense_product(criterion, times, "2048x2048x2048");
    measure(criterion, "layer", "forward", times, || case.forward());
    measure(criterion, "layer", "forward+backward", times, || {
        case.forward();
        case.backward();
    });
    dense_product(criterion, times, "2048x2048x2048");
    let routing = routing_time(criterion, times, &case);
    if let (Some(product), Some(both)) =
        (times.get("2048x2048x2048"), times.get("forward+backward"))
    {
        let dense = 2.0 * 2048f64.powi(3) / product;
        let rate = case.expert_flops() / both;
        println!(
            "layer T={tokens} H={hidden} I={inner} E={experts} K={top_k}, f32, forward+backward:"
        );
        println!(
            "  {:.1} % of the FLOP rate of one 2048³ product",
            100.0 * rate / dense
        );
        if let Some(routing) = routing {
            println!(
                "  {:.1} % of the time is routing (all but the experts' products)",
                100.0 * routing / both
            );
        }
    }
}

/// Router forward, dispatch, router backward and the router's weight gradient, by themselves.
fn routing_time(criterion: &mut Criterion, times: &Times, case: &Case) -> Option<f64> {
    let (config, tokens) = (case.layer.config(), case.tokens);
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let assignments = tokens * top_k;
    let (mut ids, mut weights) = (vec![0; assignments], vec![0.0; assignments]);
    let (mut lse, mut counts) = (vec![0.0; tokens], vec![0; experts]);
    let mut stats = vec![0.0; stats_elements(config)];
    let mut plan = Plan::new(&Cpu, config, tokens).expect("fits");
    let weights_grad = values(assignments, 1.0);
    let mut logits_grad = vec![0.0; tokens * experts];
    let mut router_grad = vec![0.0_f32; case.weights[0].len()];
    let mut scratch = vec![0.0; Cpu.scratch_elements::<f32>(config, tokens)];
    let logits = Logits::FromTokens {
        x: &case.x[..],
        weight: case.weights().router,
    };
    measure(criterion, "layer", "routing", times, || {
        Cpu.router_forward(RouterForward::<Cpu, f32> {
            config,
            tokens,
            logits,
            selection_bias: None,
            ids: &mut ids,
            weights: &mut weights,
            lse: &mut lse,
            counts: &mut counts,
            stats: &mut stats,
            logits_output: None,
            scratch: &mut scratch,
        })
        .expect("fits");
        Cpu.dispatch(DispatchForward {
            config,
            tokens,
            ids: &ids,
            weights: &mut weights,
            plan: &mut plan,
            scratch: &mut scratch,
        })
        .expect("fits");
        Cpu.router_backward(RouterBackward::<Cpu, f32> {
            config,
            tokens,
            logits,
            ids: &ids,
            weights: &weights,
            lse: &lse,
            counts: &counts,
            weights_grad: &weights_grad,
            loss_gradient: 1.0,
            logits_grad: &mut logits_grad,
            scratch: &mut scratch,
        })
        .expect("fits");
        Cpu.router_weight_grad(RouterWeightGrad::<Cpu, f32> {
            config,
            tokens,
            logits_grad: &logits_grad,
            x: &case.x,
            grad: WeightGrad::Overwrite(&mut router_grad),
            scratch: &mut scratch,
        })
        .expect("fits");
    });
    times.get("routing")
}

/// The four systems at an eighth of the 11B width, H = 256 and d_ff = 1024: they differ in granularity and active experts only.
fn systems(criterion: &mut Criterion, times: &Times) {
    const TOKENS: usize = 4096;
    const WIDTH: usize = 256;
    let mut rows = Vec::new();
    for system in presets::System::ALL {
        let config = system
            .layer(WIDTH, 4 * WIDTH)
            .and_then(|b| b.build())
            .expect("valid");
        let mut case = Case::new(config, TOKENS, Keep::Hidden);
        let (forward, both) = (
            format!("{}, forward", system.name()),
            system.name().to_string(),
        );
        measure(criterion, "systems", &forward, times, || case.forward());
        measure(criterion, "systems", &both, times, || {
            case.forward();
            case.backward();
        });
        rows.push((system.name(), forward, both, case.expert_flops()));
    }
    let Some(first) = times.get(&rows[0].2) else {
        return;
    };
    println!(
        "the four systems at H={WIDTH}, d_ff={}, T={TOKENS}, capacity 1.5, f32:",
        4 * WIDTH
    );
    println!(
        "{:<14} {:>14} {:>22} {:>16}",
        "system", "tok/s forward", "tok/s forward+backward", "time, Switch = 1"
    );
    for (name, forward, both, _) in &rows {
        let (Some(forward), Some(both)) = (times.get(forward), times.get(both)) else {
            continue;
        };
        let rate = |seconds: f64| TOKENS as f64 / seconds;
        println!(
            "{name:<14} {:>14.0} {:>22.0} {:>16.2}",
            rate(forward),
            rate(both),
            both / first
        );
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let times = Times::default();
    layer(&mut criterion, &times);
    systems(&mut criterion, &times);
    criterion.final_summary();
}
