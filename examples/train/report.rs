//! What came out: a summary of one run, tables of a comparison, and a CSV file of every record.

use std::fmt::Write as _;

use crate::training::{RANKS, Record, Run};

/// Runs of one variant, one for each seed.
pub struct Group<'a> {
    pub label: &'a str,
    pub runs: Vec<&'a Run>,
}

/// Mean and sample standard deviation.
pub struct Spread {
    mean: f64,
    /// None of a single value.
    deviation: Option<f64>,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            deviation: (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt()),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(3);
        // A plus sign is for differences.
        match f.sign_plus() {
            true => write!(f, "{:+.digits$}", self.mean)?,
            false => write!(f, "{:.digits$}", self.mean)?,
        }
        match self.deviation {
            Some(deviation) => write!(f, " ± {deviation:.digits$}"),
            None => Ok(()),
        }
    }
}

/// Runs by variant, in the order of their first runs.
pub fn groups<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<Group<'a>> {
    let mut groups = Vec::<Group<'_>>::new();
    for run in runs {
        match groups.iter_mut().find(|group| group.label == run.label) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group {
                label: &run.label,
                runs: vec![run],
            }),
        }
    }
    groups
}

impl Group<'_> {
    fn spread(&self, value: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(|run| value(run)))
    }

    fn mean(&self, value: impl Fn(&Run) -> f64) -> f64 {
        self.spread(value).mean
    }
}

/// One run, in words.
pub fn summary(run: &Run, unigram: f64) -> String {
    let Record {
        losses,
        gradient_norm,
        router,
        ..
    } = run.last_tenth();
    let slots: Vec<String> = router
        .slot_weights
        .iter()
        .map(|w| format!("{w:.3}"))
        .collect();
    let bits = |nats: f64| nats / std::f64::consts::LN_2;
    format!(
        "held-out loss    {:.4} nats = {:.4} bits a byte\n\
         unigram entropy  {unigram:.4} nats = {:.4} bits a byte of the same text: the loss is {:.0} % of it\n\
         speed            {:.0} bytes (tokens) a second\n\
         The last tenth of training, on the mean:\n  \
         training loss    {:.4} nats a byte; load balancing {:.5}, router z-loss {:.5}; gradient norm {gradient_norm:.2}\n  \
         load, max/mean   {:.2} of experts, {:.2} of groups on {RANKS} ranks; {:.2} % of assignments dropped\n  \
         slot weights     {}; router entropy {:.2} nats",
        run.held_out,
        bits(run.held_out),
        bits(unigram),
        100.0 * run.held_out / unigram,
        run.tokens_per_second,
        losses.cross_entropy,
        losses.aux,
        losses.z,
        router.expert_imbalance,
        router.group_imbalance,
        100.0 * router.dropped_share,
        slots.join(" "),
        router.entropy,
    )
}

/// Losses, loads and speed of each variant, as a Markdown table. Differences are of equal seeds, to the first variant.
pub fn comparison(groups: &[Group<'_>]) -> String {
    let mut table = String::from(
        "| variant | held-out nats/byte | bits/byte | difference to the first | expert load max/mean | \
         group load max/mean | dropped | tokens/s, to the first |\n|---|---|---|---|---|---|---|---|\n",
    );
    let first = &groups[0];
    let speed = |group: &Group<'_>| group.mean(|run| run.tokens_per_second);
    for group in groups {
        let router = |value: fn(&Record) -> f64| group.mean(|run| value(&run.last_tenth()));
        let pairs = group.runs.iter().zip(&first.runs);
        let difference = match group.label == first.label {
            true => "–".into(),
            false => format!(
                "{:+.3}",
                Spread::of(pairs.map(|(a, b)| a.held_out - b.held_out))
            ),
        };
        let _ = writeln!(
            table,
            "| {} | {:.3} | {:.3} | {difference} | {:.2} | {:.2} | {:.2} % | {:.2} |",
            group.label,
            group.spread(|run| run.held_out),
            group.mean(|run| run.held_out) / std::f64::consts::LN_2,
            router(|r| r.router.expert_imbalance),
            router(|r| r.router.group_imbalance),
            100.0 * router(|r| r.router.dropped_share),
            speed(group) / speed(first),
        );
    }
    table
}

/// Mean weight of each slot early, later and late in training, as a Markdown table.
pub fn maturation(groups: &[Group<'_>]) -> String {
    let mut table = String::from(
        "| variant | of training | first slot's share | mean weight of each slot, first choice first |\n|---|---|---|---|\n",
    );
    for group in groups {
        for percent in [5, 25, 75] {
            let at = |run: &Run| run.record_at(f64::from(percent) / 100.0).router.clone();
            let slots = 0..at(group.runs[0]).slot_weights.len();
            let weights =
                slots.map(|k| format!("{:.3}", group.mean(|run| at(run).slot_weights[k])));
            let weights: Vec<String> = weights.collect();
            let share = group.mean(|run| at(run).top1_share);
            let _ = writeln!(
                table,
                "| {} | {percent} % | {share:.3} | {} |",
                group.label,
                weights.join(" ")
            );
        }
    }
    table
}

/// First line of the CSV file.
pub const CSV_HEADER: &str = "variant,seed,step,tokens,train_loss,held_out_loss,aux_loss,z_loss,gradient_norm,\
                              expert_imbalance,group_imbalance,dropped_share,top1_share,router_entropy,slot_weights\n";

/// A record as a line of the CSV file.
pub fn csv_row(label: &str, seed: u64, record: &Record) -> String {
    let router = &record.router;
    let held_out = record.held_out.map(|loss| format!("{loss:.5}"));
    let slots: Vec<String> = router
        .slot_weights
        .iter()
        .map(|w| format!("{w:.5}"))
        .collect();
    format!(
        "\"{label}\",{seed},{},{},{:.5},{},{:.6},{:.6},{:.4},{:.4},{:.4},{:.6},{:.5},{:.4},{}\n",
        record.step,
        record.tokens,
        record.losses.cross_entropy,
        held_out.unwrap_or_default(),
        record.losses.aux,
        record.losses.z,
        record.gradient_norm,
        router.expert_imbalance,
        router.group_imbalance,
        router.dropped_share,
        router.top1_share,
        router.entropy,
        slots.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_known_values() {
        let spread = Spread::of([1.0, 2.0, 3.0].into_iter());
        assert_eq!(format!("{spread:.2}"), "2.00 ± 1.00");
        assert_eq!(format!("{:+.1}", Spread::of([0.5].into_iter())), "+0.5");
    }
}
