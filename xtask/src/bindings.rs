//! `cargo xtask bindings`: csrc/params.h becomes src/cuda/sys.rs.
//!
//! bindgen is behind the feature `bindings` of this crate, because building it takes longer than all the rest of it. That the
//! committed file is of the present header is checked without it, by a number in its first lines.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn file(name: &str) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.ok_or("no workspace")?.join(name))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes the file, by this program built once more with bindgen in it.
#[cfg(not(feature = "bindings"))]
pub(super) fn bindings() -> Result<(), String> {
    super::run(
        super::cargo()
            .args(["run", "--quiet", "--package", "xtask"])
            .args(["--features", "bindings", "--", "bindings"])
            .env("LIBCLANG_PATH", super::wheels::libclang()?),
    )
}

/// Fails when the committed file is not of the present header.
pub(super) fn check() -> Result<(), String> {
    let committed = read(&file("src/cuda/sys.rs")?)?;
    let present = signature(&read(&file("csrc/params.h")?)?);
    match committed.lines().any(|line| line == present) {
        true => Ok(()),
        false => Err(
            "src/cuda/sys.rs is stale: csrc/params.h has changed since it was made; run `cargo xtask bindings`"
                .into(),
        ),
    }
}

/// A line that says which header a file was made of: FNV-1a, 64 bits.
fn signature(header: &str) -> String {
    let hash = header
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("// FNV-1a of csrc/params.h: {hash:016x}")
}

/// Makes the file.
#[cfg(feature = "bindings")]
pub(super) fn bindings() -> Result<(), String> {
    let (header, output) = (file("csrc/params.h")?, file("src/cuda/sys.rs")?);
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        .allowlist_item("MILLET_.*|Millet.*")
        .derive_default(false)
        .raw_line("// Made of csrc/params.h by `cargo xtask bindings`; change that.")
        .raw_line(signature(&read(&header)?))
        .disable_header_comment()
        .generate()
        .map_err(|error| format!("bindgen: {error}"))?;
    bindings
        .write_to_file(&output)
        .map_err(|error| format!("{}: {error}", output.display()))?;
    println!("{}", output.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_bindings_are_of_the_present_header() {
        super::check().unwrap();
    }

    #[test]
    fn another_header_has_another_signature() {
        assert_eq!(
            super::signature("a"),
            "// FNV-1a of csrc/params.h: af63dc4c8601ec8c"
        );
        assert_ne!(super::signature("int a;"), super::signature("int b;"));
    }
}
