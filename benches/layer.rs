//! The layer, forward and backward, and on the CPU beside it one large product on the same cores. Ends with a table; CPU times are
//! ratios of what was measured in this run, because absolute ones say little about another machine.
//!
//! `cargo bench --bench layer`; docs/benchmarks.md has the choices.

mod harness;

use std::hint::black_box;

use harness::layer::Layer;
use harness::{Family, Suite};
use millet_testing::cases::values;

/// One large product on all cores: what the CPU's layer is compared with.
fn product(suite: &mut Suite, when: &str) {
    const N: usize = 2048;
    let n = N as isize;
    let [a, b] = [1, 2].map(|seed| values::<f32>(N * N, 1.0, seed));
    let mut c = vec![0.0f32; N * N];
    suite.bench([PRODUCT, SIZES, when], PRODUCT_FLOPS, || {
        // SAFETY: three N×N matrices, the output exclusively borrowed.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                N,
                N,
                N,
                c.as_mut_ptr(),
                n,
                1,
                false,
                b.as_ptr(),
                n,
                1,
                a.as_ptr(),
                n,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm_common::Parallelism::Rayon(0),
            );
        }
        black_box(&mut c);
    });
}

const PRODUCT: &str = "product";
const SIZES: &str = "2048x2048x2048";
const PRODUCT_FLOPS: f64 = 2.0 * (2048u64 * 2048 * 2048) as f64;

/// FLOP/s of the product, the mean of before and after.
fn product_rate(suite: &Suite) -> Option<f64> {
    let seconds =
        ["before", "after"].map(|when| suite.median(&format!("{PRODUCT}/{SIZES}/{when}")));
    let [Some(before), Some(after)] = seconds else {
        return None;
    };
    Some(PRODUCT_FLOPS / (0.5 * (before + after)))
}

/// Every case that was measured forward and backward: a CPU's as ratios, a GPU's rates too.
fn print_table(suite: &Suite) {
    let product = product_rate(suite);
    let mut rows = Vec::new();
    for variant in suite.variants() {
        let mut first = None;
        for case in suite.cases() {
            let id = |operation: &str| format!("layer/{}/{variant}/{operation}", case.name);
            let median = |operation: &str| suite.median(&id(operation));
            let (Some(forward), Some(backward)) = (median("forward"), median("backward")) else {
                continue;
            };
            let flops = case.config.forward_flops(case.tokens).experts;
            let [one, both] = *first.get_or_insert([forward, forward + backward]);
            let share = match product.filter(|_| variant.starts_with("cpu")) {
                Some(rate) => {
                    let reached = 3.0 * flops / (forward + backward);
                    format!("{:.0} %", 100.0 * reached / rate)
                }
                None => "–".into(),
            };
            let rates = match variant.starts_with("cpu") {
                true => "– | –".into(),
                false => format!(
                    "{:.0} | {:.0}",
                    flops / forward / 1e12,
                    2.0 * flops / backward / 1e12
                ),
            };
            let routing = median("routing").map_or("–".into(), |routing| {
                format!("{:.1} %", 100.0 * routing / (forward + backward))
            });
            rows.push(format!(
                "| {} | {variant} | {:.2} | {:.2} | {share} | {routing} | {rates} |",
                case.name,
                forward / one,
                (forward + backward) / both
            ));
        }
    }
    if rows.is_empty() {
        return;
    }
    println!(
        "\n| case | on | time forward, first = 1 | forward + backward, first = 1 | share of one product's FLOP/s \
         | routing, share of the time | TFLOP/s forward | TFLOP/s backward |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    println!("{}", rows.join("\n"));
}

fn main() {
    let mut suite = Suite::new(Layer::DEFAULT);
    product(&mut suite, "before");
    suite.run::<Layer>();
    product(&mut suite, "after");
    print_table(&suite);
    suite.finish();
}
