//! Checks this crate's layer against another: reads tokens, weights and the output's gradient from a safetensors file, runs
//! forward and backward, and writes everything that one would compare. `docs/parity.md` tells the two files' contents.
//!
//! ```text
//! cargo run --release --example parity -- IN.safetensors OUT.safetensors [--device cpu|cuda] [--dtype f32|bf16|f16]
//! ```

mod config;
mod experts;
mod input;
mod layer;
mod output;

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[cfg(feature = "cuda")]
use cuda_emulator_loader as _;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use millet::half::{bf16, f16};
use millet::{Backend, Cpu};
use millet_examples::memory;
use safetensors::Dtype;

use input::Input;
use output::OutputFile;

/// One message that names what was expected and what was given.
type Result<T, E = String> = std::result::Result<T, E>;

/// Run a Mixture-of-Experts layer on the tensors of a safetensors file, forward and backward, to compare it with another's.
#[derive(Parser)]
struct Arguments {
    /// File with x, router.weight, the experts' tensors, grad_output and the metadata key config.
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write: outputs, routing, losses and gradients.
    #[arg(value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Where to run. `cuda` is the first GPU, and needs a build with `--features cuda`; where there is no GPU, the emulator
    /// takes its place, a few hundred times slower than a CPU.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Type that tokens, weights, outputs and gradients are stored in; sums are f32. A router.weight given as f32 stays f32.
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    dtype: Storage,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    F32,
    Bf16,
    F16,
}

fn main() -> ExitCode {
    let run = Arguments::try_parse().map_err(usage).and_then(run);
    // A reader of the summary that has gone away takes nothing from the file that was written.
    let printed = run.and_then(|summary| match writeln!(std::io::stdout(), "{summary}") {
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // One line, whatever a file name or a library's message holds.
            let line: Vec<&str> = message.split_whitespace().collect();
            let _ = writeln!(std::io::stderr(), "parity: {}", line.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// What clap has to say, without the usage that follows; `--help` is printed.
fn usage(error: clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelp {
        error.exit();
    }
    let text = error.to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more").next().unwrap_or_default();
    message.trim_start_matches("error: ").to_owned()
}

fn run(arguments: Arguments) -> Result<String> {
    match arguments.device {
        Device::Cpu => run_on(Cpu, arguments),
        #[cfg(feature = "cuda")]
        Device::Cuda => {
            let cuda = millet::Cuda::device(0).map_err(|error| format!("--device cuda: {error}"));
            run_on(cuda?, arguments)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(
            "--device cuda: this program was built without CUDA; build it with `--features cuda`, which needs nvcc \
             (docs/building.md)"
                .into(),
        ),
    }
}

fn run_on<B: Backend>(backend: B, arguments: Arguments) -> Result<String> {
    let Arguments {
        input: from,
        output: to,
        dtype,
        ..
    } = arguments;
    let cannot_read = |error| format!("cannot read {}: {error}", from.display());
    let bytes = fs::read(&from).map_err(cannot_read)?;
    let input = Input::parse(&bytes).map_err(|error| format!("{}: {error}", from.display()))?;
    memory::check(layer::memory(&backend, &input))
        .map_err(|error| format!("{}: {error}", from.display()))?;
    let target = OutputFile::create(&to, &from)?;

    let router = input.router_dtype();
    let run = match (dtype, router) {
        (Storage::F32, _) => layer::run::<B, f32, f32>,
        (Storage::Bf16, Dtype::BF16) => layer::run::<B, bf16, bf16>,
        (Storage::Bf16, _) => layer::run::<B, bf16, f32>,
        (Storage::F16, Dtype::BF16) => layer::run::<B, f16, f16>,
        (Storage::F16, _) => layer::run::<B, f16, f32>,
    };
    let (tensors, summary) = run(backend, &input)?;
    target.write(tensors)?;
    Ok(format!("{summary}; wrote {}", to.display()))
}
