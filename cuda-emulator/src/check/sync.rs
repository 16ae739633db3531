//! What synchronisation does to clocks: releases and acquires, fences, barriers.

use std::sync::{Arc, PoisonError};

use super::checker::BlockChecker;
use super::clock::{Agent, Clock};
use super::findings::Report;
use super::hooks::{Access, Barrier, Kind, Lanes, Scope, Semantics};
use super::state::{BARRIERS, Fenced, Released};
use super::{FindingKind, lanes_of};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
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

impl BlockChecker<'_> {
    /// The clocks' side of a strong access: acquires what was released at the address, releases what the thread knows.
    pub(super) fn synchronize(
        &mut self,
        warp: u32,
        access: &Access<'_>,
        addresses: &[u64; 32],
        semantics: Semantics,
        scope: Scope,
        space: Space,
    ) {
        let block = self.index;
        let grid = self.grid;
        let reads = access.kind != Kind::Write;
        let writes = access.kind != Kind::Read;
        let acquires = reads && matches!(semantics, Semantics::Acquire | Semantics::AcquireRelease);
        let releases =
            writes && matches!(semantics, Semantics::Release | Semantics::AcquireRelease);
        let mut global = grid.global.lock().unwrap_or_else(PoisonError::into_inner);
        let mut released_now = false;
        for lane in lanes_of(access.lanes) {
            let at = addresses[lane as usize];
            let state = &mut self.state;
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
            self.state.now += 1;
        }
    }

    /// `fence`, `membar`.
    pub(crate) fn fence(&mut self, warp: u32, lanes: Lanes, scope: Scope, semantics: Semantics) {
        let block = self.index;
        let state = &mut self.state;
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

    /// Lanes arrive at barrier `id` (`bar.sync`, `bar.arrive`, `bar.red`, `barrier…`). `threads` is the operand, 0 if there
    /// is none (all threads); `waits` is false for `arrive`; `aligned` is true for `bar.*` and `barrier.*.aligned`.
    pub(crate) fn barrier_arrive(&mut self, warp: u32, lanes: Lanes, barrier: &Barrier) {
        self.check_barrier(warp, lanes, barrier);
        let block = self.index;
        let state = &mut self.state;
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
    pub(super) fn check_barrier(&mut self, warp: u32, lanes: Lanes, barrier: &Barrier) {
        let w = &self.state.warps[warp as usize];
        let live = w.live();
        let threads: u32 = self.grid.info.block.iter().product();
        let first = self
            .state
            .barriers
            .get(barrier.id as usize)
            .and_then(|a| a.threads);
        let report = |kind, other_line, message| Report {
            kind,
            message,
            line: barrier.line,
            other_line,
            block: self.index,
            thread: warp * 32 + lanes.trailing_zeros().min(31),
            address: None,
        };
        if barrier.aligned && lanes & live != live {
            self.grid.report(report(
                FindingKind::DivergentBarrier,
                None,
                format!(
                    "an aligned barrier is executed by lanes {lanes:#010x} of a warp whose lanes {live:#010x} \
                     are running: all must execute it together"
                ),
            ));
        }
        if let Some(message) = misuse(barrier, threads) {
            self.grid
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
            self.grid.report(report(
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

    /// The last expected thread arrived: those waiting go on.
    pub(crate) fn barrier_complete(&mut self, id: u32) {
        let block = self.index;
        let state = &mut self.state;
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

    /// All lanes of a `bar.warp.sync` mask (those that have not exited) have met.
    pub(crate) fn warp_sync(&mut self, warp: u32, lanes: Lanes) {
        let block = self.index;
        let state = &mut self.state;
        let w = &mut state.warps[warp as usize];
        let clock = w.together(block, warp, lanes, state.now);
        w.learn(block, warp, lanes & w.live(), Arc::new(clock));
        if lanes | w.exited == w.all | w.exited {
            w.sequential.meet(w.observed.iter());
        }
        state.now += 1;
    }

    /// Lanes end (`ret`, `exit`).
    pub(crate) fn exit(&mut self, warp: u32, lanes: Lanes) {
        self.state.warps[warp as usize].exited |= lanes;
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
