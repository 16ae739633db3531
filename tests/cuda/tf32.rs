//! Products of one tf32 number each, where they are asked for.

use millet::Cuda;
use millet::cuda::F32Products;
use millet_testing::conformance::planted_values_reach_what_they_touch;

use super::alone;

/// NaN of every kind stays NaN and infinity infinity.
#[test]
fn single_tf32_products_keep_what_is_not_finite() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap().f32_products(F32Products::Tf32);
    let nans = [0x7fff_ffff, 0xffff_ffff, 0x7fff_f000].map(|bits| f64::from(f32::from_bits(bits)));
    planted_values_reach_what_they_touch(cuda, &nans);
}
