//! Misuse that does not compile. Each file of `misuse_by_type/` is compiled twice: as it should be, which must work, and with
//! `--cfg misuse`, which must fail with the one error that its first line names.
//!
//! The compiler is run on the library that this program was built with: nothing is built once more for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

fn compile(library: &Path, source: &Path, configuration: &[&str]) -> Output {
    let folder = library.parent().unwrap();
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "--crate-type", "lib"])
        .args(["--emit", "metadata", "-A", "warnings", "--out-dir"])
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .args(configuration)
        .arg("--extern")
        .arg(format!("millet={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", folder.display()))
        .arg(source)
        .output()
        .unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Builds of the library beside this program, the newest first: one of them is with CUDA.
pub(crate) fn libraries() -> Vec<PathBuf> {
    let program = env::current_exe().unwrap();
    let entries = fs::read_dir(program.parent().unwrap()).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libmillet-") && name.ends_with(".rlib")
        })
        .map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path))
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

#[test]
fn what_does_not_compile() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/misuse_by_type");
    let mut sources: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    sources.sort();
    assert!(sources.len() > 5);
    let libraries = libraries();
    let works = |library: &&PathBuf| compile(library, &sources[0], &[]).status.success();
    let library = libraries.iter().find(works).unwrap_or_else(|| {
        let errors = libraries.first().map(|l| compile(l, &sources[0], &[]));
        panic!("no library with CUDA in {libraries:?}: {errors:?}")
    });
    for source in &sources {
        let name = source.display();
        let program = fs::read_to_string(source).unwrap();
        let right = compile(library, source, &[]);
        assert!(right.status.success(), "{name}: {}", text(&right));
        let wrong = compile(library, source, &["--cfg", "misuse"]);
        let errors: Vec<String> = text(&wrong)
            .lines()
            .filter(|line| line.starts_with("error["))
            .map(str::to_owned)
            .collect();
        let expected = program.lines().next().unwrap().replace("// ", "error[") + "]:";
        assert!(
            errors.len() == 1 && errors[0].starts_with(&expected),
            "{name}: {expected} expected: {}",
            text(&wrong)
        );
    }
}
