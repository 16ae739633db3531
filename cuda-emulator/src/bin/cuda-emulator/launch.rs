//! `run`: from a case file to a launch and its report.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use cuda_emulator::check::{Finding, FindingKind};
use cuda_emulator::device::Device;
use cuda_emulator::engine::{self, Kernel, Launch, Report};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::module_text;
use cuda_emulator::options::{Check, Options};
use cuda_emulator::ptx::ast::{Module, volume};
use cuda_emulator::ptx::parse;
use cuda_emulator::report::{counters_json, finding_json, finding_text};
use serde_json::{Value, json};

use crate::case::{Argument, Buffer, Case};
use crate::data::{self, Number};

/// A buffer of the case in device memory.
struct Placed<'a> {
    buffer: &'a Buffer,
    name: String,
    address: u64,
    bytes: u64,
}

/// What the command line adds to a case.
pub(crate) struct Settings<'a> {
    pub(crate) json: bool,
    /// `NAME=VALUE` each.
    pub(crate) options: &'a [String],
    pub(crate) device: Option<&'a str>,
    /// Launches with so many seeds besides, whose results must be the same.
    pub(crate) seeds: u64,
}

pub(crate) fn run(path: &Path, settings: &Settings<'_>) -> Result<ExitCode, String> {
    let json = settings.json;
    let case = Case::read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut options = options(&case, settings.options)?;
    let key = settings.device.or(case.device.as_deref()).unwrap_or("a100");
    let device = Device::from_key(key)?;
    let file = folder.join(&case.module);
    let text = read_module(&file, device)?;
    let module = parse(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    let session = Session {
        case: &case,
        folder,
        file: &file,
        module: &module,
        device,
    };
    let first = session.launch(&options)?;
    let mut good = show(&first.report, json);
    if options.count {
        let (grid, block) = (first.grid, first.block);
        println!(
            "{}",
            counters_json(&first.kernel, grid, block, &first.report.counters)
        );
    }
    for result in &first.results {
        good &= output(result, folder, json)?;
    }
    // After a fault there are no results to compare.
    for seed in (1..=settings.seeds).take_while(|_| first.report.fault.is_none()) {
        options.seed = Some(seed);
        let other = session.launch(&options)?;
        let findings = match difference(&first, &other, seed) {
            Some(finding) => vec![finding],
            None if other.report.fault.is_some() => other.report.findings,
            None => continue,
        };
        let mut report = Report::default();
        report.findings = findings;
        report.fault = other.report.fault;
        show(&report, json);
        good = false;
        break;
    }
    if json {
        println!("{}", json!({ "ok": good }));
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// A case that can be launched again and again, each time in a device memory of its own.
struct Session<'a> {
    case: &'a Case,
    folder: &'a Path,
    file: &'a Path,
    module: &'a Module,
    device: &'static Device,
}

/// A launch and what it left in the buffers.
struct Launched<'a> {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    report: Report,
    results: Vec<Outcome<'a>>,
}

/// A buffer after the launch.
struct Outcome<'a> {
    buffer: &'a Buffer,
    name: String,
    bytes: Vec<u8>,
}

impl<'a> Session<'a> {
    fn launch(&self, options: &Options) -> Result<Launched<'a>, String> {
        let Session {
            case,
            folder,
            file,
            module,
            device,
        } = *self;
        let memory = DeviceMemory::with_tracking(device.memory_bytes, options.check == Check::All)
            .map_err(|e| format!("device memory: {e}"))?;
        let loaded =
            engine::load(module, &memory).map_err(|e| format!("{}: {e}", file.display()))?;
        let kernel = find_kernel(&loaded.program.kernels, case.kernel.as_deref())?;
        let (grid, block) = (case.grid.resolve("grid")?, case.block.resolve("block")?);
        check_shape(kernel, device, grid, block, case.shared)?;
        let (params, placed) = place(case, kernel, &memory, folder)?;
        let mut report = engine::run(&Launch {
            kernel,
            grid,
            block,
            cluster: [1; 3],
            dynamic_shared: case.shared,
            params,
            cooperative: case.cooperative,
            memory: &memory,
            device,
            options,
        });
        let mut results = Vec::new();
        for Placed {
            buffer,
            name,
            address,
            bytes,
        } in placed
        {
            let shown = buffer.print > 0 || buffer.save.is_some() || buffer.expect.is_some();
            if shown && report.fault.is_none() {
                let found = Finding::of_host_copy(&memory, address, bytes);
                report.findings.extend(found.map(|f| Finding {
                    message: format!("{name}: {}", f.message),
                    ..f
                }));
            }
            let mut copy = vec![0; bytes as usize];
            memory
                .copy_out(address, &mut copy)
                .map_err(|e| format!("{name}: {}", e.message))?;
            results.push(Outcome {
                buffer,
                name,
                bytes: copy,
            });
        }
        Ok(Launched {
            kernel: kernel.name.clone(),
            grid,
            block,
            report,
            results,
        })
    }
}

/// The finding that two orders of execution gave different results.
fn difference(first: &Launched<'_>, other: &Launched<'_>, seed: u64) -> Option<Finding> {
    let mut pairs = first.results.iter().zip(&other.results);
    let (a, b) = pairs.find(|(a, b)| a.bytes != b.bytes)?;
    let element = a.buffer.element;
    let (x, y) = (element.decode(&a.bytes), element.decode(&b.bytes));
    let size = element.size();
    let place = a
        .bytes
        .chunks(size)
        .zip(b.bytes.chunks(size))
        .position(|(a, b)| a != b)
        .unwrap_or(0);
    let name = &a.name;
    Some(Finding {
        kind: FindingKind::OrderDependence,
        message: format!(
            "{name}[{place}] is {} at first, {} with seed {seed}",
            x[place], y[place]
        ),
        kernel: first.kernel.clone(),
        line: 0,
        block: [0; 3],
        thread: [0; 3],
        address: None,
        count: 1,
    })
}

/// PTX text from a file.
pub(crate) fn read_module(path: &Path, device: &Device) -> Result<String, String> {
    let explain = |e: String| format!("{}: {e}", path.display());
    let bytes = std::fs::read(path).map_err(|e| explain(e.to_string()))?;
    module_text(&bytes, device).map_err(explain)
}

/// Options by rank: the command line, the case, the environment.
fn options(case: &Case, overrides: &[String]) -> Result<Options, String> {
    let mut given = HashMap::new();
    for (name, value) in &case.options {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(flag) => u8::from(*flag).to_string(),
            Value::Number(number) => number.to_string(),
            _ => {
                return Err(format!(
                    "option {name}: expected a string or a number, found {value}"
                ));
            }
        };
        given.insert(variable(name), text);
    }
    for pair in overrides {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("--option {pair}: expected NAME=VALUE"));
        };
        given.insert(variable(name), value.to_owned());
    }
    // Names that nobody asks for do not exist.
    let unused = RefCell::new(given.clone());
    let options = Options::from_variables(|name| {
        unused.borrow_mut().remove(name);
        given
            .get(name)
            .cloned()
            .or_else(|| std::env::var(name).ok())
    })?;
    match unused.into_inner().keys().next() {
        Some(name) => Err(format!("{name}: there is no such option")),
        None => Ok(options),
    }
}

fn variable(name: &str) -> String {
    format!("CUDA_EMULATOR_{}", name.to_uppercase())
}

fn find_kernel<'a>(
    kernels: &'a [std::sync::Arc<Kernel>],
    name: Option<&str>,
) -> Result<&'a Kernel, String> {
    let names = || {
        kernels
            .iter()
            .map(|k| k.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match name {
        Some(name) => kernels
            .iter()
            .find(|k| k.name == name)
            .map(|k| &**k)
            .ok_or_else(|| format!("no kernel {name}; the module has: {}", names())),
        None => match kernels {
            [only] => Ok(only),
            _ => Err(format!("`kernel` is missing; the module has: {}", names())),
        },
    }
}

/// What the driver checks before a launch.
fn check_shape(
    kernel: &Kernel,
    device: &Device,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
) -> Result<(), String> {
    for (what, sizes, limits) in [
        ("grid", grid, [i32::MAX as u32, 65535, 65535]),
        ("block", block, [1024, 1024, 64]),
    ] {
        for (size, limit) in sizes.into_iter().zip(limits) {
            if size == 0 || size > limit {
                return Err(format!("{what} {sizes:?}: expected sizes up to {limits:?}"));
            }
        }
    }
    let threads = volume(block);
    let named = kernel.directives.maxntid.map_or(u64::MAX, volume);
    let most = named.min(u64::from(device.max_threads_per_block));
    if threads > most {
        return Err(format!(
            "a block of {threads} threads, at most {most} are allowed"
        ));
    }
    if let Some(exact) = kernel.directives.reqntid
        && exact != block
    {
        return Err(format!("block {block:?}: the kernel demands {exact:?}"));
    }
    let total = u64::from(shared) + u64::from(kernel.static_shared);
    let most = device.shared_per_block_optin;
    if total > u64::from(most) {
        return Err(format!(
            "{total} bytes of shared memory, {} has {most} a block",
            device.key
        ));
    }
    Ok(())
}

/// Fills the buffers and the parameter block.
fn place<'a>(
    case: &'a Case,
    kernel: &Kernel,
    memory: &DeviceMemory,
    folder: &Path,
) -> Result<(Vec<u8>, Vec<Placed<'a>>), String> {
    let (given, wanted) = (case.args.len(), kernel.params.len());
    if given != wanted {
        return Err(format!(
            "{}: expected {wanted} arguments, found {given}",
            kernel.name
        ));
    }
    let mut placed: Vec<Placed<'a>> = Vec::new();
    for (index, argument) in case.args.iter().enumerate() {
        let Argument::Buffer(buffer) = argument else {
            continue;
        };
        let name = buffer
            .name
            .clone()
            .unwrap_or_else(|| format!("args[{index}]"));
        let explain = |e: String| format!("{name}: {e}");
        let data =
            data::bytes(&buffer.init, buffer.element, buffer.len, folder).map_err(explain)?;
        let bytes = match (&data, buffer.len) {
            (Some(data), _) => data.len() as u64,
            (None, len) => len
                .unwrap_or(0)
                .saturating_mul(buffer.element.size() as u64),
        };
        let address = memory
            .allocate(bytes.max(1), 256)
            .ok_or_else(|| explain(format!("no device memory for {bytes} bytes")))?;
        if let Some(data) = data {
            memory
                .copy_in(address, &data)
                .map_err(|e| explain(e.message))?;
        }
        placed.push(Placed {
            buffer,
            name,
            address,
            bytes,
        });
    }
    let mut params = vec![
        0;
        kernel
            .params
            .iter()
            .map(|p| (p.offset + p.size) as usize)
            .max()
            .unwrap_or(0)
    ];
    let mut buffers = placed.iter();
    for (index, (argument, param)) in case.args.iter().zip(&kernel.params).enumerate() {
        let bytes = match argument {
            Argument::Buffer(_) => buffers
                .next()
                .map_or(0, |b| b.address)
                .to_le_bytes()
                .to_vec(),
            Argument::Scalar(scalar) => {
                let mut out = Vec::new();
                scalar
                    .element
                    .encode(&scalar.value, &mut out)
                    .map_err(|e| format!("args[{index}]: {e}"))?;
                out
            }
            Argument::Bytes(digits) => {
                hexadecimal(digits).map_err(|e| format!("args[{index}]: {e}"))?
            }
            Argument::Pointer(pointer) => {
                let base = match &pointer.to {
                    None => 0,
                    Some(name) => {
                        let found = placed.iter().find(|b| b.name == *name);
                        found
                            .ok_or_else(|| format!("args[{index}]: no buffer {name}"))?
                            .address
                    }
                };
                base.wrapping_add(pointer.offset).to_le_bytes().to_vec()
            }
        };
        let (found, size) = (bytes.len(), param.size as usize);
        if found != size {
            return Err(format!(
                "args[{index}]: expected {size} bytes, found {found}"
            ));
        }
        params[param.offset as usize..][..size].copy_from_slice(&bytes);
    }
    Ok((params, placed))
}

fn hexadecimal(digits: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let value = |byte: u8| (byte as char).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some((value(*high)? * 16 + value(*low)?) as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.ok_or_else(|| "expected pairs of hexadecimal digits".into())
}

/// Prints what the kernel printed, findings and fault; whether there were none of the latter two.
fn show(report: &Report, json: bool) -> bool {
    if json {
        if !report.printed.is_empty() {
            println!("{}", json!({ "printed": report.printed }));
        }
        for finding in &report.findings {
            println!("{{\"finding\":{}}}", finding_json(finding));
        }
        if let Some(fault) = &report.fault {
            println!(
                "{}",
                json!({ "fault": { "code": fault.code as u32, "message": fault.message } })
            );
        }
    } else {
        print!("{}", report.printed);
        for finding in &report.findings {
            println!("finding: {}", finding_text(finding));
        }
        if let Some(fault) = &report.fault {
            println!(
                "fault: {} (CUDA error {})",
                fault.message, fault.code as u32
            );
        }
    }
    report.findings.is_empty() && report.fault.is_none()
}

/// Prints, saves and compares a buffer; whether it is as expected.
fn output(outcome: &Outcome<'_>, folder: &Path, json: bool) -> Result<bool, String> {
    let Outcome {
        buffer,
        name,
        bytes,
    } = outcome;
    if let Some(path) = &buffer.save {
        let path = folder.join(path);
        std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let numbers = buffer.element.decode(bytes);
    let shown = &numbers[..numbers
        .len()
        .min(usize::try_from(buffer.print).unwrap_or(usize::MAX))];
    if buffer.print > 0 && json {
        let values: Vec<Value> = shown.iter().map(|n| n.json()).collect();
        println!("{}", json!({ "output": name, "values": values }));
    } else if buffer.print > 0 {
        let values: Vec<String> = shown.iter().map(Number::to_string).collect();
        let more = if shown.len() < numbers.len() {
            " …"
        } else {
            ""
        };
        println!("{name}: {}{more}", values.join(" "));
    }
    let Some(expectation) = &buffer.expect else {
        return Ok(true);
    };
    let verdict = data::compare(&numbers, expectation, buffer.element, folder);
    match (&verdict, json) {
        (Ok(()), true) => println!("{}", json!({ "output": name, "as_expected": true })),
        (Ok(()), false) => println!("{name}: as expected"),
        (Err(e), true) => println!(
            "{}",
            json!({ "output": name, "as_expected": false, "difference": e })
        ),
        (Err(e), false) => println!("{name}: {e}"),
    }
    Ok(verdict.is_ok())
}
