//! What checking costs, in processor time. Timings are for people:
//! `cargo test --release -p cuda-emulator --test suite check_cost -- --ignored --nocapture`.

use std::time::Duration;

use crate::gpu::{Gpu, describe};
use cuda_emulator::options::{Check, Options};

const KERNELS: &str = include_str!("../data/sync_kernels.ptx");

/// A loop that is mostly arithmetic, with a load and a store a round, all lanes together.
const SCALAR: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry scalar(.param .u64 in, .param .u64 out, .param .u32 rounds) {
.reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %d<8>; .reg .pred %p;
ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; ld.param.u32 %r0, [rounds];
mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r1;
mul.wide.u32 %d2, %r4, 4; add.s64 %d0, %d0, %d2; add.s64 %d1, %d1, %d2; mov.f32 %f0, 0f00000000; mov.u32 %r5, 0;
loop:
ld.global.f32 %f1, [%d0];
fma.rn.f32 %f0, %f1, %f1, %f0; mul.f32 %f2, %f0, 0f3F000000; add.f32 %f3, %f2, %f1; fma.rn.f32 %f0, %f3, %f2, %f1;
add.s32 %r6, %r5, %r1; xor.b32 %r7, %r6, %r5; shl.b32 %r8, %r7, 3; and.b32 %r9, %r8, 255; max.f32 %f0, %f0, %f3;
mul.f32 %f0, %f0, 0f3F000000; sub.f32 %f4, %f0, %f1; fma.rn.f32 %f0, %f4, %f4, %f0;
st.global.f32 [%d1], %f0;
add.s32 %r5, %r5, 1; setp.lt.u32 %p, %r5, %r0; @%p bra loop;
ret;
}
";

/// One launch with the options given.
type Launch<'a> = &'a dyn Fn(&Options);

fn time(level: Check, launch: impl Fn(&Options)) -> Duration {
    let options = Options {
        check: level,
        late_async: false,
        exact_mma: false,
        threads: 1,
        ..Options::default()
    };
    launch(&options);
    let runs = (0..5).map(|_| {
        let start = processor_time();
        launch(&options);
        processor_time() - start
    });
    runs.min().expect("five runs")
}

/// Of this thread, which runs everything: what else the machine does counts for less.
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is there to be written.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
#[ignore = "prints timings"]
fn cost_of_checking() {
    let gpu = Gpu::new(SCALAR);
    let (n, rounds) = (64 * 256, 200u64);
    let (input, out) = (gpu.upload(&vec![1f32; n]), gpu.upload(&vec![0f32; n]));
    let scalar = |options: &Options| {
        let report = gpu.launch(
            "scalar",
            [64, 1, 1],
            [256, 1, 1],
            &[input, out, rounds],
            options,
        );
        assert!(
            report.fault.is_none() && report.findings.is_empty(),
            "{}",
            describe(&report.findings)
        );
    };
    let sync = Gpu::new(KERNELS);
    let (n, k) = (128usize, 512usize);
    let a = sync.upload(&vec![1f32; n * n]);
    let c = sync.upload(&vec![0f32; n * n]);
    let tiled = |options: &Options| {
        let report = sync.launch(
            "tiled_gemm",
            [8, 8, 1],
            [16, 16, 1],
            &[a, a, c, n as u64],
            options,
        );
        assert!(
            report.fault.is_none() && report.findings.is_empty(),
            "{}",
            describe(&report.findings)
        );
    };
    let half = sync.upload(&vec![0x3f80u16; n * k]);
    let pipelined = |options: &Options| {
        let report = sync.launch(
            "pipelined_gemm",
            [4, 4, 1],
            [128, 1, 1],
            &[half, half, c, k as u64],
            options,
        );
        assert!(
            report.fault.is_none() && report.findings.is_empty(),
            "{}",
            describe(&report.findings)
        );
    };
    let kernels: [(&str, Launch<'_>); 3] = [
        ("scalar", &scalar),
        ("tiled_gemm", &tiled),
        ("pipelined_gemm", &pipelined),
    ];
    for (name, launch) in kernels {
        let [off, fast, all] =
            [Check::Off, Check::Fast, Check::All].map(|level| time(level, launch));
        println!(
            "{name}: off {off:.1?}, fast {:.2}×, all {:.2}×",
            fast.as_secs_f64() / off.as_secs_f64(),
            all.as_secs_f64() / off.as_secs_f64()
        );
    }
}
