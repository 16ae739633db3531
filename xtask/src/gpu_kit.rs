//! `cargo xtask gpu-kit`: a folder that tries and measures this checkout on a machine with a GPU, where nothing can be built.
//!
//! A program has the kernels in it, which are most of its bytes, and there are a dozen. So the folder has one file of parts, compressed, and
//! a list of the parts that each program is made of.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{CUDA, cargo_with_cuda, run, target_directory, wheels};

/// The programs by the names that the steps call them by, with the kind and the name of cargo's target.
const PROGRAMS: [(&str, &str, &str); 12] = [
    ("kit", "bin", "millet-gpu-kit"),
    ("suite", "test", "suite"),
    ("cuda", "test", "cuda"),
    ("train", "example", "train"),
    ("parity", "example", "parity"),
    ("router", "bench", "router"),
    ("dispatch", "bench", "dispatch"),
    ("permute", "bench", "permute"),
    ("experts", "bench", "experts"),
    ("combine", "bench", "combine"),
    ("layer", "bench", "layer"),
    ("libcuda_emulator.so", "cdylib", "cuda_emulator"),
];

/// Of the folder, so that it can travel with a checkout where 64 MiB may.
const LARGEST: u64 = 54 << 20;

/// A profile of Cargo.toml: of `dev`, with its assertions, but optimised and stripped.
const PROFILE: &str = "kit";

/// Builds the folder below `target`. With `--dev`, of the programs that `cargo xtask test` has built, where they are.
pub(super) fn gpu_kit(arguments: &[String]) -> Result<(), String> {
    let is_dev = match arguments {
        [] => false,
        [dev] if dev == "--dev" => true,
        other => {
            return Err(format!(
                "gpu-kit takes --dev or nothing, but was given `{}`",
                other.join(" ")
            ));
        }
    };
    let folder = build(is_dev)?;
    println!("{}", folder.display());
    Ok(())
}

/// Builds the kit and runs it on the emulator: every step that has no need of a GPU must succeed.
pub(super) fn test() -> Result<(), String> {
    let folder = build(true)?;
    let results = folder.with_file_name("gpu-kit-results");
    remove(&results)?;
    run(Command::new(folder.join("run.sh"))
        .arg(&results)
        .args(["--minutes", "30"])
        .env("CUDA_EMULATOR", "1"))?;
    let file = results.join("steps.tsv");
    let steps = fs::read_to_string(&file).map_err(|error| explain(&file, error))?;
    for step in steps.lines() {
        let fields: Vec<&str> = step.split('\t').collect();
        match fields[..] {
            [_, "done", ..] | [_, "skipped", _, "not on the emulator"] => {}
            _ => return Err(format!("gpu-kit: {step}")),
        }
    }
    let files = fs::read_dir(&results).map_err(|error| explain(&results, error))?;
    let files: Vec<_> = files.flatten().map(|file| file.file_name()).collect();
    if files.len() > 8 {
        return Err(format!("gpu-kit: more than 8 files of results: {files:?}"));
    }
    Ok(())
}

fn build(is_dev: bool) -> Result<PathBuf, String> {
    wheels::nvcc()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace")?;
    let built = programs(is_dev)?;
    let folder = target_directory()?.join(if is_dev { "gpu-kit-dev" } else { "gpu-kit" });
    remove(&folder)?;
    fs::create_dir_all(&folder).map_err(|error| explain(&folder, error))?;
    let source = root.join("gpu-kit");
    for name in ["run.sh", "steps.txt", "README.md", "steps", "python"] {
        run(Command::new("cp")
            .arg("-r")
            .arg(source.join(name))
            .arg(&folder))?;
    }
    // Its kernels are those that a card would run.
    let emulated = if built.for_hopper { "h100" } else { "a100" };
    write(&folder.join("emulated.txt"), emulated)?;
    record(&built, &folder, emulated)?;
    if is_dev {
        let bin = folder.join("bin");
        fs::create_dir(&bin).map_err(|error| explain(&bin, error))?;
        for (name, path) in &built.programs {
            std::os::unix::fs::symlink(path, bin.join(name))
                .map_err(|error| explain(path, error))?;
        }
        return Ok(folder);
    }
    pack(&built, &folder)?;
    count(&built, &folder, emulated)?;
    let bytes = size(&folder)?;
    eprintln!("{} MiB in {}", bytes >> 20, folder.display());
    if bytes > LARGEST {
        return Err(format!(
            "gpu-kit: {bytes} bytes, but {LARGEST} are the most that can travel with a checkout"
        ));
    }
    Ok(folder)
}

/// A program of the kit, on the emulator of the kit.
fn on_emulator(built: &Built, program: &str, device: &str) -> Command {
    let mut command = Command::new(&built.programs[program]);
    command
        .env("CUDA_EMULATOR", "1")
        .env("CUDA_EMULATOR_DEVICE", device)
        .env(
            "CUDA_EMULATOR_LIBRARY",
            &built.programs["libcuda_emulator.so"],
        );
    command
}

/// Writes what a card is compared with, by the emulator. Every kernel that nvcc compiled must be in it.
fn record(built: &Built, folder: &Path, emulated: &str) -> Result<(), String> {
    run(on_emulator(built, "kit", emulated)
        .arg("record")
        .arg(folder))?;
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| explain(path, error));
    let index = read(&folder.join("expected.json"))?;
    let index: Value = serde_json::from_str(&index).map_err(|error| error.to_string())?;
    let ran: Vec<&str> = index["kernels"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let log = read(&built.kernels.join("ptxas.txt"))?;
    let compiled = log.lines().filter_map(|line| {
        line.split_once("Compiling entry function '")?
            .1
            .split('\'')
            .next()
    });
    let missing: BTreeSet<&str> = compiled.filter(|name| !ran.contains(name)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "gpu-kit: gpu-kit/src/launches.rs runs every kernel but {missing:?}"
        ))
    }
}

/// Has the emulator count what the step `profile` looks at on a card: minutes, as it counts on one thread.
fn count(built: &Built, folder: &Path, emulated: &str) -> Result<(), String> {
    const CASE: &str = "Qwen3-30B-A3B-T4096";
    let mut running = Vec::new();
    for bench in ["experts", "router", "dispatch"] {
        let mut command = on_emulator(built, bench, emulated);
        command
            .args(["--bench", "cuda"])
            .env("MILLET_BENCH_CASES", CASE)
            .env("MILLET_BENCH_RECORD", folder.join("counts.jsonl"))
            .stdout(Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        running.push((command, child));
    }
    for (command, mut child) in running {
        let status = child
            .wait()
            .map_err(|error| format!("{command:?}: {error}"))?;
        if !status.success() {
            return Err(format!("{command:?}: {status}"));
        }
    }
    Ok(())
}

/// What cargo built.
struct Built {
    programs: HashMap<String, PathBuf>,
    /// Where the build script of millet wrote the fat binaries.
    kernels: PathBuf,
    for_hopper: bool,
}

fn programs(is_dev: bool) -> Result<Built, String> {
    let mut found = HashMap::new();
    let mut kernels = None;
    let archs = std::env::var("MILLET_CUDA_ARCHS");
    let archs = archs.unwrap_or_else(|_| if is_dev { "80" } else { "80,90a" }.into());
    for (command, kinds) in [
        (["test", "--no-run"].as_slice(), ["test", "bench"]),
        (&["build"], ["bin", "example"]),
    ] {
        let mut cargo = cargo_with_cuda();
        cargo
            .args(command)
            .args(["--workspace", "--message-format", "json-render-diagnostics"])
            .args(CUDA)
            .env("MILLET_CUDA_ARCHS", &archs);
        if !is_dev {
            cargo.args(["--profile", PROFILE]);
        }
        for (_, kind, name) in PROGRAMS {
            if kinds.contains(&kind) {
                cargo.arg(format!("--{kind}")).arg(name);
            }
        }
        eprintln!("$ {cargo:?}");
        let mut child = cargo
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{cargo:?}: {error}"))?;
        let output = child.stdout.take().ok_or("no output of cargo")?;
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|error| format!("output of cargo: {error}"))?;
            if let Ok(message) = serde_json::from_str::<Value>(&line) {
                artifact(&message, &mut found);
                if is_of(&message, "build-script-executed", "/millet#", "#millet@") {
                    kernels = message["out_dir"].as_str().map(PathBuf::from);
                }
            }
        }
        let status = child
            .wait()
            .map_err(|error| format!("{cargo:?}: {error}"))?;
        if !status.success() {
            return Err(format!("{cargo:?}: {status}"));
        }
    }
    for (name, kind, target) in PROGRAMS {
        if !found.contains_key(name) {
            return Err(format!("gpu-kit: cargo built no {kind} {target}"));
        }
    }
    Ok(Built {
        programs: found,
        kernels: kernels.ok_or("gpu-kit: cargo says nothing of millet's build script")?,
        for_hopper: archs.contains("90"),
    })
}

/// Whether a message of cargo is of this kind and of a package whose id has one of these in it.
fn is_of(message: &Value, reason: &str, id: &str, other: &str) -> bool {
    let package = message["package_id"].as_str().unwrap_or_default();
    message["reason"] == reason && (package.contains(id) || package.contains(other))
}

/// Takes the program of a message, if it is one of ours.
fn artifact(message: &Value, found: &mut HashMap<String, PathBuf>) {
    if message["reason"] != "compiler-artifact" {
        return;
    }
    let target = &message["target"];
    for (name, kind, cargo_name) in PROGRAMS {
        let kinds = target["kind"].as_array().into_iter().flatten();
        if target["name"] != cargo_name || !kinds.into_iter().any(|k| k == kind) {
            continue;
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        let mut files = files.filter_map(Value::as_str);
        let path = match kind {
            "cdylib" => files.find(|file| file.ends_with(".so")),
            _ => message["executable"].as_str(),
        };
        if let Some(path) = path {
            found.insert(name.into(), path.into());
        }
    }
}

/// One file of parts, and for each program the offset and the length of each of its own.
fn pack(built: &Built, folder: &Path) -> Result<(), String> {
    let mut parts = Vec::new();
    let mut shared = Vec::new();
    let files = fs::read_dir(&built.kernels).map_err(|error| explain(&built.kernels, error))?;
    for path in files.flatten().map(|file| file.path()) {
        if path
            .extension()
            .is_some_and(|extension| extension == "fatbin")
        {
            let bytes = fs::read(&path).map_err(|error| explain(&path, error))?;
            shared.push((parts.len(), bytes.clone()));
            parts.extend(bytes);
        }
    }
    let (mut list, mut sums, mut newest) = (String::new(), String::new(), (0, 0));
    for (name, ..) in PROGRAMS {
        let path = &built.programs[name];
        let program = fs::read(path).map_err(|error| explain(path, error))?;
        newest = newest.max(glibc(&program));
        list += name;
        for piece in pieces(&program, &shared) {
            let (offset, length) = match piece {
                Piece::Shared(index) => (shared[index].0, shared[index].1.len()),
                Piece::Own(bytes) => {
                    parts.extend(bytes);
                    (parts.len() - bytes.len(), bytes.len())
                }
            };
            list += &format!(" {offset}:{length}");
        }
        list += "\n";
        let output = Command::new("sha256sum")
            .arg("-b")
            .arg(path)
            .output()
            .map_err(|error| format!("sha256sum: {error}"))?;
        let sum = String::from_utf8_lossy(&output.stdout);
        sums += &format!("{} *{name}\n", sum.split(' ').next().unwrap_or_default());
    }
    write(&folder.join("programs.txt"), &list)?;
    write(&folder.join("sums.txt"), &sums)?;
    let glibc = format!("{}.{}", newest.0, newest.1);
    eprintln!("the programs need glibc {glibc}");
    write(&folder.join("glibc.txt"), &glibc)?;
    let file = folder.join("parts");
    fs::write(&file, parts).map_err(|error| explain(&file, error))?;
    run(Command::new("gzip").arg("-9n").arg(&file))
}

#[derive(Debug, PartialEq)]
enum Piece<'a> {
    /// The number of a part that others have too.
    Shared(usize),
    Own(&'a [u8]),
}

/// What a program is made of, in order.
fn pieces<'a>(program: &'a [u8], shared: &[(usize, Vec<u8>)]) -> Vec<Piece<'a>> {
    // All fat binaries begin with the same number, and none has another in it.
    let head = shared.first().and_then(|(_, bytes)| bytes.get(..4));
    let starts = head.into_iter().flat_map(|head| find(program, head));
    let places = starts.filter_map(|start| {
        let index = shared
            .iter()
            .position(|(_, bytes)| program[start..].starts_with(bytes))?;
        Some((start, index))
    });
    let (mut pieces, mut end) = (Vec::new(), 0);
    for (start, index) in places {
        if start > end {
            pieces.push(Piece::Own(&program[end..start]));
        }
        pieces.push(Piece::Shared(index));
        end = start + shared[index].1.len();
    }
    if end < program.len() {
        pieces.push(Piece::Own(&program[end..]));
    }
    pieces
}

/// The newest version of the C library that a program names.
fn glibc(program: &[u8]) -> (u32, u32) {
    const NAME: &[u8] = b"GLIBC_";
    let mut newest = (0, 0);
    for start in find(program, NAME) {
        let rest = &program[start + NAME.len()..];
        let end = rest
            .iter()
            .position(|byte| !byte.is_ascii_digit() && *byte != b'.');
        let text = String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())]).into_owned();
        let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        newest = newest.max(version);
    }
    newest
}

/// Where a text begins in bytes.
fn find<'a>(bytes: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let windows = bytes.windows(text.len()).enumerate();
    windows
        .filter(move |(_, window)| *window == text)
        .map(|(start, _)| start)
}

fn size(folder: &Path) -> Result<u64, String> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)
        .map_err(|error| explain(folder, error))?
        .flatten()
    {
        let path = entry.path();
        sum += match entry.metadata() {
            Ok(data) if data.is_dir() => size(&path)?,
            Ok(data) => data.len(),
            Err(error) => return Err(explain(&path, error)),
        };
    }
    Ok(sum)
}

fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(explain(folder, error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| explain(path, error))
}

fn explain(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_its_pieces() {
        let shared = [(0, b"kernel one".to_vec()), (10, b"kernel two".to_vec())];
        let program = b"head kernel kernel two middle kernel onetail";
        let pieces = pieces(program, &shared);
        let own = |text: &'static str| Piece::Own(text.as_bytes());
        let expected = [
            own("head kernel "),
            Piece::Shared(1),
            own(" middle "),
            Piece::Shared(0),
            own("tail"),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(super::pieces(b"plain", &shared), [own("plain")]);
    }

    #[test]
    fn the_newest_version_counts() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0GLIBC_";
        assert_eq!(glibc(program), (2, 34));
        assert_eq!(glibc(b"static"), (0, 0));
    }
}
