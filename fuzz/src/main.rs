//! Runs random cases until the time is over or one fails. `cargo xtask fuzz` starts it, and says what its arguments mean.
//!
//! `millet-fuzz MINUTES SEED FAILURES [TARGET:CASE]`, with cases in hexadecimal digits. FAILURES is a file of cases that
//! failed, a line each, which are run first; one that fails is added. Beside it is a file that names the case under way, so that a case
//! that ends the process is known as well: it comes first next time.

mod failures;
#[cfg(target_os = "linux")]
mod parsers;

use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millet_testing::fuzz::{Failure, Target, Verdict, targets};

use failures::{CaseId, Failures};

#[cfg(feature = "cuda")]
type Backend = millet::Cuda;
#[cfg(not(feature = "cuda"))]
type Backend = millet::Cpu;

const BACKEND: &str = if cfg!(feature = "cuda") {
    "cuda"
} else {
    "cpu"
};

/// Between two reports.
const REPORT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    silence_cases();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut targets = targets::<Backend>();
    #[cfg(target_os = "linux")]
    targets.extend(parsers::targets());
    match fuzz(&arguments, targets) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// A target, and what was done with it.
struct Tally {
    target: Target,
    /// Cases that are drawn next count from here.
    next: u64,
    passed: u64,
    undecided: u64,
    spent: Duration,
}

fn fuzz(arguments: &[String], targets: Vec<Target>) -> Result<(), String> {
    let usage =
        || format!("millet-fuzz MINUTES SEED FAILURES [TARGET:CASE], but not {arguments:?}");
    let [minutes, seed, file, case @ ..] = arguments else {
        return Err(usage());
    };
    let minutes: f64 = minutes.parse().map_err(|_| usage())?;
    let time = Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| usage())?;
    let seed: u64 = seed.parse().map_err(|_| usage())?;

    let mut tallies: Vec<Tally> = targets
        .into_iter()
        .map(|target| Tally {
            target,
            next: 0,
            passed: 0,
            undecided: 0,
            spent: Duration::ZERO,
        })
        .collect();

    let failures = Failures::open(file)?;
    let replayed = match case {
        [] => failures.known()?,
        cases => cases
            .iter()
            .map(|case| case.parse())
            .collect::<Result<_, _>>()?,
    };
    for known in &replayed {
        let tally = tallies
            .iter_mut()
            .find(|tally| tally.target.name == known.target);
        let tally = tally.ok_or_else(|| format!("{BACKEND} has no target `{}`", known.target))?;
        println!("{known} once more");
        run(tally, known.number, &failures)?;
    }
    if !case.is_empty() {
        println!("It passes.");
        return failures.close();
    }

    let (start, mut reported) = (Instant::now(), Instant::now());
    // Every target gets one at least.
    while start.elapsed() < time || tallies.iter().any(|tally| tally.next == 0) {
        // The one that has had the least time.
        let tally = tallies
            .iter_mut()
            .min_by_key(|tally| tally.spent)
            .expect("targets");
        let number = tally.target.case(seed, tally.next);
        tally.next += 1;
        if let Err(message) = run(tally, number, &failures) {
            report(&tallies, start.elapsed());
            return Err(message);
        }
        if reported.elapsed() >= REPORT {
            report(&tallies, start.elapsed());
            reported = Instant::now();
        }
    }
    report(&tallies, start.elapsed());
    failures.close()
}

fn run(tally: &mut Tally, number: u64, failures: &Failures) -> Result<(), String> {
    let case = CaseId {
        target: tally.target.name.into(),
        number,
    };
    failures.begin(&case)?;
    let start = Instant::now();
    IN_CASE.store(true, Ordering::Relaxed);
    interleave(number);
    let result = tally.target.run(number);
    IN_CASE.store(false, Ordering::Relaxed);
    tally.spent += start.elapsed();
    match result {
        Ok(Verdict::Passed) => tally.passed += 1,
        Ok(Verdict::Undecided) => tally.undecided += 1,
        Err(failure) => {
            failures.add(&case, &failure)?;
            failures.close()?;
            return Err(describe(&case, &failure));
        }
    }
    Ok(())
}

fn describe(case: &CaseId, Failure { reason, smallest }: &Failure) -> String {
    let found = finding().map_or(String::new(), |line| format!("\n{line}"));
    format!(
        "{case} fails: {reason}{found}\n\nThe smallest case that fails:\n{smallest}\n\nIt is run again by\n    \
         cargo xtask fuzz --backend {BACKEND} --case {case}"
    )
}

/// Whether panics are of a case. While one is made smaller they are many and all alike; the last one is told.
static IN_CASE: AtomicBool = AtomicBool::new(false);

fn silence_cases() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IN_CASE.load(Ordering::Relaxed) {
            hook(info);
        }
    }));
}

/// Each case has an interleaving of its own on the emulator, which is part of what is replayed.
#[cfg(feature = "cuda")]
fn interleave(number: u64) {
    cuda_emulator_loader::set_seed(Some(number));
    cuda_emulator_loader::clear();
}

#[cfg(not(feature = "cuda"))]
fn interleave(_: u64) {}

/// What a checker of the emulator found, if one did: in the smallest case, which failed last.
fn finding() -> Option<String> {
    #[cfg(feature = "cuda")]
    return cuda_emulator_loader::findings()?.pop();
    #[cfg(not(feature = "cuda"))]
    None
}

fn report(tallies: &[Tally], elapsed: Duration) {
    println!("after {:.0} s on {BACKEND}:", elapsed.as_secs_f64());
    for tally in tallies {
        let cases = tally.passed + tally.undecided;
        let per_minute = cases as f64 * 60.0 / tally.spent.as_secs_f64().max(1e-9);
        println!(
            "  {:<8} {cases:>8} cases, {per_minute:>7.0} per minute, {} undecided",
            tally.target.name, tally.undecided
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use millet_testing::fuzz::proptest::prelude::*;

    use super::*;

    /// Whole numbers, of which those from 500 on are wrong.
    fn numbers(is_mended: bool) -> Vec<Target> {
        vec![
            Target::new("fine", 0u32..10, |_| Ok(())),
            Target::new("numbers", 0u32..100_000, move |&number| {
                prop_assume!(number != 3);
                assert!(is_mended || number < 500, "{number} is too much");
                Ok(())
            }),
        ]
    }

    fn file(name: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("millet-fuzz-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&file);
        file
    }

    fn with(targets: Vec<Target>, minutes: &str, seed: &str, rest: &[&str]) -> Result<(), String> {
        let arguments: Vec<String> = [&[minutes, seed], rest]
            .concat()
            .iter()
            .map(|a| String::from(*a))
            .collect();
        fuzz(&arguments, targets)
    }

    #[test]
    fn a_failure_is_made_small_and_kept_and_comes_first() {
        let file = file("kept.txt");
        let path = file.to_str().unwrap();
        let error = with(numbers(false), "1", "7", &[path]).unwrap_err();
        assert!(error.contains("500 is too much"), "{error}");
        let (_, case) = error.rsplit_once("--case ").unwrap();
        assert!(case.starts_with("numbers:"), "{error}");

        let kept = fs::read_to_string(&file).unwrap();
        assert_eq!(kept, format!("{case} # 500 is too much 500\n"));
        assert!(!file.with_extension("running").exists());
        // First: another seed and hardly any time, and yet the same case fails. It is kept once.
        let again = with(numbers(false), "1e-9", "8", &[path]).unwrap_err();
        assert_eq!(again, error);
        assert_eq!(fs::read_to_string(&file).unwrap(), kept);
        // By its name alone.
        let again = with(numbers(false), "1", "9", &[path, case]).unwrap_err();
        assert_eq!(again, error);
        with(numbers(true), "1", "9", &[path, case]).unwrap();
        with(numbers(true), "1e-9", "9", &[path]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), kept);
    }

    #[test]
    fn a_case_that_a_process_ended_in_comes_first() {
        let file = file("ended.txt");
        let path = file.to_str().unwrap();
        let failures = Failures::open(path).unwrap();
        let target = &numbers(false)[1];
        let fails = |&number: &u64| target.run(number).is_err();
        let number = (0..).find(fails).unwrap();
        let case = CaseId {
            target: "numbers".into(),
            number,
        };
        failures.begin(&case).unwrap();
        let error = with(numbers(false), "1e-9", "8", &[path]).unwrap_err();
        assert!(error.ends_with(&format!("--case {case}")), "{error}");
    }

    #[test]
    fn what_is_no_case_is_refused() {
        let file = file("refused.txt");
        let path = file.to_str().unwrap();
        for (case, named) in [
            ("numbers", "`numbers`"),
            ("numbers:", "`numbers:`"),
            ("other:1", "`other`"),
        ] {
            let error = with(numbers(false), "1", "8", &[path, case]).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        fs::write(&file, "# a comment\nnonsense\n").unwrap();
        let error = with(numbers(false), "1", "8", &[path]).unwrap_err();
        assert!(
            error.contains("`nonsense`") && error.contains(path),
            "{error}"
        );
    }
}
