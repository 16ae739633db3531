//! Two commands in different streams that touch the same bytes, with nothing that orders them: a race whatever the order was this
//! time. Looked for with `CUDA_EMULATOR_CHECK=all`.

use std::ops::Range;

use super::call::Handle;
use super::work::{Clock, Node};
use crate::check::touched::Touched;

/// Commands remembered; beyond, the oldest are forgotten.
const MOST_KEPT: usize = 512;

/// What a command touched.
#[derive(Debug)]
struct Footprint {
    stream: Handle,
    position: u64,
    what: String,
    touched: Touched,
}

/// Two accesses to the same bytes that nothing orders.
pub(super) struct Race {
    pub(super) address: u64,
    pub(super) message: String,
}

/// What commands have touched.
#[derive(Debug, Default)]
pub(super) struct Order {
    past: Vec<Footprint>,
    /// Of the command that runs.
    now: Vec<(String, Touched)>,
}

impl Order {
    /// Notes what the command that runs has touched.
    pub(super) fn note(&mut self, what: &str, touched: Touched) {
        if !touched.is_empty() {
            self.now.push((what.to_owned(), touched));
        }
    }

    /// Forgets what the command that ran has noted, for one that failed half-way.
    pub(super) fn forget(&mut self) {
        self.now.clear();
    }

    /// How many footprints the command that runs has noted.
    pub(super) fn noted(&self) -> usize {
        self.now.len()
    }

    /// Compares the nodes of a graph that ran; `runs` holds each node's footprints among those noted.
    pub(super) fn compare_nodes(
        &self,
        nodes: &[Node],
        runs: &[(usize, Range<usize>)],
    ) -> Option<Race> {
        let mut race = None;
        let runs: Vec<_> = runs.iter().filter(|(_, own)| !own.is_empty()).collect();
        for (i, (node, own)) in runs.iter().enumerate() {
            for (earlier, others) in &runs[..i] {
                let pairs = own
                    .clone()
                    .flat_map(|a| others.clone().map(move |b| (a, b)));
                let mut found = pairs.filter_map(|(a, b)| {
                    let ((what, touched), (before, past)) = (&self.now[a], &self.now[b]);
                    Some((what, before, touched.conflict(past)?))
                });
                let Some((what, before, (address, writes, wrote))) = found.next() else {
                    continue;
                };
                if !comes_after(nodes, *node, *earlier) {
                    let message = format!(
                        "{what} (node {node} of a graph) {} what {before} (node {earlier}) {}, and no edge of the graph orders them",
                        verb(writes),
                        verb(wrote)
                    );
                    race = Some(Race { address, message });
                }
            }
        }
        race
    }

    /// Compares the command that ran, whose clock is `after`, with those before it that it does not come after, and keeps what it
    /// touched. `lives` says whether a stream is still there: one that was destroyed had done its work, and clocks no longer mention
    /// it. `settled` is what comes before every command from now on, if none waits.
    pub(super) fn compare(
        &mut self,
        stream: Handle,
        position: u64,
        after: &Clock,
        lives: impl Fn(&Handle) -> bool,
        settled: Option<&Clock>,
    ) -> Option<Race> {
        let now = std::mem::take(&mut self.now);
        if now.is_empty() {
            return None;
        }
        let mut race = None;
        for (what, touched) in &now {
            let unordered = |f: &&Footprint| {
                f.stream != stream && lives(&f.stream) && !after.covers(f.stream, f.position)
            };
            let conflict = |f: &Footprint| {
                let conflict = touched.conflict(&f.touched)?;
                Some((f.what.clone(), f.stream, conflict))
            };
            let mut past = self.past.iter().filter(unordered);
            if let Some((before, other, (address, writes, wrote))) = past.find_map(conflict) {
                let message = format!(
                    "{what} in stream {stream:#x} {} what {before} in stream {other:#x} {}, and no event or synchronisation orders them",
                    verb(writes),
                    verb(wrote)
                );
                race = Some(Race { address, message });
            }
        }
        if let Some(settled) = settled {
            self.past.retain(|f| !settled.covers(f.stream, f.position));
        }
        self.past
            .extend(now.into_iter().map(|(what, touched)| Footprint {
                stream,
                position,
                what,
                touched,
            }));
        let excess = self.past.len().saturating_sub(MOST_KEPT);
        self.past.drain(..excess);
        race
    }
}

/// Whether edges lead from node `earlier` to `node`.
fn comes_after(nodes: &[Node], node: usize, earlier: usize) -> bool {
    let mut seen = vec![false; nodes.len()];
    let mut open = vec![node];
    while let Some(at) = open.pop() {
        if at == earlier {
            return true;
        }
        if !std::mem::replace(&mut seen[at], true) {
            open.extend(&nodes[at].after);
        }
    }
    false
}

fn verb(writes: bool) -> &'static str {
    if writes { "writes" } else { "reads" }
}
