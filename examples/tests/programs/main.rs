//! The examples as a user runs them: a process, its files, an exit code.

mod parity;
mod train;

use std::fs;
use std::path::{Path, PathBuf};

/// An example's executable: cargo puts it beside the tests, in `examples`.
fn executable(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let path = profile
        .join("examples")
        .join(name)
        .with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.is_file(),
        "{} is not there: `cargo test` builds it, `cargo test --test programs` does not; run `cargo build --examples` first",
        path.display()
    );
    path
}

/// An empty directory for a test of an example.
fn directory(example: &str, test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(example)
        .join(test);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}
