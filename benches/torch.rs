//! The layer on the CPU, and the same layer in PyTorch on the same cores and values: routing, `torch.nn.functional.grouped_mm` and
//! autograd (grouped_mm.py). Both must agree; then they take turns, because the speed of a machine changes within minutes.
//!
//! `MILLET_BENCH_PYTHON=PYTHON cargo bench --bench torch`: a Python that has torch. docs/benchmarks.md has the choices.

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use harness::layer::{Layer, Set};
use harness::{Family, Result, Suite};
use millet::half::bf16;
use millet::{Cpu, Element, Keep};
use millet_testing::cases::Case;
use millet_testing::harness::{Tensor, widen};

const DEFAULT: &str = "small";
/// Turns that are counted, after one that is not.
const TURNS: usize = 7;
const STEPS: [&str; 2] = ["forward", "both"];

/// The other side.
struct Torch {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    version: String,
}

impl Torch {
    fn start(python: &str, folder: &Path, dtype: &str, case: &Case) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/grouped_mm.py");
        let sizes = case.sizes().map(|size| size.to_string());
        let mut child = Command::new(python)
            .arg(script)
            .arg(folder)
            .args([dtype, &rayon::current_num_threads().to_string()])
            .args(sizes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut torch = Self {
            child,
            input,
            output,
            version: String::new(),
        };
        torch.version = torch.answer()?;
        Ok(torch)
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.input, "{command}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(format!("grouped_mm.py ended: {}", self.child.wait()?).into()),
            _ => Ok(line.trim().into()),
        }
    }
}

/// The step of ours that has the same name.
fn ours<T: Element<Acc = f32>>(set: &mut Set<Cpu, T>, step: &str) -> Result<f64> {
    let start = Instant::now();
    set.forward(Keep::Hidden)?;
    if step == "both" {
        set.backward(Keep::Hidden)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn write<T: Element>(folder: &Path, name: &str, values: &Tensor<Cpu, T>) -> Result<()> {
    let bytes: Vec<u8> = widen(&values.read(&Cpu))
        .iter()
        .flat_map(|&value| (value as f32).to_le_bytes())
        .collect();
    Ok(std::fs::write(folder.join(format!("{name}.f32")), bytes)?)
}

/// ‖ours − theirs‖ / ‖theirs‖.
fn error<T: Element>(folder: &Path, name: &str, ours: &Tensor<Cpu, T>) -> Result<f64> {
    let bytes = std::fs::read(folder.join(format!("torch_{name}.f32")))?;
    let theirs = bytes.chunks_exact(4).map(|bytes| {
        let bytes: [u8; 4] = bytes.try_into().expect("four");
        f64::from(f32::from_le_bytes(bytes))
    });
    let ours = widen(&ours.read(&Cpu));
    assert_eq!(4 * ours.len(), bytes.len(), "{name}");
    let (mut difference, mut norm) = (0.0, 0.0);
    for (ours, theirs) in ours.iter().zip(theirs) {
        difference += (ours - theirs).powi(2);
        norm += theirs.powi(2);
    }
    Ok((difference / norm).sqrt())
}

/// f32 differs by rounding in the products. In bf16 every value between them is rounded too, at places that are not the same.
fn tolerance<T: Element>() -> f64 {
    match T::DTYPE.size() {
        4 => 1e-5,
        _ => 2e-2,
    }
}

fn compare<T: Element<Acc = f32>>(suite: &mut Suite, python: &str, case: &Case) -> Result<()> {
    let dtype = T::DTYPE.name();
    let torch_name = match T::DTYPE.size() {
        4 => "float32",
        _ => "bfloat16",
    };
    let folder = std::env::temp_dir().join(format!("millet-torch-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut set = Layer::set::<Cpu, T>(&Cpu, case, 1)?;
    write(&folder, "x", &set.x)?;
    write(&folder, "router", &set.weights.router)?;
    write(&folder, "gate_up", &set.weights.gate_up)?;
    write(&folder, "down", &set.weights.down)?;
    write(&folder, "output_grad", &set.output_grad)?;
    let mut torch = Torch::start(python, &folder, torch_name, case)?;

    ours(&mut set, "both")?;
    torch.ask("both")?;
    torch.ask("results")?;
    let errors = [
        ("output", error(&folder, "output", &set.output)?),
        ("x_grad", error(&folder, "x_grad", &set.x_grad)?),
        (
            "router_grad",
            error(&folder, "router_grad", &set.gradients.router)?,
        ),
        (
            "gate_up_grad",
            error(&folder, "gate_up_grad", &set.gradients.gate_up)?,
        ),
        (
            "down_grad",
            error(&folder, "down_grad", &set.gradients.down)?,
        ),
    ];
    std::fs::remove_dir_all(&folder)?;
    for (name, error) in errors {
        if error.is_nan() || error > tolerance::<T>() {
            return Err(format!("{dtype}: {name} differs by {error:.1e}").into());
        }
    }

    for step in STEPS {
        let mut seconds = [Vec::new(), Vec::new()];
        for turn in 0..=TURNS {
            let turns = [ours(&mut set, step)?, torch.ask(step)?.parse()?];
            if turn > 0 {
                seconds
                    .iter_mut()
                    .zip(turns)
                    .for_each(|(all, one)| all.push(one));
            }
        }
        let mut ratios: Vec<f64> = seconds[0]
            .iter()
            .zip(&seconds[1])
            .map(|(a, b)| a / b)
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{}, {dtype}, {step}: ours takes {:.2} of the time of {} ({:.2} to {:.2})",
            case.name,
            ratios[TURNS / 2],
            torch.version,
            ratios[0],
            ratios[TURNS - 1]
        );
        suite.turns(case, T::DTYPE, step, &torch.version, &seconds);
    }
    drop(torch.input);
    torch.child.wait()?;
    Ok(())
}

fn main() {
    let mut suite = Suite::new(DEFAULT);
    let Ok(python) = std::env::var("MILLET_BENCH_PYTHON") else {
        return println!("torch is left out: MILLET_BENCH_PYTHON names no Python that has it");
    };
    for case in suite.cases().to_vec() {
        let Some(case) = case.plain().filter(|case| suite.wants("torch", case)) else {
            continue;
        };
        for run in [compare::<f32>, compare::<bf16>] {
            if let Err(error) = run(&mut suite, &python, &case) {
                eprintln!("torch/{}: {error}", case.name);
                std::process::exit(1);
            }
        }
    }
}
