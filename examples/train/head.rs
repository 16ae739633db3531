//! The output head: logits of the next byte, and the cross-entropy with its gradient.

use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::embedding::BYTES;
use crate::parameter::Parameter;
use crate::product::{Matrix, product};

/// Tokens, or rows of the weight, of one task: fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 128;

pub struct Head {
    hidden: usize,
    /// [256, H].
    pub weight: Parameter,
}

impl Head {
    pub fn new(rng: &mut StdRng, hidden: usize) -> Self {
        // Small, so that training starts from nearly uniform predictions.
        let deviation = 0.1 / (hidden as f32).sqrt();
        Self {
            hidden,
            weight: Parameter::matrix(rng, BYTES * hidden, deviation),
        }
    }

    /// Loss of each token in nats [T]; `logits` [T, 256] is left with the softmax probabilities.
    pub fn losses(&self, x: &[f32], targets: &[u8], logits: &mut [f32]) -> Vec<f32> {
        let hidden = self.hidden;
        let weight = Matrix::new(&self.weight.value, hidden);
        x.par_chunks(BLOCK * hidden)
            .zip(logits.par_chunks_mut(BLOCK * BYTES))
            .zip(targets.par_chunks(BLOCK))
            .flat_map_iter(|((x, logits), targets)| {
                product(logits, Matrix::new(x, hidden), weight.transposed());
                let rows = logits.chunks_exact_mut(BYTES).zip(targets);
                rows.map(|(row, &target)| cross_entropy(row, target))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Gradients of the mean loss, from the probabilities that [`losses`](Self::losses) left in `logits`: of x into
    /// `x_grad` [T, H], and of the weight.
    pub fn backward(&mut self, x: &[f32], targets: &[u8], logits: &mut [f32], x_grad: &mut [f32]) {
        let hidden = self.hidden;
        let scale = 1.0 / targets.len() as f32;
        let weight = Matrix::new(&self.weight.value, hidden);
        // d loss/d logits = (p − one-hot(target))/T, in place of p.
        logits
            .par_chunks_mut(BLOCK * BYTES)
            .zip(targets.par_chunks(BLOCK))
            .zip(x_grad.par_chunks_mut(BLOCK * hidden))
            .for_each(|((logits, targets), x_grad)| {
                for (row, &target) in logits.chunks_exact_mut(BYTES).zip(targets) {
                    row[target as usize] -= 1.0;
                    row.iter_mut().for_each(|p| *p *= scale);
                }
                product(x_grad, Matrix::new(logits, BYTES), weight);
            });
        let logits_grad = Matrix::new(logits, BYTES);
        self.weight
            .grad
            .par_chunks_mut(BLOCK * hidden)
            .enumerate()
            .for_each(|(block, grad)| {
                let columns = logits_grad.columns(block * BLOCK, grad.len() / hidden);
                product(grad, columns.transposed(), Matrix::new(x, hidden));
            });
    }
}

/// −ln softmax(row)[target]; the row becomes its softmax.
fn cross_entropy(row: &mut [f32], target: u8) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let logit = row[target as usize];
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - max).exp();
        sum += *value;
    }
    row.iter_mut().for_each(|p| *p /= sum);
    max + sum.ln() - logit
}
