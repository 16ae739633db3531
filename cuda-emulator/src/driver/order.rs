//! Two commands in different streams that touch the same bytes, with nothing that orders them: a race whatever the order was this
//! time. Looked for with `CUDA_EMULATOR_CHECK=all`.

use std::ops::Range;

use super::call::{Handle, Outcome, fail};
use super::result::CUresult;
use super::schedule::{Clock, Node};
use super::state::Driver;
use crate::check::touched::Touched;
use crate::check::{Finding, FindingKind};
use crate::options::Check;

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

#[derive(Debug, Default)]
pub(super) struct Order {
    past: Vec<Footprint>,
    /// Of the command that runs.
    now: Vec<(String, Touched)>,
}

/// Notes what the command that runs touches.
pub(super) fn note(d: &mut Driver, what: &str, fill: impl FnOnce(&mut Touched)) {
    if d.options.check != Check::All {
        return;
    }
    let mut touched = Touched::default();
    fill(&mut touched);
    if !touched.is_empty() {
        d.order.now.push((what.to_owned(), touched));
    }
}

/// Forgets what the command that ran has noted, for one that failed half-way.
pub(super) fn forget(d: &mut Driver) {
    d.order.now.clear();
}

/// How many footprints the command that runs has noted.
pub(super) fn noted(d: &Driver) -> usize {
    d.order.now.len()
}

/// Compares the nodes of a graph that ran; `runs` holds each node's footprints among those noted.
///
/// # Errors
/// As [`compare`].
pub(super) fn compare_nodes(
    d: &mut Driver,
    nodes: &[Node],
    runs: &[(usize, Range<usize>)],
) -> Outcome {
    let mut race = None;
    for (i, (node, own)) in runs.iter().enumerate() {
        for (earlier, others) in &runs[..i] {
            let footprints = &d.order.now;
            let pairs = own
                .clone()
                .flat_map(|a| others.clone().map(move |b| (a, b)));
            let mut found = pairs.filter_map(|(a, b)| {
                let ((what, touched), (before, past)) = (&footprints[a], &footprints[b]);
                Some((what, before, touched.conflict(past)?))
            });
            let Some((what, before, (address, writes, wrote))) = found.next() else {
                continue;
            };
            if !comes_after(nodes, *node, *earlier) {
                race = Some((
                    address,
                    format!(
                        "{what} (node {node} of a graph) {} what {before} (node {earlier}) {}, and no edge of the graph orders them",
                        verb(writes),
                        verb(wrote)
                    ),
                ));
            }
        }
    }
    race.map_or(Ok(()), |(address, message)| report(d, address, message))
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

/// Compares the command that ran, whose clock is `after`, with those before it that it does not come after.
///
/// # Errors
/// `CUDA_ERROR_LAUNCH_FAILED` for the first race; it is a finding, too.
pub(super) fn compare(d: &mut Driver, stream: Handle, position: u64, after: &Clock) -> Outcome {
    let now = std::mem::take(&mut d.order.now);
    if now.is_empty() {
        return Ok(());
    }
    let mut race = None;
    for (what, touched) in &now {
        // A stream that was destroyed had done its work; clocks no longer mention it.
        let alive = |f: &&Footprint| d.streams.contains_key(&f.stream);
        let unordered = |f: &&Footprint| f.stream != stream && !after.covers(f.stream, f.position);
        for past in d.order.past.iter().filter(alive).filter(unordered) {
            let Some((address, writes, wrote)) = touched.conflict(&past.touched) else {
                continue;
            };
            race = Some((
                address,
                format!(
                    "{what} in stream {stream:#x} {} what {} in stream {:#x} {}, and no event or synchronisation orders them",
                    verb(writes),
                    past.what,
                    past.stream,
                    verb(wrote)
                ),
            ));
            break;
        }
    }
    // What the host has waited for comes before everything that is submitted from now on.
    let waiting = d.streams.values().any(|s| !s.queue.is_empty());
    let Driver {
        order, host_clock, ..
    } = d;
    if !waiting {
        order
            .past
            .retain(|f| !host_clock.covers(f.stream, f.position));
    }
    let new = now.into_iter().map(|(what, touched)| Footprint {
        stream,
        position,
        what,
        touched,
    });
    order.past.extend(new);
    let excess = order.past.len().saturating_sub(MOST_KEPT);
    order.past.drain(..excess);
    race.map_or(Ok(()), |(address, message)| report(d, address, message))
}

/// A race is a finding and breaks the context.
fn report(d: &mut Driver, address: u64, message: String) -> Outcome {
    d.report.find(&Finding {
        kind: FindingKind::Race,
        message: message.clone(),
        kernel: String::new(),
        line: 0,
        block: [0; 3],
        thread: [0; 3],
        address: Some(address),
        count: 1,
    });
    fail(CUresult::LAUNCH_FAILED, message)
}
