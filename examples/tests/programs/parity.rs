//! `parity`: what it writes is the oracle's, and what it refuses.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use millet::half::{bf16, f16};
use millet::{
    Activation, DropPolicy, Element, ExpertBias, MoeConfig, Renormalize, ScoreFunction,
    SingleExpert,
};
use millet_testing::generate::{self, base, configs};
use millet_testing::harness::{self, Problem, narrow};
use millet_testing::oracle::Oracle;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{directory, executable};

const GATE_UP_BIAS: &str = "experts.gate_up_proj_bias";
const DOWN_BIAS: &str = "experts.down_proj_bias";

/// A tensor of a file.
#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn f32(shape: &[usize], values: &[f64]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: (values.iter())
                .flat_map(|&v| (v as f32).to_le_bytes())
                .collect(),
        }
    }

    fn to_bf16(&self) -> Self {
        assert_eq!(self.dtype, Dtype::F32);
        Self {
            dtype: Dtype::BF16,
            shape: self.shape.clone(),
            bytes: (self.reals().into_iter())
                .flat_map(|v| bf16::from_f64(v).to_le_bytes())
                .collect(),
        }
    }

    fn reals(&self) -> Vec<f64> {
        assert_eq!(self.dtype, Dtype::F32);
        let (values, _) = self.bytes.as_chunks::<4>();
        values
            .iter()
            .map(|&b| f64::from(f32::from_le_bytes(b)))
            .collect()
    }

    fn integers(&self) -> Vec<i32> {
        assert_eq!(self.dtype, Dtype::I32);
        let (values, _) = self.bytes.as_chunks::<4>();
        values.iter().map(|&b| i32::from_le_bytes(b)).collect()
    }
}

/// A file: tensors, and what its metadata says.
#[derive(Clone)]
struct File {
    tensors: BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

impl File {
    fn new(config: &MoeConfig, problem: &Problem) -> Self {
        let (t, h) = (problem.tokens, config.hidden_size());
        let (i, e) = (config.intermediate_size(), config.num_experts());
        let mut tensors = BTreeMap::new();
        let mut put = |name: &str, shape: &[usize], values: &[f64]| {
            tensors.insert(name.to_owned(), Tensor::f32(shape, values));
        };
        put("x", &[t, h], &problem.x);
        put("router.weight", &[e, h], &problem.router);
        put("experts.gate_up_proj", &[e, 2 * i, h], &problem.gate_up);
        put("experts.down_proj", &[e, h, i], &problem.down);
        put("grad_output", &[t, h], &problem.output_grad);
        if let Some(bias) = &problem.bias {
            put("router.selection_bias", &[e], bias);
        }
        if !problem.gate_up_bias.is_empty() {
            put(GATE_UP_BIAS, &[e, 2 * i], &problem.gate_up_bias);
            put(DOWN_BIAS, &[e, h], &problem.down_bias);
        }
        let metadata = HashMap::from([("config".to_owned(), json(config).to_string())]);
        Self { tensors, metadata }
    }

    /// Sets a key of the config, or takes it out.
    fn set(mut self, key: &str, value: Option<Value>) -> Self {
        let mut config: Value = serde_json::from_str(&self.metadata["config"]).unwrap();
        let keys = config.as_object_mut().unwrap();
        match value {
            Some(value) => keys.insert(key.to_owned(), value),
            None => keys.remove(key),
        };
        self.metadata
            .insert("config".to_owned(), config.to_string());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
            (name, view)
        });
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }
}

/// A configuration as the file's JSON.
fn json(config: &MoeConfig) -> Value {
    let (router, capacity) = (config.router(), config.capacity());
    let (activation, parameters) = match config.activation() {
        Activation::SwiGlu => (None, None),
        Activation::ClampedSwiGlu {
            alpha,
            limit,
            offset,
        } => (Some("clamped_swiglu"), Some([alpha, limit, offset])),
        other => panic!("no name for {other:?}"),
    };
    json!({
        "activation": activation,
        "activation_alpha": parameters.map(|p| p[0]),
        "activation_limit": parameters.map(|p| p[1]),
        "activation_offset": parameters.map(|p| p[2]),
        "hidden_size": config.hidden_size(),
        "intermediate_size": config.intermediate_size(),
        "num_experts": config.num_experts(),
        "top_k": config.top_k(),
        "score_function": match router.score_function() {
            ScoreFunction::SoftmaxAfterTopK => "softmax_after_topk",
            ScoreFunction::SoftmaxBeforeTopK => "softmax_before_topk",
            ScoreFunction::Sigmoid => "sigmoid",
            other => panic!("no name for {other:?}"),
        },
        "scaling_factor": router.scaling_factor(),
        "n_group": router.groups().map(|g| g.groups),
        "topk_group": router.groups().map(|g| g.selected),
        "capacity_factor": capacity.map(|c| c.factor()),
        "drop_policy": match capacity.map(|c| c.drop_policy()).unwrap_or_default() {
            DropPolicy::Probability => "probability",
            DropPolicy::Position => "position",
            DropPolicy::SlotMajor => "slot_major",
            other => panic!("no name for {other:?}"),
        },
        "renormalize_after_drop":
            capacity.map(|c| c.renormalization() == Renormalize::AfterDrop),
        "aux_loss_coeff": config.losses().aux(),
        "z_loss_coeff": config.losses().z(),
    })
}

/// Runs the example in `directory` on IN.safetensors, if `input` is given, with OUT.safetensors and `options`.
fn parity(directory: &Path, input: Option<&[u8]>, options: &[&str]) -> Output {
    if let Some(bytes) = input {
        fs::write(directory.join("IN.safetensors"), bytes).unwrap();
    }
    Command::new(executable("parity"))
        .current_dir(directory)
        // Of the drivers of CUDA there is nothing to say.
        .env("CUDA_EMULATOR_QUIET", "1")
        .args(["IN.safetensors", "OUT.safetensors"])
        .args(options)
        .output()
        .unwrap()
}

/// What a successful run wrote.
fn outcome(directory: &Path, file: &File, options: &[&str]) -> BTreeMap<String, Tensor> {
    let run = parity(directory, Some(&file.bytes()), options);
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{options:?}: {error}");
    assert!(error.is_empty(), "{error}");
    let bytes = fs::read(directory.join("OUT.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, view)| {
            let tensor = Tensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name.to_owned(), tensor)
        })
        .collect()
}

/// ‖got − want‖ / ‖want‖.
fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    match norm(&mut want.iter().copied()) {
        0.0 => difference,
        size => difference / size,
    }
}

/// Everything in `got` against the oracle in f64: routing exactly, reals to `tolerance` in relative Frobenius norm.
fn check(
    config: &MoeConfig,
    problem: &Problem,
    got: &BTreeMap<String, Tensor>,
    tolerance: f64,
    what: &str,
) {
    let (t, h) = (problem.tokens, config.hidden_size());
    let (i, e, k) = (
        config.intermediate_size(),
        config.num_experts(),
        config.top_k(),
    );
    let oracle = Oracle::exact(config);
    let want = oracle.layer(problem, 1.0);
    let logits: Vec<f64> = (0..t * e)
        .map(|n| {
            let (x, w) = (&problem.x[n / e * h..], &problem.router[n % e * h..]);
            (0..h).map(|i| x[i] * w[i]).sum()
        })
        .collect();
    let raw_weights = oracle.route(&logits, problem.bias.as_deref()).weights;
    let kept: Vec<i32> = (want.assignment_to_row.iter())
        .map(|&row| i32::from(row >= 0))
        .collect();
    let rows: Vec<i32> = want.offsets.windows(2).map(|w| w[1] - w[0]).collect();

    let integers: [(&str, &[usize], &[i32]); 3] = [
        ("topk_indices", &[t, k], &want.ids),
        ("kept", &[t, k], &kept),
        ("tokens_per_expert", &[e], &rows),
    ];
    let mut reals: Vec<(&str, Vec<usize>, &[f64])> = vec![
        ("output", vec![t, h], &want.output),
        ("topk_weights", vec![t, k], &raw_weights),
        ("aux_loss", vec![1], &want.losses[..1]),
        ("z_loss", vec![1], &want.losses[1..]),
        ("grad_x", vec![t, h], &want.x_grad),
        ("grad_router.weight", vec![e, h], &want.router_grad),
        (
            "grad_experts.gate_up_proj",
            vec![e, 2 * i, h],
            &want.gate_up_grad,
        ),
        ("grad_experts.down_proj", vec![e, h, i], &want.down_grad),
    ];
    if config.expert_bias() != ExpertBias::None {
        reals.push((
            "grad_experts.gate_up_proj_bias",
            vec![e, 2 * i],
            &want.gate_up_bias_grad,
        ));
        reals.push((
            "grad_experts.down_proj_bias",
            vec![e, h],
            &want.down_bias_grad,
        ));
    }
    assert_eq!(got.len(), integers.len() + reals.len());
    for (name, shape, want) in integers {
        assert_eq!(got[name].shape, shape, "{name}: {what}");
        assert_eq!(got[name].integers(), want, "{name}: {what}");
    }
    for (name, shape, want) in reals {
        assert_eq!(got[name].shape, shape, "{name}: {what}");
        let error = relative_error(&got[name].reals(), want);
        assert!(error < tolerance, "{name}: {error:e}: {what}");
    }
}

#[test]
fn f32_is_within_1e_5_of_f64_for_every_configuration() {
    let directory = directory("parity", "f32");
    let sayable =
        |config: &&MoeConfig| config.router().single_expert() != SingleExpert::StraightThrough;
    let all = configs(12, 10, 8, 3);
    let mut dropped = 0;
    for (seed, config) in all.iter().filter(sayable).enumerate() {
        let problem = Problem::random(config, 37, seed as u64).rounded::<f32, f32>();
        let got = outcome(&directory, &File::new(config, &problem), &[]);
        check(config, &problem, &got, 1e-5, &format!("{config:?}"));
        dropped += got["kept"].integers().iter().filter(|&&k| k == 0).count();
    }
    assert!(dropped > 1000, "only {dropped} assignments were dropped");
}

/// SwiGLU, and the experts of GPT-OSS.
#[test]
fn f32_is_within_1e_5_of_f64_at_the_sizes_of_a_layer() {
    let directory = directory("parity", "sizes");
    let plain = base(96, 72, 32, 4);
    // h is of order 1, and a limit of 7 would clamp nothing.
    let clamped = plain.clone().activation(Activation::ClampedSwiGlu {
        alpha: 1.702,
        limit: 1.25,
        offset: 1.0,
    });
    let biased = clamped.clone().expert_bias(ExpertBias::GateUpAndDown);
    for builder in [plain, clamped, biased] {
        let config = builder.build().unwrap();
        let problem = Problem::random(&config, 200, 1).rounded::<f32, f32>();
        let got = outcome(
            &directory,
            &File::new(&config, &problem),
            &["--device", "cpu"],
        );
        check(&config, &problem, &got, 1e-5, &format!("{config:?}"));
    }
}

#[test]
fn a_bf16_file_is_computed_in_f32_unless_told_otherwise() {
    let directory = directory("parity", "bf16_file");
    let config = base(16, 12, 8, 2)
        .score_function(ScoreFunction::Sigmoid)
        .build()
        .unwrap();
    let mut problem = Problem::random(&config, 30, 2).rounded::<bf16, bf16>();
    problem.bias = problem
        .bias
        .map(|bias| harness::widen(&narrow::<bf16>(&bias)));
    let mut file = File::new(&config, &problem);
    for tensor in file.tensors.values_mut() {
        *tensor = tensor.to_bf16();
    }
    let got = outcome(&directory, &file, &[]);
    check(&config, &problem, &got, 1e-5, "all bf16");

    // A mix is fine too.
    let x = File::new(&config, &problem).tensors["x"].clone();
    file.tensors.insert("x".to_owned(), x);
    let mixed = outcome(&directory, &file, &[]);
    for (name, tensor) in &got {
        assert_eq!(tensor.bytes, mixed[name].bytes, "{name}");
    }
}

/// Is every value one of `T`?
fn fits<T: Element<Acc = f32>>(values: &[f64]) -> bool {
    values
        .iter()
        .all(|&v| f64::from(T::narrow(v as f32).widen()) == v)
}

#[test]
fn low_precision_rounds_what_is_stored_and_a_router_weight_given_as_f32_stays_so() {
    let directory = directory("parity", "storage");
    let config = base(32, 24, 8, 2).build().unwrap();
    let random = Problem::random(&config, 50, 3);

    let problem = random.rounded::<bf16, bf16>();
    let mut file = File::new(&config, &problem);
    let router = file.tensors["router.weight"].to_bf16();
    let stored = ["output", "grad_x", "grad_experts.gate_up_proj"];
    for router_is_f32 in [true, false] {
        if !router_is_f32 {
            file.tensors
                .insert("router.weight".to_owned(), router.clone());
        }
        let got = outcome(&directory, &file, &["--dtype", "bf16"]);
        check(&config, &problem, &got, 2e-2, "bf16");
        for name in stored {
            assert!(fits::<bf16>(&got[name].reals()), "{name}");
        }
        let grad = got["grad_router.weight"].reals();
        assert_eq!(fits::<bf16>(&grad), !router_is_f32);
    }

    let problem = random.rounded::<f16, f32>();
    let got = outcome(
        &directory,
        &File::new(&config, &problem),
        &["--dtype", "f16"],
    );
    check(&config, &problem, &got, 2e-3, "f16");
    for name in stored {
        assert!(fits::<f16>(&got[name].reals()), "{name}");
    }
}

/// The experts' tensors of a fused file, element by element, as another layout has them.
fn in_layout(
    config: &MoeConfig,
    layout: &str,
    prefix: &str,
    fused: &File,
) -> BTreeMap<String, Tensor> {
    let (h, i, e) = (
        config.hidden_size(),
        config.intermediate_size(),
        config.num_experts(),
    );
    let gate_up = fused.tensors[&format!("{prefix}experts.gate_up_proj")].reals();
    let down = fused.tensors[&format!("{prefix}experts.down_proj")].reals();
    let gate =
        |expert: usize, row: usize, column: usize| gate_up[(expert * 2 * i + row) * h + column];
    let up = |expert, row, column| gate(expert, i + row, column);
    let mut tensors = BTreeMap::new();
    let mut put = |name: String, shape: &[usize], values: Vec<f64>| {
        tensors.insert(format!("{prefix}{name}"), Tensor::f32(shape, &values));
    };
    if let Some(bias) = fused.tensors.get(&format!("{prefix}{GATE_UP_BIAS}")) {
        let bias = bias.reals();
        let at = |n: usize| bias[n / (2 * i) * 2 * i + n % 2 * i + n % (2 * i) / 2];
        put(
            GATE_UP_BIAS.into(),
            &[e, 2 * i],
            (0..e * 2 * i).map(at).collect(),
        );
        let down = fused.tensors[&format!("{prefix}{DOWN_BIAS}")].reals();
        put(DOWN_BIAS.into(), &[e, h], down);
    }
    if layout == "gpt_oss" {
        let at = |n: usize| {
            let (expert, column, pair) = (n / (h * 2 * i), n / (2 * i) % h, n % (2 * i));
            if pair % 2 == 0 {
                gate(expert, pair / 2, column)
            } else {
                up(expert, pair / 2, column)
            }
        };
        put(
            "experts.gate_up_proj".into(),
            &[e, h, 2 * i],
            (0..e * h * 2 * i).map(at).collect(),
        );
        let at = |n: usize| down[n / (i * h) * h * i + n % h * i + n / h % i];
        put(
            "experts.down_proj".into(),
            &[e, i, h],
            (0..e * i * h).map(at).collect(),
        );
        return tensors;
    }
    let [gate_name, up_name, down_name] = match layout {
        "per_expert" => ["gate_proj", "up_proj", "down_proj"],
        "mixtral" => ["w1", "w3", "w2"],
        other => panic!("no layout {other}"),
    };
    for expert in 0..e {
        let name = |projection: &str| format!("experts.{expert}.{projection}.weight");
        let matrix = (0..i * h).map(|n| (n / h, n % h));
        put(
            name(gate_name),
            &[i, h],
            matrix.clone().map(|(r, c)| gate(expert, r, c)).collect(),
        );
        put(
            name(up_name),
            &[i, h],
            matrix.map(|(r, c)| up(expert, r, c)).collect(),
        );
        put(
            name(down_name),
            &[h, i],
            down[expert * h * i..][..h * i].to_vec(),
        );
    }
    tensors
}

#[test]
fn every_layout_of_the_experts_is_the_same_layer() {
    let directory = directory("parity", "layouts");
    // Twice no shape tells a layout: H = 2I, and H = I.
    for (h, i, bias) in [
        (12, 10, ExpertBias::None),
        (8, 4, ExpertBias::None),
        (6, 6, ExpertBias::None),
        (12, 10, ExpertBias::GateUpAndDown),
    ] {
        let config = MoeConfig::builder(h, i, 4, 2).expert_bias(bias);
        let config = config.build().unwrap();
        let problem = Problem::random(&config, 9, 5).rounded::<f32, f32>();
        let fused = File::new(&config, &problem);
        let want = outcome(&directory, &fused, &[]);
        let want = File {
            tensors: want,
            metadata: HashMap::new(),
        };
        for (layout, key) in [
            ("gpt_oss", true),
            ("per_expert", true),
            ("per_expert", false),
            ("mixtral", true),
            ("mixtral", false),
        ] {
            if bias != ExpertBias::None && layout != "gpt_oss" {
                continue; // has none
            }
            let mut file = fused.clone();
            file.tensors.retain(|name, _| !name.starts_with("experts."));
            file.tensors.extend(in_layout(&config, layout, "", &fused));
            let file = if key {
                file.set("expert_layout", Some(json!(layout)))
            } else {
                file
            };
            let got = outcome(&directory, &file, &[]);
            let mut expected = want.tensors.clone();
            expected.retain(|name, _| !name.starts_with("grad_experts."));
            expected.extend(in_layout(&config, layout, "grad_", &want));
            let names =
                |tensors: &BTreeMap<String, Tensor>| tensors.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&got), names(&expected));
            for (name, tensor) in &got {
                assert_eq!(tensor.shape, expected[name].shape, "{name}: {layout}");
                assert!(tensor.bytes == expected[name].bytes, "{name}: {layout}");
            }
        }
    }
}

#[test]
fn a_layout_that_does_not_fit_is_one_line() {
    let directory = directory("parity", "wrong_layouts");
    let config = MoeConfig::builder(6, 4, 3, 2).build().unwrap();
    let problem = Problem::random(&config, 2, 5).rounded::<f32, f32>();
    let fused = File::new(&config, &problem);
    let refuse = |file: &File, parts: &[&str]| {
        refused(
            &directory,
            &parity(&directory, Some(&file.bytes()), &[]),
            parts,
        );
    };
    let key = |layout: &str| fused.clone().set("expert_layout", Some(json!(layout)));
    refuse(&key("hf"), &["`expert_layout`", "hf", "gpt_oss"]);
    // The names of one layout, the key of another.
    refuse(
        &key("gpt_oss"),
        &[
            "`experts.gate_up_proj` must be [num_experts, hidden_size, 2·intermediate_size] = [3, 6, 8]",
        ],
    );
    refuse(
        &key("mixtral"),
        &[
            "unknown tensor \"experts.down_proj\"",
            "experts.{e}.w1.weight",
        ],
    );
    let mut file = fused.clone();
    file.tensors.retain(|name, _| !name.starts_with("experts."));
    file.tensors
        .extend(in_layout(&config, "per_expert", "", &fused));
    let experts = file.clone();
    file.tensors.remove("experts.2.up_proj.weight");
    refuse(&file, &["tensor `experts.2.up_proj.weight` is missing"]);
    let mut file = experts.clone();
    let extra = file.tensors["experts.0.up_proj.weight"].clone();
    file.tensors
        .insert("experts.3.up_proj.weight".into(), extra.clone());
    refuse(
        &file,
        &[
            "unknown tensor \"experts.3.up_proj.weight\"",
            "experts.{e}.gate_proj.weight",
        ],
    );
    let mut file = experts.clone();
    file.tensors
        .insert("experts.1.down_proj.weight".into(), extra);
    refuse(
        &file,
        &[
            "`experts.1.down_proj.weight` must be [hidden_size, intermediate_size] = [6, 4], but is [4, 6]",
        ],
    );
}

/// On the emulator where there is no GPU.
#[cfg(feature = "cuda")]
#[test]
fn cuda_is_as_close_as_the_cpu_is() {
    let directory = directory("parity", "cuda");
    let sayable =
        |config: &&MoeConfig| config.router().single_expert() != SingleExpert::StraightThrough;
    let all = configs(12, 10, 8, 3);
    let mut dropped = 0;
    for (seed, config) in all.iter().filter(sayable).enumerate().step_by(13) {
        let problem = Problem::random(config, 37, seed as u64).rounded::<f32, f32>();
        let file = File::new(config, &problem);
        let got = outcome(&directory, &file, &["--device", "cuda"]);
        check(config, &problem, &got, 1e-5, &format!("{config:?}"));
        dropped += got["kept"].integers().iter().filter(|&&k| k == 0).count();
        // Other kernels than the CPU's: other last bits.
        let cpu = outcome(&directory, &file, &["--device", "cpu"]);
        assert!(got["grad_x"].bytes != cpu["grad_x"].bytes);
    }
    assert!(dropped > 100, "only {dropped} assignments were dropped");

    let config = base(32, 24, 8, 2).build().unwrap();
    let problem = Problem::random(&config, 50, 3).rounded::<bf16, f32>();
    let file = File::new(&config, &problem);
    let options = ["--dtype", "bf16", "--device", "cuda"];
    let got = outcome(&directory, &file, &options);
    check(&config, &problem, &got, 2e-2, "bf16");
    assert!(fits::<bf16>(&got["output"].reals()));

    let problem = Problem::random(&config, 0, 4);
    let file = File::new(&config, &problem);
    let got = outcome(&directory, &file, &options[2..]);
    assert_eq!(got["output"].shape, [0, 32]);
    assert!(
        got["grad_experts.down_proj"]
            .reals()
            .iter()
            .all(|&g| g == 0.0)
    );
}

#[test]
fn no_tokens_give_empty_outputs_and_zero_gradients() {
    let directory = directory("parity", "empty");
    for score in generate::SCORES {
        let config = base(8, 6, 4, 2).score_function(score).build().unwrap();
        let problem = Problem::random(&config, 0, 4);
        let got = outcome(&directory, &File::new(&config, &problem), &[]);
        assert_eq!(got["output"].shape, [0, 8]);
        assert_eq!(got["topk_indices"].shape, [0, 2]);
        assert_eq!(got["tokens_per_expert"].integers(), [0; 4]);
        for name in ["aux_loss", "z_loss"] {
            assert_eq!(got[name].reals(), [0.0], "{name}");
        }
        assert_eq!(got["grad_router.weight"].reals(), [0.0; 32]);
        assert_eq!(got["grad_experts.gate_up_proj"].reals(), [0.0; 4 * 12 * 8]);
        assert_eq!(got["grad_experts.down_proj"].reals(), [0.0; 4 * 8 * 6]);
    }
}

#[test]
fn optional_keys_may_be_absent() {
    let directory = directory("parity", "optional");
    let config = base(8, 6, 4, 2).build().unwrap();
    let problem = Problem::random(&config, 9, 5).rounded::<f32, f32>();
    let mut file = File::new(&config, &problem);
    for key in ["n_group", "topk_group", "renormalize_after_drop"] {
        file = file.set(key, None);
    }
    file.metadata.insert("format".to_owned(), "pt".to_owned());
    let got = outcome(&directory, &file, &[]);
    check(&config, &problem, &got, 1e-5, "");
}

/// Asserts one line on stderr with every part of `parts`, exit code 1, and nothing left in the directory but the input.
#[track_caller]
fn refused(directory: &Path, run: &Output, parts: &[&str]) {
    let error = String::from_utf8(run.stderr.clone()).unwrap();
    assert_eq!(run.status.code(), Some(1), "{error}");
    assert!(run.stdout.is_empty());
    assert_eq!(error.lines().count(), 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(name, "IN.safetensors", "left behind: {error}");
    }
}

/// A small file that works.
fn good() -> File {
    let config = base(8, 6, 4, 2)
        .score_function(ScoreFunction::Sigmoid)
        .build()
        .unwrap();
    File::new(&config, &Problem::random(&config, 5, 6))
}

#[test]
fn a_config_that_cannot_work_is_one_line() {
    let directory = directory("parity", "config");
    let cases: &[(&str, Option<Value>, &[&str])] = &[
        ("top_k", Some(json!(5)), &["top_k", "4", "5"]),
        ("top_k", Some(json!(0)), &["top_k", "at least 1"]),
        ("top_k", Some(json!("2")), &["`top_k`", "string"]),
        ("top_k", Some(json!(2.5)), &["`top_k`", "2.5"]),
        ("top_k", Some(json!(-1)), &["`top_k`", "-1"]),
        ("top_k", None, &["missing field `top_k`"]),
        (
            "capacity_factor",
            None,
            &["missing field `capacity_factor`"],
        ),
        (
            "capacity_factor",
            Some(json!(-1.0)),
            &["capacity factor", "-1"],
        ),
        ("drop_policy", Some(Value::Null), &["`drop_policy`"]),
        (
            "score_function",
            Some(json!("softmax")),
            &["`score_function`", "`softmax`", "`softmax_after_topk`"],
        ),
        (
            "drop_policy",
            Some(json!("random")),
            &["`drop_policy`", "`random`", "`slot_major`"],
        ),
        (
            "normalise",
            Some(json!(true)),
            &["unknown field `normalise`", "`renormalize_after_drop`"],
        ),
        (
            "hidden_size",
            Some(json!(9)),
            &["`x`", "hidden_size=9", "[5, 8]"],
        ),
        (
            "intermediate_size",
            Some(json!(7)),
            &["gate_up_proj", "[4, 14, 8]", "[4, 12, 8]"],
        ),
        ("num_experts", Some(json!(8)), &["[8, 8]", "[4, 8]"]),
        (
            "num_experts",
            Some(json!(1u64 << 40)),
            &["num_experts", "at most"],
        ),
        ("n_group", Some(json!(2)), &["n_group", "topk_group"]),
        ("topk_group", Some(json!(2)), &["n_group", "topk_group"]),
        (
            "renormalize_after_drop",
            Some(json!(true)),
            &["renormalize_after_drop", "capacity_factor"],
        ),
        (
            "scaling_factor",
            Some(json!(0)),
            &["scaling_factor", "above 0"],
        ),
        ("aux_loss_coeff", Some(json!(-1)), &["aux", "-1"]),
        (
            "z_loss_coeff",
            Some(Value::Null),
            &["`z_loss_coeff`", "null"],
        ),
        (
            "score_function",
            Some(json!("softmax_before_topk")),
            &["selection bias", "Sigmoid", "SoftmaxBeforeTopK"],
        ),
    ];
    for (key, value, parts) in cases {
        let file = good().set(key, value.clone());
        refused(
            &directory,
            &parity(&directory, Some(&file.bytes()), &[]),
            parts,
        );
    }
    let mut file = good()
        .set("top_k", Some(json!(1)))
        .set("score_function", Some(json!("softmax_after_topk")));
    file.tensors.remove("router.selection_bias");
    let run = parity(&directory, Some(&file.bytes()), &[]);
    refused(&directory, &run, &["top_k = 1", "no gradient"]);
    let groups = |n: usize, selected: usize| {
        let file = good().set("n_group", Some(json!(n)));
        file.set("topk_group", Some(json!(selected))).bytes()
    };
    let run = parity(&directory, Some(&groups(3, 1)), &[]);
    refused(&directory, &run, &["3 groups", "4 experts"]);
    let run = parity(&directory, Some(&groups(2, 3)), &[]);
    refused(&directory, &run, &["3 of 2 groups"]);

    let mut twice = good();
    let config = twice.metadata.get_mut("config").unwrap();
    *config = config.replacen('{', "{\"top_k\": 1, ", 1);
    let run = parity(&directory, Some(&twice.bytes()), &[]);
    refused(&directory, &run, &["duplicate field `top_k`"]);
    for (text, part) in [
        ("", "must be a JSON object"),
        ("[8, 6, 4, 2]", "must be a JSON object"),
        ("{", "EOF"),
        ("{\"top_k\": 1e999}", "out of range"),
    ] {
        let mut file = good();
        file.metadata.insert("config".to_owned(), text.to_owned());
        let run = parity(&directory, Some(&file.bytes()), &[]);
        refused(&directory, &run, &["`config`", part]);
    }
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_one_line() {
    let directory = directory("parity", "file");
    let refuse = |file: File, parts: &[&str]| {
        refused(
            &directory,
            &parity(&directory, Some(&file.bytes()), &[]),
            parts,
        );
    };
    let with = |change: &dyn Fn(&mut File)| {
        let mut file = good();
        change(&mut file);
        file
    };
    for name in [
        "x",
        "router.weight",
        "experts.gate_up_proj",
        "experts.down_proj",
        "grad_output",
    ] {
        let missing = with(&|file| drop(file.tensors.remove(name)));
        refuse(missing, &[&format!("`{name}` is missing")]);
        let shape = with(&|file| {
            let tensor = file.tensors.get_mut(name).unwrap();
            tensor.shape.push(1);
        });
        refuse(shape, &[&format!("`{name}` must be ["), ", 1]"]);
        let dtype = with(&|file| file.tensors.get_mut(name).unwrap().dtype = Dtype::I32);
        refuse(dtype, &[&format!("`{name}` must be F32 or BF16"), "I32"]);
    }
    let bias = with(&|file| {
        let bias = file.tensors.get_mut("router.selection_bias").unwrap();
        bias.shape = vec![2, 2];
    });
    refuse(bias, &["`router.selection_bias`", "[4]", "[2, 2]"]);
    let fewer = with(&|file| {
        let tensor = Tensor::f32(&[4, 8], &[0.0; 32]);
        file.tensors.insert("grad_output".to_owned(), tensor);
    });
    refuse(fewer, &["`grad_output`", "[5, 8]", "[4, 8]"]);
    let unknown = with(&|file| {
        let bias = Tensor::f32(&[4], &[0.0; 4]);
        file.tensors.insert("router.bias\n".to_owned(), bias);
    });
    refuse(unknown, &["unknown tensor", "router.bias", "grad_output"]);
    let no_config = with(&|file| drop(file.metadata.remove("config")));
    refuse(no_config, &["`config` is missing"]);
    let key = with(&|file| drop(file.metadata.insert("top_k".to_owned(), "2".to_owned())));
    refuse(key, &["unknown metadata key \"top_k\""]);

    let bytes = good().bytes();
    let mut wrong_length = bytes.clone();
    wrong_length[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for malformed in [
        &[][..],
        &bytes[..7],
        &bytes[..100],
        &bytes[..bytes.len() - 1],
        &wrong_length,
        b"PK\x03\x04 not what it seems to be",
    ] {
        let run = parity(&directory, Some(malformed), &[]);
        refused(
            &directory,
            &run,
            &["IN.safetensors", "not a safetensors file"],
        );
    }

    let large = with(&|file| {
        let x = Tensor::f32(&[5, 8], &[7e4; 40]);
        file.tensors.insert("x".to_owned(), x);
    });
    let run = parity(&directory, Some(&large.bytes()), &["--dtype", "f16"]);
    refused(&directory, &run, &["`x`", "7e4", "f16"]);
}

#[test]
fn a_small_file_that_asks_for_much_memory_is_refused() {
    let directory = directory("parity", "memory");
    let config = base(1, 1, 1 << 16, 2).build().unwrap();
    let mut file = File::new(&config, &Problem::random(&config, 0, 6));
    let tokens = 1 << 23;
    for name in ["x", "grad_output"] {
        let tensor = Tensor::f32(&[tokens, 1], &vec![0.0; tokens]);
        file.tensors.insert(name.to_owned(), tensor);
    }
    let run = parity(&directory, Some(&file.bytes()), &[]);
    refused(&directory, &run, &["GiB of memory", "are available"]);
}

/// Where a reader can go away and a device is always full.
#[cfg(target_os = "linux")]
#[test]
fn closed_pipes_and_full_disks_do_not_panic() {
    let directory = directory("parity", "pipes");
    let run = |path: &str, stdout: std::process::Stdio, stderr: std::process::Stdio| {
        fs::write(directory.join("IN.safetensors"), good().bytes()).unwrap();
        Command::new(executable("parity"))
            .current_dir(&directory)
            .env("CUDA_EMULATOR_QUIET", "1")
            .args(["IN.safetensors", path])
            .stdout(stdout)
            .stderr(stderr)
            .status()
            .unwrap()
    };
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        std::process::Stdio::from(writer)
    };
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(run("OUT.safetensors", closed(), closed()).code(), Some(0));
    assert!(directory.join("OUT.safetensors").is_file());
    assert_eq!(
        run("OUT.safetensors", full.into(), closed()).code(),
        Some(1)
    );
    assert_eq!(run("no/such/OUT", closed(), closed()).code(), Some(1));
}

#[test]
fn a_path_or_an_option_that_cannot_work_is_one_line() {
    let directory = directory("parity", "paths");
    let run = parity(&directory, None, &[]);
    refused(&directory, &run, &["cannot read IN.safetensors"]);

    let input = good().bytes();
    if cfg!(not(feature = "cuda")) {
        let run = parity(&directory, Some(&input), &["--device", "cuda"]);
        refused(&directory, &run, &["--device cuda", "--features cuda"]);
    }
    let run = parity(&directory, Some(&input), &["--dtype", "f64"]);
    refused(&directory, &run, &["f64", "--dtype", "bf16"]);
    let run = parity(&directory, Some(&input), &["--fast"]);
    refused(&directory, &run, &["--fast"]);

    let to = |path: &str| {
        Command::new(executable("parity"))
            .current_dir(&directory)
            .env("CUDA_EMULATOR_QUIET", "1")
            .args(["IN.safetensors", path])
            .output()
            .unwrap()
    };
    refused(
        &directory,
        &to("no/such/OUT.safetensors"),
        &["cannot write no/such/OUT"],
    );
    refused(&directory, &to("."), &["cannot write .", "regular file"]);
    refused(
        &directory,
        &to("./IN.safetensors"),
        &["it is the input file"],
    );
    assert_eq!(fs::read(directory.join("IN.safetensors")).unwrap(), input);
}
