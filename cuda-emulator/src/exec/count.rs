//! Counting what instructions do, when asked to.

use std::collections::HashMap;

use super::access::What;
use crate::check::hooks::Kind;
use crate::counters::Counters;
use crate::lower::code::Code;
use crate::lower::op::{HELPER, MmaKind, Op, Slow};

/// A worker's counts.
#[derive(Debug)]
pub(crate) struct Tally {
    counters: Counters,
    /// Executions of each operation.
    executed: Vec<u64>,
    touched: Touched,
    l2: Cache,
}

impl Tally {
    pub(crate) fn new(code: &Code, l2_bytes: u64) -> Self {
        Self {
            counters: Counters::default(),
            executed: vec![0; code.insts.len()],
            touched: Touched::default(),
            l2: Cache::new(l2_bytes),
        }
    }
}

/// What a worker leaves.
pub(crate) struct Worker {
    pub(crate) warp_instructions: u64,
    pub(crate) thread_instructions: u64,
    pub(crate) tally: Option<Box<Tally>>,
}

/// Bytes of global memory that were touched, a bit each, by pages of 4 KiB.
#[derive(Debug, Default)]
struct Touched {
    pages: HashMap<u64, Box<[u64; 64]>>,
}

impl Touched {
    /// Marks `len` bytes; how many of them are new.
    fn touch(&mut self, address: u64, len: u64) -> u64 {
        let mut new = 0;
        let mut at = address;
        while at < address + len {
            let end = (address + len).min((at | 63) + 1);
            let bits = end - at;
            let mask = (if bits == 64 { !0 } else { (1u64 << bits) - 1 }) << (at & 63);
            let page = self
                .pages
                .entry(at >> 12)
                .or_insert_with(|| Box::new([0; 64]));
            let word = &mut page[(at >> 6 & 63) as usize];
            new += u64::from((mask & !*word).count_ones());
            *word |= mask;
            at = end;
        }
        new
    }
}

const WAYS: usize = 16;

/// Lines of 128 bytes with a bit for each of their four sectors; least recently used of 16 ways goes. A line's set is a hash
/// of its address, as on GPUs: the rows of a matrix would otherwise share a few sets.
#[derive(Debug)]
struct Cache {
    sets: HashMap<u64, [Line; WAYS]>,
    count: u64,
    clock: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    tag: u64,
    sectors: u8,
    used: u64,
}

impl Cache {
    fn new(bytes: u64) -> Self {
        let count = (bytes / (128 * WAYS as u64)).max(1);
        Self {
            sets: HashMap::new(),
            count,
            clock: 0,
        }
    }

    /// Uses a sector (its address over 32); whether it was there.
    fn access(&mut self, sector: u64) -> bool {
        self.clock += 1;
        let (line, bit) = (sector / 4, 1u8 << (sector % 4));
        let set = self
            .sets
            .entry(hash(line) % self.count)
            .or_insert([Line::default(); WAYS]);
        if let Some(found) = set.iter_mut().find(|l| l.used != 0 && l.tag == line) {
            found.used = self.clock;
            let hit = found.sectors & bit != 0;
            found.sectors |= bit;
            return hit;
        }
        let oldest = (0..WAYS).min_by_key(|&i| set[i].used).unwrap_or(0);
        set[oldest] = Line {
            tag: line,
            sectors: bit,
            used: self.clock,
        };
        false
    }
}

fn hash(line: u64) -> u64 {
    line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

fn lanes(active: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| active >> l & 1 != 0)
}

impl Tally {
    pub(crate) fn instruction(&mut self, pc: u32) {
        self.executed[pc as usize] += 1;
    }

    pub(crate) fn diverged(&mut self) {
        self.counters.diverged_branches += 1;
    }

    pub(crate) fn barrier(&mut self) {
        self.counters.barrier_arrivals += 1;
    }

    pub(crate) fn mma(&mut self, kind: MmaKind) {
        self.counters.tensor_flops += match kind {
            MmaKind::Float(f) => 2 * 16 * 8 * f.k as u64,
            MmaKind::Integer(i) => 2 * 8 * (i.m * i.k) as u64,
            MmaKind::Double(f) => 2 * 8 * (f.m * f.k) as u64,
        };
    }

    /// An access whose lanes in `shared` and in `global` have these offsets and addresses.
    pub(crate) fn access(
        &mut self,
        what: What,
        shared: u32,
        offsets: &[u32; 32],
        global: u32,
        addresses: &[u64; 32],
    ) {
        if shared != 0 {
            self.shared(shared, offsets, what.size);
        }
        if global != 0 {
            let ranges = lanes(global).map(|l| (addresses[l], u64::from(what.size)));
            self.global(what.kind, ranges);
        }
    }

    /// `cp.async`: a load from global memory and a store to shared memory.
    pub(crate) fn async_copy(
        &mut self,
        active: u32,
        size: u32,
        offsets: &[u32; 32],
        from: &[u64; 32],
        read: &[u32; 32],
    ) {
        self.shared(active, offsets, size);
        let ranges = lanes(active)
            .filter(|&l| read[l] != 0)
            .map(|l| (from[l], u64::from(read[l])));
        self.global(Kind::Read, ranges);
    }

    fn global(&mut self, kind: Kind, ranges: impl Iterator<Item = (u64, u64)>) {
        let mut sectors = Vec::with_capacity(32);
        let (mut bytes, mut new) = (0, 0);
        for (address, len) in ranges {
            bytes += len;
            new += self.touched.touch(address, len);
            sectors.extend(address / 32..=(address + len - 1) / 32);
        }
        sectors.sort_unstable();
        sectors.dedup();
        let n = sectors.len() as u64;
        let hits = sectors.iter().filter(|&&s| self.l2.access(s)).count() as u64;
        let c = &mut self.counters;
        match kind {
            Kind::Read => {
                c.global_load_requests += 1;
                c.global_load_sectors += n;
                c.global_load_bytes += bytes;
                c.first_read_bytes += new;
                c.l2_sector_hits += hits;
                c.l2_sector_misses += n - hits;
            }
            Kind::Write => {
                c.global_store_requests += 1;
                c.global_store_sectors += n;
                c.global_store_bytes += bytes;
                c.first_written_bytes += new;
            }
            Kind::Atomic => {
                c.global_atomic_requests += 1;
                c.global_atomic_sectors += n;
                c.first_read_bytes += new;
            }
        }
    }

    /// A pass serves each of 32 banks with one word; 8-byte accesses go by half warps, 16-byte ones by quarters.
    fn shared(&mut self, lanes: u32, offsets: &[u32; 32], size: u32) {
        let group = match size {
            0..=4 => 32,
            5..=8 => 16,
            _ => 8,
        };
        let (mut passes, mut ideal) = (0, 0);
        for first in (0..32).step_by(group) {
            let mut words: Vec<u32> = (first..first + group)
                .filter(|l| lanes >> l & 1 != 0)
                .flat_map(|l| offsets[l] / 4..=(offsets[l] + size - 1) / 4)
                .collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; 32];
            for w in &words {
                banks[(w % 32) as usize] += 1;
            }
            passes += banks.into_iter().max().unwrap_or(0);
            ideal += (words.len() as u64).div_ceil(32);
        }
        let c = &mut self.counters;
        c.shared_requests += 1;
        c.shared_wavefronts += passes;
        c.shared_bank_conflicts += passes - ideal;
    }
}

/// Adds executions to the counter of the operation's class.
fn add_class(counters: &mut Counters, code: &Code, op: Op, executions: u64) {
    let class = match op {
        Op::I16(_)
        | Op::I32(_)
        | Op::I64(_)
        | Op::Wide16(_)
        | Op::Wide32(_)
        | Op::X32(_)
        | Op::Shift64(_)
        | Op::Count64(_)
        | Op::Bfe64 { .. }
        | Op::Bfi64
        | Op::Carry32(_)
        | Op::Carry64(_)
        | Op::LocalAddress => &mut counters.integer_instructions,
        Op::F32(..) | Op::F64(..) => &mut counters.float_instructions,
        Op::Half(..) => &mut counters.half_instructions,
        Op::Mov32
        | Op::Mov64
        | Op::Pred(_)
        | Op::Testp32(_)
        | Op::Testp64(_)
        | Op::Setp(..)
        | Op::Set(..)
        | Op::Selp32
        | Op::Selp64
        | Op::Slct32(_)
        | Op::Slct64(_)
        | Op::Cvt(_)
        | Op::CvtInt(_)
        | Op::Pack64
        | Op::Unpack64
        | Op::Pack32
        | Op::Unpack32
        | Op::Special(_) => &mut counters.move_instructions,
        Op::Ld(_) | Op::St(_) => &mut counters.memory_instructions,
        Op::Bra(_) | Op::Ret | Op::Exit => &mut counters.control_instructions,
        Op::Slow(index) => match &code.slow[index as usize] {
            Slow::Atom(_) => &mut counters.atomic_instructions,
            Slow::Shfl { .. }
            | Slow::Vote { .. }
            | Slow::Match { .. }
            | Slow::Redux { .. }
            | Slow::Activemask { .. }
            | Slow::Elect { .. }
            | Slow::Movmatrix { .. } => &mut counters.collective_instructions,
            Slow::CpAsync(_) | Slow::CpAsyncCommit | Slow::CpAsyncWait { .. } => {
                &mut counters.async_copy_instructions
            }
            Slow::Ldmatrix(_) | Slow::Stmatrix(_) | Slow::WmmaMemory(_) | Slow::Discard { .. } => {
                &mut counters.memory_instructions
            }
            Slow::Mma(_) | Slow::WmmaMma(_) => &mut counters.tensor_instructions,
            Slow::Isspacep { .. } | Slow::Cvta { .. } | Slow::CreatePolicy { .. } => {
                &mut counters.move_instructions
            }
            _ => &mut counters.control_instructions,
        },
    };
    *class += executions;
}

/// The launch's counters from its workers' (with `Options::count` there is one).
pub(crate) fn collect(code: &Code, workers: Vec<Worker>, counters: &mut Counters) {
    for w in workers {
        if let Some(tally) = w.tally {
            *counters = tally.counters;
            for (inst, &n) in code.insts.iter().zip(&tally.executed) {
                if inst.guard & HELPER == 0 {
                    add_class(counters, code, inst.op, n);
                }
            }
        }
        counters.warp_instructions += w.warp_instructions;
        counters.thread_instructions += w.thread_instructions;
    }
}
