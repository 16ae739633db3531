//! Order by data, with all checks: which loads a value waits for.
//!
//! A store whose value, address or guard depends on what another lane of its warp has loaded (by `shfl`, `mma`, `ldmatrix` and their
//! like) comes after that load, without any barrier. So each register has beside it the set of loads that its value depends on: those of
//! the lane itself, and those of other lanes. It is followed only in code that has such a store at all
//! ([`Tracked`](crate::lower::tracked::Tracked)).

use std::collections::HashMap;

use crate::check::hooks::Dependence;
use crate::lower::tracked::bit;

/// Loads that the lanes' values of a register depend on. Loads are bits, one for each PTX line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Awaited {
    /// The lane's own.
    own: u64,
    /// Other lanes', by lane: all of `lines`.
    lanes: [u32; 32],
    lines: u64,
}

const NONE_AWAITED: Awaited = Awaited {
    own: 0,
    lanes: [0; 32],
    lines: 0,
};

impl Awaited {
    /// A load by each lane.
    pub(crate) fn load(bit: u64) -> Self {
        Self {
            own: bit,
            ..NONE_AWAITED
        }
    }

    /// A load that gives each lane what others read.
    pub(crate) fn load_of(bit: u64, lanes: [u32; 32]) -> Self {
        Self {
            lanes,
            lines: bit,
            ..NONE_AWAITED
        }
    }

    /// The value that each lane gets from the lanes that `sources` names.
    pub(crate) fn moved(&self, sources: impl Fn(usize) -> u32) -> Self {
        let lanes = std::array::from_fn(|l| {
            let from = sources(l);
            let own = if self.own != 0 { from } else { 0 };
            crate::check::lanes_of(from).fold(own, |all, s| all | self.lanes[s as usize])
        });
        Self {
            own: 0,
            lanes,
            lines: self.own | self.lines,
        }
    }
}

impl Dependence for Awaited {
    fn comes_after(&self, lane: usize, others: u32, line: u32) -> bool {
        others & !self.lanes[lane] == 0 && self.lines & bit(line) != 0
    }
}

/// More different sets than this are not kept: then a value counts as waiting for nothing.
const MOST_SETS: usize = 1 << 16;

/// The sets of a worker's grid, by number; 0 is the empty one.
#[derive(Debug)]
pub(crate) struct Sets {
    list: Vec<Awaited>,
    known: HashMap<Awaited, u32>,
    unions: HashMap<(u32, u32), u32>,
}

impl Sets {
    pub(crate) fn new() -> Self {
        Self {
            list: vec![NONE_AWAITED],
            known: HashMap::from([(NONE_AWAITED, 0)]),
            unions: HashMap::new(),
        }
    }

    pub(crate) fn get(&self, set: u32) -> &Awaited {
        &self.list[set as usize]
    }

    pub(crate) fn add(&mut self, set: Awaited) -> u32 {
        let list = &mut self.list;
        *self.known.entry(set).or_insert_with(|| {
            if list.len() == MOST_SETS {
                return 0;
            }
            list.push(set);
            list.len() as u32 - 1
        })
    }

    pub(crate) fn union(&mut self, a: u32, b: u32) -> u32 {
        if a == b || b == 0 {
            return a;
        }
        if a == 0 {
            return b;
        }
        let pair = (a.min(b), a.max(b));
        if let Some(&known) = self.unions.get(&pair) {
            return known;
        }
        let (x, y) = (self.list[a as usize], self.list[b as usize]);
        let union = self.add(Awaited {
            own: x.own | y.own,
            lanes: std::array::from_fn(|l| x.lanes[l] | y.lanes[l]),
            lines: x.lines | y.lines,
        });
        if self.unions.len() >= MOST_SETS {
            self.unions.clear();
        }
        self.unions.insert(pair, union);
        union
    }
}
