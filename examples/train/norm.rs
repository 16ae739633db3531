//! RMS norm: y = gain · x / √(mean(x²) + ε).

use rayon::prelude::*;

use crate::parameter::Parameter;

const EPSILON: f32 = 1e-6;
/// Tokens of one task: fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 256;

pub struct RmsNorm {
    /// [H].
    pub gain: Parameter,
}

impl RmsNorm {
    pub fn new(hidden: usize) -> Self {
        Self {
            gain: Parameter::gain(hidden),
        }
    }

    /// `x` [T, H] → `out` [T, H].
    pub fn forward(&self, x: &[f32], out: &mut [f32]) {
        let gain = &self.gain.value;
        x.par_chunks_exact(gain.len())
            .zip(out.par_chunks_exact_mut(gain.len()))
            .for_each(|(x, out)| {
                let scale = inverse_rms(x);
                for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
                    *out = gain * x * scale;
                }
            });
    }

    /// Adds the gradient of x to `x_grad` [T, H], where the residual path's gradient is already; sets the gain's.
    ///
    /// With x̂ = x/rms and u = gain·dy: dx = (u − x̂·mean(x̂·u))/rms, dgain = Σₜ dy·x̂.
    pub fn backward(&mut self, x: &[f32], out_grad: &[f32], x_grad: &mut [f32]) {
        let hidden = self.gain.value.len();
        let gain = &self.gain.value;
        let partial_sums: Vec<Vec<f32>> = x
            .par_chunks(BLOCK * hidden)
            .zip(out_grad.par_chunks(BLOCK * hidden))
            .zip(x_grad.par_chunks_mut(BLOCK * hidden))
            .map(|((x, out_grad), x_grad)| {
                let mut gain_grad = vec![0.0; hidden];
                let tokens = x.chunks_exact(hidden).zip(out_grad.chunks_exact(hidden));
                for ((x, dy), dx) in tokens.zip(x_grad.chunks_exact_mut(hidden)) {
                    let scale = inverse_rms(x);
                    let products = x.iter().zip(dy).zip(gain);
                    let dot: f32 = products.map(|((x, dy), gain)| x * scale * gain * dy).sum();
                    let mean = dot / hidden as f32;
                    for i in 0..hidden {
                        let normed = x[i] * scale;
                        dx[i] += (gain[i] * dy[i] - normed * mean) * scale;
                        gain_grad[i] += dy[i] * normed;
                    }
                }
                gain_grad
            })
            .collect();
        self.gain.grad.fill(0.0);
        for partial in partial_sums {
            for (grad, partial) in self.gain.grad.iter_mut().zip(partial) {
                *grad += partial;
            }
        }
    }
}

fn inverse_rms(x: &[f32]) -> f32 {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    1.0 / (mean_square + EPSILON).sqrt()
}
