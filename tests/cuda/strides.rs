//! Tensors of more than 2³¹ elements, of which a few rows are touched.
//!
//! Their memory is not written before, so that on the emulator, and only there, it takes next to none.

use approx::assert_abs_diff_eq;
use millet::cudarc::driver::CudaSlice;
use millet::half::bf16;
use millet::{
    Capacity, Cuda, Memory, MoeConfig, Permute, PermuteBackward, PermuteForward, Plan, Scalar,
    ScoreFunction, UnpermuteBackward, UnpermuteForward,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::{alone, set_check};

const HIDDEN: usize = 1 << 20;
/// Rows of that size pass 2³¹ elements at 2048.
const FAR: usize = 2048;

fn sparse<T: Scalar>(cuda: &Cuda, len: usize) -> CudaSlice<T> {
    // SAFETY: any bits are a value of these types, and kernels may read any value.
    unsafe { cuda.stream().alloc(len) }.unwrap()
}

/// Row `row` of a tensor [_, HIDDEN].
fn read(cuda: &Cuda, tensor: &CudaSlice<bf16>, row: usize) -> Vec<bf16> {
    let view = tensor.slice(row * HIDDEN..(row + 1) * HIDDEN);
    cuda.stream().clone_dtoh(&view).unwrap()
}

fn write(cuda: &Cuda, tensor: &mut CudaSlice<bf16>, row: usize, values: &[bf16]) {
    let mut view = tensor.slice_mut(row * HIDDEN..(row + 1) * HIDDEN);
    cuda.stream().memcpy_htod(values, &mut view).unwrap();
}

/// Random in [−2, 2), so that a product of two sums up to little.
fn values(salt: usize) -> Vec<bf16> {
    let mut rng = SmallRng::seed_from_u64(salt as u64);
    let mut value = || bf16::from_f32(rng.random_range(-2.0..2.0));
    (0..HIDDEN).map(|_| value()).collect()
}

/// The plan of these (assignment, row) and no others.
fn plan_of(cuda: &Cuda, config: &MoeConfig, tokens: usize, pairs: &[(usize, usize)]) -> Plan<Cuda> {
    let mut assignments = vec![-1; tokens * config.top_k()];
    for &(assignment, row) in pairs {
        assert!(row < config.max_rows(tokens));
        assignments[assignment] = row as i32;
    }
    let upload = |values: &[i32]| cuda.upload(values).unwrap();
    // SAFETY: the rows are there, no expert has any, and there are no tiles.
    unsafe {
        Plan::from_parts(
            cuda,
            config.clone(),
            tokens,
            upload(&vec![0; config.num_experts() + 1]),
            upload(&vec![-1; config.max_rows(tokens)]),
            upload(&assignments),
            upload(&vec![-1; 2 * cuda.row_tiles(config, tokens).most]),
        )
    }
}

#[test]
fn tokens_beyond_two_to_the_31() {
    if !cuda_emulator_loader::is_emulated() {
        return;
    }
    let _alone = alone();
    set_check("fast");
    let cuda = Cuda::device(0).unwrap();
    // Four experts with a row each.
    let config = MoeConfig::builder(HIDDEN, 1, 4, 1)
        .score_function(ScoreFunction::SoftmaxBeforeTopK)
        .capacity(Capacity::new(1e-6))
        .build()
        .unwrap();
    let tokens = FAR + 3;
    assert_eq!(config.max_rows(tokens), 4);
    let pairs = [(FAR + 2, 0), (FAR, 2), (3, 3)];
    let plan = plan_of(&cuda, &config, tokens, &pairs);
    let mut x = sparse::<bf16>(&cuda, tokens * HIDDEN);
    for (token, _) in pairs {
        write(&cuda, &mut x, token, &values(token));
    }
    let mut rows = sparse::<bf16>(&cuda, 4 * HIDDEN);
    cuda.permute(PermuteForward {
        plan: &plan,
        x: (&x).into(),
        rows: rows.as_view_mut(),
    })
    .unwrap();
    for (token, row) in pairs {
        assert!(read(&cuda, &rows, row) == values(token), "token {token}");
    }

    // The same tensor as the gradient of the output.
    for row in 0..4 {
        write(&cuda, &mut rows, row, &values(100 + row));
    }
    let weights = cuda.upload(&vec![0.5f32; tokens]).unwrap();
    let mut weights_grad = cuda.upload(&vec![f32::NAN; tokens]).unwrap();
    let mut rows_grad = sparse::<bf16>(&cuda, 4 * HIDDEN);
    cuda.unpermute_backward(UnpermuteBackward {
        plan: &plan,
        output_grad: (&x).into(),
        rows: (&rows).into(),
        weights: (&weights).into(),
        rows_grad: rows_grad.as_view_mut(),
        weights_grad: weights_grad.as_view_mut(),
    })
    .unwrap();
    let weights_grad = cuda.read((&weights_grad).into()).unwrap();
    for (token, row) in pairs {
        let half = |v: &bf16| bf16::from_f32(0.5 * v.to_f32());
        let want: Vec<bf16> = values(token).iter().map(half).collect();
        assert!(read(&cuda, &rows_grad, row) == want, "dY of token {token}");
        assert_dot(weights_grad[token], &values(token), &values(100 + row));
    }
    let others = (0..tokens).filter(|t| pairs.iter().all(|(token, _)| token != t));
    assert!(others.map(|t| weights_grad[t]).all(|g| g.to_bits() == 0));
}

#[track_caller]
fn assert_dot(got: f32, a: &[bf16], b: &[bf16]) {
    let products = a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64());
    let (want, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
    let tolerance = f64::from(f32::EPSILON) * size;
    assert_abs_diff_eq!(f64::from(got), want, epsilon = tolerance);
}

#[test]
fn rows_beyond_two_to_the_31() {
    if !cuda_emulator_loader::is_emulated() {
        return;
    }
    let _alone = alone();
    set_check("fast");
    let cuda = Cuda::device(0).unwrap();
    let (tokens, top_k) = (33, 64);
    let config = MoeConfig::builder(HIDDEN, 1, 64, top_k).build().unwrap();
    let rows = config.max_rows(tokens);
    assert!(rows > FAR + 8);
    // The last token has a row on either side of the edge, the first one far beyond it.
    let last = (tokens - 1) * top_k;
    let pairs = [(last + 1, FAR + 5), (last + 63, 7), (2, rows - 1)];
    let plan = plan_of(&cuda, &config, tokens, &pairs);
    let mut x = sparse::<bf16>(&cuda, tokens * HIDDEN);
    for token in [0, tokens - 1] {
        write(&cuda, &mut x, token, &values(token));
    }
    let mut permuted = sparse::<bf16>(&cuda, rows * HIDDEN);
    cuda.permute(PermuteForward {
        plan: &plan,
        x: (&x).into(),
        rows: permuted.as_view_mut(),
    })
    .unwrap();
    for (assignment, row) in pairs {
        let want = values(assignment / top_k);
        assert!(read(&cuda, &permuted, row) == want, "row {row}");
    }

    let y = |row: usize| values(1000 + row);
    for (_, row) in pairs {
        write(&cuda, &mut permuted, row, &y(row));
    }
    let weight = |assignment: usize| 0.25 * (1 + assignment % 3) as f32;
    let weights: Vec<f32> = (0..tokens * top_k).map(weight).collect();
    let weights = cuda.upload(&weights).unwrap();
    let mut output = sparse::<bf16>(&cuda, tokens * HIDDEN);
    cuda.unpermute(UnpermuteForward {
        plan: &plan,
        rows: (&permuted).into(),
        weights: (&weights).into(),
        output: output.as_view_mut(),
    })
    .unwrap();
    let sum = |factors: [f32; 2]| -> Vec<bf16> {
        let pairs = y(FAR + 5).into_iter().zip(y(7));
        pairs
            .map(|(a, b)| bf16::from_f32(factors[0] * a.to_f32() + factors[1] * b.to_f32()))
            .collect()
    };
    let want = sum([weight(last + 1), weight(last + 63)]);
    assert!(read(&cuda, &output, tokens - 1) == want, "the last token");
    let of_first = |factor: f32| -> Vec<bf16> {
        let scaled = |v: &bf16| bf16::from_f32(factor * v.to_f32());
        y(rows - 1).iter().map(scaled).collect()
    };
    assert!(read(&cuda, &output, 0) == of_first(weight(2)), "the first");
    assert!(read(&cuda, &output, 5).iter().all(|v| v.to_bits() == 0));

    let mut weights_grad = cuda.upload(&vec![f32::NAN; tokens * top_k]).unwrap();
    let mut rows_grad = sparse::<bf16>(&cuda, rows * HIDDEN);
    cuda.unpermute_backward(UnpermuteBackward {
        plan: &plan,
        output_grad: (&x).into(),
        rows: (&permuted).into(),
        weights: (&weights).into(),
        rows_grad: rows_grad.as_view_mut(),
        weights_grad: weights_grad.as_view_mut(),
    })
    .unwrap();
    let weights_grad = cuda.read((&weights_grad).into()).unwrap();
    for (assignment, row) in pairs {
        let grad = values(assignment / top_k);
        let scaled = |v: &bf16| bf16::from_f32(weight(assignment) * v.to_f32());
        let want: Vec<bf16> = grad.iter().map(scaled).collect();
        assert!(read(&cuda, &rows_grad, row) == want, "dY of row {row}");
        assert_dot(weights_grad[assignment], &grad, &y(row));
    }

    let mut scratch = sparse::<f32>(&cuda, cuda.scratch_elements::<bf16>(&config, tokens));
    cuda.permute_backward(PermuteBackward::<Cuda, bf16> {
        plan: &plan,
        rows_grad: (&permuted).into(),
        router: None,
        x_grad: output.as_view_mut(),
        scratch: scratch.as_view_mut(),
    })
    .unwrap();
    assert!(read(&cuda, &output, tokens - 1) == sum([1.0, 1.0]), "dX");
    assert!(read(&cuda, &output, 0) == of_first(1.0), "dX");
}
