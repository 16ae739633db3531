//! `cargo xtask report`: runs the benches that this machine can run, keeps what they record, and makes tables and plots of it.

mod model;
mod plots;
mod records;
mod tables;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{CUDA, cargo, cargo_with_cuda, run, target_directory, wheels};
use records::Records;

const ARGUMENTS: &str = "expected --quick, --from FILE (may be repeated) or --into FOLDER";
/// Around what is written, in benchmarks.md.
const BEGIN: &str = "<!-- written by cargo xtask report -->";
const END: &str = "<!-- end of what cargo xtask report wrote -->";

#[derive(Debug, Default, PartialEq)]
struct Options {
    quick: bool,
    from: Vec<PathBuf>,
    into: Option<PathBuf>,
}

impl Options {
    fn of(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut all = arguments.iter();
        while let Some(argument) = all.next() {
            let mut path = || {
                let value = all.next().map(PathBuf::from);
                value.ok_or_else(|| format!("{argument} needs a path"))
            };
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--from" => options.from.push(path()?),
                "--into" => options.into = Some(path()?),
                other => return Err(format!("report: `{other}`: {ARGUMENTS}")),
            }
        }
        if options.quick && !options.from.is_empty() {
            return Err("report: --quick runs benches, --from runs none: choose one".into());
        }
        Ok(options)
    }
}

pub(super) fn report(arguments: &[String]) -> Result<(), String> {
    let options = Options::of(arguments)?;
    let target = target_directory()?.join("report");
    // What --quick finds says nothing, so it does not go into the documentation.
    let default = match options.quick {
        true => target.join("quick"),
        false => root()?.join("docs"),
    };
    let into = options.into.unwrap_or(default);
    match options.from.is_empty() {
        false => write(&Records::read(&options.from)?, &into),
        true => write(&Records::read(&[measure(&target, options.quick)?])?, &into),
    }
}

fn root() -> Result<&'static Path, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.ok_or("no workspace".into())
}

/// Tables and plots of what the benches recorded in a test run, to see that they can be made. Below `target`.
pub(super) fn of_tests(file: &Path) -> Result<(), String> {
    let records = Records::read(&[file])?;
    if records.counts.is_empty() || records.saved.is_empty() {
        return Err(format!(
            "{}: expected counts and saved bytes",
            file.display()
        ));
    }
    write(&records, &file.with_extension(""))
}

/// Runs the benches, and gives the file of their records.
fn measure(target: &Path, quick: bool) -> Result<PathBuf, String> {
    let file = target.join("records.jsonl");
    fs::create_dir_all(target).map_err(explain(target))?;
    fs::write(&file, Records::run(&today())).map_err(explain(&file))?;
    let cases = |cases: &'static str| if quick { "tiny" } else { cases };
    // The profile of tests, whose kernels and emulator are there already.
    let count = |benches: &[&str], names: &'static str, filter: &str| {
        let mut command = cargo_with_cuda();
        command.env_remove("MILLET_BENCH_DTYPE");
        // Else what was counted is not what the page says.
        command
            .env("CUDA_EMULATOR", "1")
            .env("CUDA_EMULATOR_DEVICE", "a100");
        command
            .args(["bench", "--profile", "dev", "--workspace"])
            .args(CUDA);
        for bench in benches {
            command.args(["--bench", bench]);
        }
        command.args(["--", filter]);
        command.env("MILLET_BENCH_CASES", cases(names));
        run(command.env("MILLET_BENCH_RECORD", &file))
    };
    match wheels::nvcc() {
        Ok(_) => {
            let filter = if quick { "tiny/cuda" } else { "/small/cuda" };
            count(
                &["router", "dispatch", "permute", "experts", "combine"],
                "small",
                filter,
            )?;
            for step in ["forward$", "backward$"] {
                let small = if quick { "tiny" } else { "small" };
                count(&["layer"], "small", &format!("/{small}/cuda-bf16/{step}"))?;
                if !quick {
                    count(
                        &["layer"],
                        "systems,sonic-h768-i256-e128",
                        &format!("/cuda-bf16/{step}"),
                    )?;
                }
            }
        }
        Err(reason) => append(&file, &Records::left_out("counts", "cuda", &reason))?,
    }
    // Speed needs the release profile; without CUDA it takes a minute to build.
    let time = |bench: &str, names: &'static str, arguments: &[&str]| {
        let mut command = cargo();
        command.env_remove("MILLET_BENCH_DTYPE");
        command.args(["bench", "--package", "millet", "--bench", bench, "--"]);
        command.args(arguments);
        if quick {
            command.args(["--warm-up-time", "0.1", "--measurement-time", "0.1"]);
        }
        command.env("MILLET_BENCH_CASES", cases(names));
        command.env("MILLET_BENCH_RECORD", &file);
        command
    };
    run(&mut time("saved", "sonic,models", &[]))?;
    let filter = match quick {
        true => "product|tiny/cpu",
        false => "product|(small|H256)/cpu.*/(forward|backward|routing)$",
    };
    run(&mut time("layer", "small,systems", &[filter]))?;
    let left_out = match python(target, quick) {
        Ok(python) => {
            let filter = if quick { "/tiny/" } else { "/small/" };
            // What differs from PyTorch must not cost the rest.
            run(time("torch", "small", &[filter]).env("MILLET_BENCH_PYTHON", python)).err()
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = left_out {
        eprintln!("{reason}");
        append(&file, &Records::left_out("torch", "torch-cpu", &reason))?;
    }
    Ok(file)
}

/// A Python with PyTorch: the machine's own if it has `grouped_mm`, else one below `target`, which a quick run does not install.
fn python(target: &Path, quick: bool) -> Result<PathBuf, String> {
    let check = ["-c", "import torch; torch.nn.functional.grouped_mm"];
    let own = Command::new("python3").args(check).output();
    if own.is_ok_and(|output| output.status.success()) {
        return Ok("python3".into());
    }
    if !target.join("venv").exists() {
        if quick {
            return Err("no PyTorch here, and --quick installs nothing".into());
        }
        eprintln!(
            "PyTorch goes into {}: 5 GB with the CUDA libraries that it needs",
            target.display()
        );
    }
    wheels::environment(target, &root()?.join("benches/requirements.txt"))
}

fn append(file: &Path, line: &str) -> Result<(), String> {
    let open = OpenOptions::new().append(true).open(file);
    open.and_then(|mut open| open.write_all(line.as_bytes()))
        .map_err(explain(file))
}

/// The page with its plots and records: benchmarks.md, report/*.svg, report/records.jsonl.
fn write(records: &Records, into: &Path) -> Result<(), String> {
    let page = tables::page(records);
    let folder = into.join("report");
    fs::create_dir_all(&folder).map_err(explain(&folder))?;
    for (name, bars) in &page.plots {
        bars.draw(&folder.join(name).with_extension("svg"))?;
    }
    let lines: String = records
        .lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let file = folder.join("records.jsonl");
    fs::write(&file, lines).map_err(explain(&file))?;
    let file = into.join("benchmarks.md");
    let before = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{BEGIN}\n{END}\n"),
        Err(error) => return Err(explain(&file)(error)),
    };
    let after =
        replaced(&before, &page.text).map_err(|error| format!("{}: {error}", file.display()))?;
    fs::write(&file, after).map_err(explain(&file))?;
    println!("{} and {}", file.display(), folder.display());
    Ok(())
}

/// The text with another block between the marks.
fn replaced(text: &str, block: &str) -> Result<String, String> {
    let parts = text
        .split_once(BEGIN)
        .and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) =
        parts.ok_or_else(|| format!("expected the lines `{BEGIN}` and, after it, `{END}`"))?;
    Ok(format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", block.trim()))
}

fn explain(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// The day in UTC, as 2026-11-30.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    date(seconds.map_or(0, |since| since.as_secs() / 86400))
}

/// Of days since 1970: with years that begin in March, a leap day is the last of its year.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("millet-report-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn arguments_are_checked() {
        let of = |arguments: &[&str]| {
            Options::of(&arguments.iter().map(|a| (*a).into()).collect::<Vec<_>>())
        };
        let options = of(&["--from", "a", "--from", "b", "--into", "c"]).unwrap();
        assert_eq!((options.from.len(), options.into), (2, Some("c".into())));
        assert!(of(&["--from"]).unwrap_err().contains("needs a path"));
        assert!(of(&["--fast"]).unwrap_err().contains(ARGUMENTS));
        assert!(
            of(&["--quick", "--from", "a"])
                .unwrap_err()
                .contains("choose one")
        );
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        let folder = folder("wrong");
        let file = folder.join("records.jsonl");
        let error = |text: &str| {
            fs::write(&file, text).unwrap();
            Records::read(&[&file]).unwrap_err()
        };
        let cases = [
            ("", "has no record"),
            ("\n{\"kind\":", "line 2: expected a JSON object per line"),
            ("{\"bench\":\"x\"}", "line 1: no `kind`"),
            (
                "{\"kind\":\"time\",\"bench\":\"x\"}",
                "no `seconds`, expected an object",
            ),
            (
                "{\"kind\":\"saved\",\"case\":\"a\",\"sizes\":{\"T\":\"4\"}}",
                "`T` is \"4\", expected a number",
            ),
            (
                "{\"kind\":\"run\",\"date\":3}",
                "`date` is 3, expected a string",
            ),
            ("[]", "expected a JSON object"),
            ("# Benchmarks", "expected a JSON object per line"),
            (
                &count("experts/a/bf16/up", [4, 4], [1.0, 0.0, 0.0], &[], &[]),
                "`bytes` is 0, expected a number above 0",
            ),
            (
                &count("experts/a/bf16/up", [0, 4], [1.0, 1.0, 0.0], &[], &[]),
                "`T` is 0, expected a number above 0",
            ),
            (
                &time("layer/a/cpu/forward", "a CPU", "f32", 0.0),
                "`median` is 0, expected a number above 0",
            ),
            (
                &[
                    time("layer/a/cpu/forward", "a CPU", "f32", 1.0),
                    time("layer/a/cpu/forward", "another", "f32", 1.0),
                ]
                .concat(),
                "times of another after those of a CPU: expected one CPU",
            ),
        ];
        for (text, expected) in cases {
            let error = error(text);
            assert!(
                error.contains(expected) && error.contains("records.jsonl"),
                "{error}"
            );
        }
        fs::remove_file(&file).unwrap();
        let error = Records::read(&[&file]).unwrap_err();
        assert!(error.contains("records.jsonl: No such file"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let before = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let after = replaced(&before, "new\n").unwrap();
        assert_eq!(after, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(replaced(&after, "new\n").unwrap(), after);
        assert!(replaced("no marks", "").unwrap_err().contains(BEGIN));
    }

    /// The example has one of each kind; a GPU's time in it is made up.
    #[test]
    fn records_become_tables_and_plots() {
        let folder = folder("example");
        let records = Records::read(&["src/report/example.jsonl"]).unwrap();
        write(&records, &folder).unwrap();
        let page = fs::read_to_string(folder.join("benchmarks.md")).unwrap();
        for heading in [
            "Counted",
            "Saved bytes",
            "Modelled",
            "Misfit",
            "G=8 against G=1",
            "The layer on the CPU",
            "The CPU layer against PyTorch's grouped_mm",
            "Times on GPUs",
            "Left out",
        ] {
            assert!(page.contains(&format!("### {heading}")), "{heading}");
        }
        assert!(
            page.lines()
                .all(|line| line.starts_with('|') || line.chars().count() <= 140)
        );
        for (name, words) in [
            ("counted", "over the fewest possible"),
            ("saved", "kB per token"),
            ("misfit", "published time"),
            ("granularity", "G=8 / G=1"),
        ] {
            let svg =
                fs::read_to_string(folder.join("report").join(name).with_extension("svg")).unwrap();
            assert!(svg.starts_with("<svg") && svg.contains(words), "{name}");
        }
        for row in [
            "| tiny | experts up | experts_up_small_bf16 | 1 | 0.22 | 1.004 | 1.333 |",
            "|  | — launch 2 | unpermute_bf16 |  | 0.04 | 1.021 | – |",
            "| sonic-h768-i256-e128 | T=40960 H=768 I=256 E=128 K=8 | 9.9 | 9.9 | 30.2 | 32.8 | 28.7 |",
            "| tiny | 14 % | 14 % | 0.8 % |",
            "(86 and 78 GFLOP/s)",
            // 10 µs, 4.72 MFLOP and 546 kB; counted were 218 kB, 45.4 ns at 4.8 TB/s.
            "| NVIDIA H200 | experts/tiny/up | bf16 | 10.0 (9.00 to 11.0) | 0.47 | 0.05 | 220.17 |",
            "| T=40960 H=768 I=256 E=128 K=8 | 1.15 / 0.64 = 1.78 | 2.12 / 1.12 = 1.89 | 2.11 / 0.80 = 2.66 | 3.75 / 1.92 = 1.96 |",
            "| geometric mean of the ratios | 1.72 | 1.79 | 2.53 | 2.21 |",
            "| 1xFLOPs | forward | 1.09 | 1.00 | 1.00 | 1.00 | 1.00 |",
            "| tiny | bf16 | forward | 1.00 (0.900 to 1.10) | 2.00 (1.80 to 2.20) | 2.00 (1.90 to 2.10) |",
        ] {
            assert!(page.contains(row), "{row}\n{page}");
        }
        // The plots have the tables' numbers.
        let page_of_plots = tables::page(&records);
        for (name, group, series, expected) in [
            ("counted", "experts input-grad", 0, 1.255),
            ("saved", "sonic-h768-i256-e128", 1, 9.9),
            ("misfit", "T=40960 H=768 I=256 E=128", 0, 1.78),
            ("granularity", "1xFLOPs forward", 0, 1.09),
        ] {
            let plot = page_of_plots.plots.iter().find(|plot| plot.0 == name);
            let groups = &plot.unwrap().1.groups;
            let value = groups.iter().find(|bars| bars.0 == group).unwrap().1[series];
            assert!((value / expected - 1.0).abs() < 0.01, "{name}: {value}");
        }
        // What was kept gives the same page again.
        let again = Records::read(&[folder.join("report/records.jsonl")]).unwrap();
        write(&again, &folder).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("benchmarks.md")).unwrap(),
            page
        );
        fs::remove_dir_all(folder).unwrap();
    }

    const SIZES: &str = r#""H":64,"I":64,"E":8,"K":2"#;

    /// A line of counts of `bench/case/type/operation`, T being what ran and what the whole case has. `work` and `works` are FLOPs, bytes
    /// and bytes written over an input; `launches` are FLOPs, sectors missed, bytes first written, sectors loaded and stored.
    fn count(
        id: &str,
        [ran, whole]: [usize; 2],
        work: [f64; 3],
        launches: &[(&str, [f64; 5])],
        works: &[[f64; 3]],
    ) -> String {
        let [bench, case, dtype, operation] = parts(id);
        let fields = |[flops, bytes, rewritten]: [f64; 3]| {
            format!(r#""flops":{flops},"bytes":{bytes},"rewritten":{rewritten}"#)
        };
        let launch = |(kernel, [flops, misses, written, loads, stores]): &(&str, [f64; 5])| {
            format!(
                r#"{{"kernel":"{kernel}","tensor_flops":{flops},"l2_sector_misses":{misses},"first_written_bytes":{written},"#
            ) + &format!(
                r#""global_load_sectors":{loads},"global_store_sectors":{stores},"warps":9}}"#
            )
        };
        let launches: Vec<_> = launches.iter().map(launch).collect();
        let works: Vec<_> = works
            .iter()
            .map(|&w| format!("{{{}}}", fields(w)))
            .collect();
        format!(
            r#"{{"kind":"count","bench":"{bench}","case":"{case}","backend":"cuda","dtype":"{dtype}","operation":"{operation}",{},"#,
            fields(work)
        ) + &format!(
            r#""sizes":{{"T":{ran},{SIZES}}},"whole":{{"T":{whole},{SIZES}}},"launches":[{}],"works":[{}]}}"#,
            launches.join(","),
            works.join(",")
        ) + "\n"
    }

    /// A line of a time of `bench/case/backend/operation`: 2e12 FLOPs and 5e11 bytes.
    fn time(id: &str, device: &str, dtype: &str, seconds: f64) -> String {
        let [bench, case, backend, operation] = parts(id);
        format!(
            r#"{{"kind":"time","bench":"{bench}","case":"{case}","backend":"{backend}","device":"{device}","dtype":"{dtype}","#
        ) + &format!(
            r#""operation":"{operation}","flops":2e12,"bytes":5e11,"seconds":{{"median":{seconds},"low":{seconds},"high":{seconds}}}}}"#
        ) + "\n"
    }

    fn parts(id: &str) -> [&str; 4] {
        let parts: Vec<_> = id.split('/').collect();
        parts.try_into().unwrap()
    }

    /// Each figure is worked out here by hand, from round numbers.
    #[test]
    fn tables_have_the_figures_of_the_records() {
        let folder = folder("figures");
        let file = folder.join("records.jsonl");
        // On the H200 1 ms of products, 1 ms of memory (half of it missed, half written) and 4 ms of L2 (loaded and stored), and all of it
        // four times, for a quarter was counted.
        let launches = [
            ("product", [989.5e9, 0.0, 0.0, 0.0, 0.0]),
            ("copy", [0.0, 75e6, 2.4e9, 0.0, 0.0]),
            ("gather", [0.0, 0.0, 0.0, 400e6, 600e6]),
        ];
        let layer = |case: &str, dtype: &str, tokens| {
            let id = format!("layer/{case}/{dtype}/forward");
            count(&id, tokens, [1.0, 1.0, 0.0], &launches, &[])
        };
        let operation = |dtype: &str| {
            let launches = [
                ("first", [4e6, 31250.0, 1e6, 0.0, 0.0]),
                ("second", [0.0, 0.0, 5e5, 0.0, 0.0]),
            ];
            let works = [[2e6, 2e6, 5e5], [0.0, 1e6, 0.0]];
            let id = format!("experts/round/{dtype}/down-backward");
            count(&id, [96, 96], [2e6, 2e6, 5e5], &launches, &works)
        };
        let on_gpu = |device: &str, case: &str, dtype: &str| {
            let id = format!("layer/1xFLOPs-{case}-H256/cuda/forward");
            time(&id, device, dtype, 48e-3)
        };
        let text = [
            layer("1xFLOPs-G1-H256", "bf16", [96, 384]),
            layer("1xFLOPs-G1-H256", "f32", [96, 9600]),
            // Counted whole: no ratio with what was multiplied.
            layer("1xFLOPs-G8-H256", "bf16", [384, 384]),
            operation("f32"),
            operation("bf16"),
            on_gpu("NVIDIA H200", "G1", "f32"),
            on_gpu("NVIDIA L40", "G1", "bf16"),
            on_gpu("NVIDIA A100-SXM4-80GB", "G1", "bf16"),
            on_gpu("NVIDIA H200", "G8", "bf16"),
            time("layer/1xFLOPs-G1-H256/cpu/forward", "a CPU", "f32", 2.0),
            time("layer/1xFLOPs-G8-H256/cpu/forward", "a CPU", "f32", 3.0),
            time("torch/round/cpu/both", "a CPU", "f32", 1.0),
            time("torch/round/torch-cpu/both", "another CPU", "f32", 2.0),
        ];
        fs::write(&file, text.concat()).unwrap();
        let records = Records::read(&[&file]).unwrap();
        let page = tables::page(&records).text;
        let rows_below = |heading: &str| -> Vec<&str> {
            let section = page
                .split("### ")
                .find(|section| section.starts_with(heading));
            let rows = section.unwrap_or_default().lines();
            rows.filter(|line| line.starts_with('|')).skip(2).collect()
        };
        assert_eq!(
            rows_below("Counted"),
            [
                // 1 MB missed, 1.5 MB first written, 0.5 MB written over an input.
                "| round | experts down-backward | first, second | 2 | 2.00 | 1.500 | 2.000 |",
                "|  | — launch 1 | first |  | 2.00 | 1.250 | 2.000 |",
                "|  | — launch 2 | second |  | 1.00 | 0.500 | – |",
            ]
        );
        // A100: 3.171 + 2.354 + 4.433 ms. RTX 4090: 5.990 + 4.762 ms.
        let modelled = |case, counted, [a100, h200, ada]: [&str; 3]| {
            format!(
                "| {case}: T=384 H=64 I=64 E=8 K=2 | forward | T={counted}, E=8 | {a100} | L2 45 % | {h200} | L2 67 % | {ada} | tensor 56 % |"
            )
        };
        assert_eq!(
            rows_below("Modelled"),
            [
                modelled("1xFLOPs-G1-H256", 96, ["39.8", "24.0", "43.0"]),
                modelled("1xFLOPs-G8-H256", 384, ["9.96", "6.00", "10.8"]),
            ]
        );
        assert_eq!(
            rows_below("G=8 against G=1"),
            ["| 1xFLOPs | forward | 1.50 | – | – | – | – |"]
        );
        // Of counts in the same type, and on a device that there is a model of.
        let measured = |device, case, dtype, over| {
            format!(
                "| {device} | layer/1xFLOPs-{case}-H256/forward | {dtype} | 48000 (48000 to 48000) | 41.67 | 10.42 | {over} |"
            )
        };
        assert_eq!(
            rows_below("Times on GPUs"),
            [
                measured("NVIDIA H200", "G1", "f32", "–"),
                measured("NVIDIA L40", "G1", "bf16", "–"),
                measured("NVIDIA A100-SXM4-80GB", "G1", "bf16", "1.21"),
                measured("NVIDIA H200", "G8", "bf16", "8.00"),
            ]
        );
        // Two CPUs are not compared.
        assert!(rows_below("The CPU layer against PyTorch").is_empty());
        let kept = records.lines.iter().map(ToString::to_string);
        assert!(kept.clone().any(|line| line.contains("l2_sector_misses")));
        assert!(!kept.clone().any(|line| line.contains("warps")));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_test_run_must_have_counted_and_saved() {
        let folder = folder("of-tests");
        let file = folder.join("records.jsonl");
        fs::write(&file, time("layer/a/cpu/forward", "a CPU", "f32", 1.0)).unwrap();
        let error = of_tests(&file).unwrap_err();
        assert!(error.contains("expected counts and saved bytes"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn days_have_dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (20_787, "2026-11-30"),
            (11_016, "2000-02-29"),
        ] {
            assert_eq!(date(days), expected);
        }
    }
}
