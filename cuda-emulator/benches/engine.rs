//! Speed of the interpreter: thread-instructions a second and core on a convergent scalar loop, a tensor-core block product,
//! and loading. Run with `cargo bench -p cuda-emulator --bench engine`; best of several runs, one thread, processor time.

use std::fmt::Write;
use std::time::Duration;

use cuda_emulator::device::Device;
use cuda_emulator::engine::{self, Launch, Loaded};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::options::{Check, Options};
use cuda_emulator::ptx;

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Integer and float arithmetic, a load, a store and a branch; no divergence.
const SCALAR: &str = "
.visible .entry scalar(.param .u64 p, .param .u32 n)
{
.reg .b64 %p, %a, %o; .reg .b32 %t, %i, %n, %x, %y, %z; .reg .f32 %f, %g; .reg .pred %q;
ld.param.u64 %p, [p];
ld.param.u32 %n, [n];
mov.u32 %t, %tid.x;
mul.wide.u32 %o, %t, 4;
add.u64 %a, %p, %o;
mov.u32 %i, 0;
mov.u32 %x, %t;
mov.f32 %f, 0f3F800000;
L:
ld.global.f32 %g, [%a];
mad.lo.s32 %x, %x, 5, %i;
xor.b32 %y, %x, %t;
shl.b32 %z, %y, 3;
add.s32 %x, %z, %x;
fma.rn.f32 %f, %f, %g, %g;
and.b32 %y, %y, 255;
mul.f32 %f, %f, 0f3F000000;
add.s32 %x, %x, %y;
st.global.f32 [%a+4096], %f;
add.s32 %i, %i, 1;
setp.lt.s32 %q, %i, %n;
@%q bra L;
st.global.u32 [%a+8192], %x;
ret;
}
";

/// Four warps: 128×128×512 with bf16 inputs from shared memory, 32 mma for each 16 of k and 64×64 of a warp.
fn tensor() -> String {
    let mut text = String::from(
        "
.extern .shared .align 16 .b8 tile[];
.visible .entry tensor(.param .u64 p)
{
.reg .b64 %p, %o; .reg .b32 %t, %k, %s, %l, %a<16>, %b<16>; .reg .f32 %c<128>; .reg .pred %q;
ld.param.u64 %p, [p];
mov.u32 %t, %tid.x;
and.b32 %l, %t, 31;
shl.b32 %l, %l, 4;
mov.u32 %s, tile;
add.u32 %s, %s, %l;
",
    );
    for i in 0..128 {
        let _ = writeln!(text, "mov.f32 %c{i}, 0f00000000;");
    }
    text += "mov.u32 %k, 0;\nL:\n";
    for i in 0..4 {
        let _ = writeln!(
            text,
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%a{}, %a{}, %a{}, %a{}}}, [%s+{}];",
            4 * i,
            4 * i + 1,
            4 * i + 2,
            4 * i + 3,
            512 * i
        );
        let _ = writeln!(
            text,
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%b{}, %b{}, %b{}, %b{}}}, [%s+{}];",
            4 * i,
            4 * i + 1,
            4 * i + 2,
            4 * i + 3,
            2048 + 512 * i
        );
    }
    for i in 0..4 {
        for j in 0..8 {
            let c = 4 * (8 * i + j);
            let d = format!("{{%c{}, %c{}, %c{}, %c{}}}", c, c + 1, c + 2, c + 3);
            let a = format!(
                "{{%a{}, %a{}, %a{}, %a{}}}",
                4 * i,
                4 * i + 1,
                4 * i + 2,
                4 * i + 3
            );
            let _ = writeln!(
                text,
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {d}, {a}, {{%b{}, %b{}}}, {d};",
                2 * j,
                2 * j + 1
            );
        }
    }
    text += "add.s32 %k, %k, 16;\nsetp.lt.s32 %q, %k, 512;\n@%q bra L;\n";
    for i in 1..128 {
        let _ = writeln!(text, "add.f32 %c0, %c0, %c{i};");
    }
    text += "mul.wide.u32 %o, %t, 4;\nadd.u64 %p, %p, %o;\nst.global.f32 [%p], %c0;\nret;\n}\n";
    text
}

fn load(text: &str, memory: &DeviceMemory) -> Loaded {
    let module = ptx::parse(text).unwrap_or_else(|e| panic!("{e}"));
    engine::load(&module, memory).unwrap_or_else(|e| panic!("{e}"))
}

/// Best time of a launch in seconds, and its thread-instructions.
fn best(
    loaded: &Loaded,
    memory: &DeviceMemory,
    options: &Options,
    params: &[u8],
    shared: u32,
) -> (f64, u64) {
    let device = Device::from_key("a100").expect("the table has an A100");
    let mut least = f64::INFINITY;
    let mut executed = 0;
    for _ in 0..5 {
        let start = processor_time();
        let report = engine::run(&Launch {
            kernel: &loaded.program.kernels[0],
            grid: [1; 3],
            block: [128, 1, 1],
            cluster: [1; 3],
            dynamic_shared: shared,
            params: params.to_vec(),
            cooperative: false,
            memory,
            device,
            options,
        });
        assert_eq!(report.fault, None);
        least = least.min((processor_time() - start).as_secs_f64());
        executed = report.counters.thread_instructions;
    }
    (least, executed)
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

fn main() {
    let off = Options {
        check: Check::Off,
        threads: 1,
        exact_mma: false,
        ..Options::default()
    };
    let all = Options {
        check: Check::All,
        ..off.clone()
    };
    for (name, options) in [("checks off", &off), ("all checks", &all)] {
        let tracked = options.check == Check::All;
        let memory = DeviceMemory::with_tracking(1 << 30, tracked).expect("address space");
        let buffer = memory.allocate(1 << 16, 256).expect("room");
        memory.fill(buffer, 1 << 16, &[0]).expect("in range");

        let scalar = load(&format!("{HEAD}{SCALAR}"), &memory);
        let mut params = buffer.to_le_bytes().to_vec();
        params.extend(20_000u32.to_le_bytes());
        let (seconds, n) = best(&scalar, &memory, options, &params, 0);
        println!(
            "scalar loop, {name}: {:.2} billion thread-instructions/s",
            n as f64 / seconds / 1e9
        );

        let product = load(&format!("{HEAD}{}", tensor()), &memory);
        let params = buffer.to_le_bytes();
        for exact in [false, true] {
            let options = Options {
                exact_mma: exact,
                check: Check::Off,
                ..options.clone()
            };
            if !tracked {
                let (seconds, _) = best(&product, &memory, &options, &params, 4096);
                let mode = if exact { "exact" } else { "fast" };
                println!(
                    "bf16 block product 128×128×512, {mode}: {:.2} ms",
                    seconds * 1e3
                );
            }
        }
    }

    let mut text = HEAD.to_string();
    let mut i = 0;
    while text.len() < 1 << 20 {
        text += &SCALAR.replace("scalar", &format!("kernel{i}"));
        i += 1;
    }
    let memory = DeviceMemory::new(1 << 20).expect("address space");
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let start = processor_time();
        let loaded = load(&text, &memory);
        least = least.min((processor_time() - start).as_secs_f64());
        assert_eq!(loaded.program.kernels.len(), i);
    }
    println!(
        "parsing and loading 1 MB of PTX ({i} kernels): {:.1} ms",
        least * 1e3
    );
}
