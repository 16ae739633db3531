//! A model of GPU time: a launch takes as long as the slowest of its tensor cores, its memory and its L2, each at the rate that the
//! vendor names. It is an estimate, not a bound: it leaves out launches, tails, latency and instructions that are no products, but counts
//! begin with an empty L2 at each launch and are those of one size of L2 for every GPU. The misfit of the same method on other kernels
//! is in [`PUBLISHED`].

use super::records::Count;

pub(super) struct Gpu {
    pub(super) name: &'static str,
    /// As the driver names it.
    pub(super) device: &'static str,
    /// FLOP/s of dense bf16 products with sums in f32.
    tensor: f64,
    /// Bytes/s.
    memory: f64,
    /// Bytes/s from L2 to all multiprocessors; none where it is not known or not used.
    l2: Option<f64>,
    pub(super) source: &'static str,
}

/// Only for the misfit: nobody counted the bytes that others' kernels have from L2.
const H100: Gpu = Gpu {
    name: "H100 SXM",
    device: "NVIDIA H100 80GB HBM3",
    tensor: HOPPER,
    memory: 3.35e12,
    l2: None,
    source: "",
};

/// Half of 1979 TFLOP/s, which the datasheets of H100 and H200 name with sparsity.
const HOPPER: f64 = 989.5e12;

pub(super) const GPUS: [Gpu; 3] = [
    Gpu {
        name: "A100 SXM 80 GB",
        device: "NVIDIA A100-SXM4-80GB",
        tensor: 312e12,
        memory: 2.039e12,
        l2: Some(5120.0 * 1.41e9),
        source: "312 TFLOP/s and 2.039 TB/s, NVIDIA A100 80GB datasheet; L2 reads of 5120 bytes per clock, NVIDIA A100 whitepaper, at \
                 1.41 GHz",
    },
    Gpu {
        name: "H200",
        device: "NVIDIA H200",
        tensor: HOPPER,
        memory: 4.8e12,
        l2: Some(8e12),
        source: "989.5 TFLOP/s (half of the sparse 1979) and 4.8 TB/s, NVIDIA H200 datasheet; L2 8 TB/s, an estimate: the constant of \
                 DeepGEMM's heuristic for Hopper",
    },
    Gpu {
        name: "RTX 4090",
        device: "NVIDIA GeForce RTX 4090",
        tensor: 165.2e12,
        memory: 1.008e12,
        l2: None,
        source: "165.2 TFLOP/s (bf16, sums in f32) and 1.008 TB/s, NVIDIA Ada whitepaper; no bandwidth of L2 is published: left out",
    },
];

/// Seconds, by what each launch waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Modelled {
    pub(super) tensor: f64,
    pub(super) memory: f64,
    pub(super) l2: f64,
}

impl Modelled {
    pub(super) fn total(&self) -> f64 {
        self.tensor + self.memory + self.l2
    }

    fn add(&mut self, gpu: &Gpu, flops: f64, bytes: f64, l2_bytes: f64) {
        let tensor = flops / gpu.tensor;
        let memory = bytes / gpu.memory;
        let l2 = gpu.l2.map_or(0.0, |rate| l2_bytes / rate);
        if tensor >= memory && tensor >= l2 {
            self.tensor += tensor;
        } else if memory >= l2 {
            self.memory += memory;
        } else {
            self.l2 += l2;
        }
    }

    /// Of the whole case. What is written over an input is the down product's backward pass, which writes dh over h.
    pub(super) fn of(count: &Count, gpu: &Gpu) -> Self {
        let scale = count.scale();
        let mut sum = Self::default();
        let overwriting = count
            .launches
            .iter()
            .position(|launch| launch.kernel.starts_with("experts_down_backward"));
        for (i, launch) in count.launches.iter().enumerate() {
            let rewritten = match overwriting == Some(i) {
                true => count.rewritten,
                false => 0.0,
            };
            sum.add(
                gpu,
                scale * launch.tensor_flops,
                scale * (launch.memory + rewritten),
                scale * launch.l2,
            );
        }
        sum
    }
}

/// A shape of figure 14 of SonicMoE with what the figure shows: TFLOP/s forward and backward of SonicMoE and of ScatterMoE on an H100.
pub(super) struct Published {
    /// T, H, I, E, K.
    pub(super) sizes: [f64; 5],
    /// SonicMoE, ScatterMoE: forward, backward.
    rates: [[f64; 2]; 2],
}

/// arXiv 2512.14080, figure 14, H100, bf16. Heights of bars, read from the figure to ±5 TFLOP/s.
pub(super) const PUBLISHED: [Published; 12] = {
    const fn row(sizes: [f64; 5], sonic: [f64; 2], scatter: [f64; 2]) -> Published {
        Published {
            sizes,
            rates: [sonic, scatter],
        }
    }
    [
        row(
            [40960.0, 768.0, 256.0, 128.0, 8.0],
            [337.0, 364.0],
            [183.0, 206.0],
        ),
        row(
            [40960.0, 768.0, 512.0, 64.0, 4.0],
            [398.0, 400.0],
            [204.0, 245.0],
        ),
        row(
            [40960.0, 768.0, 1024.0, 32.0, 2.0],
            [405.0, 435.0],
            [236.0, 270.0],
        ),
        row(
            [24576.0, 1536.0, 256.0, 128.0, 8.0],
            [364.0, 405.0],
            [206.0, 213.0],
        ),
        row(
            [24576.0, 1536.0, 512.0, 64.0, 4.0],
            [435.0, 439.0],
            [234.0, 249.0],
        ),
        row(
            [24576.0, 1536.0, 1024.0, 32.0, 2.0],
            [467.0, 467.0],
            [266.0, 281.0],
        ),
        row(
            [32768.0, 4096.0, 256.0, 256.0, 16.0],
            [427.0, 459.0],
            [260.0, 237.0],
        ),
        row(
            [32768.0, 4096.0, 512.0, 128.0, 8.0],
            [501.0, 510.0],
            [322.0, 303.0],
        ),
        row(
            [32768.0, 4096.0, 1024.0, 64.0, 4.0],
            [551.0, 553.0],
            [367.0, 339.0],
        ),
        row(
            [32768.0, 4096.0, 512.0, 256.0, 16.0],
            [516.0, 525.0],
            [335.0, 313.0],
        ),
        row(
            [32768.0, 4096.0, 1024.0, 128.0, 8.0],
            [557.0, 566.0],
            [380.0, 352.0],
        ),
        row(
            [32768.0, 4096.0, 2048.0, 64.0, 4.0],
            [593.0, 585.0],
            [384.0, 369.0],
        ),
    ]
};

/// Whose kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Sonic,
    Scatter,
}

impl Published {
    /// Seconds forward and backward: the paper counts 6·T·K·I·H FLOPs forward and twice as many backward.
    pub(super) fn seconds(&self, peer: Peer) -> [f64; 2] {
        let [tokens, hidden, inner, _, top_k] = self.sizes;
        let flops = 6.0 * tokens * top_k * inner * hidden;
        let [forward, backward] = self.rates[peer as usize];
        [flops / (forward * 1e12), 2.0 * flops / (backward * 1e12)]
    }

    /// The same by the model on an H100, from the kernels of their code: every tensor read and written once, the router left out.
    pub(super) fn modelled(&self, peer: Peer) -> [f64; 2] {
        let [tokens, hidden, inner, experts, top_k] = self.sizes;
        let rows = tokens * top_k;
        // Bytes in bf16.
        let (x, rows_h, rows_i) = (
            2.0 * tokens * hidden,
            2.0 * rows * hidden,
            2.0 * rows * inner,
        );
        let weight = 2.0 * experts * inner * hidden;
        // FLOPs of a product with one [E, H, I].
        let product = 2.0 * rows * inner * hidden;
        // FLOPs and bytes of each kernel.
        let [forward, backward]: [Vec<[f64; 2]>; 2] = match peer {
            Peer::Sonic => [
                vec![
                    [2.0 * product, x + 2.0 * weight + 3.0 * rows_i],
                    [product, rows_i + weight + rows_h],
                    [0.0, rows_h + x],
                ],
                vec![
                    [product, x + weight + 5.0 * rows_i],
                    [product, x + rows_i + weight],
                    [2.0 * product, 2.0 * rows_i + 2.0 * weight + rows_h],
                    [2.0 * product, x + 2.0 * rows_i + 2.0 * weight],
                    [0.0, rows_h + x],
                ],
            ],
            // The activation, the gates and the copies of grouped rows are kernels of their own.
            Peer::Scatter => [
                vec![
                    [2.0 * product, x + 2.0 * weight + 2.0 * rows_i],
                    [0.0, 3.0 * rows_i],
                    [product, rows_i + weight + rows_h],
                    [0.0, rows_h + x],
                ],
                vec![
                    [0.0, rows_h + x],
                    [0.0, x + rows_h],
                    [product, rows_h + weight + rows_i],
                    [product, rows_i + rows_h + weight],
                    [0.0, 5.0 * rows_i],
                    [0.0, x + rows_h],
                    [2.0 * product, 2.0 * rows_i + 2.0 * weight + rows_h],
                    [2.0 * product, rows_h + 2.0 * rows_i + 2.0 * weight],
                    [0.0, rows_h + x],
                ],
            ],
        };
        [forward, backward].map(|kernels| {
            let mut sum = Modelled::default();
            for [flops, bytes] in kernels {
                sum.add(&H100, flops, bytes, 0.0);
            }
            sum.total()
        })
    }
}

/// Bytes per token that others keep from forward to backward, from H, I and K: formulas from the code of each.
pub(super) struct Keeps {
    pub(super) name: &'static str,
    pub(super) formula: &'static str,
    pub(super) per_token: fn(f64, f64, f64) -> f64,
    pub(super) source: &'static str,
}

pub(super) const KEEPS: [Keeps; 4] = [
    Keeps {
        name: "SonicMoE",
        formula: "2H + 4KI + 20K",
        per_token: |h, i, k| 2.0 * h + 4.0 * k * i + 20.0 * k,
        source: "x, h, scores, ids, three index maps; commit 8565e84",
    },
    Keeps {
        name: "ScatterMoE",
        formula: "≥ 2H + 8KI + 2KH",
        per_token: |h, i, k| 2.0 * h + 8.0 * k * i + 2.0 * k * h,
        source: "x, h, activations and what goes into them, rows of outputs; commit 47b5e15",
    },
    Keeps {
        name: "MegaBlocks",
        formula: "≥ 4KH + 4KI",
        per_token: |h, i, k| 4.0 * k * h + 4.0 * k * i,
        source: "gathered rows, rows of outputs, h; without x for the router, and without padding to 128 rows; commit 78eea65",
    },
    Keeps {
        name: "torch grouped",
        formula: "≥ 2KH + 8KI",
        per_token: |h, i, k| 2.0 * k * h + 8.0 * k * i,
        source: "gathered rows, h, activations and what goes into them; without x for the router; torchtitan's experts",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::records::{Launch, Records};

    #[test]
    fn a_launch_waits_for_its_slowest_part() {
        let gpu = Gpu {
            name: "round",
            device: "",
            tensor: 100.0,
            memory: 10.0,
            l2: Some(20.0),
            source: "",
        };
        let mut sum = Modelled::default();
        sum.add(&gpu, 200.0, 10.0, 10.0);
        sum.add(&gpu, 100.0, 30.0, 10.0);
        sum.add(&gpu, 100.0, 30.0, 80.0);
        assert_eq!([sum.tensor, sum.memory, sum.l2], [2.0, 3.0, 4.0]);
        assert_eq!(sum.total(), 9.0);
    }

    #[test]
    fn counts_are_scaled_to_the_whole_case() {
        let mut records = Records::read(&["src/report/example.jsonl"]).unwrap();
        let count = records
            .counts
            .iter_mut()
            .find(|count| count.subject.operation == "backward");
        let count = count.unwrap();
        assert_eq!(count.scale(), 4.0);
        let gpu = &GPUS[0];
        count.launches = vec![Launch {
            kernel: "experts_down_backward_bf16".into(),
            tensor_flops: 0.0,
            memory: 1e9,
            l2: 0.0,
        }];
        count.rewritten = 2e9;
        assert_eq!(Modelled::of(count, gpu).memory, 12e9 / gpu.memory);
    }

    #[test]
    fn peers_are_modelled_by_their_kernels() {
        for shape in &PUBLISHED {
            for peer in [Peer::Sonic, Peer::Scatter] {
                for (real, modelled) in shape.seconds(peer).into_iter().zip(shape.modelled(peer)) {
                    assert!(
                        (1.0..4.0).contains(&(real / modelled)),
                        "{:?} {peer:?}",
                        shape.sizes
                    );
                }
            }
        }
        // 6·T·K·I·H = 0.387 TFLOP at 337 TFLOP/s.
        let [forward, _] = PUBLISHED[0].seconds(Peer::Sonic);
        assert!((forward - 1.147e-3).abs() < 1e-6, "{forward}");
        // By hand, in MB: x 62.9, gate_up 100.7, h and a 503.3; a 167.8, down 50.3, y 503.3; y and the output 566.2.
        let megabytes = (62.9 + 100.7 + 503.3) + (167.8 + 50.3 + 503.3) + (503.3 + 62.9);
        let [forward, _] = PUBLISHED[0].modelled(Peer::Sonic);
        // The first product waits for its 0.258 TFLOP.
        let expected = 0.2577e12 / HOPPER + (megabytes - 666.9) * 1e6 / 3.35e12;
        assert!(
            (forward / expected - 1.0).abs() < 1e-3,
            "{forward} {expected}"
        );
    }
}
