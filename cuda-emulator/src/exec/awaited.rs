//! Order by data, with all checks: which loads a value waits for.
//!
//! A store whose value, address or guard depends on what another lane of its warp has loaded (by `shfl`, `mma`, `ldmatrix` and their
//! like) comes after that load, without any barrier. So each register has beside it the loads that its values depend on, lane by lane. That
//! is followed only in code that has such a store at all ([`Tracked`](crate::lower::tracked::Tracked)).

use std::collections::HashMap;

use crate::check::hooks::{Dependence, Instance};
use crate::check::lanes_of;

/// One execution of a load by a warp: which of the loads that are followed, and whether it was an odd one. A value that depends on the one
/// before counts as depending on nothing of the load's next but one.
pub(crate) type Load = (u16, bool);

/// The loads that a register's values depend on, and of each, for every lane, the lanes whose part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Awaited(Vec<(Load, [u32; 32])>);

impl Awaited {
    /// A load that gives each lane what the lanes named have read.
    pub(crate) fn load(load: Load, readers: [u32; 32]) -> Self {
        Self(vec![(load, readers)])
    }

    fn map(&self, f: impl Fn(&[u32; 32]) -> [u32; 32]) -> Self {
        let each = self.0.iter().map(|(load, lanes)| (*load, f(lanes)));
        Self(each.filter(|e| e.1 != [0; 32]).collect())
    }

    /// The values that each lane gets from the lanes that `sources` names.
    pub(crate) fn moved(&self, sources: impl Fn(usize) -> u32) -> Self {
        let from: [u32; 32] = std::array::from_fn(&sources);
        self.map(|lanes| {
            std::array::from_fn(|l| lanes_of(from[l]).fold(0, |all, s| all | lanes[s as usize]))
        })
    }

    /// These values in `active`, nothing in the other lanes.
    fn only(&self, active: u32) -> Self {
        self.map(|lanes| std::array::from_fn(|l| if active >> l & 1 != 0 { lanes[l] } else { 0 }))
    }

    fn union(&self, other: &Self) -> Self {
        let mut all = self.0.clone();
        for (load, lanes) in &other.0 {
            match all.binary_search_by_key(load, |e| e.0) {
                Ok(at) => all[at].1.iter_mut().zip(lanes).for_each(|(a, b)| *a |= b),
                Err(at) => all.insert(at, (*load, *lanes)),
            }
        }
        Self(all)
    }
}

/// What a store depends on, with the numbers of the loads.
pub(crate) struct Waits<'a> {
    pub(crate) awaited: Awaited,
    pub(crate) tracked: &'a crate::lower::tracked::Tracked,
}

impl Dependence for Waits<'_> {
    fn comes_after(&self, lane: usize, others: u32, line: u32, instance: Instance) -> bool {
        let Some(load) = self.tracked.load(line) else {
            return false;
        };
        let mut of = self.awaited.0.iter();
        of.any(|(l, lanes)| *l == (load, instance.is_odd) && others & !lanes[lane] == 0)
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
            list: vec![Awaited::default()],
            known: HashMap::from([(Awaited::default(), 0)]),
            unions: HashMap::new(),
        }
    }

    pub(crate) fn get(&self, set: u32) -> &Awaited {
        &self.list[set as usize]
    }

    pub(crate) fn add(&mut self, set: Awaited) -> u32 {
        if let Some(&known) = self.known.get(&set) {
            return known;
        }
        if self.list.len() >= MOST_SETS {
            return 0;
        }
        let number = self.list.len() as u32;
        self.list.push(set.clone());
        self.known.insert(set, number);
        number
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
        let union = self.list[a as usize].union(&self.list[b as usize]);
        let union = self.add(union);
        if self.unions.len() >= MOST_SETS {
            self.unions.clear();
        }
        self.unions.insert(pair, union);
        union
    }

    /// A set without one execution of a load.
    pub(crate) fn without(&mut self, set: u32, load: Load) -> u32 {
        let mut rest = self.get(set).clone();
        let Ok(at) = rest.0.binary_search_by_key(&load, |e| e.0) else {
            return set;
        };
        rest.0.remove(at);
        self.add(rest)
    }

    /// The set of a register of which the lanes `lanes` are written.
    pub(crate) fn written(&mut self, old: u32, new: u32, lanes: u32) -> u32 {
        if old == new {
            return old;
        }
        let (old, new) = (self.get(old).only(!lanes), self.get(new).only(lanes));
        let both = old.union(&new);
        self.add(both)
    }
}
