//! `train`: its files, what it refuses, what a full disk and a killed run leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::executable;

/// An empty directory of one test's own, with a text.
fn directory(name: &str) -> PathBuf {
    let path = super::directory("train", name);
    fs::write(path.join("text"), "fine-grained experts\n".repeat(10_000)).unwrap();
    path
}

/// A tiny training of 6 steps, if `options` do not say otherwise.
fn command(directory: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(executable("train"));
    // Options that are given replace these.
    let tiny = "--text text --out out --batch 32 --context 2 --hidden 8 --d-ff 16 --experts 4 --top-k 2 --expert-width 4 --steps 6";
    command
        .current_dir(directory)
        .env("CUDA_EMULATOR_QUIET", "1");
    let tiny: Vec<&str> = tiny.split(' ').collect();
    for pair in tiny.chunks(2).filter(|pair| !options.contains(&pair[0])) {
        command.args(pair);
    }
    command.args(options);
    command
}

fn run(directory: &Path, options: &[&str]) -> Output {
    command(directory, options).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts an error with every part of `parts`, before any training.
#[track_caller]
fn refused(run: &Output, parts: &[&str]) {
    let error = text(&run.stderr);
    assert!(matches!(run.status.code(), Some(1 | 2)), "{error}");
    assert!(!text(&run.stdout).contains("model:"), "it trained");
    assert!(!error.contains("panicked"), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

/// Asserts that the program ended by itself. These trainings are too short to learn: 1 is what says so.
#[track_caller]
fn trained(run: &Output) -> String {
    let (out, error) = (text(&run.stdout), text(&run.stderr));
    assert!(matches!(run.status.code(), Some(0 | 1)), "{error}");
    assert!(
        !error.contains("panicked") && !error.contains("error:"),
        "{error}"
    );
    out
}

#[test]
fn a_training_in_parts_gives_the_bits_of_one() {
    let directory = directory("parts");
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    trained(&run(&directory, &["--save", "whole", "--threads", "2"]));
    let rows = read("out/runs.csv");
    let out = trained(&run(&directory, &["--save", "part", "--stop-after", "4"]));
    assert!(out.contains("stopped after step 4 of 6"), "{out}");
    assert_ne!(read("part"), read("whole"));
    let resume = ["--resume", "part", "--save", "rest", "--threads", "1"];
    trained(&run(&directory, &resume));
    assert!(read("rest") == read("whole"), "other weights or moments");
    // Rows up to the step of the checkpoint stay; the row at the stop has a held-out loss more.
    let (whole, parts) = (text(&rows), text(&read("out/runs.csv")));
    assert_eq!(parts.lines().count(), whole.lines().count());
    assert_eq!(parts.lines().last(), whole.lines().last());

    // Resumed once more from the same step, as after a run that was killed further on: no row is there twice.
    trained(&run(&directory, &resume));
    assert_eq!(text(&read("out/runs.csv")), parts);
    assert!(read("rest") == read("whole"));
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let directory = directory("checkpoint");
    let stop = ["--save", "good", "--stop-after", "2"];
    trained(&run(&directory, &stop));
    let resume = |file: &str, more: &[&str]| {
        let options: Vec<&str> = ["--resume", file]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        run(&directory, &options)
    };
    refused(&resume("none", &[]), &["--resume none", "cannot read"]);
    refused(&resume("out", &[]), &["--resume out", "not a regular file"]);
    refused(&resume("good", &["--seed", "2"]), &["seed 1", "2"]);
    refused(&resume("good", &["--steps", "9"]), &["steps 6", "9"]);
    refused(&resume("good", &["--z-loss", "0.5"]), &["layer"]);
    refused(&resume("good", &["--hidden", "16"]), &["layer"]);
    refused(
        &resume("good", &["--learning-rate", "1"]),
        &["learning-rate", "0.004", "1"],
    );
    refused(
        &resume("good", &["--stop-after", "2", "--save", "x"]),
        &["step 2", "not before the last, 2"],
    );

    let good = fs::read(directory.join("good")).unwrap();
    let mut huge_header = good.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut other = good.clone();
    let at = good.windows(8).position(|w| w == b"3.value\"").unwrap();
    other[at] = b'9';
    let long = [good.clone(), vec![0; 2 << 20]].concat();
    for (bytes, part) in [
        (&good[..good.len() - 1], "not a whole safetensors file"),
        (&good[..40], "not a whole safetensors file"),
        (&[], "not a whole safetensors file"),
        (&huge_header, "not a whole safetensors file"),
        (&other, "`3.value` is missing"),
        (&long, "at most"),
    ] {
        fs::write(directory.join("bad"), bytes).unwrap();
        refused(&resume("bad", &[]), &["--resume bad", part]);
    }
    // What is there is not harmed by a run that was refused.
    assert!(fs::read(directory.join("good")).unwrap() == good);
}

#[test]
fn absurd_values_are_refused_with_the_limit() {
    let directory = directory("values");
    for option in [
        "--steps",
        "--batch",
        "--context",
        "--hidden",
        "--blocks",
        "--d-ff",
        "--experts",
        "--top-k",
        "--expert-width",
        "--threads",
        "--save-every",
        "--stop-after",
    ] {
        for value in [
            "0",
            "-1",
            "nan",
            "1.5",
            "",
            "99999999999",
            "99999999999999999999999",
        ] {
            let mut options = vec![option, value];
            if option == "--save-every" || option == "--stop-after" {
                options.extend(["--save", "x"]);
            }
            refused(
                &run(&directory, &options),
                &[option, value, "whole number from 1 to"],
            );
        }
    }
    for option in [
        "--capacity-factor",
        "--aux-loss",
        "--z-loss",
        "--learning-rate",
        "--weight-decay",
    ] {
        for value in ["-1", "nan", "inf", "x"] {
            refused(&run(&directory, &[option, value]), &[]);
        }
    }
    let large = ["--batch", "1000000", "--hidden", "65536", "--text", "text"];
    let run = Command::new(executable("train"))
        .current_dir(&directory)
        .args(large)
        .output()
        .unwrap();
    refused(&run, &["GiB of memory", "are available", "--batch 1000000"]);
    assert!(!directory.join("out").exists());
}

#[test]
fn a_learning_rate_that_ruins_the_model_is_an_error() {
    let directory = directory("ruin");
    let run = run(&directory, &["--learning-rate", "1e300", "--steps", "1"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(
        !text(&run.stdout).contains("\nlearned"),
        "{}",
        text(&run.stdout)
    );
    assert!(
        !text(&run.stderr).contains("panicked"),
        "{}",
        text(&run.stderr)
    );
}

#[test]
fn paths_are_tried_before_the_training() {
    let directory = directory("paths");
    fs::write(directory.join("file"), "").unwrap();
    refused(&run(&directory, &["--text", "none"]), &["--text none"]);
    refused(&run(&directory, &["--text", "."]), &["--text ."]);
    refused(
        &run(&directory, &["--save", "no/such/file"]),
        &["--save", "no/such/file"],
    );
    refused(&run(&directory, &["--save", "."]), &["--save", "folder"]);
    let out = |path: &str| {
        let mut command = Command::new(executable("train"));
        command
            .current_dir(&directory)
            .args(["--text", "text", "--out", path])
            .output()
            .unwrap()
    };
    refused(&out("file/out"), &["cannot write file/out"]);
    fs::create_dir_all(directory.join("taken/curves.svg")).unwrap();
    refused(&out("taken"), &["curves.svg", "folder"]);
}

/// Where a device is always full, and a reader can go away.
#[cfg(target_os = "linux")]
#[test]
fn closed_pipes_and_full_disks_do_not_panic() {
    let directory = directory("pipes");
    for closed in ["stdout", "stderr"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&directory, &["--save", "weights"]);
        match closed {
            "stdout" => command.stdout(writer).stderr(Stdio::piped()),
            _ => command.stderr(writer).stdout(Stdio::piped()),
        };
        trained(&command.output().unwrap());
        for name in ["out/runs.csv", "out/curves.svg", "weights"] {
            let path = directory.join(name);
            assert!(path.is_file(), "{name} with {closed} closed");
            fs::remove_file(path).unwrap();
        }
    }

    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let run_full = command(&directory, &[]).stdout(full).output().unwrap();
    refused(&run_full, &["standard output", "No space left"]);
}

/// The disk fills while it trains: files may not grow beyond a limit, which ends writes in their middle as a full disk does.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_leaves_what_was_written() {
    /// In blocks of 512 bytes, or of 1024 where `sh` counts so. A write past it gives an error instead of the signal.
    fn limited(directory: &Path, blocks: usize, options: &[&str]) -> Output {
        let inner = command(directory, options);
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(inner.get_program());
        command.args(inner.get_args()).current_dir(directory);
        command.output().unwrap()
    }
    let directory = directory("full");
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    trained(&run(
        &directory,
        &["--save", "weights", "--stop-after", "2"],
    ));
    let [rows, curves, weights] = ["out/runs.csv", "out/curves.svg", "weights"].map(read);

    // Rows have space, the plot and the weights do not.
    let resume = [
        "--resume",
        "weights",
        "--save",
        "weights",
        "--stop-after",
        "4",
    ];
    let filled = limited(&directory, 2, &resume);
    let error = text(&filled.stderr);
    assert_eq!(filled.status.code(), Some(1), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    for problem in [
        "warning: cannot write out/curves.svg: File too large",
        "warning: --save: cannot write weights: File too large",
        "error: cannot write out/curves.svg: File too large",
    ] {
        let said = error
            .lines()
            .filter(|line| line.starts_with(problem))
            .count();
        assert_eq!(said, 1, "{problem}: {error}");
    }
    assert!(read("weights") == weights && read("out/curves.svg") == curves);
    assert!(read("out/runs.csv").starts_with(&rows) && read("out/runs.csv").len() > rows.len());

    // Rows have none in the end. What is there is whole rows, those of a training with space.
    let steps = ["--steps", "60", "--learning-rate", "0.001"];
    trained(&run(&directory, &steps));
    let whole = text(&read("out/runs.csv"));
    let filled = limited(&directory, 2, &steps);
    let error = text(&filled.stderr);
    assert_eq!(filled.status.code(), Some(1), "{error}");
    let problem = "error: cannot write out/";
    assert!(
        error.contains(problem) && !error.contains("panicked"),
        "{error}"
    );
    let rows = text(&read("out/runs.csv"));
    assert!(rows.ends_with('\n') && whole.starts_with(&rows), "{rows}");
    assert!(
        rows.lines().count() > 2 && rows.len() < whole.len(),
        "{rows}"
    );

    // No space to begin with: the rows of an earlier training stay.
    let none = limited(&directory, 0, &[]);
    refused(&none, &["cannot write out/runs.csv", "File too large"]);
    assert_eq!(text(&read("out/runs.csv")), rows);
    let mut left: Vec<_> = fs::read_dir(directory.join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["curves.svg", "runs.csv"], "unfinished files");
}

/// What was there when the run ended stays: rows, plot and weights.
#[cfg(unix)]
#[test]
fn a_killed_run_leaves_what_was_there() {
    let directory = directory("killed");
    let options = [
        "--steps",
        "1000000",
        "--save",
        "weights",
        "--save-every",
        "1000",
    ];
    let mut command = command(&directory, &options);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    while !directory.join("weights").exists() {
        assert!(start.elapsed().as_secs() < 120, "nothing was saved");
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rows = fs::read_to_string(directory.join("out/runs.csv")).unwrap();
    assert!(rows.starts_with("variant,seed,step"), "{rows}");
    let resume = [
        "--steps",
        "1000000",
        "--resume",
        "weights",
        "--save",
        "weights",
        "--stop-after",
        "1001",
    ];
    let run = run(&directory, &resume);
    let out = text(&run.stdout);
    assert!(
        out.contains("stopped after step") || text(&run.stderr).contains("not before the last"),
        "{out}"
    );
}
