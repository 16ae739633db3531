//! Checks of arguments that every backend makes before it does anything.

use crate::backend::{
    Backend, DispatchOutput, Logits, RouterInput, RouterOutput, RouterPart, RouterSaved, RowMap,
    WeightGrad, WeightGradOf, stats_elements,
};
use crate::config::{Field, MoeConfig, ScoreFunction};
use crate::element::{Element, Real};
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

/// `given`, the configuration that `object` was made for or used with, agrees with `expected` in `fields`.
pub(crate) fn same_configuration(
    operation: &'static str,
    object: &'static str,
    expected: &MoeConfig,
    given: &MoeConfig,
    fields: impl Fn(&MoeConfig) -> Vec<Field>,
) -> Result<()> {
    // The usual case costs no text.
    if expected == given {
        return Ok(());
    }
    let (expected, given) = (fields(expected), fields(given));
    let listed = |fields: &[Field], others: &[Field]| {
        let different = fields.iter().filter(|field| !others.contains(field));
        let texts = different.map(|(name, value)| format!("{name} {value}"));
        texts.collect::<Vec<_>>().join(", ")
    };
    let (expected, given) = (listed(&expected, &given), listed(&given, &expected));
    if expected.is_empty() {
        return Ok(());
    }
    Err(Error::WrongConfiguration {
        operation,
        object,
        expected,
        given,
    })
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
    grad: &WeightGradOf<'_, B, W>,
    expected: usize,
    shape: impl FnOnce() -> String,
) -> Result<()> {
    let given = match grad {
        WeightGrad::Overwrite(view) => B::len_mut(view),
        WeightGrad::Accumulate(view) => B::len_mut(view),
    };
    elements(operation, tensor, given, expected, shape)
}

pub(crate) fn row_tiles(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    given: usize,
) -> Result<()> {
    let tiles = ("max row tiles", config.max_row_tiles(tokens));
    matrix(operation, "row_tiles", given, tiles, ("pair", 2))
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

/// The length of a buffer of a plan, and of a tensor of its rows.
pub(crate) fn rows<B: Backend>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    tensor: &'static str,
    given: usize,
    columns: Dimension,
    map: &RowMap<'_, B>,
) -> Result<()> {
    self::tokens(operation, config, tokens)?;
    let max_rows = ("max rows", config.max_rows(tokens));
    let (t, k) = (("T", tokens), ("K", config.top_k()));
    let offsets = ("E + 1", config.num_experts() + 1);
    vector(operation, "offsets", B::len(map.offsets), offsets)?;
    let to_assignment = B::len(map.row_to_assignment);
    vector(operation, "row_to_assignment", to_assignment, max_rows)?;
    let to_row = B::len(map.assignment_to_row);
    matrix(operation, "assignment_to_row", to_row, t, k)?;
    row_tiles(operation, config, tokens, B::len(map.row_tiles))?;
    matrix(operation, tensor, given, max_rows, columns)
}

/// What a router reads.
pub(crate) fn router_input<B: Backend, T: Element, W: Element<Acc = T::Acc>>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    input: &RouterInput<'_, '_, B, T, W>,
) -> Result<()> {
    let (e, h) = (("E", config.num_experts()), ("H", config.hidden_size()));
    let t = ("T", tokens);
    self::tokens(operation, config, tokens)?;
    match input.logits {
        Logits::FromTokens { x, weight } => {
            matrix(operation, "x", B::len(x), t, h)?;
            matrix(operation, "router weight", B::len(weight), e, h)?;
        }
        Logits::Given(logits) => matrix(operation, "logits", B::len(logits), t, e)?,
        Logits::GivenNarrow(logits) => matrix(operation, "logits", B::len(logits), t, e)?,
    }
    selection_bias(operation, config, input.selection_bias.map(B::len))
}

/// What a router writes.
pub(crate) fn router_output<B: Backend, A: Real>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    output: &RouterOutput<'_, B, A>,
) -> Result<()> {
    let (t, k, e) = (
        ("T", tokens),
        ("K", config.top_k()),
        ("E", config.num_experts()),
    );
    matrix(operation, "ids", B::len_mut(&output.ids), t, k)?;
    matrix(operation, "weights", B::len_mut(&output.weights), t, k)?;
    vector(operation, "lse", B::len_mut(&output.lse), t)?;
    vector(operation, "counts", B::len_mut(&output.counts), e)?;
    let stats = ("5 + K + E", stats_elements(config));
    vector(operation, "stats", B::len_mut(&output.stats), stats)?;
    match &output.logits {
        Some(logits) => matrix(operation, "logits output", B::len_mut(logits), t, e),
        None => Ok(()),
    }
}

/// What a router's backward reads of forward, and the gradients that it reads and writes.
pub(crate) fn router_saved<B: Backend, A: Real>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    saved: &RouterSaved<'_, B, A>,
    weights_grad: usize,
    logits_grad: usize,
) -> Result<()> {
    let (t, k, e) = (
        ("T", tokens),
        ("K", config.top_k()),
        ("E", config.num_experts()),
    );
    matrix(operation, "ids", B::len(saved.ids), t, k)?;
    matrix(operation, "weights", B::len(saved.weights), t, k)?;
    vector(operation, "lse", B::len(saved.lse), t)?;
    vector(operation, "counts", B::len(saved.counts), e)?;
    matrix(operation, "weights_grad", weights_grad, t, k)?;
    matrix(operation, "logits_grad", logits_grad, t, e)
}

/// The router's weight gradient.
pub(crate) fn router_weight_grad<B: Backend, W: Element>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    logits_grad: usize,
    x: usize,
    grad: &WeightGradOf<'_, B, W>,
) -> Result<()> {
    let (experts, hidden) = (config.num_experts(), config.hidden_size());
    let (t, e, h) = (("T", tokens), ("E", experts), ("H", hidden));
    self::tokens(operation, config, tokens)?;
    matrix(operation, "logits_grad", logits_grad, t, e)?;
    matrix(operation, "x", x, t, h)?;
    weight_grad::<B, W>(operation, "weight gradient", grad, experts * hidden, || {
        format!("[E={experts}, H={hidden}]")
    })
}

/// What dispatch reads and writes.
pub(crate) fn dispatch<B: Backend>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    ids: usize,
    weights: usize,
    output: &DispatchOutput<'_, B>,
) -> Result<()> {
    let (t, k) = (("T", tokens), ("K", config.top_k()));
    self::tokens(operation, config, tokens)?;
    matrix(operation, "ids", ids, t, k)?;
    matrix(operation, "weights", weights, t, k)?;
    let offsets = ("E + 1", config.num_experts() + 1);
    vector(operation, "offsets", B::len_mut(&output.offsets), offsets)?;
    let rows = ("max rows", config.max_rows(tokens));
    let to_assignment = B::len_mut(&output.row_to_assignment);
    vector(operation, "row_to_assignment", to_assignment, rows)?;
    let to_row = B::len_mut(&output.assignment_to_row);
    matrix(operation, "assignment_to_row", to_row, t, k)?;
    row_tiles(operation, config, tokens, B::len_mut(&output.row_tiles))
}

/// Tokens [T, H] beside a plan.
#[cfg(feature = "cuda")]
pub(crate) fn hidden(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    tensor: &'static str,
    given: usize,
) -> Result<()> {
    let h = ("H", config.hidden_size());
    matrix(operation, tensor, given, ("T", tokens), h)
}

/// Weights of the assignments, or their gradient, [T, K].
#[cfg(feature = "cuda")]
pub(crate) fn assignments(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    tensor: &'static str,
    given: usize,
) -> Result<()> {
    let k = ("K", config.top_k());
    matrix(operation, tensor, given, ("T", tokens), k)
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

/// The router's part of the gradient of x.
pub(crate) fn router_part<B: Backend, W: Element>(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    router: &RouterPart<'_, '_, B, W>,
) -> Result<()> {
    let (e, h) = (("E", config.num_experts()), ("H", config.hidden_size()));
    let logits_grad = B::len(router.logits_grad);
    matrix(operation, "logits_grad", logits_grad, ("T", tokens), e)?;
    matrix(operation, "router weight", B::len(router.weight), e, h)
}

/// Shapes and places of a layer's weights.
pub(crate) fn experts_weights<B: Backend, T: Element, W: Element<Acc = T::Acc>>(
    backend: &B,
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
    experts(operation, "down", B::len(weights.down), config, h, i)?;
    backend.check_place(operation, "router weight", weights.router)?;
    if let Some(bias) = weights.selection_bias {
        backend.check_place(operation, "selection_bias", bias)?;
    }
    backend.check_place(operation, "gate_up", weights.gate_up)?;
    backend.check_place(operation, "down", weights.down)
}

/// Shapes and places of a layer's gradients.
pub(crate) fn gradients<B: Backend, T: Element, W: Element<Acc = T::Acc>>(
    backend: &B,
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    output_grad: B::View<'_, T>,
    gradients: &Gradients<'_, B, T, W>,
) -> Result<()> {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let experts = config.num_experts();
    matrix(
        operation,
        "output_grad",
        B::len(output_grad),
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
    weight_grad::<B, W>(
        operation,
        "router gradient",
        &gradients.router,
        experts * hidden,
        || format!("[E={experts}, H={hidden}]"),
    )?;
    weight_grad::<B, T>(
        operation,
        "gate_up gradient",
        &gradients.gate_up,
        experts * 2 * inner * hidden,
        || format!("[E={experts}, 2I={}, H={hidden}]", 2 * inner),
    )?;
    weight_grad::<B, T>(
        operation,
        "down gradient",
        &gradients.down,
        experts * hidden * inner,
        || format!("[E={experts}, H={hidden}, I={inner}]"),
    )?;
    backend.check_place(operation, "output_grad", output_grad)?;
    backend.check_place_mut(operation, "x gradient", &gradients.x)?;
    weight_grad_place(backend, operation, "router gradient", &gradients.router)?;
    weight_grad_place(backend, operation, "gate_up gradient", &gradients.gate_up)?;
    weight_grad_place(backend, operation, "down gradient", &gradients.down)
}

fn weight_grad_place<B: Backend, W: Element>(
    backend: &B,
    operation: &'static str,
    tensor: &'static str,
    grad: &WeightGradOf<'_, B, W>,
) -> Result<()> {
    match grad {
        WeightGrad::Overwrite(grad) => backend.check_place_mut(operation, tensor, grad),
        WeightGrad::Accumulate(grad) => backend.check_place_mut(operation, tensor, grad),
    }
}
