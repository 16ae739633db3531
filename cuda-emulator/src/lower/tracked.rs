//! Whether a kernel has stores that may depend on what another lane has loaded: see [`Awaited`](crate::exec::awaited::Awaited).

use super::op::*;
use super::operands::{File, operands, ranges};

/// What of a kernel's loads is followed.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    /// Loads of these spaces.
    shared: bool,
    global: bool,
    /// Their lines, ascending: a load's number is its line's place.
    lines: Vec<u32>,
}

impl Tracked {
    /// Whether anything is.
    pub(crate) fn any(&self) -> bool {
        !self.lines.is_empty()
    }

    /// The number of the load at a line, if it is followed.
    pub(crate) fn load(&self, line: u32) -> Option<u16> {
        let place = self.lines.binary_search(&line).ok()?;
        u16::try_from(place).ok()
    }

    /// How many loads are followed.
    pub(crate) fn loads(&self) -> usize {
        self.lines.len()
    }

    fn space(&self, space: MemSpace) -> bool {
        match space {
            MemSpace::Shared => self.shared,
            MemSpace::Global => self.global,
            MemSpace::Generic => self.shared || self.global,
            MemSpace::Local | MemSpace::Param => false,
        }
    }
}

/// The space that an instruction loads from.
fn loads_from(code: &Instructions, inst: &Inst) -> Option<MemSpace> {
    match inst.op {
        Op::Ld(index) => Some(code.mems[index as usize].address.space),
        Op::Slow(index) => match &code.slow[index as usize] {
            Slow::Atom(atom) => Some(atom.address.space),
            Slow::Ldmatrix(op) => Some(op.address.space),
            Slow::WmmaMemory(op) if !op.store => Some(op.address.space),
            _ => None,
        },
        _ => None,
    }
}

/// What a register may hold, by what the code does to it: something loaded from shared or from global memory, and, two bits up, something
/// that another lane loaded.
const SHARED: u8 = 1;
const GLOBAL: u8 = 2;

fn spaces(space: MemSpace) -> u8 {
    match space {
        MemSpace::Shared => SHARED,
        MemSpace::Global => GLOBAL,
        MemSpace::Generic => SHARED | GLOBAL,
        MemSpace::Local | MemSpace::Param => 0,
    }
}

/// Whether the code has a store that may depend on another lane's load from the same space: what may flow where, whatever the order of
/// the instructions.
pub(crate) fn tracked(code: &Instructions) -> Tracked {
    let crosses = |slow: &Slow| {
        matches!(
            slow,
            Slow::Shfl { .. }
                | Slow::Vote { .. }
                | Slow::Match { .. }
                | Slow::Redux { .. }
                | Slow::Movmatrix { .. }
                | Slow::Ldmatrix(_)
                | Slow::Mma(_)
                | Slow::WmmaMma(_)
        )
    };
    if !code.slow.iter().any(crosses) {
        return Tracked::default();
    }
    let mut held = Held::new(code);
    let mut reached = 0;
    loop {
        held.changed = false;
        let mut first = 0;
        for (function, range) in ranges(code) {
            held.first = first;
            held.function = function;
            for inst in &code.insts[range] {
                reached |= held.step(code, inst);
            }
            first += code.functions[function].registers();
        }
        if !held.changed {
            break;
        }
    }
    let mut tracked = Tracked {
        shared: reached & SHARED != 0,
        global: reached & GLOBAL != 0,
        lines: Vec::new(),
    };
    let loads = code
        .insts
        .iter()
        .zip(&code.lines)
        .filter(|(inst, _)| loads_from(code, inst).is_some_and(|space| tracked.space(space)));
    tracked.lines = loads.map(|(_, &line)| line).collect();
    tracked.lines.sort_unstable();
    tracked.lines.dedup();
    tracked
}

/// What every register of every function may hold.
struct Held<'a> {
    code: &'a Instructions,
    held: Vec<u8>,
    changed: bool,
    /// The function at hand, and its first register.
    function: usize,
    first: usize,
}

impl<'a> Held<'a> {
    fn new(code: &'a Instructions) -> Self {
        Self {
            code,
            held: vec![0; code.functions.iter().map(Function::registers).sum()],
            changed: false,
            function: 0,
            first: 0,
        }
    }

    fn at(&self, file: File, slot: u32) -> Option<usize> {
        let function = &self.code.functions[self.function];
        let is_register = file != File::Absent && slot != NONE;
        is_register.then(|| self.first + function.place(file, slot) as usize)
    }

    fn get(&self, file: File, slot: u32) -> u8 {
        self.at(file, slot).map_or(0, |at| self.held[at])
    }

    fn add(&mut self, file: File, slot: u32, what: u8) {
        if let Some(at) = self.at(file, slot)
            && self.held[at] | what != self.held[at]
        {
            self.held[at] |= what;
            self.changed = true;
        }
    }

    fn base(&self, address: &Address) -> u8 {
        match address.base {
            Base::R32(slot) => self.get(File::R32, slot),
            Base::R64(slot) => self.get(File::R64, slot),
            Base::None | Base::Frame => 0,
        }
    }

    /// One instruction; the spaces of a store that depends on what another lane loaded from them.
    fn step(&mut self, code: &Instructions, inst: &Inst) -> u8 {
        let guard = self.get(File::Reference, inst.guard & !HELPER);
        // Something that another lane loaded, of a space that is stored to.
        let stored = |what: u8, address: &Address| what >> 2 & spaces(address.space);
        let crossed = |what: u8| what | (what & 3) << 2;
        match inst.op {
            // What is stored afterwards.
            Op::Bra(_) | Op::Ret | Op::Exit => guard >> 2,
            Op::Ld(index) => {
                let mem = &code.mems[index as usize];
                let file = if mem.reg64 { File::R64 } else { File::R32 };
                let what = guard | self.base(&mem.address) | spaces(mem.address.space);
                for &slot in &mem.regs[..mem.count as usize] {
                    self.add(file, slot, what);
                }
                0
            }
            Op::St(index) => {
                let mem = &code.mems[index as usize];
                let file = if mem.reg64 { File::R64 } else { File::R32 };
                let values = mem.regs[..mem.count as usize].iter();
                let what = values.fold(guard | self.base(&mem.address), |w, &slot| {
                    w | self.get(file, slot)
                });
                stored(what, &mem.address)
            }
            Op::Slow(index) => match &code.slow[index as usize] {
                Slow::Atom(atom) => {
                    let wide = matches!(
                        atom.ty,
                        AtomType::U64 | AtomType::S64 | AtomType::F64 | AtomType::B128
                    );
                    let file = if wide { File::R64 } else { File::R32 };
                    let base = guard | self.base(&atom.address);
                    let operands = atom.b[..atom.count as usize].iter().chain([&atom.c]);
                    let what = operands.fold(base, |w, &slot| w | self.get(file, slot));
                    for &slot in &atom.d[..atom.count as usize] {
                        self.add(file, slot, base | spaces(atom.address.space));
                    }
                    stored(what, &atom.address)
                }
                Slow::Shfl { d, p, a, lane, .. } => {
                    let what =
                        crossed(self.get(File::R32, *a)) | self.get(File::R32, *lane) | guard;
                    self.add(File::R32, *d, what);
                    self.add(File::Pred, *p, self.get(File::R32, *lane));
                    0
                }
                Slow::Vote { mode, d, a, .. } => {
                    let what = crossed(self.get(File::Reference, *a)) | guard;
                    let file = if *mode == VoteMode::Ballot {
                        File::R32
                    } else {
                        File::Pred
                    };
                    self.add(file, *d, what);
                    0
                }
                Slow::Match { wide, d, p, a, .. } => {
                    let what =
                        crossed(self.get(if *wide { File::R64 } else { File::R32 }, *a)) | guard;
                    self.add(File::R32, *d, what);
                    self.add(File::Pred, *p, what);
                    0
                }
                Slow::Redux { d, a, .. } | Slow::Movmatrix { d, a } => {
                    let what = crossed(self.get(File::R32, *a)) | guard;
                    self.add(File::R32, *d, what);
                    0
                }
                Slow::Ldmatrix(op) => {
                    let what = self.base(&op.address) | crossed(spaces(op.address.space));
                    for &slot in op.registers() {
                        self.add(File::R32, slot, what);
                    }
                    0
                }
                Slow::Stmatrix(op) => {
                    let sources = op.registers().iter();
                    let what = sources.fold(self.base(&op.address), |w, &slot| {
                        w | self.get(File::R32, slot)
                    });
                    // Each row is stored by a lane and comes from others.
                    stored(crossed(what), &op.address)
                }
                Slow::Mma(tile) => {
                    self.product(tile);
                    0
                }
                Slow::WmmaMma(tiles) => {
                    tiles.iter().for_each(|tile| self.product(tile));
                    0
                }
                Slow::WmmaMemory(access) => {
                    let wide = access.fragment.element_bytes == 8;
                    let file = if wide { File::R64 } else { File::R32 };
                    let base = self.base(&access.address);
                    if access.store {
                        let what = access
                            .registers
                            .iter()
                            .fold(base, |w, &s| w | self.get(file, s));
                        return stored(what, &access.address);
                    }
                    for &slot in &access.registers {
                        self.add(file, slot, base | spaces(access.address.space));
                    }
                    0
                }
                Slow::Isspacep { d, a, .. } => {
                    self.add(File::Pred, *d, self.get(File::R64, *a) | guard);
                    0
                }
                Slow::Cvta { d, a, .. } => {
                    self.add(File::R64, *d, self.get(File::R64, *a) | guard);
                    0
                }
                Slow::Call(call) => {
                    self.call(call);
                    0
                }
                _ => 0,
            },
            _ => {
                let o = operands(code, inst);
                let fourth = if o.two_results { File::Absent } else { o.e };
                let sources = [
                    (o.a, inst.a),
                    (o.b, inst.b),
                    (o.c, inst.c),
                    (fourth, inst.e),
                ];
                let what = sources
                    .iter()
                    .fold(guard, |w, &(file, slot)| w | self.get(file, slot));
                self.add(o.d, inst.d, what);
                if o.two_results {
                    self.add(o.e, inst.e, what);
                }
                0
            }
        }
    }

    fn product(&mut self, tile: &Mma) {
        let file = match tile.kind {
            MmaKind::Double(_) => File::R64,
            _ => File::R32,
        };
        let [d, a, b, c] = &tile.registers;
        let factors = a
            .iter()
            .chain(b)
            .fold(0, |w, &slot| w | self.get(file, slot));
        let addend = c.iter().fold(0, |w, &slot| w | self.get(file, slot));
        for &slot in d {
            self.add(file, slot, factors | (factors & 3) << 2 | addend);
        }
    }

    /// Arguments go to parameters and results come back, as far as they are registers. Whom a pointer calls is not known: nothing does.
    fn call(&mut self, call: &Call) {
        let CallTarget::Function(callee) = call.target else {
            return;
        };
        let code = self.code;
        let inner = &code.functions[callee as usize];
        let caller = (self.function, self.first);
        // Functions' registers lie in the order of `ranges`.
        let before = ranges(code)
            .into_iter()
            .map(|r| r.0)
            .take_while(|&f| f != callee as usize);
        let called = (
            callee as usize,
            before.map(|f| code.functions[f].registers()).sum(),
        );
        let moves = call
            .args
            .iter()
            .zip(&inner.params)
            .map(|(&from, &to)| (caller, from, called, to));
        let back = inner
            .returns
            .iter()
            .zip(&call.returns)
            .map(|(&from, &to)| (called, from, caller, to));
        for (from, value, to, result) in moves.chain(back) {
            if let (Value::Reg(value), Value::Reg(result)) = (value, result) {
                (self.function, self.first) = from;
                let what = self.get(file_of(value).0, file_of(value).1);
                (self.function, self.first) = to;
                self.add(file_of(result).0, file_of(result).1, what);
            }
        }
        (self.function, self.first) = caller;
    }
}

pub(crate) fn file_of(reg: Reg) -> (File, u32) {
    match reg {
        Reg::P(slot) => (File::Pred, slot),
        Reg::R32(slot) => (File::R32, slot),
        Reg::R64(slot) => (File::R64, slot),
    }
}
