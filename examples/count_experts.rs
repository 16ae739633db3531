//! Counts what the experts' products do, on the emulator: global bytes over the fewest possible, tensor operations over
//! useful ones, conflicts in shared memory, instructions. The tables of docs/kernels.md.
//!
//! ```sh
//! cargo run --features cuda --example count_experts [part of a layer's name [part of a kernel's name]]
//! ```
//!
//! Shapes are those of published layers, T and E scaled down by the same factor: an expert has as many rows as in the layer,
//! and K is the layer's. Routing is random, every token to K different experts. Counts are exact, but for what a model of
//! the L2 cache says; they are not times. A last table sets one product beside a naive one (one thread per element), which nvcc
//! compiles when it is found (NVCC, or where `cargo xtask nvcc` puts it).

mod counting;

use millet::cuda::View;
use millet::cudarc::driver::{LaunchConfig, PushKernelArg};
use millet::half::bf16;
use millet::{
    Cuda, Dispatch, DispatchForward, Experts, ExpertsDown, ExpertsDownBackward,
    ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, Memory, MoeConfig,
    Plan, RouterPart, WeightGrad,
};

use counting::{Launch, Result, compile, counted, counting_device};

/// A layer as published and the factor that T and E are divided by.
struct Layer {
    name: &'static str,
    tokens: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    scale: usize,
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "OLMoE",
        tokens: 4096,
        hidden: 2048,
        inner: 1024,
        experts: 64,
        top_k: 8,
        scale: 4,
    },
    Layer {
        name: "Qwen3-30B-A3B",
        tokens: 4096,
        hidden: 2048,
        inner: 768,
        experts: 128,
        top_k: 8,
        scale: 8,
    },
    Layer {
        name: "Granite-1B",
        tokens: 4096,
        hidden: 1024,
        inner: 512,
        experts: 32,
        top_k: 8,
        scale: 2,
    },
    Layer {
        name: "SonicMoE-7B-n256",
        tokens: 24576,
        hidden: 1536,
        inner: 256,
        experts: 128,
        top_k: 8,
        scale: 8,
    },
    Layer {
        name: "Qwen3-30B-A3B, few tokens",
        tokens: 1024,
        hidden: 2048,
        inner: 768,
        experts: 128,
        top_k: 8,
        scale: 8,
    },
];

/// Bytes from and to memory behind the L2 model: what it misses, and what is stored.
fn memory_bytes(launch: &Launch) -> f64 {
    32.0 * (launch.count("l2_sector_misses") + launch.count("global_store_sectors"))
}

/// A dispatch plan on the device, of random ids.
fn random_plan(cuda: &Cuda, config: &MoeConfig, tokens: usize) -> Result<Plan<Cuda>> {
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 33) as usize * n) >> 31
    };
    let mut ids = Vec::with_capacity(tokens * top_k);
    let mut order: Vec<i32> = (0..experts as i32).collect();
    for _ in 0..tokens {
        for slot in 0..top_k {
            order.swap(slot, slot + below(experts - slot));
        }
        ids.extend_from_slice(&order[..top_k]);
    }
    let mut plan = Plan::new(cuda, config, tokens)?;
    let ids = cuda.upload(&ids)?;
    let mut weights = cuda.allocate::<f32>(tokens * top_k)?;
    let mut scratch = cuda.allocate::<f32>(cuda.scratch_elements::<f32>(config, tokens))?;
    cuda.dispatch(DispatchForward {
        config,
        tokens,
        ids: View::from(&ids),
        weights: weights.as_view_mut(),
        plan: &mut plan,
        scratch: scratch.as_view_mut(),
    })?;
    Ok(plan)
}

fn count_layer(cuda: &Cuda, layer: &Layer, wanted: &str) -> Result<()> {
    let (tokens, experts) = (layer.tokens / layer.scale, layer.experts / layer.scale);
    let (hidden, inner) = (layer.hidden, layer.inner);
    let config = MoeConfig::builder(hidden, inner, experts, layer.top_k).build()?;
    let rows = config.max_rows(tokens);
    let plan = random_plan(cuda, &config, tokens)?;
    println!(
        "\n### {}: T={}, H={hidden}, I={inner}, E={}, K={} (here T={tokens}, E={experts}): {} rows per expert, tiles of {}\n",
        layer.name,
        layer.tokens,
        layer.experts,
        layer.top_k,
        rows / experts,
        plan.row_tiles().height,
    );
    println!(
        "| kernel | floor, MB | memory / floor | from L2 / floor | tensor / useful FLOP | conflicts / wavefronts | instructions / mma |"
    );
    println!("|---|---|---|---|---|---|---|");

    let allocate = |elements: usize| cuda.allocate::<bf16>(elements);
    let x = allocate(tokens * hidden)?;
    let (gate_up, down) = (
        allocate(experts * 2 * inner * hidden)?,
        allocate(experts * inner * hidden)?,
    );
    let (mut h, mut a) = (allocate(rows * 2 * inner)?, allocate(rows * inner)?);
    let mut output = allocate(tokens * hidden)?;
    let weights = cuda.upload(&vec![0.125f32; tokens * layer.top_k])?;
    let mut weights_grad = cuda.allocate::<f32>(tokens * layer.top_k)?;
    let mut scratch = cuda.allocate::<f32>(cuda.scratch_elements::<bf16>(&config, tokens))?;
    let (mut gate_up_grad, mut down_grad) = (
        allocate(experts * 2 * inner * hidden)?,
        allocate(experts * inner * hidden)?,
    );

    let [t, r, e, h_, i] = [tokens, rows, experts, hidden, inner].map(|n| n as f64);
    let print = |launches: Vec<Launch>, elements: f64, flops: f64| {
        for launch in launches {
            let tensor = launch.count("tensor_flops");
            if tensor == 0.0 || !launch.kernel().starts_with("experts_") {
                continue;
            }
            let floor = 2.0 * elements;
            println!(
                "| {} | {:.1} | {:.2} | {:.2} | {:.3} | {} / {:.2}M | {:.2} |",
                launch.kernel(),
                floor / 1e6,
                memory_bytes(&launch) / floor,
                32.0 * launch.count("global_load_sectors") / floor,
                tensor / flops,
                launch.count("shared_bank_conflicts"),
                launch.count("shared_wavefronts") / 1e6,
                launch.count("warp_instructions") / launch.count("tensor_instructions"),
            );
        }
    };

    if "experts_up".contains(wanted) {
        let launches = counted(cuda, || {
            cuda.experts_up(ExpertsUp::<Cuda, bf16> {
                plan: &plan,
                x: View::from(&x),
                gate_up: View::from(&gate_up),
                h: Some(h.as_view_mut()),
                a: a.as_view_mut(),
                scratch: scratch.as_view_mut(),
                bias: None,
            })
        })?;
        print(
            launches,
            t * h_ + 2.0 * e * i * h_ + 3.0 * r * i,
            4.0 * r * i * h_,
        );
    }
    if "experts_down".contains(wanted) {
        let launches = counted(cuda, || {
            cuda.experts_down(ExpertsDown::<Cuda, bf16> {
                plan: &plan,
                a: View::from(&a),
                down: View::from(&down),
                weights: View::from(&weights),
                output: output.as_view_mut(),
                scratch: scratch.as_view_mut(),
                bias: None,
            })
        })?;
        print(launches, r * i + e * i * h_ + r * h_, 2.0 * r * i * h_);
    }
    if "experts_down_backward".contains(wanted) {
        let launches = counted(cuda, || {
            cuda.experts_down_backward(ExpertsDownBackward::<Cuda, bf16> {
                plan: &plan,
                output_grad: View::from(&x),
                down: View::from(&down),
                weights: View::from(&weights),
                h: h.as_view_mut(),
                weighted_a: a.as_view_mut(),
                weights_grad: weights_grad.as_view_mut(),
                scratch: scratch.as_view_mut(),
                bias: None,
            })
        })?;
        print(
            launches,
            t * h_ + e * i * h_ + 5.0 * r * i,
            2.0 * r * i * h_,
        );
    }
    if "experts_down_weight_grad".contains(wanted) {
        let launches = counted(cuda, || {
            cuda.experts_down_weight_grad(ExpertsDownWeightGrad::<Cuda, bf16> {
                plan: &plan,
                output_grad: View::from(&x),
                weighted_a: View::from(&a),
                grad: WeightGrad::Overwrite(down_grad.as_view_mut()),
                scratch: scratch.as_view_mut(),
            })
        })?;
        print(launches, t * h_ + r * i + e * i * h_, 2.0 * r * i * h_);
    }
    if "experts_up_weight_grad".contains(wanted) {
        let launches = counted(cuda, || {
            cuda.experts_up_weight_grad(ExpertsUpWeightGrad::<Cuda, bf16> {
                plan: &plan,
                x: View::from(&x),
                h_grad: View::from(&h),
                grad: WeightGrad::Overwrite(gate_up_grad.as_view_mut()),
                scratch: scratch.as_view_mut(),
            })
        })?;
        print(
            launches,
            t * h_ + 2.0 * r * i + 2.0 * e * i * h_,
            4.0 * r * i * h_,
        );
    }
    if "experts_input_grad".contains(wanted) {
        let logits_grad = cuda.allocate::<f32>(tokens * experts)?;
        let router = allocate(experts * hidden)?;
        let launches = counted(cuda, || {
            cuda.experts_input_grad(ExpertsInputGrad::<Cuda, bf16> {
                plan: &plan,
                h_grad: View::from(&h),
                gate_up: View::from(&gate_up),
                router: RouterPart {
                    logits_grad: View::from(&logits_grad),
                    weight: View::from(&router),
                },
                x_grad: output.as_view_mut(),
                scratch: scratch.as_view_mut(),
            })
        })?;
        print(
            launches,
            2.0 * r * i + 2.0 * e * i * h_ + r * h_,
            4.0 * r * i * h_,
        );
    }
    Ok(())
}

/// One product, one thread per element.
const NAIVE: &str = r#"
#include <cuda_bf16.h>
extern "C" __global__ void naive_up(const __nv_bfloat16 *x, const __nv_bfloat16 *gate_up, const int *offsets,
                                    const int *row_to_assignment, int experts, int top_k, int hidden, int columns,
                                    __nv_bfloat16 *h) {
    int column = blockIdx.x * 16 + threadIdx.x, row = blockIdx.y * 16 + threadIdx.y;
    if (column >= columns || row >= offsets[experts]) return;
    int expert = 0;
    while (offsets[expert + 1] <= row) expert++;
    const __nv_bfloat16 *token = x + (long long)(row_to_assignment[row] / top_k) * hidden;
    const __nv_bfloat16 *weight = gate_up + ((long long)expert * columns + column) * hidden;
    float sum = 0.0f;
    for (int k = 0; k < hidden; k++) sum += __bfloat162float(token[k]) * __bfloat162float(weight[k]);
    h[(long long)row * columns + column] = __float2bfloat16(sum);
}
"#;

/// The up product beside the naive one, where both take little time to emulate.
fn compare_with_naive(cuda: &Cuda) -> Result<()> {
    let Some(module) = compile(cuda, NAIVE)? else {
        println!("\nno nvcc: the naive product is left out");
        return Ok(());
    };
    let naive = module.load_function("naive_up")?;

    let (tokens, hidden, inner, experts, top_k) = (256, 512, 256, 8, 4);
    let config = MoeConfig::builder(hidden, inner, experts, top_k).build()?;
    let rows = config.max_rows(tokens);
    let plan = random_plan(cuda, &config, tokens)?;
    let x = cuda.allocate::<bf16>(tokens * hidden)?;
    let gate_up = cuda.allocate::<bf16>(experts * 2 * inner * hidden)?;
    let mut h = cuda.allocate::<bf16>(rows * 2 * inner)?;
    let mut a = cuda.allocate::<bf16>(rows * inner)?;
    let mut scratch = cuda.allocate::<f32>(cuda.scratch_elements::<bf16>(&config, tokens))?;
    let ours = counted(cuda, || {
        cuda.experts_up(ExpertsUp::<Cuda, bf16> {
            plan: &plan,
            x: View::from(&x),
            gate_up: View::from(&gate_up),
            h: Some(h.as_view_mut()),
            a: a.as_view_mut(),
            scratch: scratch.as_view_mut(),
            bias: None,
        })
    })?;
    let grid = LaunchConfig {
        grid_dim: ((2 * inner / 16) as u32, rows.div_ceil(16) as u32, 1),
        block_dim: (16, 16, 1),
        shared_mem_bytes: 0,
    };
    let [experts_, top_k_, hidden_, columns] =
        [experts, top_k, hidden, 2 * inner].map(|n| n as i32);
    let stream = cuda.stream();
    let map = plan.map();
    let (offsets, _of_offsets) = map.offsets.address(stream);
    let (row_to_assignment, _of_rows) = map.row_to_assignment.address(stream);
    let mut launch = stream.launch_builder(&naive);
    launch
        .arg(&x)
        .arg(&gate_up)
        .arg(&offsets)
        .arg(&row_to_assignment);
    launch
        .arg(&experts_)
        .arg(&top_k_)
        .arg(&hidden_)
        .arg(&columns)
        .arg(&mut h);
    // SAFETY: the arguments are the kernel's, and the buffers as large as it takes them to be.
    let naive = counted(cuda, || unsafe { launch.launch(grid) }.map(|_| ()))?;

    println!(
        "\n### Beside a naive product: T={tokens}, H={hidden}, I={inner}, E={experts}, K={top_k}\n"
    );
    println!(
        "| kernel | bytes from L2 per FLOP | thread instructions per FLOP | load sectors / asked for |"
    );
    println!("|---|---|---|---|");
    let flops = 4.0 * (rows * inner * hidden) as f64;
    for launch in ours.iter().chain(&naive) {
        println!(
            "| {} | {:.4} | {:.4} | {:.2} |",
            launch.kernel(),
            32.0 * launch.count("global_load_sectors") / flops,
            launch.count("thread_instructions") / flops,
            32.0 * launch.count("global_load_sectors") / launch.count("global_load_bytes"),
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let kernel = arguments.next().unwrap_or_default();
    let cuda = counting_device()?;
    for layer in LAYERS.iter().filter(|layer| layer.name.contains(&wanted)) {
        count_layer(&cuda, layer, &kernel)?;
    }
    if "naive".contains(&wanted) {
        compare_with_naive(&cuda)?;
    }
    Ok(())
}
