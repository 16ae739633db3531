//! Whole kernels: control flow, calls, barriers, several blocks.

use crate::machine::{Machine, checked, unchecked};
use cuda_emulator::check::FindingKind;

/// As nvcc 13.5 writes it.
const VECTOR_ADD: &str = "
.version 9.5
.target sm_80
.address_size 64
.visible .entry vadd(
	.param .u64 vadd_param_0,
	.param .u64 vadd_param_1,
	.param .u64 vadd_param_2,
	.param .u32 vadd_param_3
)
{
	.reg .pred 	%p<2>;
	.reg .f32 	%f<4>;
	.reg .b32 	%r<6>;
	.reg .b64 	%rd<11>;

	ld.param.u64 	%rd1, [vadd_param_0];
	ld.param.u64 	%rd2, [vadd_param_1];
	ld.param.u64 	%rd3, [vadd_param_2];
	ld.param.u32 	%r2, [vadd_param_3];
	mov.u32 	%r3, %ctaid.x;
	mov.u32 	%r4, %ntid.x;
	mov.u32 	%r5, %tid.x;
	mad.lo.s32 	%r1, %r3, %r4, %r5;
	setp.ge.s32 	%p1, %r1, %r2;
	@%p1 bra 	$L__BB0_2;

	cvta.to.global.u64 	%rd4, %rd1;
	mul.wide.s32 	%rd5, %r1, 4;
	add.s64 	%rd6, %rd4, %rd5;
	cvta.to.global.u64 	%rd7, %rd2;
	add.s64 	%rd8, %rd7, %rd5;
	ld.global.f32 	%f1, [%rd8];
	ld.global.f32 	%f2, [%rd6];
	add.f32 	%f3, %f2, %f1;
	cvta.to.global.u64 	%rd9, %rd3;
	add.s64 	%rd10, %rd9, %rd5;
	st.global.f32 	[%rd10], %f3;

$L__BB0_2:
	ret;
}
";

#[test]
fn vector_add() {
    for options in [checked(), unchecked()] {
        let machine = Machine::new(VECTOR_ADD, options);
        let n = 1000usize;
        let x: Vec<u32> = (0..n).map(|i| (i as f32 * 0.5).to_bits()).collect();
        let y: Vec<u32> = (0..n).map(|i| (1000.0 - i as f32).to_bits()).collect();
        let (a, b) = (machine.words(&x), machine.words(&y));
        let c = machine.words(&vec![7; n + 1]);
        machine.clean("vadd", [8, 1, 1], [128, 1, 1], &[a, b, c, n as u64]);
        let result = machine.read(c, n + 1);
        for (i, &bits) in result[..n].iter().enumerate() {
            assert_eq!(f32::from_bits(bits), i as f32 * 0.5 + 1000.0 - i as f32);
        }
        assert_eq!(result[n], 7, "past the end");
    }
}

#[test]
fn out_of_bounds_is_named() {
    let machine = Machine::new(VECTOR_ADD, checked());
    let a = machine.words(&[0; 100]);
    let report = machine.launch("vadd", [1, 1, 1], [128, 1, 1], &[a, a, a, 101]);
    let fault = report.fault.expect("the launch fails");
    assert_eq!(fault.code as u32, 700);
    assert!(fault.message.contains("PTX line 33"), "{}", fault.message);
    assert!(
        fault.message.contains("thread [100, 0, 0]"),
        "{}",
        fault.message
    );
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].thread, [100, 0, 0]);
}

/// An entry with parameters a, b (u64) in `%a`, `%b`, the thread's index in `%t` and four times it in `%o`, after other text.
fn entry(before: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n{before}\n\
         .visible .entry k(.param .u64 a, .param .u64 b)\n{{\n\
         .reg .b64 %a, %b, %o, %x<20>;\n.reg .b32 %t, %r<40>;\n.reg .pred %p<8>;\n\
         ld.param.u64 %a, [a];\nld.param.u64 %b, [b];\nmov.u32 %t, %tid.x;\nmul.wide.u32 %o, %t, 4;\n\
         {body}\n}}\n"
    )
}

#[test]
fn block_reduction() {
    let text = entry(
        ".shared .align 4 .b8 part[128];",
        "add.u64 %x0, %b, %o;
         ld.global.u32 %r0, [%x0];
         shfl.sync.bfly.b32 %r1|%p0, %r0, 16, 31, -1; add.u32 %r0, %r0, %r1;
         shfl.sync.bfly.b32 %r1|%p0, %r0, 8, 31, -1; add.u32 %r0, %r0, %r1;
         shfl.sync.bfly.b32 %r1|%p0, %r0, 4, 31, -1; add.u32 %r0, %r0, %r1;
         shfl.sync.bfly.b32 %r1|%p0, %r0, 2, 31, -1; add.u32 %r0, %r0, %r1;
         shfl.sync.bfly.b32 %r1|%p0, %r0, 1, 31, -1; add.u32 %r0, %r0, %r1;
         and.b32 %r2, %t, 31;
         setp.ne.u32 %p1, %r2, 0;
         @%p1 bra STORED;
         shr.u32 %r3, %t, 5;
         shl.b32 %r3, %r3, 2;
         mov.u32 %r4, part;
         add.u32 %r3, %r3, %r4;
         st.shared.u32 [%r3], %r0;
STORED:
         bar.sync 0;
         setp.ne.u32 %p2, %t, 0;
         @%p2 bra DONE;
         mov.u32 %r5, 0;
         mov.u32 %r6, 0;
LOOP:
         mov.u32 %r4, part;
         shl.b32 %r7, %r6, 2;
         add.u32 %r7, %r7, %r4;
         ld.shared.u32 %r8, [%r7];
         add.u32 %r5, %r5, %r8;
         add.u32 %r6, %r6, 1;
         setp.lt.u32 %p3, %r6, 4;
         @%p3 bra LOOP;
         st.global.u32 [%a], %r5;
DONE:
         ret;",
    );
    for seed in [None, Some(1), Some(2)] {
        let mut options = checked();
        options.seed = seed;
        let machine = Machine::new(&text, options);
        let input = machine.words(&(0..128).collect::<Vec<_>>());
        let out = machine.words(&[0]);
        machine.clean("", [1, 1, 1], [128, 1, 1], &[out, input]);
        assert_eq!(machine.read(out, 1), [127 * 64]);
    }
}

#[test]
fn divergence_meets_again() {
    // Each lane loops its own number of times, takes one of two ways, and all meet in a shuffle.
    let text = entry(
        "",
        "and.b32 %r0, %t, 7;
         mov.u32 %r1, 0;
HEAD:
         setp.eq.u32 %p0, %r0, 0;
         @%p0 bra OUT;
         add.u32 %r1, %r1, %r0;
         sub.u32 %r0, %r0, 1;
         bra HEAD;
OUT:
         and.b32 %r2, %t, 1;
         setp.eq.u32 %p1, %r2, 1;
         @%p1 bra ODD;
         add.u32 %r1, %r1, 100;
         bra MEET;
ODD:
         add.u32 %r1, %r1, 200;
MEET:
         shfl.sync.idx.b32 %r3, %r1, 31, 31, -1;
         vote.sync.ballot.b32 %r4, %p1, -1;
         add.u32 %r3, %r3, %r1;
         xor.b32 %r3, %r3, %r4;
         add.u64 %x0, %a, %o;
         st.global.u32 [%x0], %r3;
         ret;",
    );
    let machine = Machine::new(&text, checked());
    let out = machine.words(&[0; 32]);
    machine.clean("", [1, 1, 1], [32, 1, 1], &[out, 0]);
    let value = |l: u32| (l & 7) * ((l & 7) + 1) / 2 + if l % 2 == 1 { 200 } else { 100 };
    let expected: Vec<u32> = (0..32)
        .map(|l| (value(31) + value(l)) ^ 0xaaaa_aaaa)
        .collect();
    assert_eq!(machine.read(out, 32), expected);
}

#[test]
fn calls_and_recursion() {
    let before = "
.func (.param .b32 result) factorial(.param .b32 n)
{
.reg .b32 %n, %m, %f; .reg .pred %p;
ld.param.u32 %n, [n];
setp.gt.u32 %p, %n, 1;
@%p bra MORE;
st.param.b32 [result], 1;
ret;
MORE:
sub.u32 %m, %n, 1;
{
.param .b32 arg; .param .b32 back;
st.param.b32 [arg], %m;
call.uni (back), factorial, (arg);
ld.param.b32 %f, [back];
}
mul.lo.u32 %f, %f, %n;
st.param.b32 [result], %f;
ret;
}
.func (.reg .b32 %out) twice(.reg .b32 %in)
{
add.u32 %out, %in, %in;
ret;
}
.func (.param .b32 result) seven(.param .b32 n)
{
.reg .b32 %n;
ld.param.u32 %n, [n];
add.u32 %n, %n, 7;
st.param.b32 [result], %n;
ret;
}
";
    let text = entry(
        before,
        "and.b32 %r0, %t, 7;
         {
         .param .b32 n; .param .b32 r;
         st.param.b32 [n], %r0;
         call (r), factorial, (n);
         ld.param.b32 %r1, [r];
         }
         call (%r2), twice, (%r1);
         mov.u64 %x1, seven;
         mov.u64 %x2, factorial;
         setp.lt.u32 %p0, %t, 16;
         selp.b64 %x1, %x1, %x2, %p0;
         {
         .param .b32 n; .param .b32 r;
         st.param.b32 [n], %r0;
         prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
         call (r), %x1, (n), prototype;
         ld.param.b32 %r3, [r];
         }
         add.u32 %r2, %r2, %r3;
         add.u64 %x0, %a, %o;
         st.global.u32 [%x0], %r2;
         ret;",
    );
    let machine = Machine::new(&text, checked());
    let out = machine.words(&[0; 32]);
    machine.clean("", [1, 1, 1], [32, 1, 1], &[out, 0]);
    let factorial = |n: u32| (1..=n).product::<u32>();
    let expected: Vec<u32> = (0..32)
        .map(|l| {
            let n = l & 7;
            2 * factorial(n) + if l < 16 { n + 7 } else { factorial(n) }
        })
        .collect();
    assert_eq!(machine.read(out, 32), expected);
}

#[test]
fn tables_of_branches_and_local_memory() {
    let text = entry(
        "",
        ".local .align 4 .b8 depot[16];
         and.b32 %r0, %t, 3;
         mov.u64 %x1, depot;
         cvta.local.u64 %x2, %x1;
         mul.wide.u32 %x3, %r0, 4;
         add.u64 %x3, %x2, %x3;
         st.local.v4.u32 [depot], {10, 20, 30, 40};
         ld.u32 %r1, [%x3];
         ts: .branchtargets A, B, C, D;
         brx.idx %r0, ts;
A:       add.u32 %r1, %r1, 1; bra E;
B:       add.u32 %r1, %r1, 2; bra E;
C:       add.u32 %r1, %r1, 3; bra E;
D:       add.u32 %r1, %r1, 4;
E:
         add.u64 %x0, %a, %o;
         st.global.u32 [%x0], %r1;
         ret;",
    );
    let machine = Machine::new(&text, checked());
    let out = machine.words(&[0; 32]);
    machine.clean("", [1, 1, 1], [32, 1, 1], &[out, 0]);
    let expected: Vec<u32> = (0..32).map(|l| [11, 22, 33, 44][l & 3]).collect();
    assert_eq!(machine.read(out, 32), expected);
}

#[test]
fn atomics() {
    let text = entry(
        "",
        "atom.global.add.u32 %r0, [%a], 1;
         red.global.max.s32 [%a+4], %t;
         atom.global.inc.u32 %r1, [%a+8], 9;
         red.global.add.f32 [%a+12], 0f3F800000;
         atom.global.gpu.acq_rel.or.b32 %r2, [%a+16], %t;
         red.relaxed.gpu.global.add.noftz.bf16x2 [%a+20], %r5;
         mov.b64 %x1, 1;
         atom.add.u64 %x2, [%a+24], %x1;
         atom.global.cas.b32 %r3, [%a+32], 0, 77;
         ret;",
    );
    for seed in [None, Some(3)] {
        let mut options = unchecked();
        options.seed = seed;
        let machine = Machine::new(&text, options);
        let out = machine.words(&[0; 16]);
        machine.clean("", [10, 1, 1], [96, 1, 1], &[out, 0]);
        let r = machine.read(out, 9);
        assert_eq!(r[..3], [960, 95, 0]);
        assert_eq!(f32::from_bits(r[3]), 960.0);
        assert_eq!(r[4], 127);
        assert_eq!(r[6..], [960, 0, 77]);
    }
}

#[test]
fn blocks_wait_for_one_another() {
    // Block i waits until the counter is i, so block order matters; warps of a block take a lock in any order.
    let text = entry(
        "",
        "mov.u32 %r0, %ctaid.x;
         setp.ne.u32 %p0, %t, 0;
         @%p0 bra WAIT;
SPIN:
         ld.acquire.gpu.global.u32 %r1, [%a];
         mov.u32 %r2, %nctaid.x;
         sub.u32 %r2, %r2, 1;
         sub.u32 %r2, %r2, %r0;
         setp.ne.u32 %p1, %r1, %r2;
         @%p1 bra SPIN;
         ld.global.u32 %r3, [%a+4];
         mul.lo.u32 %r3, %r3, 3;
         add.u32 %r3, %r3, %r0;
         st.global.u32 [%a+4], %r3;
         atom.add.release.gpu.global.u32 %r4, [%a], 1;
WAIT:
         bar.sync 0;
LOCK:
         atom.global.acquire.gpu.cas.b32 %r5, [%a+8], 0, 1;
         setp.ne.u32 %p2, %r5, 0;
         @%p2 bra LOCK;
         ld.global.u32 %r6, [%a+12];
         add.u32 %r6, %r6, 1;
         st.global.u32 [%a+12], %r6;
         fence.acq_rel.gpu;
         atom.global.exch.b32 %r7, [%a+8], 0;
         ret;",
    );
    for seed in [None, Some(5)] {
        let mut options = unchecked();
        options.seed = seed;
        let machine = Machine::new(&text, options);
        let out = machine.words(&[0; 4]);
        // The later block is first here: every block has to be resident.
        machine.clean("", [5, 1, 1], [64, 1, 1], &[out, 0]);
        let r = machine.read(out, 4);
        assert_eq!(r, [5, (4 * 81 + 3 * 27) + 2 * 9 + 3, 0, 320]);
    }
}

#[test]
fn asynchronous_copies() {
    let text = |wait: &str| {
        entry(
            ".extern .shared .align 16 .b8 buffer[];",
            &format!(
                "mov.u32 %r0, buffer;
                 shl.b32 %r1, %t, 4;
                 add.u32 %r0, %r0, %r1;
                 mul.wide.u32 %x1, %t, 16;
                 add.u64 %x1, %b, %x1;
                 setp.lt.u32 %p0, %t, 20;
                 selp.u32 %r2, 16, 4, %p0;
                 cp.async.cg.shared.global [%r0], [%x1], 16, %r2;
                 cp.async.commit_group;
                 {wait}
                 ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r0];
                 add.u32 %r4, %r4, %r5;
                 add.u32 %r4, %r4, %r6;
                 add.u32 %r4, %r4, %r7;
                 add.u64 %x0, %a, %o;
                 st.global.u32 [%x0], %r4;
                 ret;"
            ),
        )
    };
    let run = |wait: &str, late: bool| {
        let mut options = unchecked();
        options.late_async = late;
        let machine = Machine::new(&text(wait), options);
        let input = machine.words(&(0..128).collect::<Vec<_>>());
        let out = machine.words(&[0; 32]);
        let report = machine.launch_with("", [1, 1, 1], [32, 1, 1], 512, false, &[out, input]);
        assert_eq!(report.fault, None);
        machine.read(out, 32)
    };
    let expected: Vec<u32> = (0..32)
        .map(|l| if l < 20 { 16 * l + 6 } else { 4 * l })
        .collect();
    for late in [false, true] {
        assert_eq!(run("cp.async.wait_group 0;", late), expected);
        assert_eq!(run("cp.async.wait_all;", late), expected);
    }
    assert_ne!(
        run("cp.async.wait_group 1;", true),
        expected,
        "too weak a wait shows"
    );
    assert_eq!(run("cp.async.wait_group 1;", false), expected);
}

#[test]
fn late_copies_complete_in_no_fixed_order() {
    // All lanes copy their own word to one place: which is the last depends on the seed alone.
    let text = entry(
        ".shared .align 16 .b8 buffer[16];",
        "mov.u32 %r0, buffer;
         add.u64 %x1, %b, %o;
         cp.async.ca.shared.global [%r0], [%x1], 4;
         cp.async.wait_all;
         bar.warp.sync -1;
         ld.shared.u32 %r1, [%r0];
         add.u64 %x0, %a, %o;
         st.global.u32 [%x0], %r1;
         ret;",
    );
    let run = |seed| {
        let mut options = unchecked();
        options.late_async = true;
        options.seed = seed;
        let machine = Machine::new(&text, options);
        let input = machine.words(&(0..32).collect::<Vec<_>>());
        let out = machine.words(&[99; 32]);
        let report = machine.launch("", [1, 1, 1], [32, 1, 1], &[out, input]);
        assert_eq!(report.fault, None);
        machine.read(out, 32)
    };
    let mut seen = std::collections::HashSet::new();
    for seed in 0..20 {
        let result = run(Some(seed));
        assert_eq!(result, run(Some(seed)), "a seed gives one order");
        seen.insert(result[0]);
    }
    assert!(seen.len() > 5, "{seen:?}");
    assert_eq!(run(None), [31; 32]);
}

#[test]
fn a_shuffle_from_a_lane_that_takes_no_part() {
    // Half a warp, whose upper lanes ask for lanes that are not in the mask.
    let text = entry(
        "",
        "add.u64 %x0, %a, %o;
         setp.ge.u32 %p0, %t, 16;
         @%p0 bra DONE;
         shfl.sync.down.b32 %r0|%p1, %t, 8, 31, 0xffff;
         selp.u32 %r1, 1, 0, %p1;
         st.global.v2.u32 [%x0], {%r0, %r1};
DONE:
         ret;",
    )
    .replace("mul.wide.u32 %o, %t, 4;", "mul.wide.u32 %o, %t, 8;");
    let machine = Machine::new(&text, checked());
    let out = machine.words(&[7; 32]);
    machine.clean("", [1, 1, 1], [32, 1, 1], &[out, 0]);
    let expected: Vec<u32> = (0..16)
        .flat_map(|l| [if l < 8 { l + 8 } else { !0 }, 1])
        .collect();
    assert_eq!(machine.read(out, 32), expected);
}

#[test]
fn matrices() {
    // A (16×16) is 1 where row = column, so D = A·B + C = B's rows 0..16 by 8 columns, plus 1.
    let text = entry(
        ".shared .align 16 .b8 tile[512];",
        "mov.u32 %r20, tile;
         shr.u32 %r0, %t, 1;
         and.b32 %r1, %t, 1;
         shl.b32 %r2, %r0, 5;
         shl.b32 %r3, %r1, 4;
         add.u32 %r2, %r2, %r3;
         add.u32 %r2, %r2, %r20;
         shl.b32 %r4, %r1, 3;
         sub.u32 %r5, %r0, %r4;
         mov.u32 %r6, 0; mov.u32 %r7, 0; mov.u32 %r8, 0; mov.u32 %r9, 0;
         setp.eq.u32 %p0, %r5, 0; @%p0 mov.u32 %r6, 0x3f80;
         setp.eq.u32 %p0, %r5, 1; @%p0 mov.u32 %r6, 0x3f800000;
         setp.eq.u32 %p0, %r5, 2; @%p0 mov.u32 %r7, 0x3f80;
         setp.eq.u32 %p0, %r5, 3; @%p0 mov.u32 %r7, 0x3f800000;
         setp.eq.u32 %p0, %r5, 4; @%p0 mov.u32 %r8, 0x3f80;
         setp.eq.u32 %p0, %r5, 5; @%p0 mov.u32 %r8, 0x3f800000;
         setp.eq.u32 %p0, %r5, 6; @%p0 mov.u32 %r9, 0x3f80;
         setp.eq.u32 %p0, %r5, 7; @%p0 mov.u32 %r9, 0x3f800000;
         st.shared.v4.b32 [%r2], {%r6, %r7, %r8, %r9};
         bar.warp.sync -1;
         and.b32 %r10, %t, 15;
         shl.b32 %r10, %r10, 5;
         shr.u32 %r11, %t, 4;
         shl.b32 %r11, %r11, 4;
         add.u32 %r10, %r10, %r11;
         add.u32 %r10, %r10, %r20;
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r12, %r13, %r14, %r15}, [%r10];
         shl.b32 %r16, %t, 3;
         cvt.u64.u32 %x1, %r16;
         add.u64 %x1, %b, %x1;
         ld.global.v2.b32 {%r17, %r18}, [%x1];
         mov.b32 %r21, 0f3F800000;
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r22, %r23, %r24, %r25}, {%r12, %r13, %r14, %r15}, {%r17, %r18}, \
         {%r21, %r21, %r21, %r21};
         shl.b32 %r16, %t, 4;
         cvt.u64.u32 %x1, %r16;
         add.u64 %x1, %a, %x1;
         st.global.v4.b32 [%x1], {%r22, %r23, %r24, %r25};
         ret;",
    );
    for exact in [false, true] {
        let mut options = checked();
        options.exact_mma = exact;
        let machine = Machine::new(&text, options);
        // Fragment of B: lane l has rows 2(l%4), +1 (register 0) and 8 more (register 1) of column l/4.
        let b = |k: u32, n: u32| (k * 8 + n) as f32;
        let bf16 = |x: f32| x.to_bits() >> 16;
        let fragment: Vec<u32> = (0..32)
            .flat_map(|l| {
                let (k, n) = (2 * (l % 4), l / 4);
                [
                    bf16(b(k, n)) | bf16(b(k + 1, n)) << 16,
                    bf16(b(k + 8, n)) | bf16(b(k + 9, n)) << 16,
                ]
            })
            .collect();
        let (input, out) = (machine.words(&fragment), machine.words(&[0; 128]));
        machine.clean("", [1, 1, 1], [32, 1, 1], &[out, input]);
        let d = machine.read(out, 128);
        for l in 0..32u32 {
            for i in 0..4 {
                let (row, column) = (l / 4 + 8 * (i / 2), 2 * (l % 4) + i % 2);
                assert_eq!(
                    f32::from_bits(d[(4 * l + i) as usize]),
                    b(row, column) + 1.0
                );
            }
        }
    }
}

#[test]
fn a_barrier_that_half_a_block_misses_is_a_deadlock() {
    let text = entry(
        "",
        "setp.lt.u32 %p0, %t, 32;
         @%p0 bra A;
         bar.sync 1, 96;
         ret;
A:
         bar.sync 0;
         ret;",
    );
    let machine = Machine::new(&text, checked());
    let report = machine.launch("", [1, 1, 1], [64, 1, 1], &[0, 0]);
    let fault = report.fault.expect("a deadlock");
    assert_eq!(fault.code as u32, 702);
    assert!(
        fault.message.contains("barrier 1, 32 of 96 threads"),
        "{}",
        fault.message
    );
    assert!(fault.message.contains("warp 0"), "{}", fault.message);
    let deadlocks = report
        .findings
        .iter()
        .filter(|f| f.kind == FindingKind::Deadlock);
    assert_eq!(deadlocks.count(), 1, "{:?}", report.findings);
}

#[test]
fn an_endless_loop_is_stopped() {
    let text = entry("", "L: add.u32 %r0, %r0, 1; bra L;");
    let mut options = unchecked();
    options.instruction_limit = 1_000_000;
    let machine = Machine::new(&text, options);
    let fault = machine
        .launch("", [3, 1, 1], [64, 1, 1], &[0, 0])
        .fault
        .expect("stopped");
    assert_eq!(fault.code as u32, 702);
    assert!(fault.message.contains("PTX line 14"), "{}", fault.message);
    // Warps that only ever meet at a barrier.
    let meeting = entry("", "L: bar.sync 0; bra L;");
    for seed in [None, Some(3)] {
        let mut options = unchecked();
        options.instruction_limit = 1_000_000;
        options.seed = seed;
        let machine = Machine::new(&meeting, options);
        let report = machine.launch("", [3, 1, 1], [64, 1, 1], &[0, 0]);
        assert_eq!(report.fault.expect("stopped").code as u32, 702);
    }
    // Checked, it is a finding too.
    let mut options = checked();
    options.instruction_limit = 1_000_000;
    let machine = Machine::new(&text, options);
    let report = machine.launch("", [3, 1, 1], [64, 1, 1], &[0, 0]);
    let [finding] = &report.findings[..] else {
        panic!("{:?}", report.findings);
    };
    assert_eq!(
        (finding.kind, finding.line),
        (FindingKind::LimitExceeded, 14)
    );
}

#[test]
fn printf_and_assert() {
    let before = r#"
.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.global .align 1 .b8 format[20] = {116, 32, 37, 100, 32, 37, 48, 53, 46, 50, 102, 32, 37, 115, 33, 10, 0};
.global .align 1 .b8 word[4] = {111, 107, 0};
"#;
    let text = entry(
        before,
        ".local .align 8 .b8 args[24];
         setp.gt.u32 %p0, %t, 1;
         @%p0 ret;
         st.local.u32 [args], %t;
         cvt.rn.f64.u32 %x1, %t;
         st.local.f64 [args+8], %x1;
         mov.u64 %x2, word;
         cvta.global.u64 %x2, %x2;
         st.local.u64 [args+16], %x2;
         mov.u64 %x3, args;
         cvta.local.u64 %x3, %x3;
         mov.u64 %x4, format;
         cvta.global.u64 %x4, %x4;
         {
         .param .b64 p0; .param .b64 p1; .param .b32 r0;
         st.param.b64 [p0], %x4;
         st.param.b64 [p1], %x3;
         call.uni (r0), vprintf, (p0, p1);
         ld.param.b32 %r1, [r0];
         }
         st.global.u32 [%a], %r1;
         ret;",
    );
    let machine = Machine::new(&text, checked());
    let out = machine.words(&[0]);
    let report = machine.launch("", [1, 1, 1], [32, 1, 1], &[out, 0]);
    assert_eq!(report.fault, None);
    assert_eq!(report.printed, "t 0 00.00 ok!\nt 1 01.00 ok!\n");
    assert_eq!(machine.read(out, 1), [3]);
}

#[test]
fn cooperative_grid_sync() {
    // What cooperative_groups' grid.sync() does with the workspace from %envreg1 and %envreg2.
    let text = entry(
        "",
        "mov.u32 %r0, %ctaid.x;
         mov.u32 %r1, %envreg2;
         mov.u32 %r2, %envreg1;
         mov.b64 %x1, {%r1, %r2};
         mul.wide.u32 %x2, %r0, 4;
         add.u64 %x2, %a, %x2;
         setp.ne.u32 %p0, %t, 0;
         @!%p0 st.global.u32 [%x2], %r0;
         bar.sync 0;
         @%p0 bra WAIT;
         mov.u32 %r3, %nctaid.x;
         setp.eq.u32 %p1, %r0, 0;
         sub.u32 %r4, 0x80000001, %r3;
         selp.u32 %r4, %r4, 1, %p1;
         atom.add.release.gpu.u32 %r5, [%x1+4], %r4;
SPIN:
         ld.acquire.gpu.u32 %r6, [%x1+4];
         xor.b32 %r7, %r6, %r5;
         setp.ge.s32 %p2, %r7, 0;
         @%p2 bra SPIN;
WAIT:
         bar.sync 0;
         @%p0 ret;
         xor.b32 %r8, %r0, 1;
         mul.wide.u32 %x3, %r8, 4;
         add.u64 %x3, %a, %x3;
         ld.global.u32 %r9, [%x3];
         st.global.u32 [%x2+256], %r9;
         ret;",
    );
    let machine = Machine::new(&text, unchecked());
    let out = machine.words(&[0; 128]);
    let report = machine.launch_with("", [16, 1, 1], [64, 1, 1], 0, true, &[out, 0]);
    assert_eq!(report.fault, None);
    let expected: Vec<u32> = (0..16).map(|i| i ^ 1).collect();
    assert_eq!(machine.read(out, 128)[64..80], expected);
}

#[test]
fn counters() {
    // Each thread: one coalesced load, one strided shared store (2-way conflict), one store to global memory.
    let text = entry(
        ".shared .align 4 .b8 room[1024];",
        "add.u64 %x0, %b, %o;
         ld.global.u32 %r0, [%x0];
         ld.global.u32 %r4, [%x0];
         mov.u32 %r1, room;
         shl.b32 %r2, %t, 3;
         add.u32 %r1, %r1, %r2;
         st.shared.u32 [%r1], %r0;
         bar.sync 0;
         mul.wide.u32 %x1, %t, 32;
         add.u64 %x1, %a, %x1;
         st.global.u32 [%x1], %r0;
         ret;",
    );
    let mut options = checked();
    options.count = true;
    let machine = Machine::new(&text, options);
    let input = machine.words(&[1; 64]);
    let out = machine.words(&[0; 1024]);
    let c = machine
        .clean("", [1, 1, 1], [64, 1, 1], &[out, input])
        .counters;
    assert_eq!(c.warp_instructions, 2 * 16);
    assert_eq!(c.thread_instructions, 64 * 16);
    assert_eq!(
        (
            c.global_load_requests,
            c.global_load_sectors,
            c.global_load_bytes
        ),
        (4, 16, 512)
    );
    assert_eq!((c.l2_sector_misses, c.l2_sector_hits), (8, 8));
    assert_eq!(
        (
            c.global_store_requests,
            c.global_store_sectors,
            c.global_store_bytes
        ),
        (2, 64, 256)
    );
    assert_eq!((c.first_read_bytes, c.first_written_bytes), (256, 256));
    assert_eq!(
        (
            c.shared_requests,
            c.shared_wavefronts,
            c.shared_bank_conflicts
        ),
        (2, 4, 2)
    );
    assert_eq!(c.barrier_arrivals, 2);
    let classes = c.integer_instructions
        + c.float_instructions
        + c.half_instructions
        + c.move_instructions
        + c.memory_instructions
        + c.control_instructions;
    assert_eq!(classes, c.warp_instructions);
    assert_eq!(c.global_store_efficiency(), 0.125);
}

/// Each thread stores to its word and, past a barrier, loads its neighbour's with `load`; the first launch's words are there already.
fn neighbour(load: &str, stored: bool) -> String {
    let store = if stored {
        "st.global.u32 [%rd3], %r1;"
    } else {
        ""
    };
    format!(
        "
.version 8.0
.target sm_80
.address_size 64
.visible .entry neighbour(.param .u64 data, .param .u64 out)
{{
	.reg .b32 %r<4>;
	.reg .b64 %rd<8>;
	ld.param.u64 %rd1, [data];
	ld.param.u64 %rd2, [out];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd4, %r1, 4;
	add.s64 %rd3, %rd1, %rd4;
	{store}
	bar.sync 0;
	xor.b32 %r2, %r1, 1;
	mul.wide.u32 %rd5, %r2, 4;
	add.s64 %rd6, %rd1, %rd5;
	{load} %r3, [%rd6];
	add.s64 %rd7, %rd2, %rd4;
	st.global.u32 [%rd7], %r3;
	ret;
}}
"
    )
}

#[test]
fn read_only_loads_of_what_the_launch_wrote() {
    let found = |load: &str, stored: bool| {
        let machine = Machine::new(&neighbour(load, stored), checked());
        let (data, out) = (machine.words(&[5; 64]), machine.words(&[0; 64]));
        let report = machine.launch("neighbour", [1, 1, 1], [64, 1, 1], &[data, out]);
        let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
        kinds
    };
    for load in ["ld.global.nc.u32", "ldu.global.u32"] {
        assert_eq!(found(load, true), [FindingKind::NonCoherent], "{load}");
        assert_eq!(found(load, false), [], "{load}");
    }
    assert_eq!(found("ld.global.u32", true), []);
}

#[test]
fn a_vector_may_reach_over_the_end_of_shared_memory_when_read() {
    let kernel = |access: &str| {
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 s[];\n\
             .visible .entry k(.param .u64 p)\n{{\n.reg .b64 %out;\n.reg .b32 %r<5>;\n\
             ld.param.u64 %out, [p];\nmov.b32 %r1, 7;\nmov.b32 %r4, 9;\nst.shared.b32 [s+16], %r1;\n{access}\n\
             st.global.b32 [%out], %r1;\nret;\n}}\n"
        )
    };
    let options = cuda_emulator::options::Options {
        check: cuda_emulator::options::Check::Fast,
        ..checked()
    };
    let run = |access: &str| {
        let machine = Machine::new(&kernel(access), options.clone());
        let out = machine.words(&[0]);
        let report = machine.launch_with("k", [1; 3], [1; 3], 28, false, &[out]);
        let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
        (report.fault.is_none(), kinds, machine.read(out, 1)[0])
    };
    assert_eq!(
        run("ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [s+16];"),
        (true, vec![], 7)
    );
    // What begins past the end, or writes there, is a mistake.
    let outside = (false, vec![FindingKind::OutOfBounds], 0);
    assert_eq!(run("ld.shared.b32 %r1, [s+28];"), outside);
    let store = "st.shared.v4.b32 [s+16], {%r1, %r1, %r1, %r1};";
    assert_eq!(run(store), outside);
}
