//! Two commands in different streams that touch the same bytes, with nothing that orders them: a race whatever the order was this
//! time. Looked for with `CUDA_EMULATOR_CHECK=all`.

use super::call::{Handle, Outcome, fail};
use super::result::CUresult;
use super::schedule::Clock;
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
            let verb = |w| if w { "writes" } else { "reads" };
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
    let Some((address, message)) = race else {
        return Ok(());
    };
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
