//! `build.rs` with a compiler that takes as long as a test wants: builds that are killed, and builds at the same time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Lists what it compiles. With `SLOW` set it stops in the middle of `permute.cu`, until there is a file `go`.
const NVCC: &str = r#"#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 13.0, V13.0.1"; exit ;;
--list-gpu-arch) echo compute_80; echo compute_90; exit ;;
esac
for argument; do
    case "$argument" in csrc/*.cu) source=${argument#csrc/} ;; esac
    output=$argument
done
echo half >"$output"
echo "$source" >>"$FOLDER/compiled"
if [ "$SLOW$source" = yespermute.cu ]; then
    while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done
fi
echo "whole $source" >"$output"
"#;

/// A build script of its own, and its folders.
struct Build {
    folder: PathBuf,
}

impl Build {
    fn new(name: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("kernel_build")
            .join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("out")).unwrap();
        let nvcc = folder.join("nvcc");
        fs::write(&nvcc, NVCC).unwrap();
        fs::set_permissions(nvcc, fs::Permissions::from_mode(0o755)).unwrap();
        let rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "--cfg", "feature=\"cuda\"", "-o"])
            .arg(folder.join("build"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&rustc.stderr);
        assert!(rustc.status.success(), "{error}");
        Self { folder }
    }

    /// For an architecture; file after file.
    fn start(&self, architecture: &str, slow: bool) -> Child {
        Command::new(self.folder.join("build"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("OUT_DIR", self.folder.join("out"))
            .env("NUM_JOBS", "1")
            .env("NVCC", self.folder.join("nvcc"))
            .env("MILLET_CUDA_ARCHS", architecture)
            .env("FOLDER", &self.folder)
            .env("SLOW", if slow { "yes" } else { "" })
            .env_remove("DOCS_RS")
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Waits until `permute.cu` is half compiled.
    fn wait_for_the_slow_file(&self, build: &mut Child) {
        let start = Instant::now();
        while self
            .compiled()
            .last()
            .is_none_or(|last| last != "permute.cu")
        {
            assert!(build.try_wait().unwrap().is_none(), "it ended");
            assert!(start.elapsed().as_secs() < 60, "{:?}", self.compiled());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What was compiled since the last [`forget`](Self::forget), in order.
    fn compiled(&self) -> Vec<String> {
        let list = fs::read_to_string(self.folder.join("compiled")).unwrap_or_default();
        list.lines().map(str::to_owned).collect()
    }

    fn forget(&self) {
        fs::write(self.folder.join("compiled"), "").unwrap();
    }

    fn unfinished(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("out")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with("unfinished"))
            .collect()
    }

    #[track_caller]
    fn assert_whole(&self) {
        for source in sources() {
            let path = self
                .folder
                .join("out")
                .join(&source)
                .with_extension("fatbin");
            assert_eq!(
                fs::read_to_string(path).unwrap(),
                format!("whole {source}\n")
            );
        }
        assert_eq!(self.unfinished(), [] as [String; 0]);
    }
}

/// What slow compilers wait for; also when a test fails.
impl Drop for Build {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("go"), "");
    }
}

fn sources() -> Vec<String> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".cu"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_killed_build_goes_on_where_it_was() {
    let build = Build::new("killed");
    let mut killed = build.start("80", true);
    build.wait_for_the_slow_file(&mut killed);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let finished = build.compiled().len() - 1;
    assert!((1..sources().len() - 1).contains(&finished));
    assert_eq!(build.unfinished().len(), 1);

    // Its compiler lives on meanwhile.
    build.forget();
    assert!(build.start("80", false).wait().unwrap().success());
    assert_eq!(build.compiled(), sources()[finished..]);
    build.assert_whole();

    build.forget();
    assert!(build.start("80", false).wait().unwrap().success());
    assert_eq!(build.compiled(), [] as [String; 0], "nothing has changed");
    assert!(build.start("90", false).wait().unwrap().success());
    assert_eq!(build.compiled(), sources(), "another command");
}

/// A build goes on when only its cargo is killed, and the next cargo starts another: that one waits, and finds the kernels.
#[test]
fn a_build_that_lost_its_cargo_is_waited_for() {
    let build = Build::new("two");
    let mut first = build.start("80", true);
    build.wait_for_the_slow_file(&mut first);
    let mut second = build.start("80", false);
    thread::sleep(Duration::from_millis(500));
    assert!(second.try_wait().unwrap().is_none(), "it did not wait");
    fs::write(build.folder.join("go"), "").unwrap();
    assert!(first.wait().unwrap().success());
    assert!(second.wait().unwrap().success());
    assert_eq!(build.compiled(), sources());
    build.assert_whole();
}
