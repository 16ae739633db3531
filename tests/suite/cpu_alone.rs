//! What is the CPU's alone: threads, blocks of its products, the memory of the host.

use millet::half::bf16;
use millet::{Cpu, Element, Error, Keep, Memory, MoeLayer};
use millet_testing::generate::{self, base};
use millet_testing::harness::{Problem, run, run_with};

fn on_threads<R: Send>(threads: usize, job: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(job)
}

#[test]
fn threads_change_no_bit() {
    fn check<T: Element, W: Element<Acc = T::Acc>>() {
        for (config, tokens) in generate::large(1) {
            let problem = Problem::random(&config, tokens, 1).rounded::<T, W>();
            let [one, two, three, five] = [1, 2, 3, 5].map(|threads| {
                on_threads(threads, || {
                    run::<Cpu, T, W>(&config, &problem, Keep::Hidden, 1.0)
                })
            });
            for (more, threads) in [(two, 2), (three, 3), (five, 5)] {
                one.assert_same_bits(&more, &format!("{threads} threads, {}", T::DTYPE));
            }
        }
    }
    check::<f64, f64>();
    check::<f32, f32>();
    check::<bf16, f32>();
}

#[test]
fn memory_of_one_pool_serves_another() {
    for (config, tokens) in generate::large(1) {
        let problem = Problem::random(&config, tokens, 5).rounded::<bf16, f32>();
        let expected = on_threads(1, || {
            run::<Cpu, bf16, f32>(&config, &problem, Keep::Routing, 1.0)
        });
        let layer = MoeLayer::new(Cpu, config.clone());
        for (made, used) in [(1, 4), (2, 3), (4, 1), (3, 2)] {
            let (mut saved, mut workspace) = on_threads(made, || {
                (
                    layer.saved::<bf16>(tokens, Keep::Routing).unwrap(),
                    layer.workspace::<bf16>(tokens, Keep::Routing).unwrap(),
                )
            });
            let outcome = on_threads(used, || {
                run_with::<Cpu, bf16, f32>(&layer, &problem, &mut saved, &mut workspace, 1.0)
            });
            expected.assert_same_bits(&outcome, &format!("made by {made}, used by {used}"));
        }
    }
}

/// Weights of more than a block, widened in parts, against the same values in f32, which are multiplied whole.
#[test]
fn weights_in_blocks_change_little() {
    let config = base(1100, 2100, 2, 2).build().unwrap();
    let problem = Problem::random(&config, 5, 6).rounded::<bf16, bf16>();
    let wide = run::<Cpu, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
    let narrow = run::<Cpu, bf16, bf16>(&config, &problem, Keep::Hidden, 1.0);
    narrow.assert_same_routing(&wide, "bf16");
    for ((name, narrow), (_, wide)) in narrow.floats().into_iter().zip(wide.floats()) {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = square(&mut narrow.iter().zip(wide).map(|(n, w)| n - w));
        let scale = square(&mut wide.iter().copied());
        assert!(error <= 1e-3 * scale, "{name}: {error} of {scale}");
    }
}

#[test]
fn memory_that_the_host_has_not_is_refused() {
    let error = Cpu.allocate::<f32>(usize::MAX / 8).unwrap_err();
    let Error::OutOfMemory {
        operation: "allocate",
        bytes,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(bytes, usize::MAX / 8 * 4);
}
