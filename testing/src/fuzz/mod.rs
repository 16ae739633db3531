//! Random cases: what they are drawn from, and the check that each must pass.
//!
//! | target | held against |
//! |---|---|
//! | `layer` | forward and backward of whole layers, against the [oracle](crate::oracle) and the CPU |
//! | `router`, `dispatch`, `permute`, `experts` | single operations, against the oracle and plain loops |
//! | `routing` | the same in a row, against the CPU, most of it to the bit; of backends other than the CPU |
//! | `planted` | NaN, ±∞ and others put into one element: what they reach, and that they change no bit of the rest |
//!
//! A case is a name and a number, `layer:1f`, and the same case always. One that fails is made smaller by [proptest](mod@proptest) for as
//! long as it still fails. `cargo xtask fuzz` runs targets for minutes; [`run`] runs a fixed number of cases of one, as a test.

mod dispatch;
mod experts;
mod layer;
mod permute;
mod planted;
mod router;
mod routing;

use std::fmt::Debug;

use millet::{
    Capacity, DType, Element, GroupLimit, MoeConfig, MoeConfigBuilder, Renormalize, ScoreFunction,
    SingleExpert,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

pub use proptest;

use crate::generate::{POLICIES, Rng};
use crate::harness::TestBackend;

/// A kind of case, and the check that each of them must pass.
pub struct Target {
    /// A word.
    pub name: &'static str,
    run: Box<dyn Fn(u64) -> Result<Verdict, Failure>>,
}

/// What became of a case that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// Its inputs do not say what is right: a choice hangs on the last bit of a sum.
    Undecided,
}

/// The smallest case found that fails.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How it fails.
    pub reason: String,
    /// What it is.
    pub smallest: String,
}

impl Target {
    /// Cases of a strategy, and a check that panics or gives an error for one that is wrong.
    pub fn new<S: Strategy + 'static>(
        name: &'static str,
        cases: S,
        check: impl Fn(&S::Value) -> TestCaseResult + 'static,
    ) -> Self {
        let run = move |number: u64| run_case(number, &cases, &check);
        Self {
            name,
            run: Box::new(run),
        }
    }

    /// Runs the case of this number.
    ///
    /// # Errors
    /// When it fails, with the smallest that does.
    pub fn run(&self, number: u64) -> Result<Verdict, Failure> {
        (self.run)(number)
    }

    /// The number of a run's case: any two runs and targets have others.
    pub fn case(&self, seed: u64, index: u64) -> u64 {
        // FNV-1a of the name.
        let name = (self.name.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Rng::new(Rng::new(seed ^ name).next().wrapping_add(index)).next()
    }
}

fn run_case<S: Strategy>(
    number: u64,
    cases: &S,
    check: &impl Fn(&S::Value) -> TestCaseResult,
) -> Result<Verdict, Failure> {
    let mut runner = runner(number);
    let failure = |reason: String, smallest: String| Failure { reason, smallest };
    let tree = cases.new_tree(&mut runner);
    let tree = tree.map_err(|e| failure(format!("no case was found: {e}"), String::new()))?;
    match runner.run_one(tree, |case| check(&case)) {
        Ok(true) => Ok(Verdict::Passed),
        Ok(false) | Err(TestError::Abort(_)) => Ok(Verdict::Undecided),
        Err(TestError::Fail(reason, case)) => {
            Err(failure(reason.to_string(), format!("{case:#?}")))
        }
    }
}

/// Checks so many cases, the same ones every time, with a check that panics for one that is wrong.
///
/// # Panics
/// When one fails, with the smallest that does.
pub(crate) fn for_all<S: Strategy>(cases: u32, strategy: S, check: impl Fn(&S::Value)) {
    let check = |case: &S::Value| {
        check(case);
        Ok(())
    };
    for number in 0..u64::from(cases) {
        if let Err(Failure { reason, smallest }) = run_case(number, &strategy, &check) {
            panic!("{reason}\nThe smallest case that fails: {smallest}");
        }
    }
}

/// Draws the case of this number, runs it, and makes it smaller.
fn runner(number: u64) -> TestRunner {
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 1000,
        max_shrink_time: 60_000, // milliseconds
        ..ProptestConfig::default()
    };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

/// All targets of a backend.
pub fn targets<B: TestBackend + 'static>() -> Vec<Target> {
    let mut targets = vec![
        layer::target::<B>(),
        router::target::<B>(),
        dispatch::target::<B>(),
        permute::target::<B>(),
        experts::target::<B>(),
        planted::target::<B>(),
    ];
    if !is_reference::<B>() {
        targets.push(routing::target::<B>());
    }
    targets
}

/// Runs `cases` cases of the target of this name, the same ones every time. `MILLET_FUZZ_CASES` and `MILLET_FUZZ_SEED` change how many
/// and which.
///
/// # Panics
/// When one fails, or the backend has no target of this name.
pub fn run<B: TestBackend + 'static>(name: &str, cases: u64) {
    let from_environment = |name: &str, otherwise: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => otherwise,
    };
    let cases = from_environment("MILLET_FUZZ_CASES", cases);
    let seed = from_environment("MILLET_FUZZ_SEED", 0);
    let targets = targets::<B>();
    let target = targets.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no target {name}"));
    let mut undecided = 0;
    for index in 0..cases {
        let number = target.case(seed, index);
        match target.run(number) {
            Ok(Verdict::Passed) => {}
            Ok(Verdict::Undecided) => undecided += 1,
            Err(Failure { reason, smallest }) => panic!(
                "{reason}\nThe smallest case that fails: {smallest}\n`cargo xtask fuzz` replays it with `--case {name}:{number:x}`{}",
                if is_reference::<B>() {
                    ""
                } else {
                    " `--backend cuda`"
                }
            ),
        }
    }
    let most = cases / 4 + 1;
    assert!(
        undecided <= most,
        "{undecided} of {cases} cases say nothing"
    );
}

/// Does it compute in f64? Then it is held against the oracle alone, else against the CPU in the same type too.
fn is_reference<B: TestBackend>() -> bool {
    B::Exact::DTYPE == DType::F64
}

/// Types of the tokens and of the router weight.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Types {
    F32,
    Bf16,
    Bf16WithF32Router,
    F16,
    F16WithF32Router,
}

impl Types {
    const ALL: [Self; 5] = [
        Self::F32,
        Self::Bf16,
        Self::Bf16WithF32Router,
        Self::F16,
        Self::F16WithF32Router,
    ];
}

/// Calls a function that is generic over a backend and both types.
macro_rules! with_types {
    ($types:expr, $function:ident::<$backend:ty>($($argument:expr),*)) => {{
        use millet::half::{bf16, f16};
        match $types {
            $crate::fuzz::Types::F32 => $function::<$backend, f32, f32>($($argument),*),
            $crate::fuzz::Types::Bf16 => $function::<$backend, bf16, bf16>($($argument),*),
            $crate::fuzz::Types::Bf16WithF32Router => $function::<$backend, bf16, f32>($($argument),*),
            $crate::fuzz::Types::F16 => $function::<$backend, f16, f16>($($argument),*),
            $crate::fuzz::Types::F16WithF32Router => $function::<$backend, f16, f32>($($argument),*),
        }
    }};
}
use with_types;

fn types() -> impl Strategy<Value = Types> {
    prop::sample::select(Types::ALL.to_vec())
}

/// Through a storage type and back.
fn stored<T: Element<Acc = f32>>(value: f32) -> f32 {
    T::narrow(value).widen()
}

/// Capacity of every kind: factor 0, below and above 1, and more than there can be.
fn capacities() -> impl Strategy<Value = Option<Capacity>> {
    let factor = prop_oneof![1 => Just(0.0), 6 => 0.0f64..2.0, 1 => Just(1e9)];
    let policy = prop::sample::select(POLICIES.to_vec());
    let capacity = (factor, policy, any::<bool>()).prop_map(|(factor, policy, renormalizes)| {
        let renormalize = match renormalizes {
            true => Renormalize::AfterDrop,
            false => Renormalize::Never,
        };
        Capacity::new(factor)
            .policy(policy)
            .renormalize(renormalize)
    });
    prop_oneof![1 => Just(None), 2 => capacity.prop_map(Some)]
}

/// The configuration with so many groups, of which so many are selected, where that is possible; else without.
fn grouped(builder: MoeConfigBuilder, groups: Option<(usize, usize)>) -> MoeConfig {
    let limit = groups.map(|(groups, selected)| GroupLimit { groups, selected });
    let grouped = limit.and_then(|limit| builder.clone().groups(limit).build().ok());
    grouped.unwrap_or_else(|| builder.build().unwrap())
}

/// Leaves out of the choices what this K does not allow.
fn allowed(
    builder: MoeConfigBuilder,
    top_k: usize,
    score_function: ScoreFunction,
    capacity: Option<Capacity>,
) -> MoeConfigBuilder {
    let mut builder = builder.score_function(score_function);
    if top_k == 1 && score_function == ScoreFunction::SoftmaxAfterTopK {
        builder = builder.single_expert(SingleExpert::StraightThrough);
    }
    match capacity {
        None => builder,
        Some(capacity) if top_k == 1 => builder.capacity(capacity.renormalize(Renormalize::Never)),
        Some(capacity) => builder.capacity(capacity),
    }
}
