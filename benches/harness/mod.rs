//! Measures a family of operations on named cases, on every backend: with criterion where there are times to measure, by counters
//! where the driver is the emulator. docs/benchmarks.md says how to run it.
//!
//! A bench describes its operations once, as functions of a set of inputs on any [`Device`]. Everything else is here.

// Each bench uses a part of it.
#![allow(dead_code)]

mod count;
mod device;
pub(crate) mod layer;
mod record;
mod routed;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use millet::half::{bf16, f16};
use millet::{Cpu, DType, Element, SavedBytes};
use millet_testing::cases::{self, Case};

pub(crate) use device::Device;
#[allow(unused_imports)] // not every bench uses both
pub(crate) use routed::{Routed, Source};

use record::{Record, Seconds, Subject};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The operations of one bench.
pub(crate) trait Family {
    /// Its name, which the ids begin with.
    const NAME: &'static str;
    /// The cases that run unless others are chosen.
    const DEFAULT: &'static str = "small";
    /// Inputs and outputs of every operation.
    type Set<B: Device, T: Element<Acc = f32>>;

    /// Bytes that a set takes, to the tenth or so, with elements of so many bytes.
    fn bytes(case: &Case, element: usize) -> usize;

    /// A set of this case. Other seeds give other numbers.
    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Self::Set<B, T>>;

    /// The operations that the case has, in the order in which they run.
    fn operations<B: Device, T: Element<Acc = f32>>(
        case: &Case,
    ) -> Vec<Operation<B, Self::Set<B, T>>>;

    /// What the emulator runs in place of this case.
    fn emulated(case: &Case) -> Case {
        case.clone()
    }
}

/// One operation on a set.
pub(crate) struct Operation<B, S> {
    name: &'static str,
    work: fn(&S) -> Work,
    launches: fn(&S) -> Vec<Work>,
    restore: Option<fn(&B, &mut S) -> Result<()>>,
    run: fn(&B, &mut S) -> Result<()>,
}

impl<B, S> Operation<B, S> {
    pub(crate) fn new(
        name: &'static str,
        work: fn(&S) -> Work,
        run: fn(&B, &mut S) -> Result<()>,
    ) -> Self {
        Self {
            name,
            work,
            launches: |_| Vec::new(),
            restore: None,
            run,
        }
    }

    /// Where CUDA takes several launches: what each must do by itself, what is between them included.
    pub(crate) fn launches(mut self, works: fn(&S) -> Vec<Work>) -> Self {
        self.launches = works;
        self
    }

    /// Puts back what [`run`](Self::new) overwrites among its own inputs. Not timed.
    pub(crate) fn restore(mut self, restore: fn(&B, &mut S) -> Result<()>) -> Self {
        self.restore = Some(restore);
        self
    }

    fn restore_all(&self, backend: &B, sets: &mut [S]) -> Result<()> {
        match self.restore {
            Some(restore) => sets.iter_mut().try_for_each(|set| restore(backend, set)),
            None => Ok(()),
        }
    }
}

/// The least that an operation must do: every input read once, every output written once. Maps of rows are left out where they are a
/// thousandth.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// A multiply-add is two.
    pub(crate) flops: f64,
    /// Bytes read and written.
    pub(crate) bytes: f64,
    /// Of these, bytes written over an input.
    pub(crate) rewritten: f64,
}

impl Work {
    pub(crate) fn new(flops: f64, bytes: f64) -> Self {
        Self {
            flops,
            bytes,
            rewritten: 0.0,
        }
    }

    pub(crate) fn rewriting(self, rewritten: f64) -> Self {
        Self { rewritten, ..self }
    }
}

/// Samples of a time, unless the command line says otherwise.
const SAMPLES: usize = 10;

/// What the command line asks for, as far as criterion does not say it.
struct Arguments {
    /// `cargo test` runs everything once and measures nothing.
    test: bool,
    /// Names only.
    list: bool,
    /// Samples of a time.
    samples: usize,
    /// What the ids must contain; criterion reads the same as a regular expression.
    filter: String,
}

impl Arguments {
    /// Options of criterion that a value follows.
    const WITH_VALUE: [&'static str; 18] = [
        "-s",
        "--save-baseline",
        "-b",
        "--baseline",
        "--baseline-lenient",
        "--load-baseline",
        "-c",
        "--color",
        "--colour",
        "--format",
        "--profile-time",
        "--warm-up-time",
        "--measurement-time",
        "--nresamples",
        "--noise-threshold",
        "--confidence-level",
        "--significance-level",
        "--plotting-backend",
    ];

    fn read() -> Self {
        let mut all = std::env::args().skip(1).peekable();
        let (mut bench, mut test, mut list, mut filter) = (false, false, false, String::new());
        let mut samples = SAMPLES;
        while let Some(argument) = all.next() {
            match argument.as_str() {
                "--bench" => bench = true,
                "--test" => test = true,
                "--list" => list = true,
                "--sample-size" => {
                    let value = all.next().and_then(|value| value.parse().ok());
                    samples = value.unwrap_or(samples); // criterion says what is wrong with it
                }
                option if Self::WITH_VALUE.contains(&option) => drop(all.next()),
                option if option.starts_with('-') => (),
                _ => filter = argument,
            }
        }
        Self {
            test: test || !bench,
            list,
            samples,
            filter,
        }
    }

    /// What criterion would say, of a filter that is plain but for a `$` at its end.
    fn wants(&self, id: &str) -> bool {
        match self.filter.strip_suffix('$') {
            Some(end) => id.ends_with(end),
            None => id.contains(&self.filter),
        }
    }
}

/// One run of a bench.
pub(crate) struct Suite {
    criterion: Criterion,
    arguments: Arguments,
    cases: Vec<Case>,
    dtype: Option<DType>,
    medians: BTreeMap<String, f64>,
    record: Record,
}

/// Runs the operations of a family on every backend, and ends with criterion's summary.
pub(crate) fn run<F: Family>() {
    let mut suite = Suite::new(F::DEFAULT);
    suite.run::<F>();
    suite.finish();
}

impl Suite {
    /// Ends the process with a message if the environment asks for what there is not.
    pub(crate) fn new(default: &str) -> Self {
        let arguments = Arguments::read();
        let default = if arguments.test { "tiny" } else { default };
        let list = std::env::var("MILLET_BENCH_CASES").unwrap_or(default.into());
        let refuse = |message: String| -> ! {
            eprintln!("{message}");
            std::process::exit(1);
        };
        let cases = cases::select(&list)
            .unwrap_or_else(|error| refuse(format!("MILLET_BENCH_CASES: {error}")));
        let dtype = std::env::var("MILLET_BENCH_DTYPE").ok().map(|name| {
            let types = [DType::F32, DType::BF16, DType::F16];
            let found = types.into_iter().find(|dtype| dtype.name() == name);
            found.unwrap_or_else(|| refuse(format!("MILLET_BENCH_DTYPE={name}: f32, bf16 or f16")))
        });
        let record = Record::open().unwrap_or_else(|message| refuse(message));
        // Arguments replace these.
        let criterion = Criterion::default()
            .sample_size(SAMPLES)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2))
            .configure_from_args();
        Self {
            criterion,
            arguments,
            cases,
            dtype,
            medians: BTreeMap::new(),
            record,
        }
    }

    /// On every backend.
    pub(crate) fn run<F: Family>(&mut self) {
        self.on::<F, Cpu>();
        #[cfg(feature = "cuda")]
        self.on::<F, millet::Cuda>();
    }

    /// Whether the ids of a case are asked for, where criterion does not decide it.
    pub(crate) fn wants(&self, bench: &str, case: &Case) -> bool {
        self.arguments.wants(&format!("{bench}/{}/", case.name))
    }

    /// Records the seconds of the CPU's and of PyTorch's turns at the same step of a layer.
    pub(crate) fn turns(
        &mut self,
        case: &Case,
        dtype: DType,
        step: &str,
        version: &str,
        seconds: &[Vec<f64>; 2],
    ) {
        let [ours, theirs] = [Cpu::NAME, "torch-cpu"].map(|backend| Subject {
            bench: "torch",
            case,
            backend,
            dtype: dtype.name(),
            operation: step,
            work: Work::default(),
        });
        self.record
            .turns([&ours, &theirs], &Cpu.model(), seconds, version);
    }

    /// Records what a layer keeps from forward to backward.
    pub(crate) fn saved(&mut self, case: &Case, backend: &str, dtype: DType, saved: &SavedBytes) {
        self.record.saved(case, backend, dtype.name(), saved);
    }

    pub(crate) fn finish(self) {
        self.criterion.final_summary();
    }

    /// The cases of this run.
    pub(crate) fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Median seconds of a benchmark of this run, by its id.
    pub(crate) fn median(&self, id: &str) -> Option<f64> {
        self.medians.get(id).copied()
    }

    /// Backends and types that something was measured on: the third part of the ids.
    pub(crate) fn variants(&self) -> Vec<String> {
        let parts = self
            .medians
            .keys()
            .map(|id| id.split('/').collect::<Vec<_>>());
        let mut variants: Vec<_> = parts
            .filter_map(|parts| (parts.len() == 4).then(|| parts[2].to_owned()))
            .collect();
        variants.sort();
        variants.dedup();
        variants
    }

    /// Something of the CPU that is no operation: its name, what it is done on, in f32, and when.
    pub(crate) fn bench(&mut self, id: [&str; 3], flops: f64, mut run: impl FnMut()) {
        let [bench, case, name] = id;
        let group = format!("{bench}/{case}");
        let mut calls = Vec::new();
        let mut benches = self.criterion.benchmark_group(&group);
        benches.sampling_mode(SamplingMode::Flat);
        benches.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                (0..iterations).for_each(|_| run());
                let elapsed = start.elapsed();
                calls.push(elapsed.as_secs_f64() / iterations as f64);
                elapsed
            });
        });
        benches.finish();
        if !calls.is_empty() && !self.arguments.test {
            let seconds = Seconds::of_samples(&calls, self.arguments.samples);
            let what = [bench, case, Cpu::NAME, DType::F32.name(), name];
            let device = Cpu.model();
            self.record.other_time(what, &device, &seconds, flops);
            self.medians
                .insert(format!("{group}/{name}"), seconds.median);
        }
    }

    fn on<F: Family, B: Device>(&mut self) {
        let backend = match B::open(self.arguments.test) {
            Ok(backend) => backend,
            Err(reason) => return println!("{} is left out: {reason}", B::NAME),
        };
        match self.dtype.unwrap_or(B::DTYPE) {
            DType::F32 => self.typed::<F, B, f32>(&backend),
            DType::BF16 => self.typed::<F, B, bf16>(&backend),
            DType::F16 => self.typed::<F, B, f16>(&backend),
            dtype => unreachable!("{dtype} is not among those to choose from"),
        }
    }

    fn typed<F: Family, B: Device, T: Element<Acc = f32>>(&mut self, backend: &B) {
        for whole in self.cases.clone() {
            let emulated = backend.is_emulated();
            let case = match emulated {
                true => F::emulated(&whole),
                false => whole.clone(),
            };
            let group = format!("{}/{}/{}-{}", F::NAME, case.name, B::NAME, T::DTYPE);
            let (needed, free) = (F::bytes(&case, T::DTYPE.size()), backend.free_bytes());
            if needed > free {
                let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
                let (needed, free) = (gib(needed), gib(free));
                let reason = format!("it takes {needed:.1} GiB, {free:.1} are free");
                self.leave_out::<F, B>(&whole, &group, &reason);
                continue;
            }
            if let Some(reason) = refused::<F, B, T>(backend, &case) {
                self.leave_out::<F, B>(&whole, &group, &reason);
                continue;
            }
            let result = match emulated {
                true => self.count::<F, B, T>(backend, [&whole, &case], &group),
                false => self.measure::<F, B, T>(backend, &case, &group),
            };
            if let Err(error) = result {
                panic!("{group}: {error}");
            }
        }
    }

    fn leave_out<F: Family, B: Device>(&mut self, case: &Case, group: &str, reason: &str) {
        println!("{group} is left out: {reason}");
        self.record.left_out(F::NAME, case, B::NAME, reason);
    }

    fn measure<F: Family, B: Device, T: Element<Acc = f32>>(
        &mut self,
        backend: &B,
        case: &Case,
        group: &str,
    ) -> Result<()> {
        let test = self.arguments.test;
        let mut sets = Sets::<F, B, T>::new(backend, case);
        let mut conditions = None;
        let mut benches = self.criterion.benchmark_group(group);
        benches
            .sampling_mode(SamplingMode::Flat)
            .throughput(Throughput::Elements(case.tokens as u64));
        for operation in F::operations::<B, T>(case) {
            let mut lap = None;
            let mut calls = Vec::new();
            benches.bench_function(operation.name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let mut time = || {
                        let sets = sets.rotated(&operation, test)?;
                        if lap.is_none() {
                            lap = Some(backend.prepare(sets, &operation)?);
                        }
                        let lap = lap.as_ref().expect("prepared");
                        backend.time(lap, sets, &operation, iterations)
                    };
                    let elapsed = time().unwrap_or_else(|error| panic!("{group}: {error}"));
                    calls.push(elapsed.as_secs_f64() / iterations as f64);
                    elapsed
                });
            });
            if calls.is_empty() || self.arguments.test {
                continue;
            }
            let seconds = Seconds::of_samples(&calls, self.arguments.samples);
            conditions = backend.conditions();
            let sets = sets.rotated(&operation, test)?;
            let work = (operation.work)(&sets[0]);
            println!("{}", summary(case, &work, seconds.median, sets.len()));
            self.record.time(
                &subject::<F, B, T>(case, operation.name, work),
                &backend.model(),
                &seconds,
                sets.len(),
                conditions.as_deref(),
            );
            let id = format!("{group}/{}", operation.name);
            self.medians.insert(id, seconds.median);
        }
        benches.finish();
        if let Some(conditions) = conditions {
            println!("{group}: {conditions}");
        }
        Ok(())
    }

    fn count<F: Family, B: Device, T: Element<Acc = f32>>(
        &mut self,
        backend: &B,
        [whole, case]: [&Case; 2],
        group: &str,
    ) -> Result<()> {
        let id = |operation: &Operation<B, F::Set<B, T>>| format!("{group}/{}", operation.name);
        let mut operations = F::operations::<B, T>(case);
        operations.retain(|operation| self.arguments.wants(&id(operation)));
        if self.arguments.list {
            for operation in &operations {
                println!("{}: benchmark", id(operation));
            }
            return Ok(());
        }
        if operations.is_empty() {
            return Ok(());
        }
        let mut sets = Sets::<F, B, T>::new(backend, case);
        let table = count::Table::new(whole, case, group);
        for operation in operations {
            let what = id(&operation);
            if self.arguments.test {
                // What a GPU would do to measure it; the time means nothing.
                let sets = sets.at_least(2)?;
                let lap = backend.prepare(sets, &operation)?;
                backend.time(&lap, sets, &operation, 3)?;
            }
            let set = &mut sets.at_least(1)?[0];
            operation.restore_all(backend, std::slice::from_mut(set))?;
            let launches = backend.count(|| (operation.run)(backend, set))?;
            let works = ((operation.work)(set), (operation.launches)(set));
            if self.arguments.test {
                count::check(&what, &works, &launches);
            }
            self.record.count(
                &subject::<F, B, T>(case, operation.name, works.0),
                whole,
                &launches,
                &works.1,
            );
            table.rows(operation.name, works, &launches);
        }
        Ok(())
    }
}

fn subject<'a, F: Family, B: Device, T: Element>(
    case: &'a Case,
    operation: &'a str,
    work: Work,
) -> Subject<'a> {
    Subject {
        bench: F::NAME,
        case,
        backend: B::NAME,
        dtype: T::DTYPE.name(),
        operation,
        work,
    }
}

/// Why the backend cannot do the case, if it says so of one that makes the same choices.
fn refused<F: Family, B: Device, T: Element<Acc = f32>>(
    backend: &B,
    case: &Case,
) -> Option<String> {
    let case = case.shrunk();
    let run_all = || -> Result<()> {
        let mut sets = [F::set::<B, T>(backend, &case, 1)?];
        for operation in F::operations::<B, T>(&case) {
            operation.restore_all(backend, &mut sets)?;
            (operation.run)(backend, &mut sets[0])?;
        }
        Ok(())
    };
    let error = run_all().err()?;
    match error.downcast_ref() {
        Some(millet::Error::Unsupported { .. }) => Some(error.to_string()),
        _ => panic!("{}: {error}", case.name),
    }
}

/// The sets of one case, made when they are needed.
struct Sets<'a, F: Family, B: Device, T: Element<Acc = f32>> {
    backend: &'a B,
    case: &'a Case,
    all: Vec<F::Set<B, T>>,
}

impl<'a, F: Family, B: Device, T: Element<Acc = f32>> Sets<'a, F, B, T> {
    fn new(backend: &'a B, case: &'a Case) -> Self {
        Self {
            backend,
            case,
            all: Vec::new(),
        }
    }

    fn at_least(&mut self, number: usize) -> Result<&mut [F::Set<B, T>]> {
        while self.all.len() < number {
            let seed = 1 + 100 * self.all.len() as u64;
            self.all.push(F::set(self.backend, self.case, seed)?);
        }
        Ok(&mut self.all[..number])
    }

    /// So many that an operation, which takes one after the other, finds nothing in the device's cache; as memory allows. One where
    /// nothing is measured: a profiler or a checker looks at it for long.
    fn rotated(
        &mut self,
        operation: &Operation<B, F::Set<B, T>>,
        test: bool,
    ) -> Result<&mut [F::Set<B, T>]> {
        const MOST: usize = 128;
        if test {
            return self.at_least(1);
        }
        let bytes = (operation.work)(&self.at_least(1)?[0]).bytes;
        let wanted = (2.0 * self.backend.cache_bytes() as f64 / bytes).ceil() as usize;
        let one = F::bytes(self.case, T::DTYPE.size());
        let room = self.all.len() + self.backend.free_bytes() / 2 / one;
        self.at_least(wanted.min(room).clamp(1, MOST))
    }
}

/// One line: rates, and what they are rates of.
fn summary(case: &Case, work: &Work, seconds: f64, sets: usize) -> String {
    let mut line = format!(
        "{:24}median: {}tokens/s",
        "",
        scaled(case.tokens as f64 / seconds)
    );
    if work.flops > 0.0 {
        line += &format!(
            ", {}FLOP/s of {}FLOP",
            scaled(work.flops / seconds),
            scaled(work.flops)
        );
    }
    line += &format!(
        ", {}B/s of {}B",
        scaled(work.bytes / seconds),
        scaled(work.bytes)
    );
    if sets > 1 {
        line += &format!(", {sets} sets of inputs in turn");
    }
    line
}

/// With the prefix of its size.
fn scaled(value: f64) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (size, prefix) = prefixes
        .into_iter()
        .find(|(size, _)| value >= *size)
        .unwrap_or((1.0, ""));
    format!("{:.2} {prefix}", value / size)
}
