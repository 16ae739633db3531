//! The whole layer against the oracle: f64 closely, the storage types by how far the oracle itself, computed in
//! that type, is from f64.

use millet::half::{bf16, f16};
use millet::{DType, Element, ExpertsUp, Keep, MoeConfig};

use crate::generate::{base, configs};
use crate::harness::{Outcome, Problem, Tensor, TestBackend, dispatch, run};
use crate::oracle::{Number, Oracle};
use crate::tolerance::{Values, assert_near, assert_near_in_norm};

/// In f64. Where a backend has none, the check of f32 is its most exact.
pub(super) fn check_exact<B: TestBackend>(config: &MoeConfig, problem: &Problem) {
    if B::Exact::DTYPE == DType::F32 {
        return check_type::<B, f32, f32, f32>(config, problem, (|v| v, |v| v), 2e-6);
    }
    let want = Oracle::exact(config).layer(problem, 0.7);
    let got = run::<B, B::Exact, B::Exact>(config, problem, Keep::Hidden, 0.7);
    got.assert_same_routing(&want, &format!("{config:?}"));
    for ((name, got), (_, want)) in got.floats().into_iter().zip(want.floats()) {
        let largest = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let [got, want] = [got, want].map(Values);
        let (max, relative) = (got.furthest(want), got.relative_error(want));
        assert!(max < 1e-12 * largest, "{name}: {max:e}: {config:?}");
        assert!(relative < 1e-12, "{name}: {relative:e}: {config:?}");
    }
}

/// To a storage type and back.
pub(super) type Rounding<N> = fn(N) -> N;

/// The rule of [`assert_near`] and of [`assert_near_in_norm`], and the relative Frobenius norm below `frobenius` where there are enough
/// elements for a norm to mean something.
pub(super) fn check_type<B: TestBackend, T: Element, W: Element<Acc = T::Acc>, N: Number>(
    config: &MoeConfig,
    problem: &Problem,
    (store, store_router): (Rounding<N>, Rounding<N>),
    frobenius: f64,
) {
    let problem = problem.rounded::<T, W>();
    let exact = Oracle::exact(config).layer(&problem, 0.7);
    let same = Oracle {
        config,
        store,
        store_router,
    }
    .layer(&problem, 0.7);
    let got = run::<B, T, W>(config, &problem, Keep::Hidden, 0.7);
    got.assert_same_routing(&exact, &format!("{config:?}"));
    let compared = |outcome: &Outcome| outcome.floats().map(|(_, v)| v.to_vec());
    let (same, exact) = (compared(&same), compared(&exact));
    for (((name, got), same), exact) in got.floats().into_iter().zip(&same).zip(&exact) {
        let what = format!("{name}: {config:?}");
        assert_near(got, exact, same, &what);
        assert_near_in_norm(got, exact, same, &what);
        // A handful of numbers may cancel; many do not.
        let relative = Values(got).relative_error(Values(exact));
        assert!(
            exact.len() < 100 || relative < frobenius,
            "{what}: relative {relative:e}"
        );
    }
}

fn problems() -> impl Iterator<Item = (MoeConfig, Problem)> {
    configs(7, 5, 8, 3)
        .into_iter()
        .enumerate()
        .map(|(seed, config)| {
            let problem = Problem::random(&config, 33, 1000 + seed as u64);
            (config, problem)
        })
}

pub(super) fn exact_every_configuration<B: TestBackend>() {
    for (config, problem) in problems() {
        check_exact::<B>(&config, &problem);
    }
}

pub(super) fn f32_every_configuration<B: TestBackend>() {
    for (config, problem) in problems() {
        check_type::<B, f32, f32, f32>(&config, &problem, (|v| v, |v| v), 2e-6);
    }
}

pub(super) fn bf16_every_configuration<B: TestBackend>() {
    let round: Rounding<f32> = |v| bf16::from_f32(v).to_f32();
    for (config, problem) in problems() {
        check_type::<B, bf16, bf16, f32>(&config, &problem, (round, round), 8e-3);
    }
}

pub(super) fn bf16_with_an_f32_router<B: TestBackend>() {
    let round: Rounding<f32> = |v| bf16::from_f32(v).to_f32();
    for (config, problem) in problems().step_by(3) {
        check_type::<B, bf16, f32, f32>(&config, &problem, (round, |v| v), 8e-3);
    }
}

pub(super) fn f16_every_configuration<B: TestBackend>() {
    let round: Rounding<f32> = |v| f16::from_f32(v).to_f32();
    for (config, problem) in problems() {
        check_type::<B, f16, f16, f32>(&config, &problem, (round, round), 1e-3);
    }
}

pub(super) fn f16_with_an_f32_router<B: TestBackend>() {
    let round: Rounding<f32> = |v| f16::from_f32(v).to_f32();
    for (config, problem) in problems().step_by(5) {
        check_type::<B, f16, f32, f32>(&config, &problem, (round, |v| v), 1e-3);
    }
}

/// Sizes 1, odd sizes, sizes past every block of the implementation.
pub(super) fn wide_and_odd_sizes<B: TestBackend>() {
    let sizes = [
        (1, 1, 1, 3, 2),
        (1, 3, 5, 7, 2),
        (2, 7, 1, 5, 5),
        (130, 1, 5, 7, 3),
        (129, 37, 33, 6, 2),
        (257, 3, 2, 130, 6),
        (40, 300, 7, 3, 2),
        (900, 5, 3, 2, 2),
    ];
    for (seed, (tokens, hidden, inner, experts, top_k)) in sizes.into_iter().enumerate() {
        let config = base(hidden, inner, experts, top_k).build().unwrap();
        let problem = Problem::random(&config, tokens, 77 + seed as u64);
        check_exact::<B>(&config, &problem);
        let round: Rounding<f32> = |v| bf16::from_f32(v).to_f32();
        check_type::<B, f32, f32, f32>(&config, &problem, (|v| v, |v| v), 2e-6);
        check_type::<B, bf16, f32, f32>(&config, &problem, (round, |v| v), 8e-3);
    }
}

/// Forward and backward must see the same a, so it is made from h as stored: bit for bit, but for the last bit of a sigmoid.
pub(super) fn a_is_made_from_the_rounded_h<B: TestBackend>() {
    let backend = B::create();
    let (tokens, inner, top_k) = (64, 33, 2);
    let config = base(24, inner, 4, top_k).build().unwrap();
    let problem = Problem::random(&config, tokens, 5).rounded::<bf16, bf16>();
    let ids: Vec<i32> = (0..tokens * top_k).map(|a| a as i32 % 4).collect();
    let (plan, _) = dispatch::<B, f32>(&backend, &config, &ids, &vec![0.5; ids.len()]);
    let tensor = |values: &[f64]| Tensor::<B, bf16>::from_f64(&backend, values);
    let (x, gate_up) = (tensor(&problem.x), tensor(&problem.gate_up));
    let mut h = Tensor::<B, bf16>::garbage(&backend, ids.len() * 2 * inner);
    let mut a = Tensor::<B, bf16>::garbage(&backend, ids.len() * inner);
    let scratch = backend.scratch_elements::<bf16>(&config, tokens);
    let mut scratch = Tensor::<B, f32>::garbage(&backend, scratch);
    backend
        .experts_up(ExpertsUp::<B, bf16> {
            plan: &plan,
            x: x.view(),
            gate_up: gate_up.view(),
            h: Some(h.view_mut()),
            a: a.view_mut(),
            scratch: scratch.view_mut(),
            bias: None,
        })
        .unwrap();
    let (h, a) = (h.to_f64(&backend), a.to_f64(&backend));
    let mut different = 0;
    for (h, a) in h.chunks_exact(2 * inner).zip(a.chunks_exact(inner)) {
        for (i, &a) in a.iter().enumerate() {
            let want = bf16::from_f64(h[i] / (1.0 + (-h[i]).exp()) * h[inner + i]).to_f64();
            assert!((a - want).abs() <= want.abs() / 128.0, "{a} {want}");
            different += usize::from(a != want);
        }
    }
    assert!(
        different < 20,
        "{different} of {} differ",
        ids.len() * inner
    );
}
