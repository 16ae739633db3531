//! The kit's own program: what a step of `run.sh` calls that is neither a test nor a bench. README.md has the subcommands.

mod device;
mod record;
mod table;

use std::path::Path;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
Usage: kit <command>

  driver     which driver this machine gives a program
  device     the device, its clocks, and how fast it copies
  table OUT  a short table of what a run has recorded";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["driver"] => device::driver().map(|driver| println!("{driver}")),
        ["device"] => device::device(),
        ["table", out] => table::table(Path::new(out)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("kit: there is no `{}`\n\n{USAGE}", arguments.join(" ")).into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether times of this process say nothing.
fn is_emulated() -> bool {
    cuda_emulator_loader::is_emulated()
}
