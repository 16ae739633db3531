//! Embedding of the preceding bytes: one table for each distance back, and a token is the sum of its bytes' rows.
//!
//! This is the same map as concatenating one-hot bytes and multiplying by a [C·256, H] matrix, without the product.

use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::parameter::Parameter;

/// Values of a byte.
pub const BYTES: usize = 256;

pub struct ContextEmbedding {
    pub context: usize,
    hidden: usize,
    /// [C, 256, H]: `tables[c]` is for the byte c + 1 places before the one to predict.
    pub tables: Parameter,
}

impl ContextEmbedding {
    pub fn new(rng: &mut StdRng, context: usize, hidden: usize) -> Self {
        // The sum of C rows starts with a variance of about 1.
        let deviation = 1.0 / (context as f32).sqrt();
        Self {
            context,
            hidden,
            tables: Parameter::matrix(rng, context * BYTES * hidden, deviation),
        }
    }

    /// `contexts` [T, C], nearest byte first → `out` [T, H].
    pub fn forward(&self, contexts: &[u8], out: &mut [f32]) {
        let tables: Vec<_> = self
            .tables
            .value
            .chunks_exact(BYTES * self.hidden)
            .collect();
        out.par_chunks_exact_mut(self.hidden)
            .zip(contexts.par_chunks_exact(self.context))
            .for_each(|(out, bytes)| {
                out.fill(0.0);
                for (table, &byte) in tables.iter().zip(bytes) {
                    let row = &table[byte as usize * self.hidden..][..self.hidden];
                    for (out, value) in out.iter_mut().zip(row) {
                        *out += value;
                    }
                }
            });
    }

    /// Gradient of the tables from `out_grad` [T, H]. Tables go side by side, tokens in order.
    pub fn backward(&mut self, contexts: &[u8], out_grad: &[f32]) {
        let (hidden, context) = (self.hidden, self.context);
        self.tables
            .grad
            .par_chunks_exact_mut(BYTES * hidden)
            .enumerate()
            .for_each(|(c, table)| {
                table.fill(0.0);
                let bytes = contexts.iter().skip(c).step_by(context);
                for (&byte, grad) in bytes.zip(out_grad.chunks_exact(hidden)) {
                    let row = &mut table[byte as usize * hidden..][..hidden];
                    for (row, grad) in row.iter_mut().zip(grad) {
                        *row += grad;
                    }
                }
            });
    }
}
