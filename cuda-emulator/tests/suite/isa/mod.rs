//! PTX instruction by instruction: expected values written from the ISA's text, not computed by the emulator's own functions.
//!
//! Each check makes a kernel of one instruction (or a few), runs one operand tuple a lane, and compares bits.

mod atomics;
mod conversions;
mod floats;
mod integers;
mod memory;
mod warps;
mod wmma;

use crate::gpu::{Gpu, checked, describe};

/// Widths of operands: `p` predicate, `h` 16 bits, `r` 32, `l` 64.
fn declare(name: &str, kind: char) -> String {
    let ty = match kind {
        'p' => "pred",
        'h' => "b16",
        'r' => "b32",
        'l' => "b64",
        other => panic!("operand kind {other}"),
    };
    format!(".reg .{ty} {name};\n")
}

/// From the 64-bit register `wide`.
fn narrow(name: &str, kind: char, wide: &str) -> String {
    match kind {
        'p' => format!("setp.ne.b64 {name}, {wide}, 0;\n"),
        'h' => format!("cvt.u16.u64 {name}, {wide};\n"),
        'r' => format!("cvt.u32.u64 {name}, {wide};\n"),
        _ => format!("mov.b64 {name}, {wide};\n"),
    }
}

fn widen(name: &str, kind: char, wide: &str) -> String {
    match kind {
        'p' => format!("selp.b64 {wide}, 1, 0, {name};\n"),
        'h' => format!("cvt.u64.u16 {wide}, {name};\n"),
        'r' => format!("cvt.u64.u32 {wide}, {name};\n"),
        _ => format!("mov.b64 {wide}, {name};\n"),
    }
}

/// A kernel that gives each lane operands `%a`, `%b`, … of the kinds in `inputs` and stores `%d`, `%e`, … of those in `outputs`
/// after `body`. A preset of all ones in the outputs shows what an instruction leaves alone.
fn kernel(outputs: &str, inputs: &str, body: &str) -> String {
    let mut text = String::from(
        ".version 8.8\n.target sm_100\n.address_size 64\n\
         .visible .entry test(.param .u64 test_in, .param .u64 test_out) {\n\
         .reg .b64 %wide, %from, %to, %offset;\n.reg .b32 %thread;\n.reg .pred %never;\n",
    );
    let names = |first: u8, kinds: &str| -> Vec<(String, char)> {
        let name = |i: usize| format!("%{}", (first + i as u8) as char);
        kinds
            .chars()
            .enumerate()
            .map(|(i, k)| (name(i), k))
            .collect()
    };
    let (sources, results) = (names(b'a', inputs), names(b'd', outputs));
    assert!(
        sources.len() <= 3 || outputs.is_empty(),
        "names would overlap"
    );
    for (name, kind) in sources.iter().chain(&results) {
        text += &declare(name, *kind);
    }
    text +=
        "ld.param.u64 %from, [test_in];\nld.param.u64 %to, [test_out];\nmov.u32 %thread, %tid.x;\n";
    text += &format!(
        "mul.wide.u32 %offset, %thread, {};\nadd.s64 %from, %from, %offset;\n",
        8 * sources.len()
    );
    text += &format!(
        "mul.wide.u32 %offset, %thread, {};\nadd.s64 %to, %to, %offset;\n",
        8 * results.len()
    );
    text += "mov.b64 %wide, -1;\n";
    for (name, kind) in &results {
        text += &narrow(name, *kind, "%wide");
    }
    for (i, (name, kind)) in sources.iter().enumerate() {
        text += &format!("ld.global.b64 %wide, [%from+{}];\n", 8 * i);
        text += &narrow(name, *kind, "%wide");
    }
    text += &format!("{body}\n");
    for (i, (name, kind)) in results.iter().enumerate() {
        text += &widen(name, *kind, "%wide");
        text += &format!("st.global.b64 [%to+{}], %wide;\n", 8 * i);
    }
    text + "ret;\n}\n"
}

/// Runs `lanes` operand tuples (flat) and returns the results (flat).
fn run(outputs: &str, inputs: &str, body: &str, operands: &[u64], lanes: usize) -> Vec<u64> {
    let text = kernel(outputs, inputs, body);
    let gpu = Gpu::new(&text);
    let from = gpu.upload(operands);
    let to = gpu.allocate((8 * outputs.len() * lanes) as u64);
    let report = gpu.launch(
        "test",
        [1; 3],
        [lanes as u32, 1, 1],
        &[from, to],
        &checked(1),
    );
    assert!(report.fault.is_none(), "{body}: {:?}\n{text}", report.fault);
    let found = describe(&report.findings);
    assert!(found.is_empty(), "{body}:\n{found}");
    gpu.download(to, outputs.len() * lanes)
}

/// Checks one instruction with one result: `(operands, result)` a lane, at most 32.
fn check<const N: usize>(output: &str, inputs: &str, body: &str, cases: &[([u64; N], u64)]) {
    assert_eq!((N, output.len()), (inputs.len(), 1));
    for cases in cases.chunks(32) {
        let operands: Vec<u64> = cases.iter().flat_map(|c| c.0).collect();
        let results = run(output, inputs, body, &operands, cases.len());
        for ((operands, expected), got) in cases.iter().zip(results) {
            assert_eq!(
                got, *expected,
                "{body} with {operands:#x?}: {got:#x} instead of {expected:#x}"
            );
        }
    }
}

/// As [`check`] with two results.
fn check2<const N: usize>(outputs: &str, inputs: &str, body: &str, cases: &[([u64; N], [u64; 2])]) {
    assert_eq!((N, outputs.len()), (inputs.len(), 2));
    let operands: Vec<u64> = cases.iter().flat_map(|c| c.0).collect();
    let results = run(outputs, inputs, body, &operands, cases.len());
    for ((operands, expected), got) in cases.iter().zip(results.chunks(2)) {
        assert_eq!(got, expected, "{body} with {operands:#x?}");
    }
}

/// Bits of a number.
fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn d(x: f64) -> u64 {
    x.to_bits()
}

/// An integer as 32 or 64 bits.
fn i(x: i64) -> u64 {
    x as u64
}

fn w(x: i32) -> u64 {
    u64::from(x as u32)
}

/// A text that must be refused when it is loaded.
fn refused(body: &str, outputs: &str, inputs: &str) -> String {
    let text = kernel(outputs, inputs, body);
    match Gpu::try_new(&text) {
        Ok(_) => panic!("accepted: {body}"),
        Err(reason) => reason,
    }
}
