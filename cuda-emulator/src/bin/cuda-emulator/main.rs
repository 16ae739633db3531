//! Runs a kernel from a PTX file on the CPU: loads, fills buffers, launches, prints outputs, findings and counters.

mod case;
mod data;
mod inspect;
mod launch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Execute CUDA kernels (PTX) on the CPU, with checks and counters.
///
/// Exit status: 0 all is well; 1 the launch failed, the checkers found something or an output is not as expected;
/// 2 the input is wrong or needs something that is not implemented.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Launch the kernel that a case file describes (docs/emulator.md).
    Run {
        /// The case, in JSON; paths in it are relative to its folder.
        case: PathBuf,
        /// Write one JSON object a line instead of text.
        #[arg(long)]
        json: bool,
        /// Override an option of the case, as in `--option check=all`; repeatable.
        #[arg(long = "option", value_name = "NAME=VALUE")]
        options: Vec<String>,
        /// Override the device of the case, as in `--device rtx4090`.
        #[arg(long)]
        device: Option<String>,
        /// Launch again with seeds 1 to N and report results that depend on the order of execution.
        #[arg(long, value_name = "N", default_value_t = 0)]
        seeds: u64,
    },
    /// List the kernels of a PTX file, what they need, and what in them is not implemented.
    Inspect {
        /// A PTX file or a fatbin.
        module: PathBuf,
        /// The device whose PTX to take from a fatbin.
        #[arg(long)]
        device: Option<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run {
            case,
            json,
            options,
            device,
            seeds,
        } => {
            let settings = launch::Settings {
                json,
                options: &options,
                device: device.as_deref(),
                seeds,
            };
            launch::run(&case, &settings)
        }
        Command::Inspect { module, device } => inspect::run(&module, device.as_deref()),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}
