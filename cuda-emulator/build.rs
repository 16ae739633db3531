//! Linker arguments of the shared library, and a number that tells its builds apart.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.toml");
    println!("cargo:rerun-if-changed=src");
    let mut hasher = DefaultHasher::new();
    hash_files(Path::new("src"), &mut hasher);
    for name in ["TARGET", "PROFILE", "OPT_LEVEL", "DEBUG"] {
        std::env::var(name).unwrap_or_default().hash(&mut hasher);
    }
    let build = format!("cuda-emulator-build-{:016x}", hasher.finish());
    println!("cargo:rustc-env=EMULATOR_BUILD_ID={build}");
    // The loader's build script reads this as DEP_CUDA_EMULATOR_BUILD.
    println!("cargo:build={build}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // A later dlopen("libcuda.so") finds a library that is loaded under this name.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
        // Threads and thread-local data stay valid when a program probes with dlopen and dlclose.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        // Our own calls reach our own functions even beside a real driver.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    }
}

/// Feeds names and contents of all files under `directory` in a fixed order.
fn hash_files(directory: &Path, hasher: &mut DefaultHasher) {
    let entries = std::fs::read_dir(directory).expect("the sources are there");
    let mut paths: Vec<_> = entries
        .map(|e| e.expect("a readable directory").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            hash_files(&path, hasher);
        } else {
            path.hash(hasher);
            std::fs::read(&path)
                .expect("a readable source file")
                .hash(hasher);
        }
    }
}
