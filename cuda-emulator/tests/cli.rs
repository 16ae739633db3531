//! The command line, as a user calls it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

fn call(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cuda-emulator"))
        .args(arguments)
        .output()
        .expect("the command line")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The saxpy example with one part of its case replaced, in a folder of its own.
fn case(name: &str, from: &str, to: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let original = std::fs::read_to_string(example("saxpy/case.json")).unwrap();
    assert!(original.contains(from), "{from}");
    std::fs::write(folder.join("case.json"), original.replace(from, to)).unwrap();
    std::fs::copy(example("saxpy/saxpy.ptx"), folder.join("saxpy.ptx")).unwrap();
    folder.join("case.json")
}

fn run(case: &Path, more: &[&str]) -> (i32, String, String) {
    let output = call(&[&["run", case.to_str().unwrap()], more].concat());
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn the_example_runs() {
    let (code, out, err) = run(&example("saxpy/case.json"), &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("y: 7 7 7 7 7 …\n") && out.contains("y: as expected\n"),
        "{out}"
    );
    // 20 instructions a thread; those after the comparison by 250 of 256 threads.
    let counters = out
        .lines()
        .find(|line| line.contains("thread_instructions"))
        .expect("counters");
    let counters: serde_json::Value = serde_json::from_str(counters).unwrap();
    assert_eq!(counters["kernel"], "saxpy");
}

#[test]
fn reports_as_json_lines() {
    let (code, out, err) = run(&example("saxpy/case.json"), &["--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let output = lines.iter().find(|line| line["values"].is_array()).unwrap();
    assert_eq!(
        (&output["output"], &output["values"]),
        (&"y".into(), &serde_json::json!([7.0, 7.0, 7.0, 7.0, 7.0]))
    );
    assert!(lines.iter().any(|line| line["as_expected"] == true));
    assert_eq!(lines.last().unwrap()["ok"], true);
}

#[test]
fn a_difference_is_an_exit_status_of_1() {
    let (code, out, _) = run(&case("difference", r#""fill": 7"#, r#""fill": 8"#), &[]);
    assert_eq!(code, 1);
    assert!(
        out.contains("y: 250 of 250 elements differ, first [0]: expected 8, found 7"),
        "{out}"
    );
    let tolerant = case(
        "tolerant",
        r#""data": { "fill": 7 }"#,
        r#""data": { "fill": 8 }, "rtol": 0.13"#,
    );
    assert_eq!(run(&tolerant, &[]).0, 0);
}

#[test]
fn a_finding_is_an_exit_status_of_1() {
    // x is one element too short.
    let short = case(
        "short",
        r#""name": "x", "type": "f32", "len": 250"#,
        r#""name": "x", "type": "f32", "len": 249"#,
    );
    let (code, out, _) = run(&short, &[]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("finding: out_of_bounds") && out.contains("thread (57,0,0)"),
        "{out}"
    );
    let unset = case(
        "unset",
        r#""init": { "fill": 3 }"#,
        r#""init": "uninitialized""#,
    );
    let (code, out, _) = run(&unset, &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("finding: uninitialized"), "{out}");
    assert_eq!(
        run(
            &case(
                "unset_off",
                r#""init": { "fill": 3 }"#,
                r#""init": "uninitialized""#
            ),
            &["--option", "check=off"]
        )
        .0,
        1,
        "only y differs"
    );
}

#[test]
fn wrong_cases_are_explained() {
    for (name, from, to, message) in [
        (
            "unknown_field",
            r#""grid": 4"#,
            r#""gird": 4"#,
            "unknown field `gird`",
        ),
        (
            "no_kernel",
            r#""kernel": "saxpy""#,
            r#""kernel": "axpy""#,
            "no kernel axpy; the module has: saxpy",
        ),
        (
            "no_file",
            r#""saxpy.ptx""#,
            r#""nothing.ptx""#,
            "nothing.ptx",
        ),
        ("no_device", r#""a100""#, r#""a1000""#, "a1000"),
        (
            "no_option",
            r#""check": "all""#,
            r#""chekc": "all""#,
            "CUDA_EMULATOR_CHEKC: there is no such option",
        ),
        (
            "wrong_option",
            r#""check": "all""#,
            r#""check": "some""#,
            "expected off or fast or all",
        ),
        (
            "grid",
            r#""grid": 4"#,
            r#""grid": [4, 70000]"#,
            "grid [4, 70000, 1]",
        ),
        (
            "block",
            r#""block": 64"#,
            r#""block": 2048"#,
            "block [2048, 1, 1]",
        ),
        (
            "shared",
            r#""block": 64"#,
            r#""block": 64, "shared": 200000"#,
            "200000 bytes of shared memory",
        ),
        (
            "size",
            r#"{ "type": "u32", "value": 250 }"#,
            r#"{ "type": "u64", "value": 250 }"#,
            "args[3]: expected 4 bytes, found 8",
        ),
        (
            "value",
            r#"{ "type": "u32", "value": 250 }"#,
            r#"{ "type": "u32", "value": -1 }"#,
            "args[3]: -1 is no value of type U32",
        ),
        (
            "length",
            r#""init": { "fill": 3 }"#,
            r#""init": { "values": [1] }"#,
            "x: expected 250 elements, found 1",
        ),
        (
            "count",
            r#"{ "scalar": { "type": "f32", "value": 2 } },"#,
            "",
            "saxpy: expected 4 arguments, found 3",
        ),
    ] {
        let (code, out, err) = run(&case(name, from, to), &[]);
        assert_eq!(code, 2, "{name}: {out}{err}");
        assert!(
            err.starts_with("error: ") && err.contains(message),
            "{name}: {err}"
        );
    }
    assert_eq!(
        call(&["run", "/nonexistent/case.json"]).status.code(),
        Some(2)
    );
    assert_eq!(call(&["sing"]).status.code(), Some(2));
}

#[test]
fn inspect_lists_kernels_and_what_is_refused() {
    let output = call(&["inspect", example("saxpy/saxpy.ptx").to_str().unwrap()]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(
        out.contains("PTX 9.5 for sm_80") && out.contains("kernel saxpy: 20 instructions"),
        "{out}"
    );
    assert!(
        out.contains("parameter saxpy_param_3 U32: 4 bytes at 20"),
        "{out}"
    );
    assert!(out.contains("every instruction is implemented"), "{out}");
    let hopper = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx/hopper.ptx");
    let output = call(&["inspect", hopper.to_str().unwrap()]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{out}");
    for form in ["wgmma.mma_async", "cp.async.bulk.tensor", "mbarrier.init"] {
        let line = out
            .lines()
            .find(|line| line.contains("refused: ") && line.contains(form));
        assert!(
            line.is_some_and(|line| line.contains("(lines ")),
            "{form}: {out}"
        );
    }
}

#[test]
fn results_that_depend_on_the_order_are_found() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("order");
    std::fs::create_dir_all(&folder).unwrap();
    // The last block to arrive wins: y[0] = its number.
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry last(.param .u64 y) {\n.reg .b64 %d; .reg .b32 %r<3>;\n\
        ld.param.u64 %d, [y]; mov.u32 %r0, %ctaid.x;\natom.global.exch.b32 %r1, [%d], %r0;\nret;\n}\n";
    std::fs::write(folder.join("last.ptx"), ptx).unwrap();
    let case = r#"{ "module": "last.ptx", "grid": 16, "block": 1, "args": [ { "buffer": { "name": "y", "type": "u32", "len": 1 } } ] }"#;
    std::fs::write(folder.join("case.json"), case).unwrap();
    let (code, out, err) = run(&folder.join("case.json"), &["--seeds", "20"]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("finding: order_dependence: y[0] is "), "{out}");
    assert_eq!(run(&folder.join("case.json"), &[]).0, 0);
    let (code, out, err) = run(&example("saxpy/case.json"), &["--seeds", "3"]);
    assert_eq!(code, 0, "{out}{err}");
}
