//! The list of findings of a launch: one entry per kind and place, with a count.

use std::collections::HashMap;

use super::{Finding, FindingKind};

/// Where a mistake is: repeats at the same place are one finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    kind: FindingKind,
    line: u32,
    other_line: Option<u32>,
}

/// One observation, before deduplication.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub kind: FindingKind,
    pub message: String,
    /// PTX line, and of a conflict the other party's.
    pub line: u32,
    pub other_line: Option<u32>,
    /// Linear index of the block, and of the thread in it.
    pub block: u32,
    pub thread: u32,
    pub address: Option<u64>,
}

impl Report {
    fn place(&self) -> Place {
        Place {
            kind: self.kind,
            line: self.line,
            other_line: self.other_line,
        }
    }
}

/// Findings of one launch.
#[derive(Debug)]
pub(super) struct Findings {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    by_place: HashMap<Place, Finding>,
}

impl Findings {
    pub(super) fn new(kernel: &str, grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            kernel: kernel.into(),
            grid,
            block,
            by_place: HashMap::new(),
        }
    }

    /// Adds an observation, or counts it if its place is known.
    pub(super) fn add(&mut self, report: Report) {
        let place = report.place();
        if let Some(known) = self.by_place.get_mut(&place) {
            known.count += 1;
            return;
        }
        let finding = Finding {
            kind: report.kind,
            message: report.message,
            kernel: self.kernel.clone(),
            line: report.line,
            block: coordinates(report.block, self.grid),
            thread: coordinates(report.thread, self.block),
            address: report.address,
            count: 1,
        };
        self.by_place.insert(place, finding);
    }

    /// Counts a repeat without building its message; false if the place is new.
    pub(super) fn count(&mut self, report: &Report) -> bool {
        match self.by_place.get_mut(&report.place()) {
            Some(known) => {
                known.count += 1;
                true
            }
            None => false,
        }
    }

    #[cfg(test)]
    pub(super) fn total(&self, kind: FindingKind) -> u64 {
        let of_kind = self.by_place.values().filter(|f| f.kind == kind);
        of_kind.map(|f| f.count).sum()
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        let mut list: Vec<_> = self.by_place.into_iter().collect();
        list.sort_by_key(|(p, f)| (p.line, p.other_line, f.kind as u32));
        list.into_iter().map(|(_, finding)| finding).collect()
    }
}

/// The coordinates of a linear index, x fastest.
pub(super) fn coordinates(index: u32, size: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = size.map(|n| n.max(1));
    [index % x, index / x % y, index / x / y]
}
