//! The program itself, for no time at all: every target runs one case all the same, and nothing fails.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_target_runs() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smoke.txt");
    let _ = fs::remove_file(&file);
    let output = Command::new(env!("CARGO_BIN_EXE_millet-fuzz"))
        .args(["1e-300", "1"])
        .arg(&file)
        .output()
        .unwrap();
    let [text, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{text}{errors}");
    assert!(!file.exists());
    let mut targets = vec![
        "layer", "router", "dispatch", "permute", "experts", "planted",
    ];
    if cfg!(feature = "cuda") {
        targets.push("routing");
    }
    if cfg!(target_os = "linux") {
        targets.extend(["ptx", "fatbin"]);
    }
    for target in targets {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(target));
        let line = line.unwrap_or_else(|| panic!("{target} has no line in\n{text}"));
        let cases: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(cases > 0, "{line}");
    }
}
