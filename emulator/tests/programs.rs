//! Whole kernels: control flow, calls, barriers, several blocks.

mod common;

use common::{Machine, checked, unchecked};

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
        for i in 0..n {
            assert_eq!(
                f32::from_bits(result[i]),
                i as f32 * 0.5 + 1000.0 - i as f32
            );
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
