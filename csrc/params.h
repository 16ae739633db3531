// Parameters of the kernels and the constants that host and device share: the one source for Rust (src/cuda/sys.rs is
// made of this file, `cargo xtask bindings`) and CUDA. Pointers are device addresses. Sizes are those of the crate's
// documentation: T tokens, H hidden size, E experts, K top-k, R rows.
#pragma once
#include <stdint.h>

// Threads of a block in every kernel of routing.
#define MILLET_THREADS 256
// Tiles that a pass over tokens or assignments is split into at most, whatever their number: bounds what is counted per
// tile.
#define MILLET_MAX_TILES 256
// Largest E and K of the router.
#define MILLET_MAX_EXPERTS 4096
#define MILLET_MAX_TOP_K 64
// Elements of a weight gradient whose ranges' sums a block adds up.
#define MILLET_SUM_ELEMENTS 2048
// Tokens of a block that computes logits and routes them, by the experts that its kernel is for at most; tokens and
// experts of one that computes logits alone.
#define MILLET_ROUTER_TOKENS_128 64
#define MILLET_ROUTER_TOKENS_256 64
#define MILLET_ROUTER_TOKENS_512 32
#define MILLET_LOGITS_TOKENS 64
#define MILLET_LOGITS_EXPERTS 128
// Their ring in shared memory: stages, by the experts of a block at most, and bytes of the reduction in a stage. Then
// logits are there: floats from one row to the next, beyond the experts.
#define MILLET_LOGITS_STAGES_128 4
#define MILLET_LOGITS_STAGES_256 3
#define MILLET_LOGITS_STAGES_512 2
#define MILLET_LOGITS_STEP_BYTES 64
#define MILLET_LOGITS_PAD 8
// Rows and columns of a tile of the products with dz, and a step of their reduction.
#define MILLET_MIXED_ROWS 64
#define MILLET_MIXED_COLUMNS 128
#define MILLET_MIXED_STEP 16
// Words of scratch for `Phases` (device/phases.cuh); must be 0 when a kernel starts.
#define MILLET_PHASE_WORDS 8

// millet::ScoreFunction.
#define MILLET_SOFTMAX_AFTER_TOP_K 0
#define MILLET_SOFTMAX_BEFORE_TOP_K 1
#define MILLET_SIGMOID 2

// millet::DropPolicy, and none.
#define MILLET_KEEP_ALL 0
#define MILLET_KEEP_PROBABILITY 1
#define MILLET_KEEP_POSITION 2
#define MILLET_KEEP_SLOT_MAJOR 3

// What a router computes: millet::RouterConfig.
typedef struct {
    int32_t experts;
    int32_t top_k;
    int32_t score_function;
    int32_t straight_through;
    // Survivors' weights were renormalised after dropping (backward only).
    int32_t renormalized;
    // Groups of experts and how many are selected; 0 without groups.
    int32_t groups;
    int32_t selected_groups;
    float scaling_factor;
} MilletRouter;

// Router forward. See csrc/router.cu (logits given) and csrc/router_tokens.cu (from tokens).
typedef struct {
    MilletRouter router;
    int64_t tokens;
    // Tokens of one tile, and tiles.
    int32_t tile_tokens;
    int32_t tiles;
    int32_t hidden;
    // Are rows of x and of the weight 16-byte aligned?
    int32_t aligned;
    // Logits [T, E] given, or x [T, H] and the weight [E, H].
    const void *logits;
    const void *x;
    const void *weight;
    // [E], or null.
    const float *selection_bias;
    int32_t *ids;
    float *weights;
    float *lse;
    int32_t *counts;
    float *stats;
    // [T, E], or null where nobody asked for them.
    float *logits_out;
    // coeff·E/(K·T²) and coeff/T.
    double aux_factor;
    double z_factor;
    // Scratch: words of phases, and of each tile the statistics [5 + K + E] and the counts [E].
    uint32_t *phases;
    float *tile_stats;
    int32_t *tile_counts;
} MilletRouterForward;

// Router backward. See csrc/router.cu (logits given) and csrc/router_tokens_backward.cu (from tokens).
typedef struct {
    MilletRouter router;
    int64_t tokens;
    int32_t hidden;
    int32_t aligned;
    const void *logits;
    const void *x;
    const void *weight;
    const int32_t *ids;
    const float *weights;
    const float *lse;
    const int32_t *counts;
    const float *weights_grad;
    // Factors of the losses' gradients: aux's before counts, z's before lse.
    float aux;
    float z;
    float *logits_grad;
} MilletRouterBackward;

// Capacity dropping and the stable sort by expert. See csrc/dispatch.cu.
typedef struct {
    int32_t experts;
    int32_t top_k;
    int64_t assignments;
    // Assignments of a tile, a multiple of K, and tiles.
    int64_t tile_assignments;
    int32_t tiles;
    int32_t policy;
    // C; not looked at with MILLET_KEEP_ALL.
    int32_t capacity;
    // Scale survivors' weights to this sum; 0 leaves them.
    float renormalize_to;
    int64_t max_rows;
    // Rows of a tile of the grouped products, and tiles at most.
    int32_t tile_rows;
    int32_t max_row_tiles;
    const int32_t *ids;
    float *weights;
    int32_t *offsets;
    int32_t *row_to_assignment;
    int32_t *assignment_to_row;
    // [max_row_tiles, 2]: expert and first row of each tile, −1 after the last.
    int32_t *row_tiles;
    // Scratch: words of phases, [tiles, E] counts and then places, [E] totals, [T·K] assignments by expert.
    uint32_t *phases;
    int32_t *tile_counts;
    int32_t *totals;
    int32_t *sorted;
} MilletDispatch;

// Permute, unpermute and their backward. See csrc/permute.cu and csrc/combine.cu.
typedef struct {
    int64_t tokens;
    int32_t top_k;
    int32_t hidden;
    // Are H elements a multiple of 16 bytes?
    int32_t vectorized;
    // Vectors of columns of one block; a multiple of 32.
    int32_t column_vectors;
    const int32_t *assignment_to_row;
    // [T, H] and [R, H], by kernel read or written.
    const void *tokens_in;
    void *tokens_out;
    const void *rows_in;
    void *rows_out;
    // [T, K], or null for weights of 1.
    const float *weights;
    float *weights_grad;
} MilletRows;

// dWᵣ = dzᵀ·x. See csrc/router_grad.cu.
typedef struct {
    int64_t tokens;
    int32_t experts;
    int32_t hidden;
    // Tokens of a range, and ranges.
    int64_t range_tokens;
    int32_t ranges;
    // Are rows of x 16-byte aligned?
    int32_t aligned;
    // Add to f32, or store in the weight's type?
    int32_t accumulate;
    const float *logits_grad;
    const void *x;
    void *grad;
    // Scratch: words of phases, and [ranges, E, H] sums where there are several.
    uint32_t *phases;
    float *range_sums;
} MilletRouterWeightGrad;

// dX = Σ rows + dz·Wᵣ. See csrc/router_grad.cu.
typedef struct {
    int64_t tokens;
    int32_t experts;
    int32_t hidden;
    int32_t top_k;
    // Are H elements of x, and of the weight, a multiple of 16 bytes?
    int32_t vectorized;
    int32_t weight_aligned;
    const float *logits_grad;
    const void *weight;
    const int32_t *assignment_to_row;
    const void *rows;
    void *x_grad;
} MilletRouterInputGrad;

// Threads of a block of the experts' products, rows and columns of its tile, stages of its ring, bytes of the reduction
// in a stage.
#define MILLET_PRODUCT_THREADS 128
#define MILLET_PRODUCT_LARGE_ROWS 128
#define MILLET_PRODUCT_SMALL_ROWS 64
#define MILLET_PRODUCT_COLUMNS 128
#define MILLET_PRODUCT_STAGES 3
#define MILLET_PRODUCT_STEP_BYTES 64
// Blocks of them that fit on a multiprocessor.
#define MILLET_PRODUCT_RESIDENT 2
// Columns that one partial sum of a weight's gradient is over.
#define MILLET_DOT_COLUMNS 64

// millet::Activation.
#define MILLET_SWIGLU 0
#define MILLET_CLAMPED_SWIGLU 1

// What experts make of gate and up: millet::Activation.
typedef struct {
    int32_t kind;
    // Of ClampedSwiGlu.
    float alpha;
    float limit;
    float offset;
} MilletActivation;

// The experts' products. See csrc/experts_forward.cu and csrc/experts_backward.cu.
typedef struct {
    int32_t hidden;
    int32_t inner;
    int32_t experts;
    // A token is its assignment over K: hi(a·multiplier) + a, shifted right.
    uint32_t top_k_multiplier;
    uint32_t top_k_shift;
    // Rows of a tile of the plan, and how many tiles it has at most.
    int32_t tile_rows;
    uint32_t row_tiles_bound;
    // Tiles of columns, and how many of them are walked before the next rows.
    uint32_t column_tiles;
    uint32_t column_band;
    // f32: one product of tf32 numbers instead of three of their parts.
    int32_t tf32;
    MilletActivation activation;
    int64_t max_rows;
    int64_t assignments;
    const int32_t *offsets;
    const int32_t *row_to_assignment;
    const int32_t *assignment_to_row;
    const int32_t *row_tiles;
    // x or dO [T, H].
    const void *tokens;
    // gate_up [E, 2I, H] or down [E, H, I].
    const void *weight;
    // [E, 2I] or [E, H], or null. In down's backward it is not read: if there is one, `weights_grad` holds its part.
    const void *bias;
    // [R, I] or [R, 2I]: a, w·a or dh that is read.
    const void *rows_in;
    // [R, H] or [R, I]: w·y, dX̃, a or w·a that is written.
    void *rows_out;
    // [R, 2I]: h, or dh over h; null where nobody wants it.
    void *h;
    // [T, K].
    const float *weights;
    float *weights_grad;
    // [parts, R] parts of the weights' gradients.
    float *dots;
    // Gradient of a weight: overwritten, or added to in f32.
    void *grad;
    float *grad_sum;
    // Counts the tiles that were drawn; 0 when a kernel starts.
    uint32_t *tickets;
} MilletExperts;

// Columns of a block that sums a bias's gradient: so many bytes of a row, or so many elements where rows are not whole
// vectors.
#define MILLET_BIAS_BYTES 128
#define MILLET_BIAS_ELEMENTS 32

// The experts' biases in backward. See csrc/experts_bias.cu.
typedef struct {
    int64_t tokens;
    int32_t top_k;
    int32_t hidden;
    int32_t inner;
    int32_t experts;
    // Are rows of all tensors 16-byte aligned?
    int32_t vectorized;
    // Blocks per expert that sum the gradient of gate_up's bias, and of down's.
    int32_t gate_up_blocks;
    int32_t down_blocks;
    const int32_t *offsets;
    const int32_t *row_to_assignment;
    const int32_t *assignment_to_row;
    // dO [T, H], dh [R, 2I] and down's bias [E, H].
    const void *output_grad;
    const void *h_grad;
    const void *down_bias;
    // [T, K].
    const float *weights;
    float *weights_grad;
    // [E, 2I] and [E, H]: overwritten, or added to in f32.
    void *gate_up_grad;
    float *gate_up_grad_sum;
    void *down_grad;
    float *down_grad_sum;
} MilletExpertBias;
