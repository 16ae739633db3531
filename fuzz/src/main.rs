//! Runs random cases until the time is over or one fails. `cargo xtask fuzz` starts it, and says what its arguments mean.
//!
//! `millet-fuzz MINUTES SEED FAILURES [TARGET:CASE]`, with cases in hexadecimal digits. FAILURES is a file of cases that
//! failed, a line each, which are run first; one that fails is added, and so is one that takes more than [`LIMIT`]. Beside it is a file
//! that names the case under way: where a process was ended, the next one begins with its case.

mod failures;
#[cfg(target_os = "linux")]
mod parsers;

use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{panic, thread};

use millet_testing::fuzz::{Failure, Target, Verdict, targets};

use failures::{CaseId, Failures, UnderWay};

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

/// The most that a case may take, with making it smaller where it fails, which ends after a minute.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    silence_cases();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut targets = targets::<Backend>();
    #[cfg(target_os = "linux")]
    targets.extend(parsers::targets());
    match fuzz(&arguments, targets, LIMIT) {
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

fn fuzz(arguments: &[String], targets: Vec<Target>, limit: Duration) -> Result<(), String> {
    let usage =
        || format!("millet-fuzz MINUTES SEED FAILURES [TARGET:CASE], but not {arguments:?}");
    let (minutes, seed, file, case) = match arguments {
        [minutes, seed, file] => (minutes, seed, file, None),
        [minutes, seed, file, case] => (minutes, seed, file, Some(case)),
        _ => return Err(usage()),
    };
    let minutes: f64 = minutes.parse().map_err(|_| usage())?;
    let time = Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| usage())?;
    let seed: u64 = seed.parse().map_err(|_| usage())?;

    let tallies = targets.into_iter().map(|target| Tally {
        target,
        next: 0,
        passed: 0,
        undecided: 0,
        spent: Duration::ZERO,
    });
    let failures = Failures::open(file)?;
    let mut session = Session {
        tallies: tallies.collect(),
        watch: watch(limit, failures.clone()),
        failures,
        under_way: None,
    };
    if let Some(case) = case {
        session.replay(&case.parse()?)?;
        println!("It passes.");
        return Ok(());
    }
    let mut under_way = session.failures.under_way()?;
    let left = under_way.left();
    session.under_way = Some(under_way);
    // A target that is no more cannot have ended anything that can be run again.
    if let Some(case) = left.filter(|case| session.target(&case.target).is_some()) {
        session.replay(&case)?;
    }
    for case in session.failures.known()? {
        session.replay(&case)?;
    }
    session.draw(seed, time)
}

/// What the cases of a run have in common.
struct Session {
    tallies: Vec<Tally>,
    failures: Failures,
    /// Not where one case is replayed: whoever asked for it knows it.
    under_way: Option<UnderWay>,
    watch: Sender<Option<CaseId>>,
}

impl Session {
    /// The place of the target of this name.
    fn target(&self, name: &str) -> Option<usize> {
        (self.tallies.iter()).position(|tally| tally.target.name == name)
    }

    fn replay(&mut self, case: &CaseId) -> Result<(), String> {
        let target = self.target(&case.target);
        let target = target.ok_or_else(|| format!("{BACKEND} has no target `{}`", case.target))?;
        println!("{case} once more");
        self.run(target, case.number)
    }

    /// Draws cases for so long, and at least one of each target.
    fn draw(&mut self, seed: u64, time: Duration) -> Result<(), String> {
        let (start, mut reported) = (Instant::now(), Instant::now());
        while start.elapsed() < time || self.tallies.iter().any(|tally| tally.next == 0) {
            // The one that has had the least time.
            let target = (0..self.tallies.len())
                .min_by_key(|&target| self.tallies[target].spent)
                .expect("targets");
            let tally = &mut self.tallies[target];
            let number = tally.target.case(seed, tally.next);
            tally.next += 1;
            if let Err(message) = self.run(target, number) {
                report(&self.tallies, start.elapsed());
                return Err(message);
            }
            if reported.elapsed() >= REPORT {
                report(&self.tallies, start.elapsed());
                reported = Instant::now();
            }
        }
        report(&self.tallies, start.elapsed());
        Ok(())
    }

    fn run(&mut self, target: usize, number: u64) -> Result<(), String> {
        let tally = &mut self.tallies[target];
        let case = CaseId {
            target: tally.target.name.into(),
            number,
        };
        if let Some(under_way) = &mut self.under_way {
            under_way.begin(&case)?;
        }
        let start = Instant::now();
        self.watch.send(Some(case.clone())).expect(WATCH);
        IN_CASE.store(true, Ordering::Relaxed);
        interleave(number);
        let result = tally.target.run(number);
        IN_CASE.store(false, Ordering::Relaxed);
        self.watch.send(None).expect(WATCH);
        tally.spent += start.elapsed();
        match result {
            Ok(Verdict::Passed) => tally.passed += 1,
            Ok(Verdict::Undecided) => tally.undecided += 1,
            Err(ref failure) => self.failures.add(&case, failure)?,
        }
        if let Some(under_way) = &mut self.under_way {
            under_way.end()?;
        }
        match result {
            Ok(_) => Ok(()),
            Err(failure) => Err(describe(&case, &failure)),
        }
    }
}

const WATCH: &str = "the watch lives as long as the session";

/// A thread that is told of each case, and of its end by `None`. It ends the process with a case that takes longer than the limit, because
/// nothing else can end such a case.
fn watch(limit: Duration, failures: Failures) -> Sender<Option<CaseId>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(Some(case)) = receiver.recv() {
            match receiver.recv_timeout(limit) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let failure = Failure {
                        reason: format!("takes more than {} s", limit.as_secs_f64()),
                        smallest: String::new(),
                    };
                    if let Err(message) = failures.add(&case, &failure) {
                        eprintln!("{message}");
                    }
                    eprintln!("{case} {}\n\n{}", failure.reason, again(&case));
                    process::exit(1);
                }
            }
        }
    });
    sender
}

fn describe(case: &CaseId, Failure { reason, smallest }: &Failure) -> String {
    let found = finding().map_or(String::new(), |line| format!("\n{line}"));
    let again = again(case);
    format!("{case} fails: {reason}{found}\n\nThe smallest case that fails:\n{smallest}\n\n{again}")
}

fn again(case: &CaseId) -> String {
    format!("It is run again by\n    cargo xtask fuzz --backend {BACKEND} --case {case}")
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
    use std::path::{Path, PathBuf};

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
        for left in [&file, &file.with_extension("running")] {
            let _ = fs::remove_file(left);
        }
        file
    }

    fn with(targets: Vec<Target>, minutes: &str, seed: &str, rest: &[&str]) -> Result<(), String> {
        let arguments: Vec<String> = [&[minutes, seed], rest]
            .concat()
            .iter()
            .map(|a| String::from(*a))
            .collect();
        fuzz(&arguments, targets, LIMIT)
    }

    /// A case that fails where `numbers` are not mended.
    fn failing() -> CaseId {
        let target = &numbers(false)[1];
        let fails = |&number: &u64| target.run(number).is_err();
        CaseId {
            target: "numbers".into(),
            number: (0..).find(fails).unwrap(),
        }
    }

    fn running(file: &Path) -> String {
        fs::read_to_string(file.with_extension("running")).unwrap()
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
        assert_eq!(running(&file), "");
        // First: another seed and hardly any time, and yet the same case fails. It is kept once.
        let again = with(numbers(false), "1e-300", "8", &[path]).unwrap_err();
        assert_eq!(again, error);
        assert_eq!(fs::read_to_string(&file).unwrap(), kept);
        // By its name alone.
        let again = with(numbers(false), "1", "9", &[path, case]).unwrap_err();
        assert_eq!(again, error);
        with(numbers(true), "1", "9", &[path, case]).unwrap();
        with(numbers(true), "1e-300", "9", &[path]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), kept);
    }

    #[test]
    fn a_case_in_which_a_process_was_ended_comes_first_and_is_forgotten_when_it_passes() {
        let file = file("ended.txt");
        let path = file.to_str().unwrap();
        let case = failing();
        let end_in = |case: &str| {
            let failures = Failures::open(path).unwrap();
            failures.under_way().unwrap().begin(&case.parse().unwrap())
        };
        end_in(&case.to_string()).unwrap();
        assert_eq!(running(&file), format!("{case}\n"));
        // Another case changes nothing about it.
        with(numbers(true), "1", "8", &[path, "fine:1"]).unwrap();
        assert_eq!(running(&file), format!("{case}\n"));
        with(numbers(true), "0", "8", &[path]).unwrap();
        assert_eq!(running(&file), "");
        assert!(!file.exists());

        end_in(&case.to_string()).unwrap();
        let error = with(numbers(false), "0", "8", &[path]).unwrap_err();
        assert!(error.ends_with(&format!("--case {case}")), "{error}");
        assert_eq!(running(&file), "");

        // A target that is no more, and what is no case, do not stop a run.
        for left in ["gone:1\n", "numb"] {
            fs::write(file.with_extension("running"), left).unwrap();
            with(numbers(true), "0", "8", &[path]).unwrap();
            assert_eq!(running(&file), "");
        }
    }

    #[test]
    fn one_process_at_a_time_has_the_files() {
        let file = file("two.txt");
        let path = file.to_str().unwrap();
        let first = Failures::open(path).unwrap().under_way().unwrap();
        let error = with(numbers(true), "0", "8", &[path]).unwrap_err();
        assert!(error.contains("another process") && error.contains("two.running"));
        with(numbers(true), "0", "8", &[path, "fine:1"]).unwrap();
        drop(first);
        with(numbers(true), "0", "8", &[path]).unwrap();
    }

    const ENDLESS: &str = "MILLET_FUZZ_TEST_ENDLESS";

    /// The process of the next test: a planted case takes too long.
    #[test]
    fn endless() {
        let Ok(path) = std::env::var(ENDLESS) else {
            return;
        };
        // A hundred times the limit: without a watch the test fails instead of hanging.
        let target = Target::new("endless", Just(()), |()| {
            thread::sleep(Duration::from_secs(20));
            Ok(())
        });
        let arguments = ["0", "1", &path].map(String::from);
        fuzz(&arguments, vec![target], Duration::from_millis(200)).unwrap();
    }

    #[test]
    fn a_case_that_does_not_end_is_kept_and_ends_the_process() {
        let file = file("endless.txt");
        let output = process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::endless", "--nocapture"])
            .env(ENDLESS, &file)
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        let (_, case) = errors.trim_end().rsplit_once("--case ").unwrap();
        assert!(case.starts_with("endless:"), "{errors}");
        let kept = fs::read_to_string(&file).unwrap();
        assert_eq!(kept, format!("{case} # takes more than 0.2 s\n"));
        assert!(
            errors.contains(&format!("{case} takes more than 0.2 s")),
            "{errors}"
        );
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
