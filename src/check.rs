//! Checks of arguments that every backend makes before it does anything.

use crate::backend::{Backend, WeightGrad};
use crate::config::{MoeConfig, ScoreFunction};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layer::{Gradients, Weights};

type Dimension = (&'static str, usize);

/// Tokens for which every assignment has an i32 index.
pub(crate) fn tokens(operation: &'static str, config: &MoeConfig, tokens: usize) -> Result<()> {
    let limit = i32::MAX as usize / config.top_k();
    if tokens > limit {
        let reason = "an assignment's index T·K must stay below 2³¹";
        return Err(Error::TooManyTokens {
            operation,
            given: tokens,
            limit,
            reason,
        });
    }
    Ok(())
}

/// `given` elements make a tensor of `shape`.
pub(crate) fn elements(
    operation: &'static str,
    tensor: &'static str,
    given: usize,
    expected: usize,
    shape: impl FnOnce() -> String,
) -> Result<()> {
    if given == expected {
        return Ok(());
    }
    Err(Error::Shape {
        operation,
        tensor,
        shape: shape(),
        expected,
        given,
    })
}

pub(crate) fn vector(
    operation: &'static str,
    tensor: &'static str,
    given: usize,
    (name, size): Dimension,
) -> Result<()> {
    elements(operation, tensor, given, size, || {
        format!("[{name}={size}]")
    })
}

pub(crate) fn matrix(
    operation: &'static str,
    tensor: &'static str,
    given: usize,
    (row_name, rows): Dimension,
    (column_name, columns): Dimension,
) -> Result<()> {
    // The number of tokens is the caller's: what overflows is a shape nothing has.
    elements(
        operation,
        tensor,
        given,
        rows.saturating_mul(columns),
        || format!("[{row_name}={rows}, {column_name}={columns}]"),
    )
}

/// Experts' weights: gate_up [E, 2I, H] or down [E, H, I].
pub(crate) fn experts(
    operation: &'static str,
    tensor: &'static str,
    given: usize,
    config: &MoeConfig,
    (row_name, rows): Dimension,
    (column_name, columns): Dimension,
) -> Result<()> {
    let experts = config.num_experts();
    elements(operation, tensor, given, experts * rows * columns, || {
        format!("[E={experts}, {row_name}={rows}, {column_name}={columns}]")
    })
}

pub(crate) fn weight_grad<B: Backend, W: Element>(
    operation: &'static str,
    tensor: &'static str,
    grad: &WeightGrad<'_, B, W>,
    expected: usize,
    shape: impl FnOnce() -> String,
) -> Result<()> {
    let given = match grad {
        WeightGrad::Overwrite(view) => B::len_mut(view),
        WeightGrad::Accumulate(view) => B::len_mut(view),
    };
    elements(operation, tensor, given, expected, shape)
}

pub(crate) fn workspace(operation: &'static str, have: usize, need: usize) -> Result<()> {
    if have < need {
        return Err(Error::WorkspaceTooSmall {
            operation,
            need,
            have,
        });
    }
    Ok(())
}

/// A selection bias fits, and the router has a use for it.
pub(crate) fn selection_bias(
    operation: &'static str,
    config: &MoeConfig,
    given: Option<usize>,
) -> Result<()> {
    let Some(given) = given else {
        return Ok(());
    };
    vector(
        operation,
        "selection bias",
        given,
        ("E", config.num_experts()),
    )?;
    match config.router().score_function() {
        ScoreFunction::Sigmoid => Ok(()),
        other => Err(Error::Unsupported {
            operation,
            reason: format!(
                "a selection bias goes with ScoreFunction::Sigmoid only, but the score function is {other:?}"
            ),
        }),
    }
}

/// The shapes of a layer's weights.
pub(crate) fn experts_weights<B: Backend, T: Element, W: Element<Acc = T::Acc>>(
    operation: &'static str,
    config: &MoeConfig,
    weights: &Weights<'_, B, T, W>,
) -> Result<()> {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let (h, i, two_i) = (("H", hidden), ("I", inner), ("2I", 2 * inner));
    let e = ("E", config.num_experts());
    matrix(operation, "router weight", B::len(weights.router), e, h)?;
    selection_bias(operation, config, weights.selection_bias.map(B::len))?;
    experts(
        operation,
        "gate_up",
        B::len(weights.gate_up),
        config,
        two_i,
        h,
    )?;
    experts(operation, "down", B::len(weights.down), config, h, i)
}

/// The shapes of a layer's gradients.
pub(crate) fn gradients<B: Backend, T: Element, W: Element<Acc = T::Acc>>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    output_grad: usize,
    gradients: &Gradients<'_, B, T, W>,
) -> Result<()> {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let experts = config.num_experts();
    matrix(
        operation,
        "output_grad",
        output_grad,
        ("T", tokens),
        ("H", hidden),
    )?;
    matrix(
        operation,
        "x gradient",
        B::len_mut(&gradients.x),
        ("T", tokens),
        ("H", hidden),
    )?;
    weight_grad(
        operation,
        "router gradient",
        &gradients.router,
        experts * hidden,
        || format!("[E={experts}, H={hidden}]"),
    )?;
    weight_grad(
        operation,
        "gate_up gradient",
        &gradients.gate_up,
        experts * 2 * inner * hidden,
        || format!("[E={experts}, 2I={}, H={hidden}]", 2 * inner),
    )?;
    weight_grad(
        operation,
        "down gradient",
        &gradients.down,
        experts * hidden * inner,
        || format!("[E={experts}, H={hidden}, I={inner}]"),
    )
}
