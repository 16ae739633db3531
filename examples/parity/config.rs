//! The metadata key `config`: JSON → [`MoeConfig`].

use millet::{
    Activation, Capacity, DropPolicy, ExpertBias, GroupLimit, Losses, MoeConfig, MoeConfigBuilder,
    Renormalize, ScoreFunction,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Result;
use crate::experts::Layout;

/// The keys. Values are looked at one by one, so that a wrong one is refused with its key's name; an optional key that is
/// absent is null.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    hidden_size: Value,
    intermediate_size: Value,
    num_experts: Value,
    top_k: Value,
    score_function: Value,
    scaling_factor: Value,
    #[serde(default)]
    n_group: Value,
    #[serde(default)]
    topk_group: Value,
    capacity_factor: Value,
    drop_policy: Value,
    #[serde(default)]
    renormalize_after_drop: Value,
    aux_loss_coeff: Value,
    z_loss_coeff: Value,
    #[serde(default)]
    expert_layout: Value,
    #[serde(default)]
    activation: Value,
    #[serde(default)]
    activation_alpha: Value,
    #[serde(default)]
    activation_limit: Value,
    #[serde(default)]
    activation_offset: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Score {
    SoftmaxAfterTopk,
    SoftmaxBeforeTopk,
    Sigmoid,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Policy {
    Probability,
    Position,
    SlotMajor,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Unit {
    #[default]
    Swiglu,
    ClampedSwiglu,
}

/// Reads and validates; the layout of the experts' tensors where it is said. That experts have biases is known by their tensors.
pub(crate) fn parse(json: &str, expert_bias: ExpertBias) -> Result<(MoeConfig, Option<Layout>)> {
    // serde would take an array for the keys' values in order.
    if !json.trim_start().starts_with('{') {
        return Err(format!(
            "metadata `config` must be a JSON object, but is {json:.60}"
        ));
    }
    let of_config = |error: &dyn std::fmt::Display| format!("metadata `config`: {error}");
    let mut keys: Keys = serde_json::from_str(json).map_err(|error| of_config(&error))?;
    let layout = value("expert_layout", keys.expert_layout.take());
    let layout = layout.map_err(|error| of_config(&error))?;
    let config = builder(keys).map_err(|error| of_config(&error))?;
    let config = config
        .expert_bias(expert_bias)
        .build()
        .map_err(|error| of_config(&error))?;
    Ok((config, layout))
}

/// The parameters belong to the clamped one.
fn activation(keys: &mut Keys) -> Result<Activation> {
    let unit: Option<Unit> = value("activation", keys.activation.take())?;
    let names = ["activation_alpha", "activation_limit", "activation_offset"];
    let given = [
        &mut keys.activation_alpha,
        &mut keys.activation_limit,
        &mut keys.activation_offset,
    ];
    let given = given.map(Value::take);
    match unit.unwrap_or_default() {
        Unit::Swiglu => match given.iter().position(|value| !value.is_null()) {
            None => Ok(Activation::SwiGlu),
            Some(i) => Err(format!("{} needs activation = clamped_swiglu", names[i])),
        },
        Unit::ClampedSwiglu => {
            let [alpha, limit, offset] = given;
            Ok(Activation::ClampedSwiGlu {
                alpha: value(names[0], alpha)?,
                limit: value(names[1], limit)?,
                offset: value(names[2], offset)?,
            })
        }
    }
}

fn builder(mut keys: Keys) -> Result<MoeConfigBuilder> {
    let activation = activation(&mut keys)?;
    let score = match value("score_function", keys.score_function)? {
        Score::SoftmaxAfterTopk => ScoreFunction::SoftmaxAfterTopK,
        Score::SoftmaxBeforeTopk => ScoreFunction::SoftmaxBeforeTopK,
        Score::Sigmoid => ScoreFunction::Sigmoid,
    };
    let policy = match value("drop_policy", keys.drop_policy)? {
        Policy::Probability => DropPolicy::Probability,
        Policy::Position => DropPolicy::Position,
        Policy::SlotMajor => DropPolicy::SlotMajor,
    };
    let mut builder = MoeConfig::builder(
        value("hidden_size", keys.hidden_size)?,
        value("intermediate_size", keys.intermediate_size)?,
        value("num_experts", keys.num_experts)?,
        value("top_k", keys.top_k)?,
    )
    .activation(activation)
    .score_function(score)
    .scaling_factor(value("scaling_factor", keys.scaling_factor)?)
    .losses(Losses::new(
        value("aux_loss_coeff", keys.aux_loss_coeff)?,
        value("z_loss_coeff", keys.z_loss_coeff)?,
    ));

    let groups: Option<usize> = value("n_group", keys.n_group)?;
    let selected: Option<usize> = value("topk_group", keys.topk_group)?;
    builder = match (groups, selected) {
        (None, None) => builder,
        (Some(groups), Some(selected)) => builder.groups(GroupLimit { groups, selected }),
        (Some(n), None) => return Err(format!("n_group = {n} needs topk_group, but it is null")),
        (None, Some(n)) => return Err(format!("topk_group = {n} needs n_group, but it is null")),
    };

    let factor: Option<f64> = value("capacity_factor", keys.capacity_factor)?;
    let renormalize: Option<bool> = value("renormalize_after_drop", keys.renormalize_after_drop)?;
    let renormalize = renormalize.unwrap_or(false);
    Ok(match factor {
        Some(factor) => builder.capacity(Capacity::new(factor).policy(policy).renormalize(
            if renormalize {
                Renormalize::AfterDrop
            } else {
                Renormalize::Never
            },
        )),
        None if renormalize => {
            return Err("renormalize_after_drop needs a capacity_factor, but it is null".into());
        }
        None => builder,
    })
}

fn value<T: DeserializeOwned>(key: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| format!("`{key}`: {error}"))
}
