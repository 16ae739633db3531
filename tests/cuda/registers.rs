//! What ptxas says of the kernels: no spills, and registers within a budget.

/// What it said of every kernel for every architecture of this build.
const PTXAS: &str = include_str!(concat!(env!("OUT_DIR"), "/ptxas.txt"));

/// Registers of a multiprocessor, on every architecture from 8.0 to 12.0, and threads of a block.
const REGISTERS: u32 = 65536;
const THREADS: u32 = 256;

/// Threads that a multiprocessor can hold: no kernel needs registers for more blocks than that.
fn resident_threads(architecture: &str) -> u32 {
    match architecture {
        "sm_86" | "sm_89" | "sm_120" => 1536,
        _ => 2048,
    }
}

/// Blocks that a multiprocessor must have registers for, by the beginning of a kernel's name; the first that fits counts.
///
/// What waits for memory most of the time needs many warps; what computes on tiles in registers needs registers, and hides
/// latency by asynchronous copies or by what one warp has in flight.
const BLOCKS: &[(&str, u32)] = &[
    // A copy, one warp per token: as many warps as a multiprocessor holds.
    ("permute", 8),
    // Four rows per warp in flight at a time.
    ("unpermute", 4),
    ("dispatch", 4),
    ("router_backward", 6),
    // The keys of a row in registers, and room for the loads of the next.
    ("router_forward", 2),
    // Tensor cores: accumulators of 64 tokens × 128 experts, of f32 in three parts; of up to 512 experts.
    ("router_tokens_128_f32", 1),
    ("router_tokens_128_bf16_f32", 1),
    ("router_tokens_128_f16_f32", 1),
    ("router_tokens_128", 2),
    ("router_tokens_backward_128", 2),
    ("router_tokens", 1),
    ("router_logits_f32", 1),
    ("router_logits_bf16_f32", 1),
    ("router_logits_f16_f32", 1),
    ("router_logits", 2),
    ("router_input_grad", 2),
    ("router_weight_grad_f32", 1),
    ("router_weight_grad", 2),
    // One sum per assignment; tiles of up to 128×128.
    ("experts_weights_grad", 8),
    ("experts_", 1),
];

#[derive(Debug)]
struct Kernel {
    name: &'static str,
    architecture: &'static str,
    registers: u32,
    spilled_bytes: u32,
}

fn kernels() -> Vec<Kernel> {
    let number_before = |line: &str, what: &str| -> u32 {
        let before = line.split(what).next().unwrap();
        before.split_whitespace().last().unwrap().parse().unwrap()
    };
    let mut all = Vec::new();
    let mut architecture = "";
    let mut lines = PTXAS.lines();
    while let Some(line) = lines.next() {
        if line.contains("Compiling entry function") {
            architecture = line.split('\'').nth(3).unwrap();
        }
        if let Some((_, name)) = line.split_once("Function properties for ") {
            let (spills, usage) = (lines.next().unwrap(), lines.next().unwrap());
            all.push(Kernel {
                name: name.trim(),
                architecture,
                registers: number_before(usage, " registers,"),
                spilled_bytes: number_before(spills, " bytes spill stores")
                    + number_before(spills, " bytes spill loads"),
            });
        }
    }
    all
}

#[test]
fn no_kernel_spills() {
    let kernels = kernels();
    assert!(kernels.len() > 10, "{}", kernels.len());
    for kernel in kernels {
        assert_eq!(kernel.spilled_bytes, 0, "{kernel:?}");
    }
}

#[test]
fn every_kernel_is_within_its_budget() {
    for kernel in kernels() {
        let fits = |(prefix, _): &&(&str, u32)| kernel.name.starts_with(prefix);
        let Some((_, blocks)) = BLOCKS.iter().find(fits) else {
            panic!("{kernel:?} has no budget");
        };
        let blocks = resident_threads(kernel.architecture).min(blocks * THREADS) / THREADS;
        // Registers are handed out to a warp in units of 8 per thread; a thread has at most 255.
        let budget = (REGISTERS / THREADS / blocks / 8 * 8).min(255);
        assert!(
            kernel.registers <= budget,
            "{kernel:?}: at most {budget} for {blocks} blocks of {THREADS} threads"
        );
    }
}
