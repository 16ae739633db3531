//! Consumer cards give a block 99 KiB of shared memory; data-centre cards, which the other tests run on, 163 and more.

use std::env;
use std::process::Command;

use millet::{Cuda, GroupLimit, Keep, MoeConfig};
use millet_testing::harness::{self, Problem};
use millet_testing::oracle::Oracle;
use millet_testing::tolerance::{assert_near, assert_near_in_norm};

const DEVICE: &str = "CUDA_EMULATOR_DEVICE";

/// This test once more, in a process whose device is such a card.
#[test]
fn as_many_experts_are_routed_with_99_kib_of_shared_memory() {
    if env::var(DEVICE).is_ok_and(|device| device == "rtx4090") {
        return route();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("small_shared::as_many_experts_are_routed_with_99_kib_of_shared_memory")
        .envs([("CUDA_EMULATOR", "1"), (DEVICE, "rtx4090")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

/// Around the number of experts from which a block's logits and rows no longer fit, and with so many groups that the forward pass
/// does not either.
fn route() {
    let groups = |groups| GroupLimit {
        groups,
        selected: groups / 2,
    };
    for (experts, groups) in [
        (128, None),
        (480, None),
        (497, None),
        (512, None),
        (512, Some(groups(64))),
        (512, Some(groups(256))),
        (513, None),
    ] {
        let mut config = MoeConfig::builder(64, 8, experts, 4);
        if let Some(groups) = groups {
            config = config.groups(groups);
        }
        let config = config.build().unwrap();
        let problem = Problem::random(&config, 40, 1).rounded::<f32, f32>();
        let got = harness::run::<Cuda, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        let exact = Oracle::exact(&config).layer(&problem, 1.0);
        let same = Oracle::<f32> {
            config: &config,
            store: |v| v,
            store_router: |v| v,
        };
        let same = same.layer(&problem, 1.0);
        let what = format!("{experts} experts, {groups:?}");
        got.assert_same_routing(&exact, &what);
        let floats = got
            .floats()
            .into_iter()
            .zip(exact.floats())
            .zip(same.floats());
        for (((name, got), (_, exact)), (_, same)) in floats {
            let what = format!("{name}: {what}");
            assert_near(got, exact, same, &what);
            assert_near_in_norm(got, exact, same, &what);
        }
    }
}
