//! Layers to measure or count, by name, each with its source, and the inputs that give them their routing.
//!
//! | set | cases |
//! |---|---|
//! | `tiny` | two that take no time, for tests: one with the biases and the activation of GPT-OSS |
//! | `small` | one layer of about a second on two cores, evenly loaded, skewed, and with few tokens |
//! | `systems` | the four systems of arXiv 2506.02890 at an equal small width |
//! | `systems-11b` | the same at the widths of the paper's smaller models |
//! | `sonic` | the twelve of SonicMoE (arXiv 2512.14080) |
//! | `models` | layers of public models, at 4096 and 32768 tokens |
//! | `skew` | one layer under Zipf's law, with one hot expert, and with half of the experts empty |
//! | `few` | the same layer with 1 to 256 tokens |
//! | `counted-experts`, `counted-routing` | those whose counts are in docs/kernels.md |
//!
//! ```
//! use millet_testing::cases;
//!
//! let few = cases::select("few")?;
//! assert_eq!(few[0].name, "Qwen3-30B-A3B-T1");
//! assert_eq!((few[0].tokens, few[0].config.num_experts()), (1, 128));
//! // A part of a name will do, in upper or lower case.
//! assert_eq!(cases::select("olmoe-1b-7b-t4096,deepseek")?.len(), 3);
//! # Ok::<(), cases::UnknownCase>(())
//! ```

use millet::presets::{self, ModelSize, Preset, System};
use millet::{Activation, Capacity, Element, ExpertBias, Losses, MoeConfig, MoeConfigBuilder};

use crate::generate::Rng;
use crate::harness;

/// A layer, a number of tokens and a routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Unique.
    pub name: String,
    /// Where sizes and tokens come from.
    pub source: String,
    /// The layer.
    pub config: MoeConfig,
    /// T.
    pub tokens: usize,
    /// Which experts the tokens prefer.
    pub load: Load,
    sets: Vec<&'static str>,
}

/// Which experts the tokens prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// None: loads differ by chance.
    Even,
    /// Expert e in proportion to 1/(e + 1).
    Zipf,
    /// Expert 0 is among the K of every token; the others alike.
    HotExpert,
    /// The second half of the experts gets nothing.
    EmptyExperts,
}

impl Load {
    /// What is added to the logit of expert `expert` of `experts`: the logarithm of its weight in the draw.
    pub fn logit(self, expert: usize, experts: usize) -> f64 {
        match self {
            Self::Even => 0.0,
            Self::Zipf => -((expert + 1) as f64).ln(),
            // Ten times the standard deviation of the difference of two logits.
            Self::HotExpert if expert == 0 => 18.0,
            Self::EmptyExperts if 2 * expert >= experts => -18.0,
            Self::HotExpert | Self::EmptyExperts => 0.0,
        }
    }
}

impl Case {
    fn new(name: impl Into<String>, source: &str, config: MoeConfig, tokens: usize) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            config,
            tokens,
            load: Load::Even,
            sets: Vec::new(),
        }
    }

    /// A preset with some number of tokens, which its name then ends with, and with the losses of a training run.
    fn preset(preset: &Preset, tokens: usize) -> Self {
        let name = format!("{}-T{tokens}", preset.name);
        let caveat = preset.caveat.map(|caveat| format!("; {caveat}"));
        let source = format!("{}{}", preset.source, caveat.unwrap_or_default());
        let config = builder(&preset.config, sizes(&preset.config)).losses(losses());
        let config = config.build().expect("a preset's layer with losses");
        Self::new(name, &source, config, tokens)
    }

    fn within(mut self, set: &'static str) -> Self {
        self.sets.push(set);
        self
    }

    /// The same under another load.
    fn loaded(mut self, load: Load, suffix: &str) -> Self {
        self.load = load;
        self.name = format!("{}-{suffix}", self.name);
        self
    }

    /// The sets that it is in.
    pub fn sets(&self) -> &[&'static str] {
        &self.sets
    }

    /// T, H, I, E and K.
    pub fn sizes(&self) -> [usize; 5] {
        let config = &self.config;
        [
            self.tokens,
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
            config.top_k(),
        ]
    }

    /// T and E divided by the same power of two, so that an expert has as many rows on average and a kernel as much to do for one;
    /// E stays at least 2·K and 16. Selection by groups is left out. What an interpreter of the kernels can run.
    pub fn with_fewer_experts(&self) -> Self {
        let [mut tokens, hidden, inner, mut experts, top_k] = self.sizes();
        while experts % 2 == 0 && experts / 2 >= 16.max(2 * top_k) && tokens % 2 == 0 {
            (tokens, experts) = (tokens / 2, experts / 2);
        }
        let builder = builder(&self.config, [hidden, inner, experts]).losses(*self.config.losses());
        Self {
            config: builder.build().expect("a valid layer with fewer experts"),
            tokens,
            ..self.clone()
        }
    }

    /// A case that makes the same choices at sizes that take no time: whether a backend can do them.
    pub fn shrunk(&self) -> Self {
        let builder = builder(&self.config, [64, 64, 2 * self.config.top_k()]);
        let config = builder.losses(*self.config.losses()).build();
        Self {
            config: config.expect("valid at other sizes too"),
            tokens: 16,
            ..self.clone()
        }
    }

    /// The same sizes and load in a layer that has the defaults of everything else; none if they do not go with its K.
    pub fn plain(&self) -> Option<Self> {
        let [_, hidden, inner, experts, top_k] = self.sizes();
        let config = MoeConfig::builder(hidden, inner, experts, top_k).build();
        Some(Self {
            config: config.ok()?,
            ..self.clone()
        })
    }

    /// The same with a capacity factor.
    pub fn with_capacity(&self, factor: f64) -> Self {
        let config = builder(&self.config, sizes(&self.config))
            .losses(*self.config.losses())
            .capacity(Capacity::new(factor));
        Self {
            config: config.build().expect("a valid layer with a capacity"),
            ..self.clone()
        }
    }

    /// x \[T, H\] and the router's weight \[E, H\], which give the case its load: the first column of x is 1, that of the weight holds
    /// [`Load::logit`], and the rest makes logits as wide as Gumbel's distribution, so that the K largest are a draw by weight.
    pub fn tokens_and_router<T: Element>(&self, seed: u64) -> (Vec<T>, Vec<T>) {
        let [tokens, hidden, _, experts, _] = self.sizes();
        let mut x = values::<T>(tokens * hidden, 1.0, seed);
        let spread = std::f64::consts::PI / 6f64.sqrt();
        let scale = spread / (hidden as f64).sqrt();
        let mut router = values::<T>(experts * hidden, scale, seed + 1);
        let one = harness::narrow(&[1.0])[0];
        for token in x.chunks_mut(hidden) {
            token[0] = one;
        }
        for (expert, row) in router.chunks_mut(hidden).enumerate() {
            row[0] = harness::narrow(&[self.load.logit(expert, experts)])[0];
        }
        (x, router)
    }
}

/// Coefficients of arXiv 2506.02890.
fn losses() -> Losses {
    Losses::new(1e-2, 1e-3)
}

/// H, I and E.
fn sizes(config: &MoeConfig) -> [usize; 3] {
    [
        config.hidden_size(),
        config.intermediate_size(),
        config.num_experts(),
    ]
}

/// The layer at other sizes, without losses; with another number of experts also without groups.
fn builder(config: &MoeConfig, [hidden, inner, experts]: [usize; 3]) -> MoeConfigBuilder {
    let router = config.router();
    let builder = MoeConfig::builder(hidden, inner, experts, config.top_k())
        .score_function(router.score_function())
        .single_expert(router.single_expert())
        .scaling_factor(router.scaling_factor())
        .activation(config.activation())
        .expert_bias(config.expert_bias());
    let builder = match router.groups() {
        Some(groups) if experts == config.num_experts() => builder.groups(groups),
        _ => builder,
    };
    match config.capacity() {
        Some(&capacity) => builder.capacity(capacity),
        None => builder,
    }
}

/// `len` numbers of mean 0 and standard deviation `scale`. Beyond a million they repeat, at a distance that no row has.
pub fn values<T: Element>(len: usize, scale: f64, seed: u64) -> Vec<T> {
    // A prime.
    const PERIOD: usize = (1 << 20) - 3;
    let period: Vec<T> = harness::narrow(&Rng::new(seed).normals(len.min(PERIOD), scale));
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        let more = period.len().min(len - all.len());
        all.extend_from_slice(&period[..more]);
    }
    all
}

/// Nothing has the name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCase {
    /// Name given.
    pub given: String,
    /// Sets and cases that there are.
    pub names: Vec<String>,
}

impl std::fmt::Display for UnknownCase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.names.join(", ");
        write!(
            f,
            "no set or case is named `{}`; there are {names}",
            self.given
        )
    }
}

impl std::error::Error for UnknownCase {}

/// The cases of a list that commas separate: sets by their names, cases by their names or any part of them, upper and lower case
/// being the same; `all` is every case. Each comes once, in the order of [`all`].
///
/// # Errors
/// When a name finds nothing.
pub fn select(list: &str) -> Result<Vec<Case>, UnknownCase> {
    let all = all();
    let wanted: Vec<String> = list
        .split(',')
        .map(|name| name.trim().to_lowercase())
        .collect();
    let is_set = |name: &str| all.iter().any(|case| case.sets.contains(&name));
    let is_case = |name: &str| all.iter().any(|case| case.name.eq_ignore_ascii_case(name));
    let is = |case: &Case, name: &str| match name {
        "all" => true,
        _ if is_set(name) => case.sets.contains(&name),
        _ if is_case(name) => case.name.eq_ignore_ascii_case(name),
        _ => case.name.to_lowercase().contains(name),
    };
    if let Some(given) = wanted
        .iter()
        .find(|name| !all.iter().any(|case| is(case, name)))
    {
        let mut names: Vec<String> = Vec::new();
        for set in all.iter().flat_map(|case| case.sets.iter().copied()) {
            if !names.iter().any(|name| name == set) {
                names.push(set.into());
            }
        }
        names.extend(all.iter().map(|case| case.name.clone()));
        let given = given.clone();
        return Err(UnknownCase { given, names });
    }
    let found = |case: &Case| wanted.iter().any(|name| is(case, name));
    Ok(all.iter().filter(|case| found(case)).cloned().collect())
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut all = small();
    all.extend(systems());
    all.extend(presets::sonic_moe().map(sonic));
    for name in MODELS {
        let preset = presets::by_name(name).expect("a preset's name");
        all.extend([4096, 32768].map(|tokens| Case::preset(&preset, tokens).within("models")));
    }
    all.extend(skewed_and_few());
    for case in &mut all {
        for (set, names) in COUNTED {
            if names.contains(&case.name.as_str()) {
                case.sets.push(set);
            }
        }
    }
    all
}

const MODELS: [&str; 6] = [
    "OLMoE-1B-7B",
    "Granite-3.0-1B-A400M",
    "Qwen3-30B-A3B",
    "Qwen3-Next-80B-A3B",
    "GPT-OSS-20B",
    "DeepSeek-V3",
];

/// Those whose counts are in docs/kernels.md.
const COUNTED: [(&str, &[&str]); 2] = [
    (
        "counted-experts",
        &[
            "OLMoE-1B-7B-T4096",
            "Qwen3-30B-A3B-T4096",
            "Granite-3.0-1B-A400M-T4096",
            "sonic-h1536-i256-e128",
            "Qwen3-30B-A3B-T1024",
        ],
    ),
    (
        "counted-routing",
        &["Qwen3-30B-A3B-T8192", "Qwen3-Next-80B-A3B-T8192"],
    ),
];

/// Layers of our own, for machines without a GPU.
fn small() -> Vec<Case> {
    let sized = |[hidden, inner, experts, top_k]: [usize; 4]| {
        MoeConfig::builder(hidden, inner, experts, top_k).losses(losses())
    };
    let layer = |name, source, [tokens, hidden, inner, experts, top_k]: [usize; 5]| {
        let config = sized([hidden, inner, experts, top_k]).build();
        Case::new(name, source, config.expect("valid"), tokens)
    };
    let source = "ours: fine-grained, about a second forward and backward on two cores";
    let small = layer("small", source, [4096, 512, 256, 64, 8]).within("small");
    let few = layer("small-T16", source, [16, 512, 256, 64, 8]).within("small");
    let source = "ours: the least that has several tiles and an expert with few rows";
    let biased = sized([64, 64, 8, 2])
        .activation(Activation::GPT_OSS)
        .expert_bias(ExpertBias::GateUpAndDown)
        .build();
    vec![
        layer("tiny", source, [96, 64, 64, 8, 2]).within("tiny"),
        Case::new("tiny-biased", source, biased.expect("valid"), 96).within("tiny"),
        small.clone(),
        small.clone().loaded(Load::Zipf, "zipf"),
        small.clone().loaded(Load::HotExpert, "hot"),
        small.loaded(Load::EmptyExperts, "empty"),
        few,
    ]
}

/// The four systems, which differ in granularity and in active experts only.
fn systems() -> Vec<Case> {
    let mut all = Vec::new();
    for system in System::ALL {
        let source = "arXiv 2506.02890 at an eighth of the width of its 11B models; tokens ours";
        let builder = system.layer(256, 1024).expect("8 divides the width");
        let config = builder.build().expect("valid");
        let name = format!("{}-H256", system.name());
        all.push(Case::new(name, source, config, 4096).within("systems"));
    }
    for system in System::ALL {
        let preset = system.preset(ModelSize::B11);
        all.push(Case::preset(&preset, 16384).within("systems-11b"));
    }
    all
}

fn sonic(preset: Preset) -> Case {
    let tokens = preset.tokens.expect("SonicMoE's shapes have tokens");
    let config = preset.config.clone();
    Case::new(preset.name, preset.source, config, tokens).within("sonic")
}

/// One layer of many small experts, where skew and few tokens tell most.
fn skewed_and_few() -> Vec<Case> {
    let preset = presets::by_name("Qwen3-30B-A3B").expect("a preset's name");
    let of = |tokens| Case::preset(&preset, tokens);
    let mut all = vec![
        of(16384).within("skew"),
        of(16384).loaded(Load::Zipf, "zipf").within("skew"),
        of(16384).loaded(Load::HotExpert, "hot").within("skew"),
        of(16384).loaded(Load::EmptyExperts, "empty").within("skew"),
    ];
    all.extend([1, 2, 4, 8, 16, 32, 64, 128, 256].map(|tokens| of(tokens).within("few")));
    let next = presets::by_name("Qwen3-Next-80B-A3B").expect("a preset's name");
    all.extend([of(1024), of(8192), Case::preset(&next, 8192)]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{self, Tensor};
    use millet::{Cpu, Logits, Router, RouterForward, stats_elements};

    #[test]
    fn every_case_is_found_by_its_name_and_has_a_set() {
        let all = all();
        for case in &all {
            let same: Vec<_> = all.iter().filter(|other| other.name == case.name).collect();
            assert_eq!(same.len(), 1, "{}", case.name);
            // A set goes before a case of its name.
            let name = case.name.as_str();
            if !all.iter().any(|case| case.sets.contains(&name)) {
                assert_eq!(select(name).unwrap(), std::slice::from_ref(case));
            }
            assert!(
                !case.sets().is_empty() && !case.source.is_empty(),
                "{}",
                case.name
            );
        }
        let sizes = |list| select(list).unwrap().len();
        assert_eq!(sizes("all"), all.len());
        assert_eq!((sizes("sonic"), sizes("models"), sizes("few")), (12, 12, 9));
        assert_eq!((sizes("small"), sizes("systems"), sizes("skew")), (5, 4, 4));
        assert_eq!((sizes("counted-experts"), sizes("counted-routing")), (5, 2));
    }

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let error = select("few,no such").unwrap_err();
        assert_eq!(error.given, "no such");
        let text = error.to_string();
        assert!(
            text.contains("systems-11b") && text.contains("DeepSeek-V3-T4096"),
            "{text}"
        );
    }

    #[test]
    fn fewer_experts_have_as_many_rows() {
        for case in all() {
            let scaled = case.with_fewer_experts();
            let rows = |case: &Case| case.config.mean_rows_per_expert(case.tokens);
            assert_eq!(rows(&scaled), rows(&case), "{}", case.name);
            assert!(scaled.config.num_experts() >= 16.min(case.config.num_experts()));
        }
        let [tokens, _, _, experts, _] = select("OLMoE-1B-7B-T4096").unwrap()[0]
            .with_fewer_experts()
            .sizes();
        assert_eq!((tokens, experts), (1024, 16));
    }

    #[test]
    fn a_plain_case_keeps_its_sizes_only() {
        let case = &select("systems").unwrap()[1];
        let plain = case.plain().unwrap();
        assert_eq!(plain.sizes(), case.sizes());
        assert!(case.config.capacity().is_some() && plain.config.capacity().is_none());
        assert_eq!(plain.config.losses().aux(), 0.0);
        // One expert per token needs a choice.
        assert_eq!(select("systems").unwrap()[0].plain(), None);
    }

    #[test]
    fn a_preset_stays_what_it_is() {
        for case in select("models,systems-11b").unwrap() {
            let name = case.name.rsplit_once("-T").unwrap().0;
            let preset = presets::by_name(name).unwrap().config;
            assert_eq!(case.config.router(), preset.router(), "{name}");
            assert_eq!(case.config.capacity(), preset.capacity(), "{name}");
            assert_eq!(case.config.activation(), preset.activation(), "{name}");
            assert_eq!(case.config.expert_bias(), preset.expert_bias(), "{name}");
            assert_eq!(case.config.parameters(), preset.parameters(), "{name}");
            assert_eq!(case.config.losses().aux(), 1e-2, "{name}");
        }
    }

    fn counts(load: Load) -> Vec<i32> {
        let config = MoeConfig::builder(64, 8, 16, 4).build().unwrap();
        let mut case = Case::new("", "", config, 400);
        case.load = load;
        let (x, router) = case.tokens_and_router::<f32>(1);
        let (x, router) = (Tensor::new(&Cpu, &x), Tensor::new(&Cpu, &router));
        let mut ids = vec![0; 400 * 4];
        let (mut weights, mut lse, mut counts) = (vec![0.0; 1600], vec![0.0; 400], vec![0; 16]);
        let mut stats = vec![0.0; stats_elements(&case.config)];
        let mut scratch = harness::scratch::<Cpu, f32>(&Cpu, &case.config, 400);
        Cpu.router_forward(RouterForward::<Cpu, f32> {
            config: &case.config,
            tokens: 400,
            logits: Logits::FromTokens {
                x: x.view(),
                weight: router.view(),
            },
            selection_bias: None,
            ids: &mut ids,
            weights: &mut weights,
            lse: &mut lse,
            counts: &mut counts,
            stats: &mut stats,
            logits_output: None,
            scratch: scratch.view_mut(),
        })
        .unwrap();
        counts
    }

    #[test]
    fn loads_are_what_they_say() {
        // 100 for each expert on average.
        let even = counts(Load::Even);
        assert!(even.iter().all(|n| (50..200).contains(n)), "{even:?}");
        // Without replacement: expert 0 of weight 1/3.4 is in most of the four draws.
        let zipf = counts(Load::Zipf);
        assert!(zipf[0] > 250 && zipf[15] < 80, "{zipf:?}");
        assert!(
            zipf[..8].iter().sum::<i32>() > 2 * zipf[8..].iter().sum::<i32>(),
            "{zipf:?}"
        );
        let hot = counts(Load::HotExpert);
        assert_eq!(hot[0], 400);
        assert!(hot[1..].iter().all(|n| (40..160).contains(n)), "{hot:?}");
        let empty = counts(Load::EmptyExperts);
        assert_eq!(empty[8..].iter().sum::<i32>(), 0, "{empty:?}");
        assert!(empty[..8].iter().all(|&n| n > 100), "{empty:?}");
    }

    #[test]
    fn values_are_wide_as_asked_and_repeat_late() {
        let few = values::<f32>(20_000, 0.5, 3);
        let square = few.iter().map(|v| v * v).sum::<f32>() / 20_000.0;
        assert!((square.sqrt() - 0.5).abs() < 0.01, "{square}");
        let many = values::<f32>((1 << 20) + 7, 0.5, 3);
        assert_eq!(many[(1 << 20) - 3..], many[..10]);
        assert_ne!(many[1 << 16..(1 << 16) + 9], many[..9]);
    }
}
