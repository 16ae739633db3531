//! A trainable tensor: its values and their gradient.

use rand::RngExt;
use rand::rngs::StdRng;

/// What the optimizer updates. The model's passes read `value` and overwrite `grad`.
pub struct Parameter {
    pub value: Vec<f32>,
    pub grad: Vec<f32>,
    /// Whether weight decay applies: to matrices, not to the gains of norms.
    pub decay: bool,
}

impl Parameter {
    /// A matrix of `len` elements, uniform with mean 0 and this standard deviation.
    pub fn matrix(rng: &mut StdRng, len: usize, deviation: f32) -> Self {
        let bound = deviation * 3f32.sqrt();
        Self {
            value: (0..len).map(|_| rng.random_range(-bound..bound)).collect(),
            grad: vec![0.0; len],
            decay: true,
        }
    }

    /// The gain of a norm: ones.
    pub fn gain(len: usize) -> Self {
        Self {
            value: vec![1.0; len],
            grad: vec![0.0; len],
            decay: false,
        }
    }
}
