//! Tells the loader which build of the emulator's library it belongs to.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let build =
        std::env::var("DEP_CUDA_EMULATOR_BUILD").expect("the emulator's build script sets it");
    println!("cargo:rustc-env=EMULATOR_BUILD_ID={build}");
}
