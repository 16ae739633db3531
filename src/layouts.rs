//! Expert weights between the layouts of published checkpoints and this crate's.
//!
//! The layer takes gate_up \[E, 2I, H\], gate rows first, then up rows, and down \[E, H, I\], row-major. E experts, H hidden size,
//! I width of one expert. Checkpoints hold the same numbers in other orders:
//!
//! | checkpoint | gate and up | down | functions |
//! |---|---|---|---|
//! | transformers 5's fused modules in memory | \[E, 2I, H\] | \[E, H, I\] | none |
//! | files of Qwen3, OLMoE, DeepSeek, GLM | `gate_proj`, `up_proj` \[I, H\] per expert | `down_proj` \[H, I\] | [`fuse_gate_up`], [`fuse_down`] |
//! | files of Mixtral | `w1`, `w3` \[I, H\] per expert | `w2` \[H, I\] | [`fuse_gate_up`], [`fuse_down`] |
//! | GPT-OSS | \[E, H, 2I\], columns alternate | \[E, I, H\] | [`transpose`], then [`deinterleave_gate_up`] |
//! | its biases | \[E, 2I\], alternating | \[E, H\] | [`deinterleave_gate_up_bias`] |
//! | SonicMoE | \[E, 2I, H\], rows alternate | \[E, H, I\] | [`deinterleave_gate_up`] |
//!
//! **A shape does not tell these apart.** Alternating rows have the shape of gate rows before up rows, \[E, H, 2I\] has that of
//! \[E, 2I, H\] where H = 2I, and \[E, I, H\] that of \[E, H, I\] where H = I. What is in the wrong order is multiplied as if it were in
//! the right one, without an error: go by where a checkpoint comes from, and check one layer with the example `parity`.
//!
//! These functions are for loading and saving: they run on the host, on any element type, and return new memory. Every
//! conversion has its inverse, so gradients and trained weights go back the same way.
//!
//! ```
//! use millet::{MoeConfig, layouts};
//!
//! // 2 experts of width 1 in a model of width 2.
//! let config = MoeConfig::builder(2, 1, 2, 2).build()?;
//!
//! // One tensor per expert and projection, as published files have them: (gate [I, H], up [I, H]).
//! let gate_up = layouts::fuse_gate_up(&config, &[(&[1, 2], &[3, 4]), (&[5, 6], &[7, 8])])?;
//! assert_eq!(gate_up, [1, 2, 3, 4, 5, 6, 7, 8]);
//!
//! // GPT-OSS: [E, H, 2I], columns gate, up, gate, up, …
//! let published = [1, 3, 2, 4, 5, 7, 6, 8];
//! let rows = layouts::transpose(config.num_experts(), 2, 2, &published)?;
//! assert_eq!(layouts::deinterleave_gate_up(&config, &rows)?, gate_up);
//! # Ok::<(), millet::Error>(())
//! ```

use crate::check;
use crate::config::MoeConfig;
use crate::error::{Error, Result};

/// One gate \[I, H\] and one up \[I, H\] per expert → gate_up \[E, 2I, H\].
///
/// # Errors
/// When there is not one pair per expert, or a matrix has another number of elements.
pub fn fuse_gate_up<T: Copy>(config: &MoeConfig, experts: &[(&[T], &[T])]) -> Result<Vec<T>> {
    const OPERATION: &str = "fuse gate and up";
    let [_, inner, hidden] = sizes(config);
    one_per_expert(OPERATION, config, "pair", experts.len())?;
    for (gate, up) in experts {
        check::shape(OPERATION, "gate", gate.len(), &[inner, hidden])?;
        check::shape(OPERATION, "up", up.len(), &[inner, hidden])?;
    }
    let halves = experts.iter().flat_map(|&(gate, up)| [gate, up]);
    Ok(halves.flatten().copied().collect())
}

/// gate_up \[E, 2I, H\] → one gate \[I, H\] and one up \[I, H\] per expert, without a copy.
///
/// # Errors
/// When `gate_up` has another number of elements.
pub fn split_gate_up<'a, T>(
    config: &MoeConfig,
    gate_up: &'a [T],
) -> Result<Vec<(&'a [T], &'a [T])>> {
    const OPERATION: &str = "split gate and up";
    check_gate_up(OPERATION, config, gate_up.len())?;
    let half = config.intermediate_size() * config.hidden_size();
    let experts = gate_up.chunks_exact(2 * half);
    Ok(experts.map(|expert| expert.split_at(half)).collect())
}

/// One down \[H, I\] per expert → down \[E, H, I\].
///
/// # Errors
/// When there is not one matrix per expert, or one has another number of elements.
pub fn fuse_down<T: Copy>(config: &MoeConfig, experts: &[&[T]]) -> Result<Vec<T>> {
    const OPERATION: &str = "fuse down";
    let [_, inner, hidden] = sizes(config);
    one_per_expert(OPERATION, config, "matrix", experts.len())?;
    for down in experts {
        check::shape(OPERATION, "down", down.len(), &[hidden, inner])?;
    }
    Ok(experts.concat())
}

/// down \[E, H, I\] → one \[H, I\] per expert, without a copy.
///
/// # Errors
/// When `down` has another number of elements.
pub fn split_down<'a, T>(config: &MoeConfig, down: &'a [T]) -> Result<Vec<&'a [T]>> {
    let [experts, inner, hidden] = sizes(config);
    check::shape("split down", "down", down.len(), &[experts, hidden, inner])?;
    let expert = config.intermediate_size() * config.hidden_size();
    Ok(down.chunks_exact(expert).collect())
}

/// Rows gate 0, up 0, gate 1, up 1, … of every expert → gate_up \[E, 2I, H\] with gate rows before up rows.
///
/// # Errors
/// When `rows` has another number of elements than \[E, 2I, H\].
pub fn deinterleave_gate_up<T: Copy>(config: &MoeConfig, rows: &[T]) -> Result<Vec<T>> {
    check_gate_up("deinterleave gate and up", config, rows.len())?;
    Ok(deinterleave(config, config.hidden_size(), rows))
}

/// gate_up \[E, 2I, H\] with gate rows before up rows → rows gate 0, up 0, gate 1, up 1, … of every expert.
///
/// # Errors
/// When `gate_up` has another number of elements than \[E, 2I, H\].
pub fn interleave_gate_up<T: Copy>(config: &MoeConfig, gate_up: &[T]) -> Result<Vec<T>> {
    check_gate_up("interleave gate and up", config, gate_up.len())?;
    Ok(interleave(config, config.hidden_size(), gate_up))
}

/// A bias gate 0, up 0, gate 1, up 1, … of every expert → \[E, 2I\], gates before ups.
///
/// # Errors
/// When `bias` has another number of elements than \[E, 2I\].
pub fn deinterleave_gate_up_bias<T: Copy>(config: &MoeConfig, bias: &[T]) -> Result<Vec<T>> {
    check_gate_up_bias("deinterleave gate and up bias", config, bias.len())?;
    Ok(deinterleave(config, 1, bias))
}

/// A bias \[E, 2I\], gates before ups → gate 0, up 0, gate 1, up 1, … of every expert.
///
/// # Errors
/// When `bias` has another number of elements than \[E, 2I\].
pub fn interleave_gate_up_bias<T: Copy>(config: &MoeConfig, bias: &[T]) -> Result<Vec<T>> {
    check_gate_up_bias("interleave gate and up bias", config, bias.len())?;
    Ok(interleave(config, 1, bias))
}

/// Every expert's matrix transposed: \[E, rows, columns\] → \[E, columns, rows\].
///
/// # Errors
/// When `matrices` has another number of elements.
pub fn transpose<T: Copy>(
    experts: usize,
    rows: usize,
    columns: usize,
    matrices: &[T],
) -> Result<Vec<T>> {
    let shape = [("E", experts), ("rows", rows), ("columns", columns)];
    check::shape("transpose", "matrices", matrices.len(), &shape)?;
    let size = rows.saturating_mul(columns);
    let mut transposed = Vec::with_capacity(matrices.len());
    for matrix in matrices.chunks_exact(size.max(1)) {
        for column in 0..columns {
            transposed.extend((0..rows).map(|row| matrix[row * columns + column]));
        }
    }
    Ok(transposed)
}

/// E, I and H.
fn sizes(config: &MoeConfig) -> [check::Dimension; 3] {
    [
        ("E", config.num_experts()),
        ("I", config.intermediate_size()),
        ("H", config.hidden_size()),
    ]
}

fn check_gate_up(operation: &'static str, config: &MoeConfig, given: usize) -> Result<()> {
    let [experts, inner, hidden] = sizes(config);
    let shape = [experts, ("2I", 2 * inner.1), hidden];
    check::shape(operation, "gate_up", given, &shape)
}

fn check_gate_up_bias(operation: &'static str, config: &MoeConfig, given: usize) -> Result<()> {
    let [experts, inner, _] = sizes(config);
    let shape = [experts, ("2I", 2 * inner.1)];
    check::shape(operation, "bias", given, &shape)
}

fn one_per_expert(
    operation: &'static str,
    config: &MoeConfig,
    what: &str,
    given: usize,
) -> Result<()> {
    let expected = config.num_experts();
    if given == expected {
        return Ok(());
    }
    Err(Error::Shape {
        operation,
        tensor: "experts",
        shape: format!("[E={expected}], one {what} per expert,"),
        expected,
        given,
    })
}

/// Rows of `width` that alternate → gate rows before up rows, of every expert.
fn deinterleave<T: Copy>(config: &MoeConfig, width: usize, rows: &[T]) -> Vec<T> {
    let inner = config.intermediate_size();
    // Row `to` of an expert comes from row 2·to of its pairs, and in the second half from one further.
    reorder(config, width, rows, |to| to % inner * 2 + to / inner)
}

/// The other way.
fn interleave<T: Copy>(config: &MoeConfig, width: usize, rows: &[T]) -> Vec<T> {
    let inner = config.intermediate_size();
    reorder(config, width, rows, |to| to % 2 * inner + to / 2)
}

/// Rows of every expert's [2I, width] in another order: row `to` is row `from(to)`.
fn reorder<T: Copy>(
    config: &MoeConfig,
    width: usize,
    rows: &[T],
    from: impl Fn(usize) -> usize,
) -> Vec<T> {
    let count = 2 * config.intermediate_size();
    let mut out = Vec::with_capacity(rows.len());
    for expert in rows.chunks_exact(count * width) {
        for to in 0..count {
            out.extend_from_slice(&expert[from(to) * width..][..width]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that differ from each other, so that no two axes can be confused.
    fn config() -> MoeConfig {
        MoeConfig::builder(5, 3, 4, 2)
            .build()
            .expect("a configuration")
    }

    /// What each element of gate_up says of itself: expert, is it up, row, column.
    fn named() -> Vec<[usize; 4]> {
        let rows = (0..4).flat_map(|e| (0..6).map(move |row| (e, row)));
        rows.flat_map(|(e, row)| (0..5).map(move |column| [e, row / 3, row % 3, column]))
            .collect()
    }

    #[test]
    fn tensors_per_expert_are_stacked_gate_first() {
        let matrix = |e, up| -> Vec<[usize; 4]> {
            let rows = 0..3;
            rows.flat_map(|row| (0..5).map(move |column| [e, up, row, column]))
                .collect()
        };
        let parts: Vec<_> = (0..4).map(|e| (matrix(e, 0), matrix(e, 1))).collect();
        let pairs: Vec<(&[_], &[_])> = parts
            .iter()
            .map(|(gate, up)| (&gate[..], &up[..]))
            .collect();
        let fused = fuse_gate_up(&config(), &pairs).expect("shapes fit");
        assert_eq!(fused, named());
        assert_eq!(split_gate_up(&config(), &fused).expect("shapes fit"), pairs);

        let down: Vec<Vec<usize>> = (0..4)
            .map(|e| (0..15).map(|i| 100 * e + i).collect())
            .collect();
        let down: Vec<&[usize]> = down.iter().map(|down| &down[..]).collect();
        let fused = fuse_down(&config(), &down).expect("shapes fit");
        assert_eq!(fused[15..30], *down[1]);
        assert_eq!(split_down(&config(), &fused).expect("shapes fit"), down);
    }

    #[test]
    fn rows_alternate_and_come_back() {
        let alternating = interleave_gate_up(&config(), &named()).expect("shapes fit");
        for (i, &[expert, up, row, column]) in alternating.iter().enumerate() {
            assert_eq!(i, ((expert * 3 + row) * 2 + up) * 5 + column);
        }
        assert_eq!(
            deinterleave_gate_up(&config(), &alternating).expect("shapes fit"),
            named()
        );
    }

    #[test]
    fn biases_alternate_and_come_back() {
        let bias: Vec<usize> = (0..24).collect();
        let alternating = interleave_gate_up_bias(&config(), &bias).expect("shapes fit");
        assert_eq!(alternating[6..12], [6, 9, 7, 10, 8, 11]);
        assert_eq!(
            deinterleave_gate_up_bias(&config(), &alternating).expect("shapes fit"),
            bias
        );
    }

    #[test]
    fn every_matrix_is_transposed_and_comes_back() {
        let transposed = transpose(4, 6, 5, &named()).expect("shapes fit");
        for (i, &[expert, up, row, column]) in transposed.iter().enumerate() {
            assert_eq!(i, (expert * 5 + column) * 6 + up * 3 + row);
        }
        assert_eq!(
            transpose(4, 5, 6, &transposed).expect("shapes fit"),
            named()
        );
        assert_eq!(transpose::<u8>(0, 6, 5, &[]), Ok(vec![]));
        assert_eq!(transpose::<u8>(4, 0, 5, &[]), Ok(vec![]));
    }

    #[test]
    fn a_wrong_size_says_what_was_expected() {
        let message = |error: Result<Vec<u8>>| error.expect_err("a wrong size").to_string();
        assert_eq!(
            message(fuse_gate_up(&config(), &[(&[0; 15][..], &[0; 15][..]); 3])),
            "fuse gate and up: `experts` must be [E=4], one pair per expert, = 4 elements, but 3 were given"
        );
        assert_eq!(
            message(fuse_gate_up(&config(), &[(&[0; 15][..], &[0; 14][..]); 4])),
            "fuse gate and up: `up` must be [I=3, H=5] = 15 elements, but 14 were given"
        );
        assert_eq!(
            message(fuse_down(&config(), &[&[0; 16][..]; 4])),
            "fuse down: `down` must be [H=5, I=3] = 15 elements, but 16 were given"
        );
        assert_eq!(
            message(deinterleave_gate_up(&config(), &[0; 1])),
            "deinterleave gate and up: `gate_up` must be [E=4, 2I=6, H=5] = 120 elements, but 1 were given"
        );
        assert_eq!(
            message(interleave_gate_up_bias(&config(), &[0; 23])),
            "interleave gate and up bias: `bias` must be [E=4, 2I=6] = 24 elements, but 23 were given"
        );
        assert_eq!(
            message(transpose(usize::MAX, usize::MAX, 2, &[0; 1])),
            format!(
                "transpose: `matrices` must be [E={0}, rows={0}, columns=2] = {0} elements, but 1 were given",
                usize::MAX
            )
        );
    }
}
