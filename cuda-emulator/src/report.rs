//! Findings and counters as lines: text for people, JSON for programs.

use std::fmt::Write;

use crate::check::{Finding, FindingKind};
use crate::counters::Counters;

impl FindingKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out_of_bounds",
            Self::UseAfterFree => "use_after_free",
            Self::Misaligned => "misaligned",
            Self::Uninitialized => "uninitialized",
            Self::Leak => "leak",
            Self::Race => "race",
            Self::DivergentBarrier => "divergent_barrier",
            Self::Deadlock => "deadlock",
            Self::BarrierMisuse => "barrier_misuse",
            Self::AsyncHazard => "async_hazard",
            Self::LimitExceeded => "limit_exceeded",
            Self::OrderDependence => "order_dependence",
            Self::NonCoherent => "non_coherent",
        }
    }
}

/// A string as a JSON string, quotes included.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Writing into a string cannot fail.
            c if c < ' ' => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One line: what, where, how often.
pub fn finding_text(f: &Finding) -> String {
    let mut line = format!("{}: {}", f.kind.name(), f.message);
    if !f.kernel.is_empty() {
        let ([bx, by, bz], [tx, ty, tz]) = (f.block, f.thread);
        _ = write!(
            line,
            " [kernel {}, PTX line {}, block ({bx},{by},{bz})",
            f.kernel, f.line
        );
        _ = write!(line, ", thread ({tx},{ty},{tz})]");
    }
    if let Some(address) = f.address {
        _ = write!(line, " [address {address:#x}]");
    }
    if f.count > 1 {
        _ = write!(line, " [{} times]", f.count);
    }
    line
}

/// One JSON object on one line.
pub fn finding_json(f: &Finding) -> String {
    let address = f.address.map_or("null".into(), |a| format!("\"{a:#x}\""));
    format!(
        "{{\"kind\":\"{}\",\"message\":{},\"kernel\":{},\"line\":{},\"block\":{:?},\"thread\":{:?},\"address\":{address},\"count\":{}}}",
        f.kind.name(),
        quoted(&f.message),
        quoted(&f.kernel),
        f.line,
        f.block,
        f.thread,
        f.count
    )
}

/// One JSON object on one line: the launch and its counters.
pub fn counters_json(kernel: &str, grid: [u32; 3], block: [u32; 3], counters: &Counters) -> String {
    let mut line = format!(
        "{{\"kernel\":{},\"grid\":{grid:?},\"block\":{block:?}",
        quoted(kernel)
    );
    for (name, value) in counters.entries() {
        _ = write!(line, ",\"{name}\":{value}");
    }
    line.push('}');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut f = Finding {
            kind: FindingKind::Race,
            message: "a \"b\"\n\\".into(),
            kernel: "k".into(),
            line: 7,
            block: [1, 2, 3],
            thread: [4, 5, 6],
            address: Some(0x7000),
            count: 2,
        };
        let json = [
            r#"{"kind":"race","message":"a \"b\"\n\\","kernel":"k","line":7,"#,
            r#""block":[1, 2, 3],"thread":[4, 5, 6],"address":"0x7000","count":2}"#,
        ];
        assert_eq!(finding_json(&f), json.concat());
        f.message = "late".into();
        let text = "race: late [kernel k, PTX line 7, block (1,2,3), thread (4,5,6)] [address 0x7000] [2 times]";
        assert_eq!(finding_text(&f), text);
        let counters = counters_json("k", [1; 3], [32, 1, 1], &Counters::default());
        assert!(counters.starts_with(r#"{"kernel":"k","grid":[1, 1, 1],"block":[32, 1, 1],"#));
        assert!(counters.contains(r#""thread_instructions":0"#) && counters.ends_with('}'));
    }
}
