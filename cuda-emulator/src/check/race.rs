//! The race detector: what each access finds in the shadow of its bytes and leaves there.
//!
//! The rules are PTX's memory model, as far as an execution can show it. Ordered are: a thread's own accesses; accesses before
//! and after a `bar`/`barrier` by those who arrive and those who wait; before and after a `bar.warp.sync` by its lanes; a
//! release (or a fence and then a strong write) and the acquire (or a strong read and then a fence) that sees it, if each is
//! in the other's scope; `fence.sc` also by way of a barrier ([`Sequential`](super::state::Sequential)); a load of another lane's of
//! the warp and a store that depends on what it loaded. By themselves `shfl`, `vote`, `match`, `ldmatrix` and `mma` order nothing.
//! Two strong accesses do not race. Stores of the same value to the same place are not reported. Kernels are ordered with one another
//! by their launches.

use std::sync::PoisonError;

use super::checker::BlockChecker;
use super::findings::{Report, coordinates};
use super::hooks::{Access, Instance, Kind, Lanes, Order, Scope};
use super::shadow::{ASYNC, CTA, Mark, ODD, STRONG, View};
use super::state::{PAGE_BYTES, PAGE_WORDS};
use super::sync::Space;
use super::{FindingKind, lanes_of};

fn odd(access: &Access<'_>) -> u32 {
    match access.instance {
        Some(Instance { is_odd: true }) => ODD,
        _ => 0,
    }
}

fn flags(order: Order) -> u32 {
    match order {
        Order::Weak => 0,
        Order::Strong(_, Scope::Cta) => STRONG | CTA,
        Order::Strong(..) => STRONG,
    }
}

/// Bytes `[at, at + size)` of the word at `word`, as a mask.
#[inline(always)]
fn bytes_in_word(word: u64, at: u64, size: u64) -> u8 {
    // Accesses are aligned.
    if size.is_multiple_of(4) {
        return 0xf;
    }
    let first = at.max(word) - word;
    let last = (at + size).min(word + 4) - word;
    (((1u32 << last) - 1) & !((1u32 << first) - 1)) as u8
}

/// Lanes whose stores overlap another lane's of the same instruction; of those, a pair that stores different values.
fn overlapping(access: &Access<'_>, addresses: &[u64; 32]) -> (Lanes, Option<(u32, u32, u64)>) {
    let size = u64::from(access.size);
    let mut previous = None;
    let mut increasing = true;
    for lane in lanes_of(access.lanes) {
        let a = addresses[lane as usize];
        increasing &= previous.is_none_or(|p: u64| a >= p + size);
        previous = Some(a);
    }
    if increasing {
        return (0, None);
    }
    let mut sorted: Vec<u32> = lanes_of(access.lanes).collect();
    sorted.sort_by_key(|&l| addresses[l as usize]);
    let mut together = 0;
    let mut conflict = None;
    for (i, &a) in sorted.iter().enumerate() {
        let start = addresses[a as usize];
        for &b in &sorted[i + 1..] {
            let other = addresses[b as usize];
            if other >= start + size {
                break;
            }
            together |= 1 << a | 1 << b;
            let differs = |at: u64| {
                access.values.is_none_or(|v| {
                    v.stored(a as usize, (at - start) as usize)
                        != v.stored(b as usize, (at - other) as usize)
                })
            };
            if let Some(at) = (other..start + size).find(|&at| differs(at)) {
                conflict = conflict.or(Some((a, b, at)));
            }
        }
    }
    (together, conflict)
}

impl BlockChecker<'_> {
    fn place(&self, thread: u32) -> String {
        let [x, y, z] = coordinates(thread, self.grid.info.block);
        format!("thread ({x}, {y}, {z})")
    }

    /// A finding about an access and a mark, its message still to be written; none, but counted, where it is known.
    fn new_report(
        &self,
        kind: FindingKind,
        access: &Access<'_>,
        warp: u32,
        lane: u32,
        at: u64,
        mark: Mark,
    ) -> Option<Report> {
        let report = Report {
            kind,
            message: String::new(),
            line: access.line,
            other_line: Some(mark.line()),
            block: self.index,
            thread: warp * 32 + lane,
            address: Some(at),
        };
        (!self.grid.known(&report)).then_some(report)
    }

    /// A conflict between an access and a mark.
    pub(super) fn conflict(
        &self,
        space: &str,
        access: &Access<'_>,
        warp: u32,
        lane: u32,
        at: u64,
        mark: Mark,
    ) {
        let warps = self.state.warps.len() as u32;
        let kind = if mark.is(ASYNC) {
            FindingKind::AsyncHazard
        } else {
            FindingKind::Race
        };
        let Some(report) = self.new_report(kind, access, warp, lane, at, mark) else {
            return;
        };
        let what = match access.kind {
            Kind::Read => "reads",
            Kind::Write => "writes",
            Kind::Atomic => "updates",
        };
        let me = self.place(warp * 32 + lane);
        let (size, line) = (access.size, mark.line());
        let own = match mark.warp == self.index * warps + warp {
            true => 1 << lane,
            false => 0,
        };
        let other = self.owner(mark, own);
        let message = if mark.is(ASYNC) {
            format!(
                "{me} {what} {size} bytes of {space} memory that a cp.async of {other} \
                 (line {line}) may not have written yet: no cp.async.wait_group or wait_all comes between"
            )
        } else {
            format!(
                "{me} {what} {size} bytes of {space} memory; \
                 the access by {other} at line {line} is not ordered with it by a barrier, bar.warp.sync, or release and acquire"
            )
        };
        self.grid.report(Report { message, ..report });
    }

    /// A thread that made a mark: if it can be, one that is not in `own`, lanes of the mark's warp.
    fn owner(&self, mark: Mark, own: Lanes) -> String {
        let warps = self.state.warps.len() as u32;
        let (block, warp) = (mark.warp / warps, mark.warp % warps);
        let lanes = match mark.lanes & !own {
            0 => mark.lanes,
            others => others,
        };
        let owner = self.place(warp * 32 + lanes.trailing_zeros());
        if block == self.index {
            return owner;
        }
        let [x, y, z] = coordinates(block, self.grid.info.grid);
        format!("{owner} of block ({x}, {y}, {z})")
    }

    /// A read-only load of what this launch wrote.
    fn stale(&self, access: &Access<'_>, warp: u32, lane: u32, at: u64, mark: Mark) {
        let Some(report) = self.new_report(FindingKind::NonCoherent, access, warp, lane, at, mark)
        else {
            return;
        };
        let message = format!(
            "{} reads {} bytes by a read-only load (ld.global.nc, ldu or ld.const), of which {} wrote some at line {} \
             in this launch: caches may still hold the old ones",
            self.place(warp * 32 + lane),
            access.size,
            self.owner(mark, 0),
            mark.line()
        );
        self.grid.report(Report { message, ..report });
    }

    fn same_instruction(&self, space: &str, access: &Access<'_>, warp: u32, pair: (u32, u32, u64)) {
        let (a, b, at) = pair;
        let message = format!(
            "{} and {} of a warp store different values to the same place in {space} \
             memory in one instruction: which one stays is undefined",
            self.place(warp * 32 + a),
            self.place(warp * 32 + b)
        );
        self.grid.report(Report {
            kind: FindingKind::Race,
            message,
            line: access.line,
            other_line: Some(access.line),
            block: self.index,
            thread: warp * 32 + b,
            address: Some(at),
        });
    }

    /// What an access looks at the marks of its bytes with.
    pub(super) fn view(
        &self,
        space: Space,
        warp: u32,
        line: u32,
        flags: u32,
        kind: Kind,
        together: Lanes,
    ) -> View<'static> {
        let warps = self.state.warps.len() as u32;
        let w = &self.state.warps[warp as usize];
        let first_warp = self.index * warps;
        View {
            now: self.state.now,
            warp: first_warp + warp,
            first_warp,
            warps,
            block_time: w.block_time,
            warp_time: w.warp_time,
            no_more: w
                .knows
                .same()
                .is_some_and(|clock| clock.only_of(self.index, warp)),
            site: Mark::site(line, flags),
            write: kind != Kind::Read,
            local: space == Space::Shared,
            together,
            dependence: None,
            by_line: false,
        }
    }

    /// An access to shared memory; `offsets` count from the start of the block's shared memory (not from the window's base).
    #[inline]
    pub(crate) fn shared(&mut self, warp: u32, access: &Access<'_>, offsets: &[u32; 32]) {
        let wide = offsets.map(u64::from);
        let (together, pair) = match access.kind {
            Kind::Write if access.order == Order::Weak => overlapping(access, &wide),
            _ => (0, None),
        };
        if let Some(pair) = pair {
            self.same_instruction("shared", access, warp, pair);
        }
        if let Order::Strong(semantics, scope) = access.order {
            self.synchronize(warp, access, &wide, semantics, scope, Space::Shared);
        }
        let view = View {
            dependence: access.dependence,
            by_line: access.instance.is_some(),
            ..self.view(
                Space::Shared,
                warp,
                access.line,
                flags(access.order) | odd(access),
                access.kind,
                together,
            )
        };
        let writes = access.kind != Kind::Read;
        let size = access.size;
        let uniform = self.state.warps[warp as usize].knows.same().cloned();
        // A tile 16 wide: both halves of the warp read the same.
        let (low, high) = offsets.split_at(16);
        let twice = !writes && uniform.is_some() && access.lanes == !0 && low == high;
        let mut left = if twice { 0xffff } else { access.lanes };
        while left != 0 {
            let lane = left.trailing_zeros();
            let at = offsets[lane as usize];
            // Lanes that read the same bytes and know the same go together.
            let mut lanes = 1u32 << lane;
            if !writes && uniform.is_some() {
                let mut rest = left & !lanes;
                while rest != 0 && offsets[rest.trailing_zeros() as usize] == at {
                    lanes |= rest & rest.wrapping_neg();
                    rest &= rest - 1;
                }
            }
            left &= !lanes;
            lanes |= if twice { lanes << 16 } else { 0 };
            let (first, last) = (at / 4, (at + size - 1) / 4);
            for word in first..=last {
                let bytes = bytes_in_word(u64::from(word) * 4, u64::from(at), u64::from(size));
                let state = &mut self.state;
                let Some(cell) = state.cells.get_mut(word as usize) else {
                    continue;
                };
                let clock = match &uniform {
                    Some(clock) => clock,
                    None => state.warps[warp as usize].knows.of(lane),
                };
                let same = || {
                    access.values.is_some_and(|v| {
                        lanes_of(u32::from(bytes)).all(|b| {
                            let byte = (word * 4 + b - at) as usize;
                            v.stored(lane as usize, byte) == v.present(lane as usize, byte)
                        })
                    })
                };
                let conflict = state.beside.access(cell, bytes, &view, lanes, clock, same);
                if let Some((lane, mark)) = conflict {
                    self.conflict("shared", access, warp, lane, u64::from(at), mark);
                }
            }
        }
    }

    /// An access to global memory, inside live allocations (bounds were checked).
    #[inline]
    pub(crate) fn global(&mut self, warp: u32, access: &Access<'_>, addresses: &[u64; 32]) {
        let (together, pair) = match access.kind {
            Kind::Write if access.order == Order::Weak => overlapping(access, addresses),
            _ => (0, None),
        };
        if let Some(pair) = pair {
            self.same_instruction("global", access, warp, pair);
        }
        if let Order::Strong(semantics, scope) = access.order {
            self.synchronize(warp, access, addresses, semantics, scope, Space::Global);
        }
        let view = View {
            dependence: access.dependence,
            by_line: access.instance.is_some(),
            ..self.view(
                Space::Global,
                warp,
                access.line,
                flags(access.order) | odd(access),
                access.kind,
                together,
            )
        };
        let size = u64::from(access.size);
        let grid = self.grid;
        let mut conflicts: Vec<(u32, u64, Mark)> = Vec::new();
        let mut stale: Vec<(u32, u64, Mark)> = Vec::new();
        let knows = &self.state.warps[warp as usize].knows;
        let mut global = grid.global.lock().unwrap_or_else(PoisonError::into_inner);
        let global = &mut *global;
        for lane in lanes_of(access.lanes) {
            let at = addresses[lane as usize];
            let mut word = at & !3;
            while word < at + size {
                let page = global.page(word / PAGE_BYTES);
                let cell = &mut global.pages[page][(word / 4 % PAGE_WORDS) as usize];
                let bytes = bytes_in_word(word, at, size);
                let clock = knows.of(lane);
                let same = || {
                    access.values.is_some_and(|v| {
                        lanes_of(u32::from(bytes)).all(|b| {
                            let byte = (word + u64::from(b) - at) as usize;
                            v.stored(lane as usize, byte) == v.present(lane as usize, byte)
                        })
                    })
                };
                if access.read_only
                    && let Some(mark) = global.beside.written(cell, bytes)
                {
                    stale.push((lane, at, mark));
                }
                let conflict = global
                    .beside
                    .access(cell, bytes, &view, 1 << lane, clock, same);
                if let Some((_, mark)) = conflict {
                    conflicts.push((lane, at, mark));
                }
                word += 4;
            }
        }
        for (lane, at, mark) in conflicts {
            self.conflict("global", access, warp, lane, at, mark);
        }
        for (lane, at, mark) in stale {
            self.stale(access, warp, lane, at, mark);
        }
    }
}
