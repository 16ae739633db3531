//! `cargo xtask fuzz`: random cases of a backend for some minutes, by the program in `fuzz/`.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use super::{CUDA, cargo, cargo_with_cuda, wheels};

/// What the arguments choose.
#[derive(Debug, Clone, PartialEq)]
struct Options {
    minutes: f64,
    backend: Backend,
    /// A new one where none is given.
    seed: Option<u64>,
    /// One case that is replayed, and nothing else.
    case: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Cpu,
    Cuda,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// Checkers and limits of the emulator, where the environment says nothing else. A case takes some million thread-instructions; one that
/// takes more than the limit hangs. Findings are told once, with the smallest case.
const EMULATOR: [(&str, &str); 3] = [
    ("CUDA_EMULATOR_CHECK", "all"),
    ("CUDA_EMULATOR_LIMIT", "2000000000"),
    ("CUDA_EMULATOR_QUIET", "1"),
];

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            minutes: 5.0,
            backend: Backend::Cpu,
            seed: None,
            case: None,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let wanted = match name.as_str() {
                "--minutes" => "a number above 0, such as 10 or 0.5",
                "--backend" => "`cpu` or `cuda`",
                "--seed" => "a whole number below 2^64",
                "--case" => "a case such as `layer:1f`",
                _ => {
                    let known = "--minutes, --backend, --seed and --case";
                    return Err(format!("fuzz takes {known}, but was given `{name}`"));
                }
            };
            let Some(value) = arguments.next() else {
                return Err(format!("fuzz: {name} needs {wanted}"));
            };
            options
                .set(name, value)
                .ok_or_else(|| format!("fuzz: {name} needs {wanted}, but was given `{value}`"))?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            // A year at most: what is more is a slip, and infinity no time.
            "--minutes" => {
                let minutes = value.parse().ok()?;
                self.minutes = (minutes > 0.0 && minutes <= 525_600.0).then_some(minutes)?;
            }
            "--backend" => {
                let all = [Backend::Cpu, Backend::Cuda];
                self.backend = all.into_iter().find(|backend| backend.name() == value)?;
            }
            "--seed" => self.seed = Some(value.parse().ok()?),
            _ => {
                let (target, number) = value.split_once(':')?;
                u64::from_str_radix(number, 16).ok()?;
                self.case = (!target.is_empty()).then(|| value.into());
                self.case.as_ref()?;
            }
        }
        Some(())
    }
}

/// Builds the program and runs it.
pub(super) fn fuzz(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace")?;
    let failures = root
        .join("fuzz/failures")
        .join(options.backend.name())
        .with_extension("txt");
    let mut command = match options.backend {
        Backend::Cpu => cargo(),
        Backend::Cuda => {
            wheels::nvcc()?;
            cargo_with_cuda()
        }
    };
    command.args(["run", "--quiet", "--package", "millet-fuzz"]);
    if options.backend == Backend::Cuda {
        command.args(CUDA);
        for (name, value) in EMULATOR {
            if env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
    }
    let seed = options
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    command
        .arg("--")
        .args([options.minutes.to_string(), seed.to_string()])
        .arg(&failures)
        .args(&options.case);
    match &options.case {
        Some(case) => eprintln!("{case} on {}", options.backend.name()),
        None => eprintln!(
            "{} minutes on {}: --seed {seed}",
            options.minutes,
            options.backend.name()
        ),
    }
    finish(&mut command, &options, &failures.with_extension("running"))
}

/// Runs the program. It says itself what failed, unless the case ends the process.
fn finish(command: &mut Command, options: &Options, running: &Path) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match status.code() {
        Some(0) => return Ok(()),
        // A failure that it told, a panic outside of cases, or a build that failed.
        Some(1 | 101) => return Err("fuzz: failed, see above".into()),
        _ => {}
    }
    let left = || fs::read_to_string(running).ok();
    let case = options.case.clone().or_else(left).unwrap_or_default();
    let case = case.lines().next();
    let replay = case.map_or(String::new(), |case| {
        let backend = options.backend.name();
        format!(" in\n    cargo xtask fuzz --backend {backend} --case {case}")
    });
    Err(format!("fuzz: the process ended ({status}){replay}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let arguments: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn arguments_choose() {
        let defaults = parse("").unwrap();
        assert_eq!(
            defaults,
            Options {
                minutes: 5.0,
                backend: Backend::Cpu,
                seed: None,
                case: None
            }
        );
        let all =
            parse("--seed 18446744073709551615 --backend cuda --minutes 0.05 --case layer:1F");
        assert_eq!(
            all.unwrap(),
            Options {
                minutes: 0.05,
                backend: Backend::Cuda,
                seed: Some(u64::MAX),
                case: Some("layer:1F".into()),
            }
        );
    }

    #[test]
    fn bad_arguments_give_one_line_that_names_them() {
        for (line, named) in [
            ("--minutes", "--minutes"),
            ("--minutes 0", "`0`"),
            ("--minutes -1", "`-1`"),
            ("--minutes nan", "`nan`"),
            ("--minutes inf", "`inf`"),
            ("--minutes 1e300", "`1e300`"),
            ("--minutes ten", "`ten`"),
            ("--backend gpu", "`gpu`"),
            ("--seed 1.5", "`1.5`"),
            ("--seed 18446744073709551616", "`18446744073709551616`"),
            ("--case layer", "`layer`"),
            ("--case :1f", "`:1f`"),
            ("--case layer:xyz", "`layer:xyz`"),
            ("--hours 1", "`--hours`"),
            ("10", "`10`"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
            assert!(
                !error.contains('\n') && error.len() < 100,
                "{line}: {error}"
            );
        }
    }
}
