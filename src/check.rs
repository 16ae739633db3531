//! What every check of arguments is made of: lengths, places, configurations. None looks at the device.

use crate::config::{ExpertBias, Field, MoeConfig, ScoreFunction};
use crate::element::{Element, Scalar};
use crate::error::{Error, Result};
use crate::ops::{Memory, RouterPart, WeightGrad, WeightGradOf, stats_elements};

/// A size and its symbol.
pub(crate) type Dimension = (&'static str, usize);

/// A tensor of `given` elements has this shape.
pub(crate) fn shape(
    operation: &'static str,
    tensor: &'static str,
    given: usize,
    shape: &[Dimension],
) -> Result<()> {
    // The number of tokens is the caller's: what overflows is a shape nothing has.
    let expected = shape
        .iter()
        .fold(1, |n: usize, &(_, size)| n.saturating_mul(size));
    if given == expected {
        return Ok(());
    }
    let names = shape.iter().map(|(name, size)| format!("{name}={size}"));
    Err(Error::Shape {
        operation,
        tensor,
        shape: format!("[{}]", names.collect::<Vec<_>>().join(", ")),
        expected,
        given,
    })
}

/// How far past the last assignment an i32 index may run.
const AHEAD: usize = 4096;

/// Refuses tokens whose assignments, with [`AHEAD`] more, have no i32 index.
pub(crate) fn tokens(operation: &'static str, config: &MoeConfig, tokens: usize) -> Result<()> {
    let limit = (i32::MAX as usize - AHEAD) / config.top_k();
    if tokens > limit {
        let reason = "T·K must stay below 2³¹ − 4096";
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

/// A dimension of the [crate's tensors](crate#layouts).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dim {
    Tokens,
    Hidden,
    Inner,
    /// 2I: gate and up.
    GateUp,
    Experts,
    TopK,
    MaxRows,
    Stats,
}

/// The tensors of one operation: their lengths, and that they are in the backend's memory.
pub(crate) struct Check<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) operation: &'static str,
    pub(crate) config: &'a MoeConfig,
    pub(crate) tokens: usize,
}

impl<B: Memory> Check<'_, B> {
    fn dimension(&self, dim: Dim) -> Dimension {
        let config = self.config;
        match dim {
            Dim::Tokens => ("T", self.tokens),
            Dim::Hidden => ("H", config.hidden_size()),
            Dim::Inner => ("I", config.intermediate_size()),
            Dim::GateUp => ("2I", 2 * config.intermediate_size()),
            Dim::Experts => ("E", config.num_experts()),
            Dim::TopK => ("K", config.top_k()),
            Dim::MaxRows => ("max rows", config.max_rows(self.tokens)),
            Dim::Stats => ("5 + K + E", stats_elements(config)),
        }
    }

    fn len(&self, tensor: &'static str, given: usize, dims: &[Dim]) -> Result<()> {
        // As many as a shape has; no allocation in the usual case.
        let mut shape = [("", 1); 3];
        for (dimension, &dim) in shape.iter_mut().zip(dims) {
            *dimension = self.dimension(dim);
        }
        self::shape(self.operation, tensor, given, &shape[..dims.len()])
    }

    /// Memory was made for so many tokens.
    pub(crate) fn room(&self, limit: usize, reason: &'static str) -> Result<()> {
        if self.tokens <= limit {
            return Ok(());
        }
        Err(Error::TooManyTokens {
            operation: self.operation,
            given: self.tokens,
            limit,
            reason,
        })
    }

    /// A tensor that is read.
    pub(crate) fn read<T: Scalar>(
        &self,
        tensor: &'static str,
        view: B::View<'_, T>,
        shape: &[Dim],
    ) -> Result<()> {
        self.len(tensor, B::len(view), shape)?;
        self.backend.check_place(self.operation, tensor, view)
    }

    /// A tensor that is written.
    pub(crate) fn write<T: Scalar>(
        &self,
        tensor: &'static str,
        view: &B::ViewMut<'_, T>,
        shape: &[Dim],
    ) -> Result<()> {
        self.len(tensor, B::len_mut(view), shape)?;
        self.place(tensor, view)
    }

    /// One whose length is the backend's business.
    pub(crate) fn place<T: Scalar>(
        &self,
        tensor: &'static str,
        view: &B::ViewMut<'_, T>,
    ) -> Result<()> {
        self.backend.check_place_mut(self.operation, tensor, view)
    }

    /// The gradient of a weight.
    pub(crate) fn grad<W: Element>(
        &self,
        tensor: &'static str,
        grad: &WeightGradOf<'_, B, W>,
        shape: &[Dim],
    ) -> Result<()> {
        match grad {
            WeightGrad::Overwrite(view) => self.write(tensor, view, shape),
            WeightGrad::Accumulate(view) => self.write(tensor, view, shape),
        }
    }

    /// Whether an expert bias, or its gradient, was given is as the configuration says.
    pub(crate) fn has_expert_bias(&self, tensor: &'static str, given: bool) -> Result<()> {
        let chosen = self.config.expert_bias();
        if given == (chosen != ExpertBias::None) {
            return Ok(());
        }
        let given = if given { "is given" } else { "is missing" };
        Err(Error::Unsupported {
            operation: self.operation,
            reason: format!("`{tensor}` {given}, but the configuration has ExpertBias::{chosen:?}"),
        })
    }

    /// An expert bias fits, and is given as the configuration says.
    pub(crate) fn expert_bias<T: Scalar>(
        &self,
        tensor: &'static str,
        bias: Option<B::View<'_, T>>,
        shape: &[Dim],
    ) -> Result<()> {
        self.has_expert_bias(tensor, bias.is_some())?;
        bias.map_or(Ok(()), |bias| self.read(tensor, bias, shape))
    }

    /// The router's part of the gradient of x.
    pub(crate) fn router_part<W: Element>(&self, part: &RouterPart<'_, B, W>) -> Result<()> {
        self.read(
            "logits_grad",
            part.logits_grad,
            &[Dim::Tokens, Dim::Experts],
        )?;
        self.read("router weight", part.weight, &[Dim::Experts, Dim::Hidden])
    }

    /// A selection bias fits, and the router has a use for it.
    pub(crate) fn selection_bias<T: Scalar>(&self, bias: Option<B::View<'_, T>>) -> Result<()> {
        let Some(bias) = bias else {
            return Ok(());
        };
        self.read("selection bias", bias, &[Dim::Experts])?;
        match self.config.router().score_function() {
            ScoreFunction::Sigmoid => Ok(()),
            other => Err(Error::Unsupported {
                operation: self.operation,
                reason: format!(
                    "a selection bias goes with ScoreFunction::Sigmoid only, but the score function is {other:?}"
                ),
            }),
        }
    }
}
