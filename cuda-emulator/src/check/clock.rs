//! What a thread knows of the others' past: vector clocks, kept small by naming whole warps and blocks.
//!
//! Each block counts its synchronisation events; that count is the time of every access in it. An entry (agent, t) says that
//! all accesses of the agent (a block, a warp or a lane) at times up to t happened before. After a barrier of a whole block
//! one entry says everything about it.

use std::sync::Arc;

/// A block's count of synchronisation events. Accesses have times from 1 on.
pub(super) type Time = u32;

/// A block, one of its warps, or one of its lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Agent(u64);

const BLOCK_SHIFT: u32 = 16;
/// Codes within a block: 0 the block; then for each warp itself and its 32 lanes.
const WARP_STRIDE: u64 = 33;

impl Agent {
    pub(super) fn block(block: u32) -> Self {
        Self(u64::from(block) << BLOCK_SHIFT)
    }

    pub(super) fn warp(block: u32, warp: u32) -> Self {
        Self(Self::block(block).0 + 1 + u64::from(warp) * WARP_STRIDE)
    }

    pub(super) fn lane(block: u32, warp: u32, lane: u32) -> Self {
        Self(Self::warp(block, warp).0 + 1 + u64::from(lane))
    }

    fn in_block(self, block: u32) -> bool {
        self.0 >> BLOCK_SHIFT == u64::from(block)
    }
}

/// Entries sorted by agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock(Vec<(Agent, Time)>);

impl Clock {
    pub(super) fn get(&self, agent: Agent) -> Time {
        match self.0.binary_search_by_key(&agent, |e| e.0) {
            Ok(i) => self.0[i].1,
            Err(_) => 0,
        }
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Raises an entry.
    pub(super) fn raise(&mut self, agent: Agent, time: Time) {
        match self.0.binary_search_by_key(&agent, |e| e.0) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(time),
            Err(i) => self.0.insert(i, (agent, time)),
        }
    }

    /// Everything in a block up to `time` is known: finer entries of that block say nothing more.
    pub(super) fn raise_block(&mut self, block: u32, time: Time) {
        self.0.retain(|e| !e.0.in_block(block) || e.1 > time);
        self.raise(Agent::block(block), time);
    }

    /// Everything in a warp up to `time` is known.
    pub(super) fn raise_warp(&mut self, block: u32, warp: u32, time: Time) {
        let first = Agent::warp(block, warp);
        let last = Agent::lane(block, warp, 31);
        self.0.retain(|e| e.0 < first || e.0 > last || e.1 > time);
        self.raise(first, time);
    }

    /// Whether a lane's accesses at `time` happened before.
    pub(super) fn saw(&self, block: u32, warp: u32, lane: u32, time: Time) -> bool {
        self.get(Agent::lane(block, warp, lane)) >= time
    }

    /// Whether all of a warp's accesses at `time` happened before, as far as entries for the warp and the block tell.
    pub(super) fn saw_warp(&self, block: u32, warp: u32, time: Time) -> bool {
        self.get(Agent::block(block)) >= time || self.get(Agent::warp(block, warp)) >= time
    }

    /// Whether nothing is known but of the whole block and of the warp.
    pub(super) fn only_of(&self, block: u32, warp: u32) -> bool {
        let known = [Agent::block(block), Agent::warp(block, warp)];
        self.0.len() <= 2 && self.0.iter().all(|e| known.contains(&e.0))
    }

    /// Takes over what another clock knows.
    pub(super) fn join(&mut self, other: &Clock) {
        if other.0.is_empty() || self.0 == other.0 {
            return;
        }
        let mut merged = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            match (a.peek(), b.peek()) {
                (Some(&&x), Some(&&y)) if x.0 == y.0 => {
                    merged.push((x.0, x.1.max(y.1)));
                    a.next();
                    b.next();
                }
                (Some(&&x), Some(&&y)) if x.0 < y.0 => {
                    merged.push(x);
                    a.next();
                }
                (Some(&&x), None) => {
                    merged.push(x);
                    a.next();
                }
                (_, Some(&&y)) => {
                    merged.push(y);
                    b.next();
                }
                (None, None) => break,
            }
        }
        self.0 = merged;
    }
}

/// What the lanes of a warp know.
#[derive(Debug, Clone)]
pub(super) enum Knowledge {
    /// All the same.
    Same(Arc<Clock>),
    PerLane(Box<[Arc<Clock>; 32]>),
}

impl Knowledge {
    pub(super) fn new() -> Self {
        Self::Same(Arc::default())
    }

    #[inline(always)]
    pub(super) fn of(&self, lane: u32) -> &Arc<Clock> {
        match self {
            Self::Same(clock) => clock,
            Self::PerLane(clocks) => &clocks[lane as usize],
        }
    }

    /// The clock of all lanes, if they know the same.
    pub(super) fn same(&self) -> Option<&Arc<Clock>> {
        match self {
            Self::Same(clock) => Some(clock),
            Self::PerLane(_) => None,
        }
    }

    /// Gives `lanes` a clock; `all` are the lanes that can still run.
    pub(super) fn set(&mut self, lanes: u32, all: u32, clock: Arc<Clock>) {
        if lanes & all == all {
            *self = Self::Same(clock);
            return;
        }
        if let Self::Same(common) = self {
            let common = common.clone();
            *self = Self::PerLane(Box::new(std::array::from_fn(|_| common.clone())));
        }
        if let Self::PerLane(clocks) = self {
            for lane in super::lanes_of(lanes) {
                clocks[lane as usize] = clock.clone();
            }
        }
    }

    /// The distinct clocks of `lanes`, each once (neighbours compared by identity).
    pub(super) fn each(&self, lanes: u32, mut f: impl FnMut(&Arc<Clock>)) {
        match self {
            Self::Same(clock) => f(clock),
            Self::PerLane(clocks) => {
                let mut last: Option<&Arc<Clock>> = None;
                for lane in super::lanes_of(lanes) {
                    let clock = &clocks[lane as usize];
                    if last.is_none_or(|l| !Arc::ptr_eq(l, clock)) {
                        f(clock);
                    }
                    last = Some(clock);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_entries_cover_finer_ones() {
        let mut clock = Clock::default();
        clock.raise(Agent::lane(2, 1, 5), 7);
        clock.raise(Agent::lane(2, 1, 6), 9);
        clock.raise(Agent::lane(2, 3, 0), 4);
        clock.raise_warp(2, 1, 8);
        assert!(clock.saw_warp(2, 1, 8) && !clock.saw_warp(2, 1, 9));
        assert!(clock.saw(2, 1, 6, 9), "newer than the warp's entry");
        assert_eq!(clock.0.len(), 3);
        clock.raise_block(2, 10);
        assert_eq!(clock.0, [(Agent::block(2), 10)]);
        assert!(!clock.saw_warp(1, 0, 1));
    }

    #[test]
    fn join_is_the_maximum() {
        let make = |entries: &[(u32, Time)]| {
            let mut clock = Clock::default();
            for &(block, time) in entries {
                clock.raise(Agent::block(block), time);
            }
            clock
        };
        let mut a = make(&[(1, 5), (3, 2), (9, 1)]);
        a.join(&make(&[(0, 4), (3, 8), (9, 1), (11, 6)]));
        assert_eq!(a, make(&[(0, 4), (1, 5), (3, 8), (9, 1), (11, 6)]));
    }
}
