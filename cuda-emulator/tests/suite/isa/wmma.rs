//! `wmma`: products of whole numbers in every shape, type and layout; what its memory accesses must not be.

use crate::gpu::{Gpu, checked, describe};

/// m, n, k.
type Sizes = [usize; 3];

/// A combination that the ISA has: types of A and B, of C, of D, and how many 32-bit (for f64: 64-bit) registers their
/// fragments have.
struct Form {
    sizes: Sizes,
    input: &'static str,
    c: &'static str,
    d: &'static str,
    /// Of A, B, C, D.
    registers: [usize; 4],
}

fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    let mut add = |sizes, input, c, d, registers| {
        forms.push(Form {
            sizes,
            input,
            c,
            d,
            registers,
        });
    };
    let square = [16, 16, 16];
    let wide = [8, 32, 16];
    let tall = [32, 8, 16];
    for sizes in [square, wide, tall] {
        for (c, d) in [
            ("f16", "f16"),
            ("f16", "f32"),
            ("f32", "f16"),
            ("f32", "f32"),
        ] {
            let count = |ty| if ty == "f16" { 4 } else { 8 };
            add(sizes, "f16", c, d, [8, 8, count(c), count(d)]);
        }
        let [a, b] = [sizes[0] / 4, sizes[1] / 4];
        add(sizes, "bf16", "f32", "f32", [a, b, 8, 8]);
        for ty in ["u8", "s8"] {
            add(sizes, ty, "s32", "s32", [a / 2, b / 2, 8, 8]);
        }
    }
    add([16, 16, 8], "tf32", "f32", "f32", [4, 4, 8, 8]);
    add([8, 8, 4], "f64", "f64", "f64", [1, 1, 2, 2]);
    forms
}

fn bytes(ty: &str) -> usize {
    match ty {
        "u8" | "s8" => 1,
        "f16" | "bf16" => 2,
        "f64" => 8,
        _ => 4,
    }
}

fn encode(ty: &str, x: i64) -> Vec<u8> {
    match ty {
        "u8" | "s8" => vec![x as u8],
        // Whole numbers below 2^11, by their definition: sign, exponent, fraction.
        "f16" if x == 0 => vec![0, 0],
        "f16" => {
            let magnitude = x.unsigned_abs() as u16;
            let exponent = 15 - magnitude.leading_zeros() as u16;
            let fraction = (magnitude << (10 - exponent)) & 0x3ff;
            let sign = if x < 0 { 0x8000 } else { 0 };
            (sign | (exponent + 15) << 10 | fraction)
                .to_le_bytes()
                .into()
        }
        "bf16" => (x as f32).to_le_bytes()[2..].into(),
        "s32" => (x as i32).to_le_bytes().into(),
        "f64" => (x as f64).to_le_bytes().into(),
        _ => (x as f32).to_le_bytes().into(),
    }
}

/// Small whole numbers that differ from place to place.
fn value(ty: &str, row: usize, column: usize, salt: usize) -> i64 {
    let x = ((row * 7 + column * 13 + salt) % 9) as i64;
    if ty == "u8" { x } else { x - 4 }
}

/// Where an element lies, in elements: rows (or columns) are `stride` apart.
fn place(layout: &str, stride: usize, row: usize, column: usize) -> usize {
    match layout {
        "row" => row * stride + column,
        _ => column * stride + row,
    }
}

fn matrix(
    ty: &str,
    [rows, columns]: [usize; 2],
    layout: &str,
    stride: usize,
    salt: usize,
) -> Vec<u8> {
    let lines = if layout == "row" { rows } else { columns };
    let mut image = vec![0; lines * stride * bytes(ty)];
    for row in 0..rows {
        for column in 0..columns {
            let at = place(layout, stride, row, column) * bytes(ty);
            let element = encode(ty, value(ty, row, column, salt));
            image[at..at + element.len()].copy_from_slice(&element);
        }
    }
    image
}

fn registers(prefix: &str, count: usize) -> String {
    let names: Vec<_> = (0..count).map(|i| format!("%{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// Loads A, B and C, multiplies, stores D. With `through_shared`, A comes from shared memory.
fn kernel(form: &Form, layouts: [&str; 4], strides: [usize; 4], through_shared: bool) -> String {
    let [m, n, k] = form.sizes;
    let shape = format!("m{m}n{n}k{k}");
    let [la, lb, lc, ld] = layouts;
    let [sa, sb, sc, sd] = strides;
    let [a, b, c, d] = ["a", "b", "c", "d"];
    let [ra, rb, rc, rd] = [0, 1, 2, 3].map(|i| registers([a, b, c, d][i], form.registers[i]));
    let file = if form.input == "f64" { "b64" } else { "b32" };
    let Form {
        input,
        c: tc,
        d: td,
        ..
    } = form;
    let types = match *input {
        "f16" => format!("{td}.{tc}"),
        _ => format!("{td}.{input}.{input}.{tc}"),
    };
    let (copy, space, from) = if through_shared {
        let words = (if la == "row" { m } else { k }) * sa * bytes(input) / 4;
        let copy = format!(
            "mov.u32 %i, %tid.x;\nCOPY: setp.ge.u32 %p, %i, {words};\n@%p bra COPIED;\n\
             mul.wide.u32 %o, %i, 4;\nadd.u64 %s, %pa, %o;\nld.global.b32 %x, [%s];\n\
             mov.u32 %y, tile;\nmad.lo.u32 %y, %i, 4, %y;\nst.shared.b32 [%y], %x;\n\
             add.u32 %i, %i, 32;\nbra COPY;\nCOPIED: bar.warp.sync -1;\nmov.u64 %s, tile;\n"
        );
        (copy, ".shared", "%s")
    } else {
        (String::new(), "", "%pa")
    };
    format!(
        ".version 8.7\n.target sm_90\n.address_size 64\n.shared .align 32 .b8 tile[4096];\n\
         .visible .entry test(.param .u64 A, .param .u64 B, .param .u64 C, .param .u64 D) {{\n\
         .reg .b64 %pa, %pb, %pc, %pd, %o, %s;\n.reg .b32 %i, %x, %y, %stride;\n.reg .pred %p;\n\
         .reg .{file} %a<8>, %b<8>, %c<8>, %d<8>;\n\
         ld.param.u64 %pa, [A];\nld.param.u64 %pb, [B];\nld.param.u64 %pc, [C];\nld.param.u64 %pd, [D];\n\
         mov.u32 %stride, {sb};\n{copy}\
         wmma.load.a.sync.aligned.{la}.{shape}{space}.{input} {ra}, [{from}], {sa};\n\
         wmma.load.b.sync.aligned.{lb}.{shape}.global.{input} {rb}, [%pb], %stride;\n\
         wmma.load.c.sync.aligned.{lc}.{shape}.global.{tc} {rc}, [%pc], {sc};\n\
         wmma.mma.sync.aligned.{la}.{lb}.{shape}.{types} {rd}, {ra}, {rb}, {rc};\n\
         wmma.store.d.sync.aligned.{ld}.{shape}.global.{td} [%pd], {rd}, {sd};\nret;\n}}\n"
    )
}

fn check(form: &Form, layouts: [&str; 4], padding: usize, through_shared: bool) {
    let [m, n, k] = form.sizes;
    let sizes = [[m, k], [k, n], [m, n], [m, n]];
    let types = [form.input, form.input, form.c, form.d];
    // Dense, or with some elements more, a multiple of 16 bytes.
    let strides: [usize; 4] = std::array::from_fn(|i| {
        sizes[i][usize::from(layouts[i] == "row")] + padding * 16 / bytes(types[i])
    });
    let text = kernel(form, layouts, strides, through_shared);
    let gpu = Gpu::new(&text);
    let mut arguments = Vec::new();
    for i in 0..4 {
        let image = matrix(types[i], sizes[i], layouts[i], strides[i], i);
        arguments.push(gpu.upload(&image));
    }
    let report = gpu.launch("test", [1; 3], [32, 1, 1], &arguments, &checked(1));
    assert!(report.fault.is_none(), "{:?}\n{text}", report.fault);
    assert!(
        report.findings.is_empty(),
        "{}\n{text}",
        describe(&report.findings)
    );
    let lines = if layouts[3] == "row" { m } else { n };
    let size = bytes(form.d);
    let got: Vec<u8> = gpu.download(arguments[3], lines * strides[3] * size);
    for row in 0..m {
        for column in 0..n {
            let products =
                (0..k).map(|l| value(form.input, row, l, 0) * value(form.input, l, column, 1));
            let expected = products.sum::<i64>() + value(form.c, row, column, 2);
            let at = place(layouts[3], strides[3], row, column) * size;
            assert_eq!(
                got[at..at + size],
                encode(form.d, expected),
                "({row}, {column}) should be {expected}\n{text}"
            );
        }
    }
}

#[test]
fn products() {
    let layouts = ["row", "col"];
    for form in forms() {
        for bits in 0..16 {
            let chosen = std::array::from_fn(|i| layouts[bits >> i & 1]);
            check(&form, chosen, 0, false);
        }
        for a in layouts {
            check(&form, [a, "col", "row", "row"], 1, true);
        }
    }
}

fn fails(text: &str, expected: &str) {
    let gpu = Gpu::new(text);
    let buffer = gpu.upload(&[0u8; 4096]);
    let report = gpu.launch("test", [1; 3], [32, 1, 1], &[buffer; 4], &checked(1));
    let found = format!("{:?} {}", report.fault, describe(&report.findings));
    assert!(found.contains(expected), "{found}");
}

#[test]
fn what_it_must_not_be() {
    let forms = forms();
    let bf16 = forms
        .iter()
        .find(|f| f.input == "bf16")
        .expect("in the table");
    let text = |strides| kernel(bf16, ["row", "col", "row", "row"], strides, false);
    let dense = text([16; 4]);
    fails(&text([17, 16, 16, 16]), "misaligned");
    fails(&dense.replace("[%pb]", "[%pb+8]"), "misaligned");
    fails(&text([1 << 20, 16, 16, 16]), "OutOfBounds");
    let own = "mov.u32 %x, %tid.x; and.b32 %x, %x, 1; mad.lo.u32 %x, %x, 8, 16;\nwmma.load.a";
    fails(
        &dense
            .replacen("wmma.load.a", own, 1)
            .replace("[%pa], 16", "[%pa], %x"),
        "different addresses or strides",
    );
    // wmma orders no memory.
    let shared = kernel(bf16, ["row", "col", "row", "row"], [16; 4], true);
    fails(&shared.replace("bar.warp.sync -1;", ""), "Race");
    // A warp that is not whole.
    let some = "mov.u32 %x, %tid.x; setp.lt.u32 %p, %x, 16;\n@%p wmma.load.a";
    fails(&dense.replacen("wmma.load.a", some, 1), "all 32 lanes");
}

#[test]
fn forms_that_do_not_exist() {
    let bad = [
        "wmma.load.a.sync.aligned.row.m16n16k16.f32 {%r0}, [%q], 16;",
        "wmma.load.a.sync.aligned.row.m16n16k16.bf16 {%r0, %r1}, [%q], 16;",
        "wmma.load.a.aligned.row.m16n16k16.bf16 {%r0, %r1, %r2, %r3}, [%q], 16;",
        "wmma.load.a.sync.aligned.m16n16k16.bf16 {%r0, %r1, %r2, %r3}, [%q], 16;",
        "wmma.store.c.sync.aligned.row.m16n16k16.f16 [%q], {%r0, %r1, %r2, %r3}, 16;",
        "wmma.load.a.sync.aligned.row.m8n8k32.s4 {%r0}, [%q], 32;",
    ];
    for line in bad {
        let text = format!(
            ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry test() {{\n\
             .reg .b32 %r<8>;\n.reg .b64 %q;\n{line}\nret;\n}}\n"
        );
        assert!(Gpu::try_new(&text).is_err(), "accepted: {line}");
    }
}
