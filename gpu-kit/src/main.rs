//! The kit's own program: what a step of `run.sh` calls that is neither a test nor a bench. `kit help` lists them.

mod device;
mod launches;
mod misuse;
mod ncu;
mod overhead;
mod record;
mod recorded;
mod replays;
mod summary;
mod table;
mod training;

use std::path::Path;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
Usage: kit <command>

  driver                 which driver this machine gives a program
  device                 the device, its clocks, and how fast it copies
  record FOLDER          on the emulator: the outputs of small calls of every kernel, and what it answers to wrong calls
  compare FOLDER         those calls against that record, bit for bit
  bits                   a hash of each output of larger calls, the same in every process
  replays                router and dispatch in a graph, again and again beside a kernel that fills the device
  misuse calls FROM      what the driver answers to wrong calls, from one of them on
  misuse FAULT           what it answers after a kernel with a fault
  compare-misuse FOLDER  the same against that record
  overhead               what a launch costs, by itself and in a graph
  ncu FILE…              records the launches in tables of Nsight Compute
  training FOLDER        compares the losses of a training on the CPU and on the device
  table OUT              a short table of what a run has recorded";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["driver"] => device::driver().map(|driver| println!("{driver}")),
        ["device"] => device::device(),
        ["record", folder] => {
            let folder = Path::new(folder);
            recorded::write(folder).and_then(|()| misuse::write(folder))
        }
        ["compare", folder] => recorded::compare(Path::new(folder)),
        ["bits"] => recorded::bits(),
        ["replays"] => replays::replays(),
        ["misuse", "calls", from] => misuse::misuse(from),
        ["misuse", fault] => misuse::fault(fault),
        ["compare-misuse", folder] => misuse::compare(Path::new(folder)),
        ["overhead"] => overhead::overhead(),
        ["ncu", ref files @ ..] if !files.is_empty() => ncu::ncu(files),
        ["training", folder] => training::training(Path::new(folder)),
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
