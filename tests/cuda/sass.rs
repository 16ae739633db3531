//! The main loops of the experts' products in machine code: how many tensor instructions for how many others, which loads. Needs
//! cuobjdump and nvdisasm, beside nvcc or where `cargo xtask nvcc` puts them; says so and passes where they are missing.
//!
//! `cargo test --features cuda --test cuda sass -- --nocapture` prints the table of docs/kernels.md for what was built.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the CUDA compiler's tools: beside nvcc, else wherever a toolkit has them. Distributions and containers have nvcc
/// without them.
fn tools() -> Option<PathBuf> {
    let inside = Some(Path::new(env!("OUT_DIR")));
    let nvcc = xtask::nvcc::find(inside).unwrap()?;
    nvcc.parent()
        .map(Path::to_owned)
        .into_iter()
        .chain(xtask::nvcc::folders(inside))
        .find(|folder| folder.join("cuobjdump").is_file() && folder.join("nvdisasm").is_file())
}

fn disassemble(tools: &Path, fatbin: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(tools.join("cuobjdump"))
        .env("PATH", format!("{}:{path}", tools.display()))
        .args(["-sass", fatbin])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cuobjdump: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Instructions of the innermost loop that has tensor instructions.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Loop {
    all: usize,
    tensor: usize,
    matrix_loads: usize,
    /// Of four matrices.
    wide_matrix_loads: usize,
    copies: usize,
    /// Of 16 bytes.
    wide_copies: usize,
    barriers: usize,
}

/// Address and text of an instruction: `/*0120*/  HMMA… ;`.
fn instruction(line: &str) -> Option<(usize, &str)> {
    let rest = line.trim_start().strip_prefix("/*")?;
    let (address, rest) = rest.split_once("*/")?;
    let address = usize::from_str_radix(address, 16).ok()?;
    let (text, _) = rest.split_once(';')?;
    Some((address, text.trim()))
}

/// Where a branch goes.
fn target(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("BRA")?;
    let place = rest.split_whitespace().last()?;
    usize::from_str_radix(place.strip_prefix("0x")?, 16).ok()
}

fn main_loop(code: &[(usize, &str)]) -> Option<Loop> {
    let mut best: Option<&[(usize, &str)]> = None;
    for (end, &(address, text)) in code.iter().enumerate() {
        let Some(start) = target(text).filter(|&start| start <= address) else {
            continue;
        };
        let start = code.partition_point(|&(address, _)| address < start);
        let body = &code[start..=end];
        let multiplies = body.iter().any(|(_, text)| text.contains("HMMA"));
        if multiplies && best.is_none_or(|best| body.len() < best.len()) {
            best = Some(body);
        }
    }
    let mut found = Loop::default();
    for (_, text) in best? {
        // Without its predicate.
        let name = text
            .split_whitespace()
            .find(|word| !word.starts_with('@'))?;
        found.all += 1;
        found.tensor += usize::from(name.starts_with("HMMA"));
        found.matrix_loads += usize::from(name.starts_with("LDSM"));
        found.wide_matrix_loads += usize::from(name.starts_with("LDSM") && name.ends_with(".4"));
        found.copies += usize::from(name.starts_with("LDGSTS"));
        found.wide_copies += usize::from(name.starts_with("LDGSTS") && name.contains(".128"));
        found.barriers += usize::from(name.starts_with("BAR.SYNC"));
    }
    Some(found)
}

/// By architecture and kernel.
fn main_loops(sass: &str) -> HashMap<(String, String), Loop> {
    let mut loops = HashMap::new();
    let (mut architecture, mut kernel) = (String::new(), String::new());
    let mut code = Vec::new();
    for line in sass.lines().chain(["Function : "]) {
        if let Some((_, name)) = line.split_once("Function : ") {
            if let Some(found) = main_loop(&code) {
                loops.insert((architecture.clone(), kernel.clone()), found);
            }
            kernel = name.trim().to_owned();
            code.clear();
        } else if let Some((_, name)) = line.split_once("arch = ") {
            // Announces the functions that follow.
            if let Some(found) = main_loop(&code) {
                loops.insert((architecture.clone(), kernel.clone()), found);
            }
            code.clear();
            architecture = name.trim().to_owned();
        } else if let Some(found) = instruction(line) {
            code.push(found);
        }
    }
    loops
}

#[test]
fn main_loops_are_tensor_instructions_and_wide_loads() {
    let Some(tools) = tools() else {
        println!("no cuobjdump and nvdisasm: nothing is checked");
        return;
    };
    let fatbins = [
        concat!(env!("OUT_DIR"), "/experts_forward.fatbin"),
        concat!(env!("OUT_DIR"), "/experts_backward.fatbin"),
    ];
    let loops: HashMap<_, _> = fatbins
        .into_iter()
        .flat_map(|fatbin| main_loops(&disassemble(&tools, fatbin)))
        .collect();
    // Kernel, and instructions of its loop for each tensor instruction at most.
    let kernels = [
        ("experts_up", 2.7),
        ("experts_down", 2.7),
        ("experts_down_backward", 3.2),
        ("experts_input_grad", 2.8),
        ("experts_down_weight_grad", 3.6),
        ("experts_up_weight_grad", 3.6),
    ];
    let mut architectures: Vec<&str> = loops.keys().map(|(a, _)| a.as_str()).collect();
    architectures.sort_unstable();
    architectures.dedup();
    assert!(!architectures.is_empty());
    println!(
        "| kernel | architecture | instructions | tensor | ldmatrix (x4) | cp.async (16 bytes) |"
    );
    println!("|---|---|---|---|---|---|");
    for (kernel, limit) in kernels {
        for &architecture in &architectures {
            for storage in ["bf16", "f16"] {
                let name = format!("{kernel}_{storage}");
                let key = (architecture.to_owned(), name.clone());
                let found = loops.get(&key);
                let found = found.unwrap_or_else(|| panic!("{name} has no main loop"));
                let what = format!("{name} for {architecture}: {found:?}");
                println!(
                    "| {name} | {architecture} | {} | {} | {} ({}) | {} ({}) |",
                    found.all,
                    found.tensor,
                    found.matrix_loads,
                    found.wide_matrix_loads,
                    found.copies,
                    found.wide_copies,
                );
                // A step: 64·64 of the sum a warp, 2 slices of 16 of the reduction.
                assert_eq!(found.tensor % 64, 0, "{what}");
                let steps = found.tensor / 64;
                assert_eq!(found.matrix_loads, 16 * steps, "{what}");
                assert_eq!(found.wide_matrix_loads, found.matrix_loads, "{what}");
                assert_eq!(found.copies, 8 * steps, "{what}");
                assert_eq!(found.wide_copies, found.copies, "{what}");
                assert_eq!(found.barriers, steps, "{what}");
                let ratio = found.all as f64 / found.tensor as f64;
                assert!(ratio < limit, "{ratio:.2} a tensor instruction: {what}");
            }
        }
    }
}
