//! The block of docs/benchmarks.md that `cargo xtask report` writes: what the records say, and what the model makes of it.

use std::fmt::Write;

use super::model::{GPUS, Gpu, KEEPS, Modelled, PUBLISHED, Peer};
use super::plots::Bars;
use super::records::{Count, Records, Saved, Sizes};

/// Markdown, and the plots that it refers to.
#[derive(Default)]
pub(super) struct Page {
    pub(super) text: String,
    pub(super) plots: Vec<(&'static str, Bars)>,
}

/// Everything that the records have something for.
pub(super) fn page(records: &Records) -> Page {
    let mut page = Page::default();
    let date = records.date.as_deref().unwrap_or("an unknown day");
    page.line(&format!(
        "Made on {date} by `cargo xtask report`. Counts are the emulator's (kernels for sm_80, emulated A100, bf16); modelled times \
         are a model's; no time of a GPU is among them unless a table says *measured on*."
    ));
    counted(&mut page, records);
    saved(&mut page, records);
    modelled(&mut page, records);
    misfit(&mut page);
    granularity(&mut page, records);
    layer_on_cpu(&mut page, records);
    torch(&mut page, records);
    gpu(&mut page, records);
    if !records.left_out.is_empty() {
        page.heading("Left out");
        for reason in &records.left_out {
            page.text += &format!("- {reason}\n");
        }
        page.text += "\n";
    }
    page
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text += &wrapped(text);
        self.text += "\n\n";
    }

    fn heading(&mut self, text: &str) {
        self.text += &format!("### {text}\n\n");
    }

    fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let row = |cells: &mut dyn Iterator<Item = &str>| {
            let cells: Vec<_> = cells.collect();
            format!("| {} |\n", cells.join(" | "))
        };
        self.text += &row(&mut head.iter().copied());
        self.text += &format!("|{}\n", "---|".repeat(head.len()));
        for cells in rows {
            self.text += &row(&mut cells.iter().map(String::as_str));
        }
        self.text += "\n";
    }

    fn plot(&mut self, name: &'static str, caption: &str, bars: Bars) {
        self.text += &format!("![{caption}](report/{name}.svg)\n\n");
        self.plots.push((name, bars));
    }
}

/// Lines of at most 140 columns.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one");
        match last.chars().count() + word.chars().count() {
            0..=138 if !last.is_empty() => write!(last, " {word}").expect("a string"),
            _ if last.is_empty() => last.push_str(word),
            _ => lines.push(word.into()),
        }
    }
    lines.join("\n")
}

/// With three digits.
fn significant(value: f64) -> String {
    let digits = match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

/// A median and its bounds.
fn interval(values: [f64; 3]) -> String {
    let [median, low, high] = values.map(significant);
    format!("{median} ({low} to {high})")
}

fn counted(page: &mut Page, records: &Records) {
    let counts: Vec<&Count> = records
        .counts
        .iter()
        .filter(|count| count.subject.bench != "layer" && count.subject.dtype == "bf16")
        .collect();
    let Some(case) = counts.first().map(|count| count.subject.case.clone()) else {
        return;
    };
    page.heading("Counted: bytes, FLOPs and launches of each operation");
    page.line(
        "*Bytes over floor*: what passes between memory and the model of L2, over the fewest bytes that the operation must move. *FLOPs \
         issued over useful*: those of tensor instructions, padding of tiles included, over those of the rows.",
    );
    let ratio = |value: f64, of: f64| match value > 0.0 && of > 0.0 {
        true => format!("{:.3}", value / of),
        false => "–".into(),
    };
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for count in &counts {
        let kernels: Vec<_> = count
            .launches
            .iter()
            .map(|launch| launch.kernel.as_str())
            .collect();
        let name = format!("{} {}", count.subject.bench, count.subject.operation);
        rows.push(vec![
            count.subject.case.clone(),
            name.clone(),
            kernels.join(", "),
            count.launches.len().to_string(),
            format!("{:.2}", count.bytes / 1e6),
            ratio(count.memory(), count.bytes),
            ratio(count.tensor_flops(), count.flops),
        ]);
        if count.subject.case == case {
            bars.push((name, vec![count.memory() / count.bytes]));
        }
        if count.launches.len() > 1 {
            for (i, (launch, [flops, bytes, rewritten])) in
                count.launches.iter().zip(&count.works).enumerate()
            {
                rows.push(vec![
                    String::new(),
                    format!("— launch {}", i + 1),
                    launch.kernel.clone(),
                    String::new(),
                    format!("{:.2}", bytes / 1e6),
                    ratio(launch.memory + rewritten, *bytes),
                    ratio(launch.tensor_flops, *flops),
                ]);
            }
        }
    }
    page.table(
        &[
            "case",
            "operation",
            "kernels",
            "launches",
            "floor, MB",
            "bytes over floor",
            "FLOPs issued over useful",
        ],
        &rows,
    );
    page.plot(
        "counted",
        "Bytes over the floor of each operation",
        Bars {
            title: format!("Counted bytes over the floor, {case}"),
            axis: "bytes between memory and L2, over the fewest possible".into(),
            series: vec!["millet, emulated A100".into()],
            groups: bars,
            reference: Some(1.0),
        },
    );
}

/// The shape, as published shapes are written.
fn shape([tokens, hidden, inner, experts, top_k]: [f64; 5]) -> String {
    format!("T={tokens} H={hidden} I={inner} E={experts} K={top_k}")
}

fn shape_of(sizes: &Sizes) -> String {
    shape([
        sizes.tokens,
        sizes.hidden,
        sizes.inner,
        sizes.experts,
        sizes.top_k,
    ])
}

fn saved(page: &mut Page, records: &Records) {
    if records.saved.is_empty() {
        return;
    }
    page.heading("Saved bytes per token, bf16");
    let mut text = String::from(
        "millet: what `MoeLayer::saved_bytes` says with `Keep::Hidden`. The others: formulas from the code \
         of each, kB of one token between forward and backward, x included where it is kept. ",
    );
    for keeps in &KEEPS {
        write!(
            text,
            "{}: {} ({}). ",
            keeps.name, keeps.formula, keeps.source
        )
        .expect("a string");
    }
    page.line(&text);
    let kilobytes = |saved: &Saved| {
        let sizes = &saved.sizes;
        let mut all = vec![saved.bytes / sizes.tokens];
        all.extend(
            KEEPS
                .iter()
                .map(|keeps| (keeps.per_token)(sizes.hidden, sizes.inner, sizes.top_k)),
        );
        all.into_iter().map(|bytes| bytes / 1e3).collect::<Vec<_>>()
    };
    let mut head = vec!["case", "shape", "millet, kB"];
    head.extend(KEEPS.iter().map(|keeps| keeps.name));
    let rows: Vec<Vec<String>> = records
        .saved
        .iter()
        .map(|saved| {
            let mut cells = vec![saved.case.clone(), shape_of(&saved.sizes)];
            cells.extend(kilobytes(saved).iter().map(|value| format!("{value:.1}")));
            cells
        })
        .collect();
    page.table(&head, &rows);
    let mut series = vec!["millet".to_owned()];
    series.extend(KEEPS.iter().map(|keeps| keeps.name.to_owned()));
    let of_sonic = records
        .saved
        .iter()
        .filter(|saved| saved.case.starts_with("sonic"));
    let mut groups: Vec<_> = of_sonic
        .map(|saved| (saved.case.clone(), kilobytes(saved)))
        .collect();
    if groups.is_empty() {
        groups = records
            .saved
            .iter()
            .map(|saved| (saved.case.clone(), kilobytes(saved)))
            .collect();
    }
    page.plot(
        "saved",
        "Saved bytes per token",
        Bars {
            title: "Saved from forward to backward, bf16".into(),
            axis: "kB per token".into(),
            series,
            groups,
            reference: None,
        },
    );
}

/// Which part most of the time is.
fn bound(modelled: &Modelled) -> String {
    let parts = [
        (modelled.tensor, "tensor"),
        (modelled.memory, "memory"),
        (modelled.l2, "L2"),
    ];
    let (most, name) = parts
        .into_iter()
        .fold((0.0, "–"), |a, b| if b.0 > a.0 { b } else { a });
    format!("{name} {:.0} %", 100.0 * most / modelled.total())
}

fn modelled(page: &mut Page, records: &Records) {
    let counts: Vec<_> = records
        .counts
        .iter()
        .filter(|count| count.subject.bench == "layer" && count.subject.dtype == "bf16")
        .filter(|count| ["forward", "backward"].contains(&count.subject.operation.as_str()))
        .collect();
    if counts.is_empty() {
        return;
    }
    page.heading("Modelled: the layer on three GPUs");
    let mut text = String::from(
        "A model, not a measurement: the sum over launches of the largest of FLOPs issued over the rate of the tensor cores, bytes over \
         the bandwidth of memory, and bytes between multiprocessors and L2 over its bandwidth. It is an estimate, and no bound: launches, \
         tails and latency are not in it, but every launch is counted with an empty L2, of 40 MiB whatever the GPU. Where a case was \
         counted with T and E divided by a factor, its counts are multiplied by it: rows per expert, and so tiles, are the same. Then the \
         router's logits and their gradient, which grow with T·E, are too small by that factor, and x and the weights of the smaller case \
         fit L2 more easily. The kernels are those for sm_80, which cannot reach the H200's rate. ",
    );
    for gpu in &GPUS {
        write!(text, "{}: {}. ", gpu.name, gpu.source).expect("a string");
    }
    page.line(&text);
    let mut head = vec!["case", "operation", "counted at"];
    let names: Vec<_> = GPUS
        .iter()
        .flat_map(|gpu| [format!("{}, ms", gpu.name), "largest share".to_owned()])
        .collect();
    head.extend(names.iter().map(String::as_str));
    let rows: Vec<_> = counts
        .iter()
        .map(|count| {
            let mut cells = vec![
                format!("{}: {}", count.subject.case, shape_of(&count.whole)),
                count.subject.operation.clone(),
                format!("T={}, E={}", count.ran.tokens, count.ran.experts),
            ];
            for gpu in &GPUS {
                let modelled = Modelled::of(count, gpu);
                cells.push(significant(1e3 * modelled.total()));
                cells.push(bound(&modelled));
            }
            cells
        })
        .collect();
    page.table(&head, &rows);
}

fn misfit(page: &mut Page) {
    page.heading("Misfit: published H100 times over the model");
    page.line(
        "Published: rates of SonicMoE and ScatterMoE on an H100 in bf16, arXiv 2512.14080, figure 14, read from the bars to ±5 TFLOP/s. \
         Modelled: the kernels of their code by the same method, at the H100's datasheet (989.5 TFLOP/s, 3.35 TB/s), with bytes by \
         formula, each tensor moved once: nobody counted theirs, so L2 is left out, as are router and sort. It shows how far the method \
         is from real layers of others, not how far these kernels are. A ratio of 2: the real layer takes twice as long as modelled.",
    );
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    let mut logarithms = [0.0; 4];
    for shape_published in &PUBLISHED {
        let mut cells = vec![shape(shape_published.sizes)];
        let mut ratios = Vec::new();
        for peer in [Peer::Sonic, Peer::Scatter] {
            let real = shape_published.seconds(peer);
            let modelled = shape_published.modelled(peer);
            for (real, modelled) in real.into_iter().zip(modelled) {
                ratios.push(real / modelled);
                cells.push(format!(
                    "{:.2} / {:.2} = {:.2}",
                    1e3 * real,
                    1e3 * modelled,
                    real / modelled
                ));
            }
        }
        for (sum, ratio) in logarithms.iter_mut().zip(&ratios) {
            *sum += ratio.ln();
        }
        rows.push(cells);
        let [tokens, hidden, inner, experts, _] = shape_published.sizes;
        groups.push((
            format!("T={tokens} H={hidden} I={inner} E={experts}"),
            ratios,
        ));
    }
    let mut mean = vec!["geometric mean of the ratios".to_owned()];
    mean.extend(logarithms.map(|sum| format!("{:.2}", (sum / PUBLISHED.len() as f64).exp())));
    rows.push(mean);
    let series = [
        "SonicMoE forward",
        "SonicMoE backward",
        "ScatterMoE forward",
        "ScatterMoE backward",
    ];
    let mut head = vec!["shape".to_owned()];
    head.extend(series.map(|name| format!("{name}, ms")));
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    page.table(&head, &rows);
    page.plot(
        "misfit",
        "Published time over modelled time",
        Bars {
            title: "Published H100 time over the model's".into(),
            axis: "published time / modelled time".into(),
            series: series.map(String::from).into(),
            groups,
            reference: Some(1.0),
        },
    );
}

/// One expert of full width against eight of an eighth of it, at equal FLOPs.
fn granularity(page: &mut Page, records: &Records) {
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    for flops in ["1xFLOPs", "2xFLOPs"] {
        let cases = ["G1", "G8"].map(|g| format!("{flops}-{g}-H256"));
        for step in ["forward", "forward + backward"] {
            let operations: &[&str] = match step {
                "forward" => &["forward"],
                _ => &["forward", "backward"],
            };
            let sum = |of: &dyn Fn(&str, &str) -> Option<f64>| -> Option<f64> {
                let of_case = |case: &str| -> Option<f64> {
                    operations.iter().map(|operation| of(case, operation)).sum()
                };
                Some(of_case(&cases[1])? / of_case(&cases[0])?)
            };
            // What is multiplied misses some of the routing: no ratio of one that is and one that is not.
            let alike = |operation: &&str| {
                let [one, eight] =
                    [0, 1].map(|i| Some(records.count("layer", &cases[i], operation)?.scale()));
                one == eight
            };
            let comparable = operations.iter().all(alike);
            let count = |case: &str, operation: &str| {
                records
                    .count("layer", case, operation)
                    .filter(|_| comparable)
            };
            let on = |gpu: &Gpu| {
                sum(&|case, operation| Some(Modelled::of(count(case, operation)?, gpu).total()))
            };
            let mut ratios = vec![
                sum(&|case, operation| {
                    Some(records.time("layer", case, "cpu", operation)?.median())
                }),
                sum(&|case, operation| {
                    count(case, operation).map(|count| count.scale() * count.memory())
                }),
            ];
            ratios.extend(GPUS.iter().map(on));
            if ratios.iter().all(Option::is_none) {
                continue;
            }
            let mut cells = vec![flops.to_owned(), step.to_owned()];
            cells.extend(
                ratios
                    .iter()
                    .map(|ratio| ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"))),
            );
            rows.push(cells);
            let values = ratios
                .iter()
                .map(|ratio| ratio.unwrap_or(f64::NAN))
                .collect();
            groups.push((format!("{flops} {step}"), values));
        }
    }
    if rows.is_empty() {
        return;
    }
    page.heading("G=8 against G=1 at equal FLOPs");
    page.line(
        "The systems of arXiv 2506.02890 at H=256, d_ff=1024, T=4096: eight times as many experts of an eighth of the width, eight times \
         as many per token. Each figure is that of G=8 over that of G=1: times of the CPU (f32), counted bytes of memory, modelled times.",
    );
    let mut series = vec!["CPU time".to_owned(), "counted bytes".to_owned()];
    series.extend(GPUS.iter().map(|gpu| format!("{}, modelled", gpu.name)));
    let mut head = vec!["FLOPs", "step"];
    head.extend(series.iter().map(String::as_str));
    page.table(&head, &rows);
    page.plot(
        "granularity",
        "G=8 over G=1",
        Bars {
            title: "G=8 over G=1 at equal FLOPs".into(),
            axis: "G=8 / G=1".into(),
            series,
            groups,
            reference: Some(1.0),
        },
    );
}

fn layer_on_cpu(page: &mut Page, records: &Records) {
    let sizes = "2048x2048x2048";
    let products = ["before", "after"].map(|when| records.time("product", sizes, "cpu", when));
    let [Some(before), Some(after)] = products else {
        return;
    };
    let rate = 2.0 * before.flops / (before.median() + after.median());
    let mut rows = Vec::new();
    for time in &records.times {
        let subject = &time.subject;
        if [subject.bench.as_str(), &subject.backend, &subject.operation]
            != ["layer", "cpu", "forward"]
        {
            continue;
        }
        let of = |operation| records.time("layer", &subject.case, "cpu", operation);
        let Some(backward) = of("backward") else {
            continue;
        };
        let both = time.median() + backward.median();
        let routing = of("routing").map_or("–".into(), |routing| {
            format!("{:.1} %", 100.0 * routing.median() / both)
        });
        rows.push(vec![
            subject.case.clone(),
            format!("{:.0} %", 100.0 * time.flops / time.median() / rate),
            format!(
                "{:.0} %",
                100.0 * (time.flops + backward.flops) / both / rate
            ),
            routing,
        ]);
    }
    if rows.is_empty() {
        return;
    }
    page.heading("The layer on the CPU against one large product");
    page.line(&format!(
        "{}, f32. The experts' FLOPs per second over those of one 2048³ product of `gemm-f32` on the same cores, timed before and after \
         ({:.0} and {:.0} GFLOP/s); routing is the router forward and backward, its weight gradient and dispatch. Medians; ratios, because \
         the machine shares its cores.",
        before.device,
        before.flops / before.median() / 1e9,
        after.flops / after.median() / 1e9
    ));
    page.table(
        &[
            "case",
            "forward",
            "forward + backward",
            "routing, share of the time",
        ],
        &rows,
    );
}

fn torch(page: &mut Page, records: &Records) {
    let mut rows = Vec::new();
    let mut what = None;
    for theirs in &records.times {
        let subject = &theirs.subject;
        if [subject.bench.as_str(), &subject.backend] != ["torch", "torch-cpu"] {
            continue;
        }
        let ours = records.times.iter().find(|ours| {
            let mut wanted = subject.clone();
            wanted.backend = "cpu".into();
            ours.subject == wanted && ours.device == theirs.device
        });
        let Some(ours) = ours else { continue };
        what.get_or_insert((theirs.conditions.clone(), theirs.device.clone()));
        let step = match subject.operation.as_str() {
            "both" => "forward + backward",
            other => other,
        };
        let time =
            |time: &super::records::Time| interval(time.seconds.map(|seconds| 1e3 * seconds));
        rows.push(vec![
            subject.case.clone(),
            subject.dtype.clone(),
            step.into(),
            time(ours),
            time(theirs),
            theirs.ratio.map_or("–".into(), interval),
        ]);
    }
    let Some((version, device)) = what else {
        return;
    };
    page.heading("The CPU layer against PyTorch's grouped_mm");
    page.line(&format!(
        "{version}, {device}: the same values, cores and type; softmax top-k routing, sort, gather, \
         `torch.nn.functional.grouped_mm` twice, SwiGLU, index_add and autograd, without losses \
         ([grouped_mm.py](../benches/grouped_mm.py)). Outputs and all gradients agree first. Then the two take turns; \
         medians with their bounds. PyTorch allocates its tensors anew in every step; this layer writes to what the caller holds."
    ));
    page.table(
        &[
            "case",
            "type",
            "step",
            "millet, ms",
            "PyTorch, ms",
            "PyTorch / millet in a turn",
        ],
        &rows,
    );
}

fn gpu(page: &mut Page, records: &Records) {
    let times: Vec<_> = records
        .times
        .iter()
        .filter(|time| time.subject.backend == "cuda")
        .collect();
    if times.is_empty() {
        return;
    }
    page.heading("Times on GPUs");
    let rows: Vec<_> = times
        .iter()
        .map(|time| {
            let subject = &time.subject;
            let rate = |amount: f64| match amount > 0.0 {
                true => format!("{:.2}", amount / time.median() / 1e12),
                false => "–".into(),
            };
            let gpu = GPUS.iter().find(|gpu| gpu.device == time.device);
            let count = records.count(&subject.bench, &subject.case, &subject.operation);
            let over = gpu
                .zip(count.filter(|count| count.subject.dtype == subject.dtype))
                .map(|(gpu, count)| Modelled::of(count, gpu).total());
            vec![
                time.device.clone(),
                format!("{}/{}/{}", subject.bench, subject.case, subject.operation),
                subject.dtype.clone(),
                interval(time.seconds.map(|seconds| 1e6 * seconds)),
                rate(time.flops),
                rate(time.bytes),
                over.map_or("–".into(), |modelled| {
                    format!("{:.2}", time.median() / modelled)
                }),
            ]
        })
        .collect();
    page.table(
        &[
            "measured on",
            "operation",
            "type",
            "time, µs",
            "TFLOP/s",
            "TB/s of the least bytes",
            "measured / modelled",
        ],
        &rows,
    );
}
