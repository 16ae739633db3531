//! What a layer costs, known from its configuration alone: parameters, FLOPs, bytes saved for backward, arithmetic
//! intensity, padding. Only matrix products count as FLOPs (a multiply-add is two); softmax, activation, biases and the sums are left
//! out, as the literature does.
//!
//! T tokens, H hidden size, I width of one expert, E experts, K top-k, R routed rows: [`MoeConfig::max_rows`], T·K unless a
//! capacity limits it to less. T·K stays below 2³¹ − 4096, as in every operation of this crate.

use crate::{ExpertBias, MoeConfig};

/// Parameters of one layer, from [`MoeConfig::parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameters {
    /// The router weight: E·H.
    pub router: u64,
    /// Every expert's gate_up and down projections: E·3·I·H, and E·(2·I + H) more with biases.
    pub experts: u64,
    /// Those of the experts that one token uses: K of the E.
    pub active_experts: u64,
}

impl Parameters {
    /// All parameters of the layer.
    pub fn total(&self) -> u64 {
        self.router + self.experts
    }

    /// Parameters that one token uses: the router and K experts.
    pub fn active(&self) -> u64 {
        self.router + self.active_experts
    }
}

/// Floating-point operations of one pass, from [`MoeConfig::forward_flops`] or [`MoeConfig::backward_flops`]; exact up to
/// 2⁵³.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Flops {
    /// Products with the router weight.
    pub router: f64,
    /// Products with the experts' weights.
    pub experts: f64,
}

impl Flops {
    /// All operations of the pass.
    pub fn total(&self) -> f64 {
        self.router + self.experts
    }
}

/// Bytes kept from forward to backward for a batch, from [`MoeConfig::saved_bytes`] or
/// [`MoeLayer::saved_bytes`](crate::MoeLayer::saved_bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedBytes {
    /// The layer's input, T·H elements: the caller's tensor, kept alive.
    pub x: u64,
    /// Gate and up projections before the activation, R·2I elements.
    pub h: u64,
    /// T·K ids, i32.
    pub topk_ids: u64,
    /// T·K weights, f32.
    pub topk_weights: u64,
    /// Row → assignment (R) and assignment → row (T·K), i32.
    pub row_maps: u64,
    /// Expert and first row of each tile of rows, i32, where the backend lists them
    /// ([`Memory::row_tiles`](crate::Memory::row_tiles)): a few kilobytes.
    pub row_tiles: u64,
    /// Where each expert's rows begin, E + 1 i32, and how many assignments each had before dropping, E i32.
    pub offsets: u64,
    /// The router's losses and sums, 5 + K + E f32.
    pub statistics: u64,
    /// Log-sum-exp of each token's logits, T f32.
    pub logsumexp: u64,
}

impl SavedBytes {
    /// Everything, h included.
    pub fn total(&self) -> u64 {
        self.h + self.total_without_h()
    }

    /// Everything but h: what stays when backward computes h again from x, for 4·R·I·H more FLOPs.
    pub fn total_without_h(&self) -> u64 {
        let routing = self.topk_ids + self.topk_weights + self.row_maps + self.logsumexp;
        self.x + routing + self.row_tiles + self.offsets + self.statistics
    }
}

/// Costs of the layer.
impl MoeConfig {
    /// Parameters of this layer: router E·H, experts 3·I·H each, with biases 2·I + H more.
    ///
    /// ```
    /// # use millet::MoeConfig;
    /// let parameters = MoeConfig::builder(2048, 1024, 64, 8).build()?.parameters();
    /// assert_eq!(parameters.experts, 64 * 3 * 1024 * 2048);
    /// assert_eq!(parameters.active(), 64 * 2048 + 8 * 3 * 1024 * 2048);
    /// # Ok::<(), millet::ConfigError>(())
    /// ```
    pub fn parameters(&self) -> Parameters {
        let [hidden, intermediate, experts, top_k] = self.sizes();
        let biases = match self.expert_bias() {
            ExpertBias::None => 0,
            ExpertBias::GateUpAndDown => 2 * intermediate + hidden,
        };
        let expert = 3 * intermediate * hidden + biases;
        Parameters {
            router: experts * hidden,
            experts: experts * expert,
            active_experts: top_k * expert,
        }
    }

    /// FLOPs of the forward pass over `tokens` tokens.
    ///
    /// # Math
    /// Router 2·T·E·H; experts 6·R·I·H (4 up, 2 down). With a capacity that can drop, R is a bound and so is this.
    pub fn forward_flops(&self, tokens: usize) -> Flops {
        let [hidden, intermediate, experts, _] = self.sizes().map(|size| size as f64);
        Flops {
            router: 2.0 * tokens as f64 * experts * hidden,
            experts: 6.0 * self.max_rows(tokens) as f64 * intermediate * hidden,
        }
    }

    /// FLOPs of the backward pass over `tokens` tokens, h being saved: twice the forward pass, as each product has a
    /// gradient with respect to both of its factors.
    ///
    /// # Math
    /// Router 4·T·E·H; experts 12·R·I·H.
    pub fn backward_flops(&self, tokens: usize) -> Flops {
        let forward = self.forward_flops(tokens);
        Flops {
            router: 2.0 * forward.router,
            experts: 2.0 * forward.experts,
        }
    }

    /// Bytes kept from forward to backward for `tokens` tokens, with x and h stored in `element_bytes` bytes an element (2
    /// for bf16 and f16, 4 for f32). Without tiles of rows, which are the backend's:
    /// [`MoeLayer::saved_bytes`](crate::MoeLayer::saved_bytes) has them too.
    ///
    /// # Math
    /// In bf16 2·H + 4·I·K + 16·K + 4 bytes per token, and 4·(3·E + K + 6) for the batch; only the first two terms are large, and
    /// at constant I·K they do not depend on granularity. With a capacity that can drop, h has R rows instead of T·K.
    ///
    /// ```
    /// # use millet::MoeConfig;
    /// let saved = MoeConfig::builder(2048, 1024, 64, 8).build()?.saved_bytes(16384, 2);
    /// assert_eq!((saved.x + saved.h) >> 20, 576); // MiB
    /// # Ok::<(), millet::ConfigError>(())
    /// ```
    pub fn saved_bytes(&self, tokens: usize, element_bytes: usize) -> SavedBytes {
        let [hidden, intermediate, experts, top_k] = self.sizes();
        let (tokens, rows, element) = (
            tokens as u64,
            self.max_rows(tokens) as u64,
            element_bytes as u64,
        );
        let assignments = tokens * top_k;
        SavedBytes {
            x: tokens * hidden * element,
            h: rows * 2 * intermediate * element,
            topk_ids: 4 * assignments,
            topk_weights: 4 * assignments,
            row_maps: 4 * (assignments + rows),
            row_tiles: 0,
            offsets: 4 * (2 * experts + 1),
            statistics: 4 * (5 + top_k + experts),
            logsumexp: 4 * tokens,
        }
    }

    /// Routed rows that an expert gets on average: R/E.
    pub fn mean_rows_per_expert(&self, tokens: usize) -> f64 {
        self.max_rows(tokens) as f64 / self.num_experts() as f64
    }

    /// Arithmetic intensity of the experts' forward products in FLOP per byte, evenly loaded, elements of `element_bytes`
    /// bytes. Below the ratio of a device's FLOP rate to its memory bandwidth the layer waits for memory.
    ///
    /// # Math
    /// With 2-byte elements 3/((2 + 2·H/I)/H + 3·E/R): each product reads its rows and weights once and writes its result,
    /// h's write not counted. From SonicMoE (arXiv 2512.14080, equation 4).
    pub fn arithmetic_intensity(&self, tokens: usize, element_bytes: usize) -> f64 {
        let (hidden, intermediate) = (self.hidden_size() as f64, self.intermediate_size() as f64);
        let rows_per_expert = self.mean_rows_per_expert(tokens);
        let bytes_per_flop = (2.0 + 2.0 * hidden / intermediate) / hidden + 3.0 / rows_per_expert;
        3.0 / bytes_per_flop * (2.0 / element_bytes as f64)
    }

    /// Rows wasted for each routed row when every expert's rows are filled up to a multiple of `tile_rows`: half a tile an
    /// expert on average, so tile·E/(2·R). An expectation for loads large against a tile, not what one batch wastes; 0
    /// without tokens.
    pub fn padding_share(&self, tokens: usize, tile_rows: usize) -> f64 {
        match self.max_rows(tokens) {
            0 => 0.0,
            _ => tile_rows as f64 / 2.0 / self.mean_rows_per_expert(tokens),
        }
    }

    /// H, I, E, K.
    fn sizes(&self) -> [u64; 4] {
        [
            self.hidden_size(),
            self.intermediate_size(),
            self.num_experts(),
            self.top_k(),
        ]
        .map(|size| size as u64)
    }
}
