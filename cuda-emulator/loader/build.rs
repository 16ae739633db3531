//! Tells the loader which build of the emulator's library it belongs to.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by the emulator's build script, and only where there is an emulator.
    if let Ok(build) = std::env::var("DEP_CUDA_EMULATOR_BUILD") {
        println!("cargo:rustc-env=EMULATOR_BUILD_ID={build}");
    }
}
