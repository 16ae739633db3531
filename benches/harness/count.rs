//! Tables of what the emulator counted.

use millet_testing::cases::Case;
use millet_testing::counters::Launch;

use super::Work;

/// The table of one case, in Markdown.
pub(super) struct Table {
    tokens: f64,
}

impl Table {
    /// Of a case in place of the whole one.
    pub(super) fn new(whole: &Case, case: &Case, group: &str) -> Self {
        let [tokens, hidden, inner, experts, top_k] = whole.sizes();
        let mut sizes = format!("T={tokens}, H={hidden}, I={inner}, E={experts}, K={top_k}");
        let rows = whole.config.mean_rows_per_expert(tokens);
        let [tokens, _, _, experts, _] = case.sizes();
        if case.sizes() != whole.sizes() {
            sizes += &format!(" (here T={tokens}, E={experts})");
        }
        println!(
            "\n### {group}: {sizes}, {rows} rows per expert ({})\n",
            case.source
        );
        println!(
            "| operation | kernel | launches | floor, MB | memory / floor | from L2 / floor | sectors used: loads, stores \
             | conflicts / wavefronts | tensor / useful FLOP | instructions / mma | thread instructions per token |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        let tokens = tokens as f64;
        Self { tokens }
    }

    /// A row for the operation; before it one for each launch, where it is known what that must do.
    pub(super) fn rows(&self, operation: &str, works: (Work, Vec<Work>), launches: &[Launch]) {
        let (work, each) = works;
        if !each.is_empty() {
            for (i, launch) in launches.iter().enumerate() {
                let name = format!("{operation}, launch {}", i + 1);
                self.row(&name, each.get(i).copied(), std::slice::from_ref(launch));
            }
        }
        self.row(operation, Some(work), launches);
    }

    fn row(&self, operation: &str, work: Option<Work>, launches: &[Launch]) {
        let count = |name| count(launches, name);
        let ratio = |value: f64, of: f64, digits: usize| match of {
            0.0 => "–".into(),
            of => format!("{:.digits$}", value / of),
        };
        let used = |bytes, sectors| match count(sectors) {
            0.0 => "–".into(),
            sectors => format!(
                "{:.0} %",
                (100.0 * count(bytes) / (32.0 * sectors)).min(100.0)
            ),
        };
        let work = work.unwrap_or_default();
        let kernels: Vec<_> = launches.iter().map(Launch::kernel).collect();
        let cells = [
            operation.into(),
            kernels.join(", "),
            launches.len().to_string(),
            ratio(work.bytes, if work.bytes > 0.0 { 1e6 } else { 0.0 }, 2),
            ratio(memory(launches) + work.rewritten, work.bytes, 3),
            ratio(32.0 * count("global_load_sectors"), work.bytes, 2),
            [
                used("global_load_bytes", "global_load_sectors"),
                used("global_store_bytes", "global_store_sectors"),
            ]
            .join(", "),
            format!(
                "{} / {}",
                count("shared_bank_conflicts"),
                count("shared_wavefronts")
            ),
            match count("tensor_flops") {
                0.0 => "–".into(),
                tensor => ratio(tensor, work.flops, 3),
            },
            ratio(count("warp_instructions"), count("tensor_instructions"), 2),
            format!("{:.0}", count("thread_instructions") / self.tokens),
        ];
        println!("| {} |", cells.join(" | "));
    }
}

fn count(launches: &[Launch], name: &str) -> f64 {
    launches.iter().map(|launch| launch.count(name)).sum()
}

fn memory(launches: &[Launch]) -> f64 {
    launches.iter().map(Launch::memory_bytes).sum()
}

/// No kernel can do less than the least: if one seems to, the formula of its work is wrong.
pub(super) fn check(what: &str, works: &(Work, Vec<Work>), launches: &[Launch]) {
    check_one(what, works.0, launches);
    for (i, (&work, launch)) in works.1.iter().zip(launches).enumerate() {
        let what = format!("{what}, launch {}", i + 1);
        check_one(&what, work, std::slice::from_ref(launch));
    }
}

fn check_one(what: &str, work: Work, launches: &[Launch]) {
    assert!(!launches.is_empty(), "{what} launched nothing");
    let touched: f64 = launches.iter().map(Launch::touched_bytes).sum::<f64>() + work.rewritten;
    let floor = work.bytes;
    assert!(
        touched >= floor,
        "{what}: touches {touched} bytes, {floor} at least"
    );
    let tensor = count(launches, "tensor_flops");
    let flops = work.flops;
    assert!(
        tensor == 0.0 || tensor >= flops,
        "{what}: {tensor} FLOPs on tensor cores, {flops} at least"
    );
}
