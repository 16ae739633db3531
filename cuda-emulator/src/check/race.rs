//! The race detector: what each access and each synchronisation does to clocks and shadow.
//!
//! The rules are PTX's memory model, as far as an execution can show it. Ordered are: a thread's own accesses; accesses before
//! and after a `bar`/`barrier` by those who arrive and those who wait; before and after a `bar.warp.sync` by its lanes; a
//! release (or a fence and then a strong write) and the acquire (or a strong read and then a fence) that sees it, if each is
//! in the other's scope; `fence.sc` also by way of a barrier ([`Sequential`]); a load of another lane's of the warp and a store that
//! depends on what it loaded. By themselves `shfl`, `vote`, `match`, `ldmatrix` and `mma` order nothing. Two strong accesses do not
//! race. Stores of the same value to the same place are not reported. Kernels are ordered with one another by their launches.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError};

use super::clock::{Agent, Clock, Knowledge, Time};
use super::hooks::{
    Access, AsyncCopy, Barrier, BlockChecker, GridInfo, Instance, Kind, Lanes, Order, Report,
    Scope, Semantics,
};
use super::shadow::{ASYNC, Beside, CTA, Cell, Mark, ODD, STRONG, View};
use super::touched::Touched;
use super::{FindingKind, lanes_of};

/// Multiplies: addresses are well spread by that.
#[derive(Debug, Default)]
pub(super) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0 ^ x)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// What was released at an address.
#[derive(Debug, Default)]
struct Released {
    /// To the whole device.
    device: Clock,
    /// To the releaser's block only; what that block released to the device is here too.
    blocks: Vec<(u32, Clock)>,
}

/// Unordered accesses remembered for a word of global memory (more in tests, which compare with a complete record).
const GLOBAL_MARKS: usize = if cfg!(test) { 64 } else { 4 };

const PAGE_WORDS: u64 = 1024;
const PAGE_BYTES: u64 = 4 * PAGE_WORDS;

/// State of a launch's global memory.
#[derive(Debug)]
pub(super) struct Global {
    pages: Vec<Box<[Cell]>>,
    page_of: AddressMap<u32>,
    /// The page used last: its number and place.
    last: (u64, u32),
    beside: Beside,
    released: AddressMap<Released>,
}

impl Global {
    pub(super) fn new(_info: &GridInfo<'_>) -> Self {
        Self {
            pages: Vec::new(),
            page_of: AddressMap::default(),
            last: (u64::MAX, 0),
            beside: Beside::new(GLOBAL_MARKS),
            released: AddressMap::default(),
        }
    }

    #[inline(always)]
    fn page(&mut self, number: u64) -> usize {
        if self.last.0 != number {
            self.last = (number, self.find_page(number));
        }
        self.last.1 as usize
    }

    #[inline(never)]
    fn find_page(&mut self, number: u64) -> u32 {
        let pages = &mut self.pages;
        *self.page_of.entry(number).or_insert_with(|| {
            pages.push(vec![Cell::default(); PAGE_WORDS as usize].into());
            pages.len() as u32 - 1
        })
    }
}

impl Global {
    /// What the launch has touched, by byte.
    pub(super) fn touched(&self) -> Touched {
        let mut touched = Touched::default();
        let mut pages: Vec<_> = self.page_of.iter().collect();
        pages.sort_unstable();
        for (number, &page) in pages {
            for (i, cell) in self.pages[page as usize].iter().enumerate() {
                let address = number * PAGE_BYTES + 4 * i as u64;
                self.beside.touches(cell, |touch, byte, bytes| {
                    touched.add(touch, address + byte, bytes);
                });
            }
        }
        touched
    }
}

/// A fence's effect on later strong writes: what was known then, and the thread's own time.
type Fenced = Option<(Arc<Clock>, Time)>;

#[derive(Debug)]
struct Warp {
    /// Lanes that exist, and those that have ended.
    all: Lanes,
    exited: Lanes,
    knows: Knowledge,
    /// Latest fence of block scope or more, and of device scope or more.
    fenced: Box<[[Fenced; 2]; 32]>,
    /// Whether any lane fenced at all.
    any_fence: bool,
    /// Released by others at addresses that the lane has read strongly, until a fence makes it known: by block scope, by more.
    observed: Vec<(u32, Scope, Arc<Clock>)>,
    sequential: Sequential,
    /// All lanes know everything in the block / in their warp up to here.
    block_time: Time,
    warp_time: Time,
    copies: Copies,
}

/// Asynchronous copies of a warp that were not waited for.
#[derive(Debug, Default)]
struct Copies {
    /// Groups committed, per lane.
    committed: [u32; 32],
    pending: Vec<PendingCopy>,
}

#[derive(Debug)]
struct PendingCopy {
    lanes: Lanes,
    group: u32,
    size: u32,
    offsets: [u32; 32],
}

/// A barrier that some have arrived at.
#[derive(Debug, Clone, Default)]
struct Arrivals {
    clock: Clock,
    /// Lanes that arrived and lanes that wait, by warp.
    arrived: Vec<Lanes>,
    waiting: Vec<Lanes>,
    /// Of the first arrival.
    threads: Option<(u32, u32)>,
}

/// State of a block.
#[derive(Debug)]
pub(super) struct BlockState {
    now: Time,
    warps: Vec<Warp>,
    cells: Vec<Cell>,
    beside: Beside,
    released: AddressMap<Clock>,
    barriers: Vec<Arrivals>,
    sequential: Sequential,
}

/// What `fence.sc` orders beyond the thread that executes it. Such fences have one order that agrees with what is read: if a thread
/// writes strongly after a barrier, before which others have fenced, and somebody reads it who meets at a barrier with those who then
/// fence, the first fences come before the others, whoever wrote and whoever read. Of a block and its barriers for all threads, and of a
/// warp and `bar.warp.sync` for all lanes.
#[derive(Debug, Default)]
struct Sequential {
    /// Known to those who have fenced: since the last barrier, and before it.
    fenced: Clock,
    before: Clock,
    /// Released at what was read before the last barrier.
    seen: Clock,
}

impl Sequential {
    /// A barrier for all; what they have read strongly.
    fn meet<'a>(&mut self, observed: impl Iterator<Item = &'a (u32, Scope, Arc<Clock>)>) {
        self.before.join(&std::mem::take(&mut self.fenced));
        for (_, _, clock) in observed {
            self.seen.join(clock);
        }
    }
}

/// Barriers of a block.
const BARRIERS: usize = 16;

impl BlockState {
    pub(super) fn new(info: &GridInfo<'_>, _index: u32) -> Self {
        let threads: u32 = info.block.iter().product();
        let count = threads.div_ceil(32);
        let warp = |w: u32| Warp {
            all: if threads - 32 * w >= 32 {
                !0
            } else {
                (1 << (threads - 32 * w)) - 1
            },
            exited: 0,
            knows: Knowledge::new(),
            fenced: Box::new(std::array::from_fn(|_| [None, None])),
            any_fence: false,
            observed: Vec::new(),
            sequential: Sequential::default(),
            block_time: 0,
            warp_time: 0,
            copies: Copies::default(),
        };
        let words = if info.level == crate::options::Check::All {
            info.shared_bytes.div_ceil(4)
        } else {
            0
        };
        Self {
            now: 1,
            warps: (0..count).map(warp).collect(),
            cells: vec![Cell::default(); words as usize],
            beside: Beside::new(64),
            released: AddressMap::default(),
            barriers: vec![Arrivals::default(); BARRIERS],
            sequential: Sequential::default(),
        }
    }
}

impl Warp {
    /// Lanes that can still run.
    fn live(&self) -> Lanes {
        self.all & !self.exited
    }

    /// Gives `lanes` a clock.
    fn learn(&mut self, block: u32, warp: u32, lanes: Lanes, clock: Arc<Clock>) {
        let live = self.live();
        self.knows.set(lanes, live, clock);
        let (mut block_time, mut warp_time) = (Time::MAX, Time::MAX);
        self.knows.each(live, |clock| {
            block_time = block_time.min(clock.get(Agent::block(block)));
            warp_time = warp_time.min(clock.get(Agent::warp(block, warp)));
        });
        self.block_time = block_time;
        self.warp_time = warp_time;
    }

    /// The clock of `lanes` together, with their own past up to `now`.
    fn together(&self, block: u32, warp: u32, lanes: Lanes, now: Time) -> Clock {
        let mut clock: Option<Clock> = None;
        self.knows.each(lanes, |c| match &mut clock {
            None => clock = Some((**c).clone()),
            Some(clock) => clock.join(c),
        });
        let mut clock = clock.unwrap_or_default();
        if lanes | self.exited == self.all | self.exited {
            clock.raise_warp(block, warp, now);
        } else {
            for lane in lanes_of(lanes) {
                clock.raise(Agent::lane(block, warp, lane), now);
            }
        }
        clock
    }
}

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
        let [x, y, z] = super::findings::coordinates(thread, self.grid.info.block);
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
    fn conflict(
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
                "{me} {what} {size} bytes of {space} memory that a cp.async of {other} (line {line}) may not have written yet: no cp.async.wait_group or wait_all comes between"
            )
        } else {
            format!(
                "{me} {what} {size} bytes of {space} memory; the access by {other} at line {line} is not ordered with it by a barrier, bar.warp.sync, or release and acquire"
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
        let [x, y, z] = super::findings::coordinates(block, self.grid.info.grid);
        format!("{owner} of block ({x}, {y}, {z})")
    }

    /// A read-only load of what this launch wrote.
    fn stale(&self, access: &Access<'_>, warp: u32, lane: u32, at: u64, mark: Mark) {
        let Some(report) = self.new_report(FindingKind::NonCoherent, access, warp, lane, at, mark)
        else {
            return;
        };
        let message = format!(
            "{} reads {} bytes by a read-only load (ld.global.nc, ldu or ld.const), of which {} wrote some at line {} in this launch: caches may still hold the old ones",
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
            "{} and {} of a warp store different values to the same place in {space} memory in one instruction: which one stays is undefined",
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

    fn view(
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
}

pub(super) fn shared(
    checker: &mut BlockChecker<'_>,
    warp: u32,
    access: &Access<'_>,
    offsets: &[u32; 32],
) {
    let wide = offsets.map(u64::from);
    let (together, pair) = match access.kind {
        Kind::Write if access.order == Order::Weak => overlapping(access, &wide),
        _ => (0, None),
    };
    if let Some(pair) = pair {
        checker.same_instruction("shared", access, warp, pair);
    }
    if let Order::Strong(semantics, scope) = access.order {
        synchronize(
            checker,
            warp,
            access,
            &wide,
            semantics,
            scope,
            Space::Shared,
        );
    }
    let view = View {
        dependence: access.dependence,
        by_line: access.instance.is_some(),
        ..checker.view(
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
    let uniform = checker.state.warps[warp as usize].knows.same().cloned();
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
            let state = &mut checker.state;
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
                checker.conflict("shared", access, warp, lane, u64::from(at), mark);
            }
        }
    }
}

pub(super) fn global(
    checker: &mut BlockChecker<'_>,
    warp: u32,
    access: &Access<'_>,
    addresses: &[u64; 32],
) {
    let (together, pair) = match access.kind {
        Kind::Write if access.order == Order::Weak => overlapping(access, addresses),
        _ => (0, None),
    };
    if let Some(pair) = pair {
        checker.same_instruction("global", access, warp, pair);
    }
    if let Order::Strong(semantics, scope) = access.order {
        synchronize(
            checker,
            warp,
            access,
            addresses,
            semantics,
            scope,
            Space::Global,
        );
    }
    let view = View {
        dependence: access.dependence,
        by_line: access.instance.is_some(),
        ..checker.view(
            Space::Global,
            warp,
            access.line,
            flags(access.order) | odd(access),
            access.kind,
            together,
        )
    };
    let size = u64::from(access.size);
    let grid = checker.grid;
    let mut conflicts: Vec<(u32, u64, Mark)> = Vec::new();
    let mut stale: Vec<(u32, u64, Mark)> = Vec::new();
    let knows = &checker.state.warps[warp as usize].knows;
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
        checker.conflict("global", access, warp, lane, at, mark);
    }
    for (lane, at, mark) in stale {
        checker.stale(access, warp, lane, at, mark);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Shared,
    Global,
}

/// What was released at an address for a reader in `block` with `scope`.
fn released_for(released: &Released, block: u32, scope: Scope) -> Option<Clock> {
    let local = released.blocks.iter().find(|b| b.0 == block).map(|b| &b.1);
    if scope == Scope::Cta {
        return local.cloned();
    }
    let mut clock = released.device.clone();
    if let Some(local) = local {
        clock.join(local);
    }
    Some(clock)
}

/// The clocks' side of a strong access: acquires what was released at the address, releases what the thread knows.
fn synchronize(
    checker: &mut BlockChecker<'_>,
    warp: u32,
    access: &Access<'_>,
    addresses: &[u64; 32],
    semantics: Semantics,
    scope: Scope,
    space: Space,
) {
    let block = checker.index;
    let grid = checker.grid;
    let reads = access.kind != Kind::Write;
    let writes = access.kind != Kind::Read;
    let acquires = reads && matches!(semantics, Semantics::Acquire | Semantics::AcquireRelease);
    let releases = writes && matches!(semantics, Semantics::Release | Semantics::AcquireRelease);
    let mut global = grid.global.lock().unwrap_or_else(PoisonError::into_inner);
    let mut released_now = false;
    for lane in lanes_of(access.lanes) {
        let at = addresses[lane as usize];
        let state = &mut checker.state;
        let w = &mut state.warps[warp as usize];
        if reads {
            let found = match space {
                Space::Shared => state.released.get(&at).cloned(),
                Space::Global => global
                    .released
                    .get(&at)
                    .and_then(|r| released_for(r, block, scope)),
            };
            if let Some(found) = found {
                if acquires {
                    let known = w.knows.of(lane);
                    let mut clock = (**known).clone();
                    clock.join(&found);
                    if clock != **known {
                        w.learn(block, warp, 1 << lane, Arc::new(clock));
                    }
                } else {
                    let seen = w.observed.iter_mut().find(|o| o.0 == lane && o.1 == scope);
                    match seen {
                        Some(seen) => Arc::make_mut(&mut seen.2).join(&found),
                        None => w.observed.push((lane, scope, Arc::new(found))),
                    }
                }
            }
        }
        if writes {
            let own = Agent::lane(block, warp, lane);
            let mut to_block: Option<Clock> = None;
            let mut to_device: Option<Clock> = None;
            if releases {
                let mut clock = (**w.knows.of(lane)).clone();
                clock.raise(own, state.now);
                released_now = true;
                if scope != Scope::Cta {
                    to_device = Some(clock.clone());
                }
                to_block = Some(clock);
            } else if w.any_fence {
                let publish = |fenced: &Fenced| {
                    fenced.as_ref().map(|(clock, time)| {
                        let mut clock = (**clock).clone();
                        clock.raise(own, *time);
                        clock
                    })
                };
                let [by_block, by_device] = &w.fenced[lane as usize];
                to_block = publish(by_block);
                if scope != Scope::Cta {
                    to_device = publish(by_device);
                }
            }
            for before in [&state.sequential.before, &w.sequential.before] {
                if before.is_empty() {
                    continue;
                }
                to_block.get_or_insert_default().join(before);
                if scope != Scope::Cta {
                    to_device.get_or_insert_default().join(before);
                }
            }
            match space {
                Space::Shared => match to_block {
                    Some(clock) => {
                        let entry = state.released.entry(at).or_default();
                        if access.kind == Kind::Write {
                            *entry = clock;
                        } else {
                            entry.join(&clock);
                        }
                    }
                    None if access.kind == Kind::Write => {
                        state.released.remove(&at);
                    }
                    None => {}
                },
                Space::Global => {
                    if access.kind == Kind::Write {
                        // A plain store ends what was released here before.
                        global.released.remove(&at);
                    }
                    if to_block.is_some() || to_device.is_some() {
                        let entry = global.released.entry(at).or_default();
                        if let Some(clock) = to_device {
                            entry.device.join(&clock);
                        }
                        if let Some(clock) = to_block {
                            match entry.blocks.iter_mut().find(|b| b.0 == block) {
                                Some(b) => b.1.join(&clock),
                                None => entry.blocks.push((block, clock)),
                            }
                        }
                    }
                }
            }
        }
    }
    if released_now {
        checker.state.now += 1;
    }
}

pub(super) fn fence(
    checker: &mut BlockChecker<'_>,
    warp: u32,
    lanes: Lanes,
    scope: Scope,
    semantics: Semantics,
) {
    let block = checker.index;
    let state = &mut checker.state;
    let now = state.now;
    let w = &mut state.warps[warp as usize];
    // What was seen by strong reads is known from here on, as far as both scopes reach.
    let observed = match semantics {
        Semantics::Acquire | Semantics::AcquireRelease | Semantics::SequentiallyConsistent => {
            std::mem::take(&mut w.observed)
        }
        Semantics::Relaxed | Semantics::Release => Vec::new(),
    };
    for (lane, seen_scope, seen) in observed {
        let reaches = scope != Scope::Cta || seen_scope == Scope::Cta;
        if lanes >> lane & 1 == 0 || !reaches {
            w.observed.push((lane, seen_scope, seen));
            continue;
        }
        let mut clock = (**w.knows.of(lane)).clone();
        clock.join(&seen);
        w.learn(block, warp, 1 << lane, Arc::new(clock));
    }
    if matches!(semantics, Semantics::Relaxed | Semantics::Acquire) {
        return;
    }
    w.any_fence = true;
    if semantics == Semantics::SequentiallyConsistent && scope != Scope::Cta {
        for lane in lanes_of(lanes) {
            let known = w.knows.of(lane);
            let mut clock = (**known).clone();
            clock.join(&state.sequential.seen);
            clock.join(&w.sequential.seen);
            if clock != **known {
                w.learn(block, warp, 1 << lane, Arc::new(clock.clone()));
            }
            clock.raise(Agent::lane(block, warp, lane), now);
            state.sequential.fenced.join(&clock);
            w.sequential.fenced.join(&clock);
        }
    }
    for lane in lanes_of(lanes) {
        let fenced = Some((w.knows.of(lane).clone(), now));
        let slots = &mut w.fenced[lane as usize];
        if scope != Scope::Cta {
            slots[1] = fenced.clone();
        }
        slots[0] = fenced;
    }
    state.now += 1;
}

pub(super) fn barrier_arrive(
    checker: &mut BlockChecker<'_>,
    warp: u32,
    lanes: Lanes,
    barrier: &Barrier,
) {
    check_barrier(checker, warp, lanes, barrier);
    let block = checker.index;
    let state = &mut checker.state;
    let count = state.warps.len();
    let Some(arrivals) = state.barriers.get_mut(barrier.id as usize) else {
        return;
    };
    let clock = state.warps[warp as usize].together(block, warp, lanes, state.now);
    arrivals.clock.join(&clock);
    arrivals.arrived.resize(count, 0);
    arrivals.waiting.resize(count, 0);
    arrivals.arrived[warp as usize] |= lanes;
    if barrier.waits {
        arrivals.waiting[warp as usize] |= lanes;
    }
    arrivals
        .threads
        .get_or_insert((barrier.threads, barrier.line));
    state.now += 1;
}

/// What is wrong with an arrival in itself.
fn check_barrier(checker: &mut BlockChecker<'_>, warp: u32, lanes: Lanes, barrier: &Barrier) {
    let w = &checker.state.warps[warp as usize];
    let live = w.live();
    let threads: u32 = checker.grid.info.block.iter().product();
    let first = checker
        .state
        .barriers
        .get(barrier.id as usize)
        .and_then(|a| a.threads);
    let report = |kind, other_line, message| Report {
        kind,
        message,
        line: barrier.line,
        other_line,
        block: checker.index,
        thread: warp * 32 + lanes.trailing_zeros().min(31),
        address: None,
    };
    if barrier.aligned && lanes & live != live {
        checker.grid.report(report(
            FindingKind::DivergentBarrier,
            None,
            format!(
                "an aligned barrier is executed by lanes {lanes:#010x} of a warp whose lanes {live:#010x} are running: all must execute it together"
            ),
        ));
    }
    if let Some(message) = misuse(barrier, threads) {
        checker
            .grid
            .report(report(FindingKind::BarrierMisuse, None, message));
    }
    if let Some((count, line)) = first
        && count != barrier.threads
    {
        let name = |n: u32| {
            if n == 0 {
                "all threads".to_string()
            } else {
                format!("{n} threads")
            }
        };
        checker.grid.report(report(
            FindingKind::BarrierMisuse,
            Some(line),
            format!(
                "barrier {} is awaited for {} here and for {} at line {line}",
                barrier.id,
                name(barrier.threads),
                name(count)
            ),
        ));
    }
}

/// What is wrong with a barrier's operands.
fn misuse(barrier: &Barrier, threads: u32) -> Option<String> {
    let Barrier { id, threads: n, .. } = *barrier;
    if id as usize >= BARRIERS {
        Some(format!("barrier {id} does not exist: 0 to 15"))
    } else if !n.is_multiple_of(32) {
        Some(format!(
            "barrier {id} is for {n} threads: not a multiple of 32"
        ))
    } else if n > threads.next_multiple_of(32) {
        Some(format!(
            "barrier {id} is for {n} threads, the block has {threads}"
        ))
    } else {
        None
    }
}

pub(super) fn barrier_complete(checker: &mut BlockChecker<'_>, id: u32) {
    let block = checker.index;
    let state = &mut checker.state;
    let Some(slot) = state.barriers.get_mut(id as usize) else {
        return;
    };
    let mut arrivals = std::mem::take(slot);
    let everyone = state.warps.iter().zip(&arrivals.waiting);
    if everyone.clone().count() == state.warps.len()
        && everyone
            .clone()
            .all(|(w, &waiting)| waiting | w.exited == w.all)
    {
        arrivals.clock.raise_block(block, state.now);
        let observed = state.warps.iter().flat_map(|w| &w.observed);
        state.sequential.meet(observed);
    }
    state.now += 1;
    let clock = Arc::new(arrivals.clock);
    for (w, (warp, &waiting)) in state.warps.iter_mut().zip(&arrivals.waiting).enumerate() {
        if waiting != 0 {
            warp.learn(block, w as u32, waiting & warp.live(), clock.clone());
        }
    }
}

pub(super) fn warp_sync(checker: &mut BlockChecker<'_>, warp: u32, lanes: Lanes) {
    let block = checker.index;
    let state = &mut checker.state;
    let w = &mut state.warps[warp as usize];
    let clock = w.together(block, warp, lanes, state.now);
    w.learn(block, warp, lanes & w.live(), Arc::new(clock));
    if lanes | w.exited == w.all | w.exited {
        w.sequential.meet(w.observed.iter());
    }
    state.now += 1;
}

pub(super) fn async_copy(checker: &mut BlockChecker<'_>, warp: u32, copy: &AsyncCopy<'_>) {
    // The source is read by the issuing thread, as far as it is read at all.
    let mut left = copy.lanes;
    while left != 0 {
        let read = copy.read[left.trailing_zeros() as usize];
        let lanes = lanes_of(left)
            .filter(|&l| copy.read[l as usize] == read)
            .fold(0, |m, l| m | 1 << l);
        left &= !lanes;
        if read != 0 {
            let access = Access {
                read_only: false,
                line: copy.line,
                kind: Kind::Read,
                order: Order::Weak,
                lanes,
                size: read,
                values: None,
                dependence: None,
                instance: None,
            };
            global(checker, warp, &access, copy.sources);
        }
    }
    let view = checker.view(Space::Shared, warp, copy.line, ASYNC, Kind::Write, 0);
    let access = Access {
        read_only: false,
        line: copy.line,
        kind: Kind::Write,
        order: Order::Weak,
        lanes: copy.lanes,
        size: copy.size,
        values: None,
        dependence: None,
        instance: None,
    };
    for lane in lanes_of(copy.lanes) {
        let at = copy.offsets[lane as usize];
        for word in at / 4..(at + copy.size) / 4 {
            let state = &mut checker.state;
            let Some(cell) = state.cells.get_mut(word as usize) else {
                continue;
            };
            let clock = state.warps[warp as usize].knows.of(lane);
            let found = state
                .beside
                .access(cell, 0xf, &view, 1 << lane, clock, || false);
            if let Some((_, mark)) = found {
                checker.conflict("shared", &access, warp, lane, u64::from(at), mark);
            }
        }
    }
    let copies = &mut checker.state.warps[warp as usize].copies;
    let mut left = copy.lanes;
    while left != 0 {
        let group = copies.committed[left.trailing_zeros() as usize];
        let lanes = lanes_of(left)
            .filter(|&l| copies.committed[l as usize] == group)
            .fold(0, |m, l| m | 1 << l);
        left &= !lanes;
        copies.pending.push(PendingCopy {
            lanes,
            group,
            size: copy.size,
            offsets: *copy.offsets,
        });
    }
}

pub(super) fn async_commit(checker: &mut BlockChecker<'_>, warp: u32, lanes: Lanes) {
    let committed = &mut checker.state.warps[warp as usize].copies.committed;
    for lane in lanes_of(lanes) {
        committed[lane as usize] += 1;
    }
}

pub(super) fn async_wait(checker: &mut BlockChecker<'_>, warp: u32, lanes: Lanes, pending: u32) {
    let grid_warp = checker.index * checker.state.warps.len() as u32 + warp;
    let state = &mut checker.state;
    let now = state.now;
    let copies = &mut state.warps[warp as usize].copies;
    let (cells, beside) = (&mut state.cells, &mut state.beside);
    for copy in &mut copies.pending {
        for lane in lanes_of(copy.lanes & lanes) {
            if copy.group + pending >= copies.committed[lane as usize] {
                continue;
            }
            copy.lanes &= !(1 << lane);
            let at = copy.offsets[lane as usize];
            for word in at / 4..(at + copy.size) / 4 {
                if let Some(cell) = cells.get_mut(word as usize) {
                    beside.settle(cell, grid_warp, lane, now);
                }
            }
        }
    }
    copies.pending.retain(|c| c.lanes != 0);
}

pub(super) fn exit(checker: &mut BlockChecker<'_>, warp: u32, lanes: Lanes) {
    checker.state.warps[warp as usize].exited |= lanes;
}
