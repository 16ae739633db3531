//! The experts' products on CUDA, one by one, against the CPU reference: each is given the same inputs, so that an error shows
//! in the product that makes it.

use millet::cuda::F32Products;
use millet::half::{bf16, f16};
use millet::{
    Capacity, Cpu, Cuda, DropPolicy, Element, ExpertsDown, ExpertsDownBackward,
    ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, Memory, MoeConfig,
    Plan, Real, RouterPart, WeightGrad,
};
use millet_testing::generate::{self, Rng};
use millet_testing::harness::{
    HostPlan, Tensor, TestBackend, dispatch, list_tiles, narrow, scratch, widen,
};
use millet_testing::tolerance::{F32, Values, assert_near_in_norm};

use crate::alone;

/// Who gets which rows.
#[derive(Debug, Clone)]
enum Routing {
    /// K different experts per token, at random.
    Random,
    /// Expert e with a chance of 1/(e + 1).
    Zipf,
    /// Everything to one expert.
    Hot(usize),
    /// Exactly so many rows each; what is missing to T·K is nobody's.
    Counts(Vec<usize>),
}

#[derive(Debug, Clone)]
struct Case {
    tokens: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    routing: Routing,
    capacity: Option<f64>,
}

impl Case {
    fn new(tokens: usize, hidden: usize, inner: usize, experts: usize, top_k: usize) -> Self {
        Self {
            tokens,
            hidden,
            inner,
            experts,
            top_k,
            routing: Routing::Random,
            capacity: None,
        }
    }

    fn routing(self, routing: Routing) -> Self {
        Self { routing, ..self }
    }

    fn capacity(self, factor: f64) -> Self {
        Self {
            capacity: Some(factor),
            ..self
        }
    }

    fn config(&self) -> MoeConfig {
        let mut builder = generate::base(self.hidden, self.inner, self.experts, self.top_k);
        if let Some(factor) = self.capacity {
            builder = builder.capacity(Capacity::new(factor).policy(DropPolicy::Position));
        }
        if self.top_k == 1 {
            builder = builder.single_expert(millet::SingleExpert::StraightThrough);
        }
        builder.build().unwrap()
    }

    fn ids(&self, rng: &mut Rng) -> Vec<i32> {
        let assignments = self.tokens * self.top_k;
        match &self.routing {
            Routing::Random => (0..self.tokens)
                .flat_map(|_| {
                    let order = rng.permutation(self.experts);
                    order[..self.top_k]
                        .iter()
                        .map(|&e| e as i32)
                        .collect::<Vec<_>>()
                })
                .collect(),
            Routing::Zipf => {
                let total: f64 = (0..self.experts).map(|e| 1.0 / (e + 1) as f64).sum();
                let mut draw = || {
                    let mut left = rng.uniform() * total;
                    let expert = (0..self.experts).position(|e| {
                        left -= 1.0 / (e + 1) as f64;
                        left < 0.0
                    });
                    expert.unwrap_or(self.experts - 1) as i32
                };
                (0..assignments).map(|_| draw()).collect()
            }
            Routing::Hot(expert) => vec![*expert as i32; assignments],
            Routing::Counts(counts) => {
                let mut ids: Vec<i32> = counts
                    .iter()
                    .enumerate()
                    .flat_map(|(e, &n)| vec![e as i32; n])
                    .collect();
                assert!(ids.len() <= assignments);
                ids.resize(assignments, -1);
                let order = rng.permutation(assignments);
                order.into_iter().map(|i| ids[i]).collect()
            }
        }
    }
}

/// What every product reads, representable in the storage type; of order 1, and so is what comes out.
struct Inputs {
    ids: Vec<i32>,
    weights: Vec<f64>,
    x: Vec<f64>,
    output_grad: Vec<f64>,
    gate_up: Vec<f64>,
    down: Vec<f64>,
    router: Vec<f64>,
    logits_grad: Vec<f64>,
    h: Vec<f64>,
    a: Vec<f64>,
    /// What accumulated weight gradients begin with.
    gate_up_sum: Vec<f64>,
    down_sum: Vec<f64>,
}

impl Inputs {
    fn new<T: Element>(case: &Case, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (tokens, hidden, inner) = (case.tokens, case.hidden, case.inner);
        let (experts, assignments) = (case.experts, tokens * case.top_k);
        let rows = case.config().max_rows(tokens);
        let over_root = |n: usize| 1.0 / (n.max(1) as f64).sqrt();
        let per_expert = rows / experts;
        let mut values = |n: usize, scale: f64| widen(&narrow::<T>(&rng.normals(n, scale)));
        let x = values(tokens * hidden, 1.0);
        let output_grad = values(tokens * hidden, 1.0);
        let gate_up = values(experts * 2 * inner * hidden, over_root(hidden));
        let down = values(experts * hidden * inner, over_root(inner));
        let router = values(experts * hidden, over_root(hidden));
        // dh and w·a are these too: scaled for their longest reduction.
        let h = values(rows * 2 * inner, 1.0);
        let a = values(rows * inner, 1.0);
        let gate_up_sum = values(experts * 2 * inner * hidden, over_root(per_expert));
        let down_sum = values(experts * hidden * inner, over_root(per_expert));
        let in_f32 = |values: Vec<f64>| values.iter().map(|&v| f64::from(v as f32)).collect();
        Self {
            ids: case.ids(&mut rng),
            weights: in_f32((0..assignments).map(|_| rng.uniform()).collect()),
            logits_grad: in_f32(rng.normals(tokens * experts, 0.3)),
            x,
            output_grad,
            gate_up,
            down,
            router,
            h,
            a,
            gate_up_sum,
            down_sum,
        }
    }
}

/// A result: its name and its values, of buffers of rows the rows that exist.
type Results = Vec<(&'static str, Vec<f64>)>;

/// A plan on a backend.
fn upload<B: TestBackend>(
    backend: &B,
    config: &MoeConfig,
    tokens: usize,
    host: &HostPlan,
) -> Plan<B> {
    let upload = |values: &[i32]| backend.upload(values).unwrap();
    let tiles = list_tiles(backend.row_tiles(config, tokens), &host.offsets);
    // SAFETY: read of a plan of the same sizes.
    unsafe {
        Plan::from_parts(
            backend,
            config.clone(),
            tokens,
            upload(&host.offsets),
            upload(&host.row_to_assignment),
            upload(&host.assignment_to_row),
            upload(&tiles),
        )
    }
}

/// All products, each from the same inputs.
fn run<B: TestBackend, T: Element>(backend: &B, case: &Case, inputs: &Inputs) -> Results {
    let config = &case.config();
    let (tokens, hidden, inner) = (case.tokens, case.hidden, case.inner);
    let max_rows = config.max_rows(tokens);
    let (host, _) = dispatch::<Cpu, T::Acc>(&Cpu, config, &inputs.ids, &inputs.weights);
    let host = HostPlan::read(&Cpu, &host);
    let rows = host.offsets[case.experts] as usize;
    let plan = upload(backend, config, tokens, &host);
    let tensor = |values: &[f64]| Tensor::<B, T>::from_f64(backend, values);
    // NaN after the last row: whoever reads it is seen.
    let rows_of = |values: &[f64], columns: usize| {
        let mut values = values.to_vec();
        values[rows * columns..].fill(f64::NAN);
        tensor(&values)
    };
    let (x, output_grad) = (tensor(&inputs.x), tensor(&inputs.output_grad));
    let (gate_up, down) = (tensor(&inputs.gate_up), tensor(&inputs.down));
    let weights = Tensor::<B, T::Acc>::from_f64(backend, &inputs.weights);
    let mut results = Results::new();
    // What lies after the last row must be what it was: NaN.
    let mut keep = |name: &'static str, mut values: Vec<f64>, len: usize| {
        let rest = values.split_off(len);
        assert!(
            rest.iter().all(|v| v.is_nan()),
            "{name} is written after its last row: {case:?}"
        );
        results.push((name, values));
    };

    let mut h = Tensor::<B, T>::garbage(backend, max_rows * 2 * inner);
    let mut a = Tensor::<B, T>::garbage(backend, max_rows * inner);
    let mut memory = scratch::<B, T>(backend, config, tokens);
    backend
        .experts_up(ExpertsUp::<B, T> {
            plan: &plan,
            x: x.view(),
            gate_up: gate_up.view(),
            h: Some(h.view_mut()),
            a: a.view_mut(),
            scratch: memory.view_mut(),
            bias: None,
        })
        .unwrap();
    // a is made of h as it is stored, to the bit.
    let (h, made) = (h.read(backend), a.read(backend));
    for (h, a) in h
        .chunks_exact(2 * inner)
        .zip(made.chunks_exact(inner))
        .take(rows)
    {
        for i in 0..inner {
            let (gate, up) = (h[i].widen(), h[inner + i].widen());
            assert_eq!(a[i], T::narrow(gate * gate.sigmoid() * up), "{case:?}");
        }
    }
    keep("h", widen(&h), rows * 2 * inner);
    let with_h = widen(&made);
    let mut a = Tensor::<B, T>::garbage(backend, max_rows * inner);
    backend
        .experts_up(ExpertsUp::<B, T> {
            plan: &plan,
            x: x.view(),
            gate_up: gate_up.view(),
            h: None,
            a: a.view_mut(),
            scratch: memory.view_mut(),
            bias: None,
        })
        .unwrap();
    let without_h = a.to_f64(backend);
    assert!(
        with_h[..rows * inner] == without_h[..rows * inner],
        "a depends on h being wanted: {case:?}"
    );
    keep("a", with_h, rows * inner);

    let a = rows_of(&inputs.a, inner);
    let mut output = Tensor::<B, T>::garbage(backend, tokens * hidden);
    backend
        .experts_down(ExpertsDown::<B, T> {
            plan: &plan,
            a: a.view(),
            down: down.view(),
            weights: weights.view(),
            output: output.view_mut(),
            scratch: memory.view_mut(),
            bias: None,
        })
        .unwrap();
    keep("output", output.to_f64(backend), tokens * hidden);

    let mut h = rows_of(&inputs.h, 2 * inner);
    let mut weighted_a = Tensor::<B, T>::garbage(backend, max_rows * inner);
    let mut weights_grad = Tensor::<B, T::Acc>::garbage(backend, tokens * case.top_k);
    backend
        .experts_down_backward(ExpertsDownBackward::<B, T> {
            plan: &plan,
            output_grad: output_grad.view(),
            down: down.view(),
            weights: weights.view(),
            h: h.view_mut(),
            weighted_a: weighted_a.view_mut(),
            weights_grad: weights_grad.view_mut(),
            scratch: memory.view_mut(),
            bias: None,
        })
        .unwrap();
    keep("dh", h.to_f64(backend), rows * 2 * inner);
    keep("w·a", weighted_a.to_f64(backend), rows * inner);
    let weights_grad = weights_grad.to_f64(backend);
    let to_row = &host.assignment_to_row;
    for (assignment, &row) in to_row.iter().enumerate() {
        assert!(
            row >= 0 || weights_grad[assignment].to_bits() == 0,
            "{case:?}"
        );
    }
    keep("dS", weights_grad, tokens * case.top_k);

    let (rows_a, rows_h) = (rows_of(&inputs.a, inner), rows_of(&inputs.h, 2 * inner));
    let mut down_grad = Tensor::<B, T>::garbage(backend, inputs.down.len());
    backend
        .experts_down_weight_grad(ExpertsDownWeightGrad::<B, T> {
            plan: &plan,
            output_grad: output_grad.view(),
            weighted_a: rows_a.view(),
            grad: WeightGrad::Overwrite(down_grad.view_mut()),
            scratch: memory.view_mut(),
        })
        .unwrap();
    let mut gate_up_grad = Tensor::<B, T>::garbage(backend, inputs.gate_up.len());
    backend
        .experts_up_weight_grad(ExpertsUpWeightGrad::<B, T> {
            plan: &plan,
            x: x.view(),
            h_grad: rows_h.view(),
            grad: WeightGrad::Overwrite(gate_up_grad.view_mut()),
            scratch: memory.view_mut(),
        })
        .unwrap();
    let (down_grad, gate_up_grad) = (down_grad.to_f64(backend), gate_up_grad.to_f64(backend));
    for e in 0..case.experts {
        let size = hidden * inner;
        let empty = host.offsets[e] == host.offsets[e + 1];
        let zero = |values: &[f64]| values.iter().all(|v| v.to_bits() == 0);
        assert!(!empty || zero(&down_grad[e * size..(e + 1) * size]));
        assert!(!empty || zero(&gate_up_grad[e * 2 * size..(e + 1) * 2 * size]));
    }
    keep("d_down", down_grad, inputs.down.len());
    keep("d_gate_up", gate_up_grad, inputs.gate_up.len());

    let mut down_sum = Tensor::<B, T::Acc>::from_f64(backend, &inputs.down_sum);
    backend
        .experts_down_weight_grad(ExpertsDownWeightGrad::<B, T> {
            plan: &plan,
            output_grad: output_grad.view(),
            weighted_a: rows_a.view(),
            grad: WeightGrad::Accumulate(down_sum.view_mut()),
            scratch: memory.view_mut(),
        })
        .unwrap();
    keep("d_down, added", down_sum.to_f64(backend), inputs.down.len());
    let mut gate_up_sum = Tensor::<B, T::Acc>::from_f64(backend, &inputs.gate_up_sum);
    backend
        .experts_up_weight_grad(ExpertsUpWeightGrad::<B, T> {
            plan: &plan,
            x: x.view(),
            h_grad: rows_h.view(),
            grad: WeightGrad::Accumulate(gate_up_sum.view_mut()),
            scratch: memory.view_mut(),
        })
        .unwrap();
    let gate_up_sum = gate_up_sum.to_f64(backend);
    keep("d_gate_up, added", gate_up_sum, inputs.gate_up.len());

    let router = tensor(&inputs.router);
    let logits_grad = Tensor::<B, T::Acc>::from_f64(backend, &inputs.logits_grad);
    let mut x_grad = Tensor::<B, T>::garbage(backend, tokens * hidden);
    backend
        .experts_input_grad(ExpertsInputGrad::<B, T> {
            plan: &plan,
            h_grad: rows_h.view(),
            gate_up: gate_up.view(),
            router: RouterPart {
                logits_grad: logits_grad.view(),
                weight: router.view(),
            },
            x_grad: x_grad.view_mut(),
            scratch: memory.view_mut(),
        })
        .unwrap();
    keep("dX", x_grad.to_f64(backend), tokens * hidden);
    results
}

/// `max|out − ref64| < 2·max|ref of the same type − ref64| + 1e-5`, and the same of the norm of the difference.
fn check<T: Element>(cuda: &Cuda, case: &Case, seed: u64) {
    let inputs = Inputs::new::<T>(case, seed);
    let exact = run::<Cpu, f64>(&Cpu, case, &inputs);
    let same = run::<Cpu, T>(&Cpu, case, &inputs);
    let got = run::<Cuda, T>(cuda, case, &inputs);
    for (((name, got), (_, same)), (_, exact)) in got.iter().zip(&same).zip(&exact) {
        let what = format!("{name} of {}: {case:?}", T::DTYPE);
        assert_near_in_norm(got, exact, same, &what);
        let [got, same, exact] = [got, same, exact].map(|values| Values(values));
        let (error, allowed) = (got.furthest(exact), 2.0 * same.furthest(exact) + F32);
        assert!(error < allowed, "{what}: {error:e} ≥ {allowed:e}");
    }
}

fn check_all(cuda: &Cuda, cases: impl IntoIterator<Item = Case>) {
    for (seed, case) in cases.into_iter().enumerate() {
        check::<bf16>(cuda, &case, seed as u64);
        check::<f16>(cuda, &case, 100 + seed as u64);
        check::<f32>(cuda, &case, 200 + seed as u64);
    }
}

#[test]
fn one_tile() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    check_all(cuda, [Case::new(48, 64, 64, 2, 1)]);
}

/// One product of tf32 numbers is as far off as factors of 11 bits make it; three are not, which the other tests see.
#[test]
fn tf32_where_it_is_asked_for() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let case = Case::new(70, 72, 136, 3, 2);
    let inputs = Inputs::new::<f32>(&case, 7);
    let exact = run::<Cpu, f64>(&Cpu, &case, &inputs);
    let backend = cuda.clone().f32_products(F32Products::Tf32);
    for ((name, got), (_, exact)) in run::<Cuda, f32>(&backend, &case, &inputs)
        .iter()
        .zip(&exact)
    {
        let error = Values(got).relative_error(Values(exact));
        // w·a is made of h, by no product.
        let expected = if *name == "w·a" {
            0.0..1e-6
        } else {
            2e-5..1e-3
        };
        assert!(expected.contains(&error), "{name}: {error:e}");
    }
}

/// An infinite gradient of the output, where all that it is multiplied by is positive: dS is +∞ however many columns a tile has to spare.
#[test]
fn an_infinite_gradient_meets_only_columns_that_exist() {
    fn weights_grad<B: TestBackend, T: Element>(backend: &B, case: &Case) -> Vec<f64> {
        let mut inputs = Inputs::new::<T>(case, 3);
        inputs.output_grad[0] = f64::INFINITY;
        for values in [&mut inputs.down, &mut inputs.h] {
            values.iter_mut().for_each(|value| *value = value.abs());
        }
        let results = run::<B, T>(backend, case, &inputs);
        let (_, values) = results.into_iter().find(|(name, _)| *name == "dS").unwrap();
        values
    }
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    // Element by element, and in whole chunks.
    for (hidden, inner) in [(8, 1), (8, 5), (16, 24), (16, 72)] {
        let case = &Case::new(3, hidden, inner, 2, 1);
        for values in [
            weights_grad::<Cpu, f32>(&Cpu, case),
            weights_grad::<Cuda, f32>(cuda, case),
            weights_grad::<Cuda, bf16>(cuda, case),
            weights_grad::<Cuda, f16>(cuda, case),
        ] {
            assert_eq!(values[0], f64::INFINITY, "I = {inner}: {values:?}");
            assert!(values[1..].iter().all(|value| value.is_finite()));
        }
    }
}

fn tile_height(cuda: &Cuda, case: &Case) -> usize {
    let tiles = cuda.row_tiles(&case.config(), case.tokens);
    tiles.height
}

/// Rows on both sides of a tile's and a warp's edge, in tiles of 64 and of 128 rows.
#[test]
fn rows_at_the_edges_of_tiles() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let counts = vec![0, 1, 63, 64, 65, 127, 128, 129, 0];
    for (experts, height) in [(16, 64), (9, 128)] {
        let case = Case::new(300, 40, 24, experts, 2).routing(Routing::Counts(counts.clone()));
        assert_eq!(tile_height(cuda, &case), height);
        check_all(cuda, [case]);
    }
}

/// Widths on both sides of a step, of a warp's columns and of a tile's.
#[test]
fn columns_at_the_edges_of_tiles() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let sizes = [
        (8, 8),
        (16, 72),
        (24, 128),
        (56, 136),
        (64, 32),
        (136, 64),
        (200, 40),
        (264, 16),
    ];
    check_all(
        cuda,
        sizes.map(|(hidden, inner)| Case::new(50, hidden, inner, 3, 2)),
    );
}

/// Sizes for which no row begins at a multiple of 16 bytes.
#[test]
fn odd_sizes() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let sizes = [(1, 1), (3, 2), (7, 5), (33, 12), (64, 66), (130, 9)];
    check_all(
        cuda,
        sizes.map(|(hidden, inner)| Case::new(41, hidden, inner, 3, 2)),
    );
    // Tiles of the plan twice the kernel's.
    let counts = Routing::Counts(vec![1, 129, 260]);
    check_all(cuda, [Case::new(200, 7, 5, 3, 2).routing(counts)]);
}

#[test]
fn skewed_routings() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    check_all(
        cuda,
        [
            Case::new(150, 32, 40, 8, 2).routing(Routing::Zipf),
            Case::new(150, 32, 40, 8, 2).routing(Routing::Hot(3)),
            Case::new(90, 24, 16, 40, 3),
            Case::new(90, 24, 16, 3, 3),
            Case::new(7, 24, 16, 50, 5),
        ],
    );
}

#[test]
fn dropped_rows() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    check_all(
        cuda,
        [
            Case::new(120, 32, 24, 4, 2).capacity(0.5),
            Case::new(120, 32, 24, 4, 2)
                .routing(Routing::Zipf)
                .capacity(1.1),
            Case::new(60, 32, 24, 4, 2).capacity(0.0),
            Case::new(60, 32, 24, 4, 2).routing(Routing::Counts(vec![0, 5, 0, 7])),
        ],
    );
}

#[test]
fn few_tokens() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    check_all(
        cuda,
        [Case::new(0, 16, 16, 3, 2), Case::new(1, 16, 16, 3, 2)],
    );
}

/// More tiles than blocks, so that blocks go on to a second one and their rings turn over.
#[test]
fn more_tiles_than_blocks() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    check::<bf16>(cuda, &Case::new(700, 264, 520, 9, 2), 5);
}

/// Any small shape and routing, in any type.
#[test]
fn random_shapes() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let mut rng = Rng::new(2026);
    for seed in 0..12 {
        let experts = 1 + rng.below(12);
        let top_k = 1 + rng.below(experts.min(5));
        let unit = [1, 1, 8, 8, 8, 64][rng.below(6)];
        let mut width = |most: usize| unit * (1 + rng.below(most.div_ceil(unit)));
        let (hidden, inner) = (width(160), width(160));
        let mut case = Case::new(rng.below(120), hidden, inner, experts, top_k);
        if rng.below(2) == 0 {
            case = case.routing(Routing::Zipf);
        }
        if rng.below(3) == 0 {
            case = case.capacity(rng.uniform() * 2.0);
        }
        match rng.below(3) {
            0 => check::<f16>(cuda, &case, seed),
            1 => check::<f32>(cuda, &case, seed),
            _ => check::<bf16>(cuda, &case, seed),
        }
    }
}

/// Warps, blocks and late copies in other orders give the same bits, and no finding.
#[test]
fn other_orders() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let case = Case::new(140, 72, 136, 3, 2).routing(Routing::Zipf);
    let inputs = Inputs::new::<bf16>(&case, 9);
    let first = run::<Cuda, bf16>(cuda, &case, &inputs);
    for seed in 0..6 {
        // Nothing on a GPU.
        cuda_emulator_loader::set_seed(Some(seed));
        assert!(
            first == run::<Cuda, bf16>(cuda, &case, &inputs),
            "seed {seed}"
        );
    }
}

/// More tiles than blocks, of which every other one is the empty half of a tile of the plan: a block goes from a tile to an
/// empty one and on, without a step between.
#[test]
fn empty_halves_of_tiles() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let case = Case::new(960, 392, 8, 40, 2);
    assert_eq!(tile_height(cuda, &case), 128);
    check::<f32>(cuda, &case, 3);
}

#[test]
fn the_same_bits_again() {
    let _alone = alone();
    let cuda = &Cuda::device(0).unwrap();
    let case = Case::new(260, 72, 136, 5, 3).routing(Routing::Zipf);
    let bits = |results: Results| -> Vec<Vec<u64>> {
        let of = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect();
        results.into_iter().map(|(_, values)| of(values)).collect()
    };
    let inputs = Inputs::new::<bf16>(&case, 9);
    let first = bits(run::<Cuda, bf16>(cuda, &case, &inputs));
    assert!(first == bits(run::<Cuda, bf16>(cuda, &case, &inputs)));
    let inputs = Inputs::new::<f32>(&case, 9);
    let first = bits(run::<Cuda, f32>(cuda, &case, &inputs));
    assert!(first == bits(run::<Cuda, f32>(cuda, &case, &inputs)));
}
