//! Which driver a process gets. This executable starts itself again with other settings; what the child's loader says is the result.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cuda_emulator_loader as _;

/// Starts this executable with `settings` (and none of ours otherwise) and runs the one test named.
fn child(test: &str, settings: &[(&str, &str)]) -> Output {
    child_of(&std::env::current_exe().unwrap(), test, settings)
}

fn child_of(executable: &Path, test: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(executable);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CUDA_EMULATOR") {
            command.env_remove(name);
        }
    }
    command.args([test, "--exact", "--ignored", "--nocapture"]);
    command.envs(settings.iter().copied());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// For the child: what the functions of this crate say.
#[test]
#[ignore = "started by the other tests"]
fn emulated() {
    assert!(cuda_emulator_loader::is_emulated());
    assert_eq!(cuda_emulator_loader::findings(), Some(Vec::new()));
    assert_eq!(cuda_emulator_loader::counters(), Some(Vec::new()));
    assert_eq!(cuda_emulator_loader::set_seed(Some(1)), Some(()));
    assert_eq!(
        cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("all")),
        Some(Ok(()))
    );
    let wrong = cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("some")).unwrap();
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "the emulator has no option CUDA_EMULATOR_CHECK=some"
    );
    assert_eq!(cuda_emulator_loader::clear(), Some(()));
}

/// For the child: the same without the emulator.
#[test]
#[ignore = "started by the other tests"]
fn not_emulated() {
    assert!(!cuda_emulator_loader::is_emulated());
    assert_eq!(cuda_emulator_loader::findings(), None);
    assert_eq!(cuda_emulator_loader::counters(), None);
    assert_eq!(cuda_emulator_loader::set_seed(None), None);
    assert_eq!(cuda_emulator_loader::clear(), None);
}

#[test]
fn one_asks_for_the_emulator() {
    let output = child(
        "emulated",
        &[("CUDA_EMULATOR", "1"), ("CUDA_EMULATOR_DEVICE", "h100")],
    );
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("driver: emulated h100 (CUDA_EMULATOR=1)"),
        "{}",
        text(&output)
    );
    let quiet = child(
        "emulated",
        &[("CUDA_EMULATOR", "1"), ("CUDA_EMULATOR_QUIET", "1")],
    );
    assert!(
        quiet.status.success() && !text(&quiet).contains("driver:"),
        "{}",
        text(&quiet)
    );
}

#[test]
fn zero_turns_it_off() {
    let output = child("not_emulated", &[("CUDA_EMULATOR", "0")]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("driver: the system's (CUDA_EMULATOR=0)"),
        "{}",
        text(&output)
    );
}

#[test]
fn anything_else_ends_the_process() {
    let output = child("emulated", &[("CUDA_EMULATOR", "yes")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("expected 0 or 1"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_library_that_is_not_there() {
    let nowhere = ("CUDA_EMULATOR_LIBRARY", "/does/not/exist.so");
    let asked = child("emulated", &[("CUDA_EMULATOR", "1"), nowhere]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(
        text(&asked).contains("/does/not/exist.so"),
        "{}",
        text(&asked)
    );
    if !Path::new("/dev/nvidiactl").exists() {
        let not_asked = child("not_emulated", &[nowhere]);
        assert!(not_asked.status.success(), "{}", text(&not_asked));
        assert!(
            text(&not_asked).contains("driver: none"),
            "{}",
            text(&not_asked)
        );
    }
}

#[test]
fn a_library_of_another_build_is_refused() {
    let stale = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("libcuda_emulator.so");
    std::fs::write(&stale, b"\x7fELF cuda-emulator-build-0000000000000000").unwrap();
    let path = stale.to_str().unwrap();
    let output = child(
        "emulated",
        &[("CUDA_EMULATOR", "1"), ("CUDA_EMULATOR_LIBRARY", path)],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("is of another build"),
        "{}",
        text(&output)
    );
}

/// As cargo names it when the emulator is a dependency from a registry.
#[test]
fn a_library_with_a_hash_in_its_name() {
    let executable = std::env::current_exe().unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("hashed");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("deps")).unwrap();
    // A library of another build, as an older version leaves it, comes first.
    let stale = folder.join("deps/libcuda_emulator-0000000000000000.so");
    std::fs::write(stale, b"\x7fELF cuda-emulator-build-0000000000000000").unwrap();
    std::fs::copy(
        executable.with_file_name("libcuda_emulator.so"),
        folder.join("deps/libcuda_emulator-0123456789abcdef.so"),
    )
    .unwrap();
    let copy = folder.join("policy");
    std::fs::copy(executable, &copy).unwrap();
    let settings = [("CUDA_EMULATOR", "1"), ("LD_LIBRARY_PATH", "")];
    let output = child_of(&copy, "emulated", &settings);
    assert!(output.status.success(), "{}", text(&output));
}
