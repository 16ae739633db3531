//! What ptxas says of the kernels: no spills, and registers within a budget.

const PTXAS: &str = include_str!(concat!(env!("OUT_DIR"), "/ptxas.txt"));

/// A kernel for one architecture.
#[derive(Debug)]
struct Kernel {
    name: String,
    registers: u32,
    spilled_bytes: u32,
}

fn kernels() -> Vec<Kernel> {
    let number_before = |line: &str, what: &str| -> u32 {
        let before = line.split(what).next().unwrap();
        before.split_whitespace().last().unwrap().parse().unwrap()
    };
    let mut all = Vec::new();
    let mut lines = PTXAS.lines();
    while let Some(line) = lines.next() {
        let Some((_, name)) = line.split_once("Function properties for ") else {
            continue;
        };
        let spills = lines.next().unwrap();
        let spilled_bytes = number_before(spills, " bytes spill stores")
            + number_before(spills, " bytes spill loads");
        let usage = lines.next().unwrap();
        let registers = number_before(usage, " registers,");
        all.push(Kernel {
            name: name.trim().into(),
            registers,
            spilled_bytes,
        });
    }
    all
}
