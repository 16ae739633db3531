//! What every backend must pass: tests that are generic over it, by area.
//!
//! | area | |
//! |---|---|
//! | `golden` | the worked vectors of the definition |
//! | `router`, `layer` | routers and the whole layer against the [oracle](crate::oracle), in every type |
//! | `activation`, `expert_bias` | what experts can have beside SwiGLU |
//! | `gradients`, `in_f64` | gradients that accumulate, that are kept or dropped; finite differences, for backends that have f64 |
//! | `edges`, `nonfinite`, `range` | sizes 0 and 1, NaN and ±∞, the range of a type |
//! | `invariants`, `determinism` | what holds whatever the input; the same bits again |
//! | `errors` | every misuse is an error |
//!
//! A backend's tests are one line, [`conformance_tests!`](crate::conformance_tests), which makes a `#[test]` of each:
//!
//! ```
//! mod conformance {
//!     millet_testing::conformance_tests!(millet::Cpu, f64);
//! }
//! ```
//!
//! [`conformance`] runs them all without a test harness, [`tests`] lists them.

use std::panic::{self, AssertUnwindSafe};

use millet::{DType, Element};

use crate::harness::TestBackend;

pub use nonfinite::planted_values_reach_what_they_touch;

// Not by the macro: rustfmt would not find them.
mod activation;
mod determinism;
mod edges;
mod errors;
mod expert_bias;
mod golden;
mod gradients;
mod in_f64;
mod invariants;
mod layer;
pub(crate) mod nonfinite;
mod range;
pub(crate) mod router;

/// A test of one backend.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Area and what must hold: `golden::kept_sets`.
    pub name: &'static str,
    /// Panics when it does not hold.
    pub run: fn(),
}

/// Lists the tests of each area, once for the functions here and once for the macro. `$d` is a dollar.
macro_rules! areas {
    ($d:tt $($area:ident: $($test:ident)+;)+ [f64] $in_f64:ident: $($f64_test:ident)+;) => {
        /// All tests of a backend; those in f64 if that is its exact type.
        pub fn tests<B: TestBackend>() -> Vec<Test> {
            let mut tests = vec![
                $($(Test {
                    name: concat!(stringify!($area), "::", stringify!($test)),
                    run: $area::$test::<B>,
                },)+)+
            ];
            if B::Exact::DTYPE == DType::F64 {
                tests.extend([
                    $(Test {
                        name: concat!(stringify!($in_f64), "::", stringify!($f64_test)),
                        run: $in_f64::$f64_test::<B>,
                    },)+
                ]);
            }
            tests
        }

        /// A `#[test]` of each [conformance](mod@crate::conformance) test, in a module of each area, for a type that is a
        /// [`TestBackend`](crate::harness::TestBackend). With `, f64` those in f64 too, for a backend whose exact type that is.
        #[macro_export]
        macro_rules! conformance_tests {
            ($d backend:ty) => {
                $(
                    mod $area {
                        #[allow(unused_imports)] // a path to the backend may need none of them
                        use super::*;
                        $(
                            #[test]
                            fn $test() {
                                $crate::conformance::run::<$d backend>(concat!(
                                    stringify!($area), "::", stringify!($test)
                                ));
                            }
                        )+
                    }
                )+
            };
            ($d backend:ty, f64) => {
                $crate::conformance_tests!($d backend);
                mod $in_f64 {
                    #[allow(unused_imports)]
                    use super::*;
                    $(
                        #[test]
                        fn $f64_test() {
                            $crate::conformance::run::<$d backend>(concat!(
                                stringify!($in_f64), "::", stringify!($f64_test)
                            ));
                        }
                    )+
                }
            };
        }
    };
}

areas! {
    $
    activation:
        clamped_swiglu_at_the_limit
        clamped_swiglu_of_infinity_and_nan
        clamped_swiglu_exact
        clamped_swiglu_f32
        clamped_swiglu_bf16
        clamped_swiglu_f16;
    determinism:
        repeats_change_no_bit
        larger_memory_changes_no_bit
        keeping_nothing_changes_no_output_bit;
    edges:
        bad_rows_are_left_out
        sentinels_in_router_backward
        nothing_to_route
        no_tokens
        one_token
        fewer_tokens_in_more_tiles
        memory_for_more_tokens_is_enough_for_fewer
        one_token_among_a_thousand_experts
        all_tokens_to_the_same_experts
        experts_without_rows_get_a_gradient_of_zero
        capacity_zero_drops_all
        capacity_of_all_tokens_drops_nothing
        a_bad_token_spoils_no_other
        sentinels_take_part_in_nothing;
    errors:
        every_tensor_of_routing_has_its_length_checked
        absurd_numbers_of_tokens_are_refused_in_routing
        a_selection_bias_needs_a_sigmoid
        a_plan_has_room_for_what_it_was_made_for
        a_refused_dispatch_leaves_the_plan
        every_tensor_of_the_experts_has_its_length_checked
        absurd_numbers_of_tokens_are_refused
        the_layer_checks_before_it_writes
        expert_biases_are_given_as_configured
        a_pass_in_too_little_memory_is_refused
        backward_needs_what_forward_kept
        memory_of_another_configuration_is_refused
        every_pair_of_types_has_its_scratch
        experts_split_unevenly_over_ranks;
    expert_bias:
        worked_by_hand
        biases_exact
        biases_f32
        biases_bf16
        biases_f16
        zeros_change_nothing;
    golden:
        losses_and_weights
        loss_gradients
        kept_sets
        uniform_routing_costs_the_coefficient;
    gradients:
        a_dropped_choice_still_moves_the_router
        keeping_the_routing_only_changes_no_bit
        weight_gradients_accumulate;
    invariants:
        a_plan_is_a_bijection_within_capacity
        weights_sum_to_the_scale
        permute_and_its_backward_are_adjoint
        unpermute_and_its_backward_are_adjoint
        permuted_rows_through_the_experts_are_the_layer
        permuting_tokens_permutes_results
        one_expert_is_the_dense_layer;
    layer:
        exact_every_configuration
        f32_every_configuration
        bf16_every_configuration
        bf16_with_an_f32_router
        f16_every_configuration
        f16_with_an_f32_router
        wide_and_odd_sizes
        a_is_made_from_the_rounded_h;
    nonfinite:
        a_masked_expert_takes_no_row
        a_weight_of_zero_leaves_its_row_out
        a_weight_of_zero_has_no_part_in_the_routers_gradient
        nan_weights_are_dropped_first
        logits_that_became_nan_after_forward_stay_in_their_row
        a_value_reaches_what_it_touches_and_nothing_else_f32
        a_value_reaches_what_it_touches_and_nothing_else_bf16
        a_value_reaches_what_it_touches_and_nothing_else_f16
        a_bad_row_has_no_part_in_the_routers_gradient
        an_expert_masked_by_its_weight_is_never_multiplied
        a_vanished_weight_hides_its_expert
        large_values_stay_finite;
    range:
        a_row_is_weighed_and_then_rounded
        a_row_beyond_the_range_is_weighed_into_it;
    router:
        every_kind_of_logits_f32
        every_number_of_experts
        backward_on_every_kind_of_logits
        dispatch_of_every_kind_of_routing
        ties_take_the_lowest_index
        groups_tie_to_the_lower_group
        saturated_sigmoids_are_told_apart_by_their_logits
        confident_routers_keep_the_digits_of_their_gradient
        a_selection_bias_picks_but_does_not_weigh
        a_large_bias_does_not_cancel_the_weight
        statistics_are_what_they_say;
    [f64] in_f64:
        every_path_against_finite_differences
        clamped_swiglu_against_finite_differences
        biases_against_finite_differences
        both_scales_of_the_balance_loss
        straight_through_is_the_gradient_of_the_full_softmax
        every_kind_of_logits;
}

/// Runs the test of this name.
///
/// # Panics
/// When it fails, or the backend has none of this name.
pub fn run<B: TestBackend>(name: &str) {
    let tests = tests::<B>();
    let test = tests.iter().find(|test| test.name == name);
    (test
        .unwrap_or_else(|| panic!("there is no test {name}"))
        .run)()
}

/// Runs all tests, and gives those that fail. What they say is on the standard error stream.
pub fn failures<B: TestBackend>() -> Vec<Test> {
    let mut tests = tests::<B>();
    tests.retain(|test| panic::catch_unwind(AssertUnwindSafe(test.run)).is_err());
    tests
}

/// Runs all tests.
///
/// # Panics
/// When any fails, with the names of those that did.
pub fn conformance<B: TestBackend>() {
    let failed: Vec<&str> = failures::<B>().iter().map(|test| test.name).collect();
    assert!(failed.is_empty(), "these tests fail: {failed:#?}");
}
