//! AdamW with gradient clipping, and its schedule: linear warm-up, then a cosine down to a tenth.

use rayon::prelude::*;

use crate::parameter::Parameter;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.95;
const EPSILON: f32 = 1e-8;
/// Largest L2 norm of all gradients together; longer ones are scaled down to it.
const MAX_NORM: f64 = 1.0;
/// Elements of one task: fixed, so that the norm does not depend on the number of threads.
const CHUNK: usize = 1 << 14;

pub struct AdamW {
    learning_rate: f64,
    weight_decay: f64,
    steps: usize,
    /// Steps taken.
    pub step: usize,
    /// Of each parameter.
    pub moments: Vec<Moments>,
}

pub struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

impl AdamW {
    /// For these parameters, always to be given in the same order, over a training of `steps` steps.
    pub fn new(
        parameters: &[&mut Parameter],
        learning_rate: f64,
        weight_decay: f64,
        steps: usize,
    ) -> Self {
        let moments = parameters.iter().map(|p| Moments {
            first: vec![0.0; p.value.len()],
            second: vec![0.0; p.value.len()],
        });
        Self {
            learning_rate,
            weight_decay,
            steps,
            step: 0,
            moments: moments.collect(),
        }
    }

    /// One update from the parameters' gradients. Returns their norm before clipping.
    pub fn update(&mut self, parameters: &mut [&mut Parameter]) -> f64 {
        let norm = gradient_norm(parameters);
        let clip = (MAX_NORM / norm.max(MAX_NORM)) as f32;
        let rate = self.learning_rate * schedule(self.step, self.steps);
        self.step += 1;
        let correction1 = 1.0 - BETA1.powi(self.step as i32);
        let correction2 = 1.0 - BETA2.powi(self.step as i32);
        for (parameter, moments) in parameters.iter_mut().zip(&mut self.moments) {
            let keep = match parameter.decay {
                true => (1.0 - rate * self.weight_decay) as f32,
                false => 1.0,
            };
            let values = parameter.value.par_chunks_mut(CHUNK);
            let grads = parameter.grad.par_chunks(CHUNK);
            let first = moments.first.par_chunks_mut(CHUNK);
            let second = moments.second.par_chunks_mut(CHUNK);
            let chunks = values.zip(grads).zip(first).zip(second);
            chunks.for_each(|(((values, grads), first), second)| {
                let elements = values.iter_mut().zip(grads).zip(first).zip(second);
                for (((value, grad), m), v) in elements {
                    let grad = grad * clip;
                    *m = BETA1 * *m + (1.0 - BETA1) * grad;
                    *v = BETA2 * *v + (1.0 - BETA2) * grad * grad;
                    let direction = (*m / correction1) / ((*v / correction2).sqrt() + EPSILON);
                    *value = *value * keep - rate as f32 * direction;
                }
            });
        }
        norm
    }
}

/// Factor of the learning rate at a step counted from 0: up over the first 2 % of the steps, then a half cosine down to 0.1.
fn schedule(step: usize, steps: usize) -> f64 {
    let warm_up = steps.div_ceil(50);
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    let progress = (step - warm_up) as f64 / (steps - warm_up).max(1) as f64;
    0.55 + 0.45 * (progress * std::f64::consts::PI).cos()
}

fn gradient_norm(parameters: &[&mut Parameter]) -> f64 {
    let square = |&g: &f32| f64::from(g) * f64::from(g);
    let sums = parameters.iter().map(|parameter| {
        let chunks = parameter.grad.par_chunks(CHUNK);
        let partial: Vec<f64> = chunks.map(|c| c.iter().map(square).sum()).collect();
        partial.iter().sum::<f64>()
    });
    sums.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_rises_then_falls_to_a_tenth() {
        let steps = 1000;
        let rates: Vec<f64> = (0..steps).map(|step| schedule(step, steps)).collect();
        assert_eq!(rates[0], 0.05);
        assert_eq!(rates[19], 1.0);
        assert!(rates[..20].is_sorted());
        assert!(rates[20..].is_sorted_by(|a, b| a >= b));
        assert!((rates[999] - 0.1).abs() < 1e-4);
    }

    /// The first step of AdamW is the learning rate times the sign of the gradient, whatever its size, beside the decay.
    #[test]
    fn first_update_by_hand() {
        let mut parameter = Parameter {
            value: vec![1.0, -2.0, 0.5],
            grad: vec![0.3, -40.0, 0.0],
            decay: true,
        };
        // One step: no warm-up is left and the schedule starts at 1.
        let mut optimizer = AdamW::new(&[&mut parameter], 0.01, 0.1, 1);
        let norm = optimizer.update(&mut [&mut parameter]);
        assert!((norm - (0.09f64 + 1600.0).sqrt()).abs() < 1e-4);
        for (value, expected) in parameter.value.iter().zip([0.989, -1.988, 0.4995]) {
            assert!((value - expected).abs() < 1e-6, "{value} for {expected}");
        }
    }
}
