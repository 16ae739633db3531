//! Counts what the kernels of routing do, on the emulator: launches, global bytes over the fewest possible, sectors, conflicts in
//! shared memory, instructions per token. The tables of docs/kernels.md.
//!
//! ```sh
//! cargo run --features cuda --example count_routing
//! ```
//!
//! x is bf16, H = 2048, routing random. Counts are exact, but for what a model of the L2 cache says; they are not times. Beside ours
//! stand naive kernels (one thread per token or per element), which nvcc compiles when it is found (NVCC, or where
//! `cargo xtask nvcc` puts it).

mod counting;

use millet::cuda::View;
use millet::cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg};
use millet::half::bf16;
use millet::{
    Capacity, Cuda, Dispatch, DispatchForward, Logits, Losses, Memory, MoeConfig, Permute,
    PermuteBackward, PermuteForward, Plan, Router, RouterBackward, RouterForward, RouterPart,
    RouterWeightGrad, UnpermuteBackward, UnpermuteForward, WeightGrad, stats_elements,
};

use counting::{Launch, Result, compile, counted, counting_device};

const HIDDEN: usize = 2048;

/// Bytes from and to memory behind the L2 model: what it misses, and what is stored for the first time.
fn memory_bytes(launch: &Launch) -> f64 {
    32.0 * launch.count("l2_sector_misses") + launch.count("first_written_bytes")
}

/// Numbers of mean 0, reproducible.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len)
        .map(|_| uniform() + uniform() + uniform())
        .collect()
}

struct Table {
    tokens: usize,
}

impl Table {
    fn head(&self) {
        println!(
            "| operation | kernel | floor, MB | memory / floor | sectors used: loads, stores | conflicts / wavefronts | thread instructions per token |"
        );
        println!("|---|---|---|---|---|---|---|");
    }

    fn row(&self, operation: &str, floor_bytes: usize, launches: &[Launch]) {
        let sum = |f: &dyn Fn(&Launch) -> f64| launches.iter().map(f).sum::<f64>();
        let count = |name: &str| sum(&|launch| launch.count(name));
        let share = |bytes: &str, sectors: &str| match count(sectors) {
            0.0 => "–".into(),
            sectors => format!(
                "{:.0} %",
                (100.0 * count(bytes) / (32.0 * sectors)).min(100.0)
            ),
        };
        let kernels: Vec<_> = launches.iter().map(Launch::kernel).collect();
        println!(
            "| {operation} | {} | {:.2} | {:.3} | {}, {} | {:.0} / {:.0} | {:.0} |",
            kernels.join(", "),
            floor_bytes as f64 / 1e6,
            sum(&memory_bytes) / floor_bytes as f64,
            share("global_load_bytes", "global_load_sectors"),
            share("global_store_bytes", "global_store_sectors"),
            count("shared_bank_conflicts"),
            count("shared_wavefronts"),
            count("thread_instructions") / self.tokens as f64,
        );
    }
}

fn routing(cuda: &Cuda, tokens: usize, experts: usize, top_k: usize) -> Result<()> {
    println!("\n### T={tokens}, E={experts}, K={top_k}, H={HIDDEN}\n");
    let table = Table { tokens };
    table.head();
    let base = || MoeConfig::builder(HIDDEN, 64, experts, top_k).losses(Losses::new(1e-2, 1e-3));
    let config = base().build()?;
    let (assignments, rows) = (tokens * top_k, config.max_rows(tokens));
    let logits = noise(tokens * experts, 1);
    let narrow = |values: &[f32]| {
        values
            .iter()
            .map(|&v| bf16::from_f32(v))
            .collect::<Vec<_>>()
    };
    let logits_narrow = cuda.upload(&narrow(&logits))?;
    let logits = cuda.upload(&logits)?;
    let x = cuda.upload(&narrow(&noise(tokens * HIDDEN, 2)))?;
    let weight = cuda.upload(&narrow(&noise(experts * HIDDEN, 3)))?;
    let mut ids = cuda.allocate::<i32>(assignments)?;
    let mut weights = cuda.allocate::<f32>(assignments)?;
    let mut lse = cuda.allocate::<f32>(tokens)?;
    let mut counts = cuda.allocate::<i32>(experts)?;
    let mut stats = cuda.allocate::<f32>(stats_elements(&config))?;
    let mut scratch = cuda.allocate::<f32>(cuda.scratch_elements::<bf16>(&config, tokens))?;
    let (token_bytes, weight_bytes) = (2 * tokens * HIDDEN, 2 * experts * HIDDEN);
    let routed_bytes = 8 * assignments + 4 * tokens + 4 * (stats_elements(&config) + experts);

    let inputs = [
        (
            "router, f32 logits",
            Logits::Given(View::from(&logits)),
            4 * tokens * experts,
        ),
        (
            "router, bf16 logits",
            Logits::GivenNarrow(View::from(&logits_narrow)),
            2 * tokens * experts,
        ),
        (
            "router, from tokens",
            Logits::FromTokens {
                x: View::from(&x),
                weight: View::from(&weight),
            },
            token_bytes + weight_bytes,
        ),
    ];
    for (name, logits, bytes) in inputs {
        let launches = counted(cuda, || {
            cuda.router_forward(RouterForward::<Cuda, bf16> {
                config: &config,
                tokens,
                logits,
                selection_bias: None,
                ids: ids.as_view_mut(),
                weights: weights.as_view_mut(),
                lse: lse.as_view_mut(),
                counts: counts.as_view_mut(),
                stats: stats.as_view_mut(),
                logits_output: None,
                scratch: scratch.as_view_mut(),
            })
        })?;
        table.row(name, bytes + routed_bytes, &launches);
    }

    let dropping = base().capacity(Capacity::new(1.5)).build()?;
    let mut dropping_plan = Plan::new(cuda, &dropping, tokens)?;
    let mut plan = Plan::new(cuda, &config, tokens)?;
    for (name, config, plan) in [
        ("dispatch, capacity 1.5", &dropping, &mut dropping_plan),
        ("dispatch", &config, &mut plan),
    ] {
        let rows = config.max_rows(tokens);
        let launches = counted(cuda, || {
            cuda.dispatch(DispatchForward {
                config,
                tokens,
                ids: View::from(&ids),
                weights: weights.as_view_mut(),
                plan,
                scratch: scratch.as_view_mut(),
            })
        })?;
        let floor =
            8 * assignments + 4 * rows + 4 * experts + 8 * cuda.row_tiles(config, tokens).most;
        table.row(name, floor, &launches);
    }

    let plan = &plan;
    let row_bytes = 2 * rows * HIDDEN;
    let mut permuted = cuda.allocate::<bf16>(rows * HIDDEN)?;
    let mut output = cuda.allocate::<bf16>(tokens * HIDDEN)?;
    let mut rows_grad = cuda.allocate::<bf16>(rows * HIDDEN)?;
    let mut weights_grad = cuda.allocate::<f32>(assignments)?;
    let launches = counted(cuda, || {
        cuda.permute(PermuteForward {
            plan,
            x: View::from(&x),
            rows: permuted.as_view_mut(),
        })
    })?;
    table.row(
        "permute",
        token_bytes + row_bytes + 4 * assignments,
        &launches,
    );
    let launches = counted(cuda, || {
        cuda.unpermute(UnpermuteForward {
            plan,
            rows: View::from(&permuted),
            weights: View::from(&weights),
            output: output.as_view_mut(),
        })
    })?;
    table.row(
        "unpermute",
        token_bytes + row_bytes + 8 * assignments,
        &launches,
    );
    let launches = counted(cuda, || {
        cuda.unpermute_backward(UnpermuteBackward {
            plan,
            output_grad: View::from(&output),
            rows: View::from(&permuted),
            weights: View::from(&weights),
            rows_grad: rows_grad.as_view_mut(),
            weights_grad: weights_grad.as_view_mut(),
        })
    })?;
    table.row(
        "unpermute backward",
        token_bytes + 2 * row_bytes + 12 * assignments,
        &launches,
    );

    let mut logits_grad = cuda.allocate::<f32>(tokens * experts)?;
    let saved_bytes = 12 * assignments + 4 * tokens + 4 * experts;
    for (name, logits, bytes) in inputs {
        let launches = counted(cuda, || {
            cuda.router_backward(RouterBackward::<Cuda, bf16> {
                config: &config,
                tokens,
                logits,
                ids: View::from(&ids),
                weights: View::from(&weights),
                lse: View::from(&lse),
                counts: View::from(&counts),
                weights_grad: View::from(&weights_grad),
                loss_gradient: 1.0,
                logits_grad: logits_grad.as_view_mut(),
                scratch: scratch.as_view_mut(),
            })
        })?;
        let floor = bytes + saved_bytes + 4 * tokens * experts;
        table.row(&name.replace("router", "router backward"), floor, &launches);
    }
    let dz_bytes = 4 * tokens * experts;
    let mut grad = cuda.allocate::<bf16>(experts * HIDDEN)?;
    let launches = counted(cuda, || {
        cuda.router_weight_grad(RouterWeightGrad::<Cuda, bf16> {
            config: &config,
            tokens,
            logits_grad: View::from(&logits_grad),
            x: View::from(&x),
            grad: WeightGrad::Overwrite(grad.as_view_mut()),
            scratch: scratch.as_view_mut(),
        })
    })?;
    table.row(
        "router weight gradient",
        dz_bytes + token_bytes + weight_bytes,
        &launches,
    );
    for (name, part) in [
        ("combine, permute backward", false),
        ("permute backward with the router's part", true),
    ] {
        let router = part.then_some(RouterPart {
            logits_grad: View::from(&logits_grad),
            weight: View::from(&weight),
        });
        let launches = counted(cuda, || {
            cuda.permute_backward(PermuteBackward::<Cuda, bf16> {
                plan,
                rows_grad: View::from(&permuted),
                router,
                x_grad: output.as_view_mut(),
                scratch: scratch.as_view_mut(),
            })
        })?;
        let router_bytes = if part { dz_bytes + weight_bytes } else { 0 };
        table.row(
            name,
            token_bytes + row_bytes + 4 * assignments + router_bytes,
            &launches,
        );
    }
    naive(cuda, &table, plan, &ids, [&logits, &weights], &permuted)
}

/// What somebody would write first.
const NAIVE: &str = r#"
#include <cuda_bf16.h>
// One thread per token: softmax over the K selected, by K passes over the row.
extern "C" __global__ void naive_router(const float *logits, int *ids, float *weights, float *lse, int tokens, int experts, int top_k) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= tokens) return;
    const float *z = logits + (long long)t * experts;
    float max = -INFINITY, sum = 0.0f, total = 0.0f;
    for (int e = 0; e < experts; e++) max = fmaxf(max, z[e]);
    for (int e = 0; e < experts; e++) sum += expf(z[e] - max);
    lse[t] = max + logf(sum);
    for (int k = 0; k < top_k; k++) {
        int best = -1;
        for (int e = 0; e < experts; e++) {
            bool taken = false;
            for (int j = 0; j < k; j++) taken |= ids[t * top_k + j] == e;
            if (!taken && (best < 0 || z[e] > z[best])) best = e;
        }
        ids[t * top_k + k] = best;
        weights[t * top_k + k] = expf(z[best] - max);
        total += weights[t * top_k + k];
    }
    for (int k = 0; k < top_k; k++) weights[t * top_k + k] /= total;
}
// A thread an element of the output.
extern "C" __global__ void naive_combine(const __nv_bfloat16 *rows, const float *weights, const int *to_row, __nv_bfloat16 *out, int tokens,
                                         int top_k, int hidden) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)tokens * hidden) return;
    long long t = i / hidden;
    float sum = 0.0f;
    for (int k = 0; k < top_k; k++) {
        int row = to_row[t * top_k + k];
        if (row >= 0) sum += weights[t * top_k + k] * __bfloat162float(rows[(long long)row * hidden + i % hidden]);
    }
    out[i] = __float2bfloat16(sum);
}
"#;

fn naive(
    cuda: &Cuda,
    table: &Table,
    plan: &Plan<Cuda>,
    ids: &CudaSlice<i32>,
    [logits, weights]: [&CudaSlice<f32>; 2],
    rows: &CudaSlice<bf16>,
) -> Result<()> {
    let Some(module) = compile(cuda, NAIVE)? else {
        println!("\nno nvcc: the naive kernels are left out");
        return Ok(());
    };
    let (config, tokens) = (plan.config(), plan.tokens());
    let stream = cuda.stream();
    let (to_row, _guard) = plan.map().assignment_to_row.address(stream);
    let (router, combine) = (
        module.load_function("naive_router")?,
        module.load_function("naive_combine")?,
    );
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let assignments = tokens * top_k;
    let mut out_ids = cuda.allocate::<i32>(ids.len())?;
    let mut out_weights = cuda.allocate::<f32>(weights.len())?;
    let mut lse = cuda.allocate::<f32>(tokens)?;
    let mut out = cuda.allocate::<bf16>(tokens * HIDDEN)?;
    let [tokens_, experts_, top_k_, hidden_] = [tokens, experts, top_k, HIDDEN].map(|n| n as i32);
    let launches = counted(cuda, || {
        let mut launch = stream.launch_builder(&router);
        launch
            .arg(logits)
            .arg(&mut out_ids)
            .arg(&mut out_weights)
            .arg(&mut lse);
        launch.arg(&tokens_).arg(&experts_).arg(&top_k_);
        // SAFETY: the arguments are the kernel's, and the buffers as large as it takes them to be.
        unsafe { launch.launch(grid(tokens)) }.map(|_| ())
    })?;
    table.row(
        "naive router",
        4 * tokens * experts + 8 * assignments + 4 * tokens,
        &launches,
    );
    let launches = counted(cuda, || {
        let mut launch = stream.launch_builder(&combine);
        launch.arg(rows).arg(weights).arg(&to_row).arg(&mut out);
        launch.arg(&tokens_).arg(&top_k_).arg(&hidden_);
        // SAFETY: as above.
        unsafe { launch.launch(grid(tokens * HIDDEN)) }.map(|_| ())
    })?;
    let floor = 2 * tokens * HIDDEN + 2 * config.max_rows(tokens) * HIDDEN + 8 * assignments;
    table.row("naive combine", floor, &launches);
    Ok(())
}

/// One thread an element.
fn grid(elements: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (elements.div_ceil(256) as u32, 1, 1),
        block_dim: (256, 1, 1),
        shared_mem_bytes: 0,
    }
}

fn main() -> Result<()> {
    let cuda = counting_device()?;
    let tokens = std::env::args()
        .nth(1)
        .map_or(Ok(8192), |text| text.parse())?;
    routing(&cuda, tokens, 128, 8)?;
    routing(&cuda, tokens, 512, 10)
}
