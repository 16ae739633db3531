// Made of csrc/params.h by `cargo xtask bindings`; change that.
// FNV-1a of csrc/params.h: b7dcaa6c061056e9

pub const MILLET_THREADS: u32 = 256;
pub const MILLET_MAX_TILES: u32 = 256;
pub const MILLET_MAX_EXPERTS: u32 = 4096;
pub const MILLET_MAX_TOP_K: u32 = 64;
pub const MILLET_SUM_ELEMENTS: u32 = 2048;
pub const MILLET_ROUTER_TOKENS_128: u32 = 64;
pub const MILLET_ROUTER_TOKENS_256: u32 = 64;
pub const MILLET_ROUTER_TOKENS_512: u32 = 32;
pub const MILLET_LOGITS_TOKENS: u32 = 64;
pub const MILLET_LOGITS_EXPERTS: u32 = 128;
pub const MILLET_LOGITS_STAGES_128: u32 = 4;
pub const MILLET_LOGITS_STAGES_256: u32 = 3;
pub const MILLET_LOGITS_STAGES_512: u32 = 2;
pub const MILLET_LOGITS_STEP_BYTES: u32 = 64;
pub const MILLET_LOGITS_PAD: u32 = 8;
pub const MILLET_MIXED_ROWS: u32 = 64;
pub const MILLET_MIXED_COLUMNS: u32 = 128;
pub const MILLET_MIXED_STEP: u32 = 16;
pub const MILLET_PHASE_WORDS: u32 = 8;
pub const MILLET_SOFTMAX_AFTER_TOP_K: u32 = 0;
pub const MILLET_SOFTMAX_BEFORE_TOP_K: u32 = 1;
pub const MILLET_SIGMOID: u32 = 2;
pub const MILLET_KEEP_ALL: u32 = 0;
pub const MILLET_KEEP_PROBABILITY: u32 = 1;
pub const MILLET_KEEP_POSITION: u32 = 2;
pub const MILLET_KEEP_SLOT_MAJOR: u32 = 3;
pub const MILLET_PRODUCT_THREADS: u32 = 128;
pub const MILLET_PRODUCT_LARGE_ROWS: u32 = 128;
pub const MILLET_PRODUCT_SMALL_ROWS: u32 = 64;
pub const MILLET_PRODUCT_COLUMNS: u32 = 128;
pub const MILLET_PRODUCT_STAGES: u32 = 3;
pub const MILLET_PRODUCT_STEP_BYTES: u32 = 64;
pub const MILLET_PRODUCT_RESIDENT: u32 = 2;
pub const MILLET_DOT_COLUMNS: u32 = 64;
pub const MILLET_SWIGLU: u32 = 0;
pub const MILLET_CLAMPED_SWIGLU: u32 = 1;
pub const MILLET_BIAS_BYTES: u32 = 128;
pub const MILLET_BIAS_ELEMENTS: u32 = 32;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletRouter {
    pub experts: i32,
    pub top_k: i32,
    pub score_function: i32,
    pub straight_through: i32,
    pub renormalized: i32,
    pub groups: i32,
    pub selected_groups: i32,
    pub scaling_factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletRouter"][::std::mem::size_of::<MilletRouter>() - 32usize];
    ["Alignment of MilletRouter"][::std::mem::align_of::<MilletRouter>() - 4usize];
    ["Offset of field: MilletRouter::experts"]
        [::std::mem::offset_of!(MilletRouter, experts) - 0usize];
    ["Offset of field: MilletRouter::top_k"][::std::mem::offset_of!(MilletRouter, top_k) - 4usize];
    ["Offset of field: MilletRouter::score_function"]
        [::std::mem::offset_of!(MilletRouter, score_function) - 8usize];
    ["Offset of field: MilletRouter::straight_through"]
        [::std::mem::offset_of!(MilletRouter, straight_through) - 12usize];
    ["Offset of field: MilletRouter::renormalized"]
        [::std::mem::offset_of!(MilletRouter, renormalized) - 16usize];
    ["Offset of field: MilletRouter::groups"]
        [::std::mem::offset_of!(MilletRouter, groups) - 20usize];
    ["Offset of field: MilletRouter::selected_groups"]
        [::std::mem::offset_of!(MilletRouter, selected_groups) - 24usize];
    ["Offset of field: MilletRouter::scaling_factor"]
        [::std::mem::offset_of!(MilletRouter, scaling_factor) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletRouterForward {
    pub router: MilletRouter,
    pub tokens: i64,
    pub tile_tokens: i32,
    pub tiles: i32,
    pub hidden: i32,
    pub aligned: i32,
    pub logits: *const ::std::os::raw::c_void,
    pub x: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub selection_bias: *const f32,
    pub ids: *mut i32,
    pub weights: *mut f32,
    pub lse: *mut f32,
    pub counts: *mut i32,
    pub stats: *mut f32,
    pub logits_out: *mut f32,
    pub aux_factor: f64,
    pub z_factor: f64,
    pub phases: *mut u32,
    pub tile_stats: *mut f32,
    pub tile_counts: *mut i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletRouterForward"][::std::mem::size_of::<MilletRouterForward>() - 176usize];
    ["Alignment of MilletRouterForward"][::std::mem::align_of::<MilletRouterForward>() - 8usize];
    ["Offset of field: MilletRouterForward::router"]
        [::std::mem::offset_of!(MilletRouterForward, router) - 0usize];
    ["Offset of field: MilletRouterForward::tokens"]
        [::std::mem::offset_of!(MilletRouterForward, tokens) - 32usize];
    ["Offset of field: MilletRouterForward::tile_tokens"]
        [::std::mem::offset_of!(MilletRouterForward, tile_tokens) - 40usize];
    ["Offset of field: MilletRouterForward::tiles"]
        [::std::mem::offset_of!(MilletRouterForward, tiles) - 44usize];
    ["Offset of field: MilletRouterForward::hidden"]
        [::std::mem::offset_of!(MilletRouterForward, hidden) - 48usize];
    ["Offset of field: MilletRouterForward::aligned"]
        [::std::mem::offset_of!(MilletRouterForward, aligned) - 52usize];
    ["Offset of field: MilletRouterForward::logits"]
        [::std::mem::offset_of!(MilletRouterForward, logits) - 56usize];
    ["Offset of field: MilletRouterForward::x"]
        [::std::mem::offset_of!(MilletRouterForward, x) - 64usize];
    ["Offset of field: MilletRouterForward::weight"]
        [::std::mem::offset_of!(MilletRouterForward, weight) - 72usize];
    ["Offset of field: MilletRouterForward::selection_bias"]
        [::std::mem::offset_of!(MilletRouterForward, selection_bias) - 80usize];
    ["Offset of field: MilletRouterForward::ids"]
        [::std::mem::offset_of!(MilletRouterForward, ids) - 88usize];
    ["Offset of field: MilletRouterForward::weights"]
        [::std::mem::offset_of!(MilletRouterForward, weights) - 96usize];
    ["Offset of field: MilletRouterForward::lse"]
        [::std::mem::offset_of!(MilletRouterForward, lse) - 104usize];
    ["Offset of field: MilletRouterForward::counts"]
        [::std::mem::offset_of!(MilletRouterForward, counts) - 112usize];
    ["Offset of field: MilletRouterForward::stats"]
        [::std::mem::offset_of!(MilletRouterForward, stats) - 120usize];
    ["Offset of field: MilletRouterForward::logits_out"]
        [::std::mem::offset_of!(MilletRouterForward, logits_out) - 128usize];
    ["Offset of field: MilletRouterForward::aux_factor"]
        [::std::mem::offset_of!(MilletRouterForward, aux_factor) - 136usize];
    ["Offset of field: MilletRouterForward::z_factor"]
        [::std::mem::offset_of!(MilletRouterForward, z_factor) - 144usize];
    ["Offset of field: MilletRouterForward::phases"]
        [::std::mem::offset_of!(MilletRouterForward, phases) - 152usize];
    ["Offset of field: MilletRouterForward::tile_stats"]
        [::std::mem::offset_of!(MilletRouterForward, tile_stats) - 160usize];
    ["Offset of field: MilletRouterForward::tile_counts"]
        [::std::mem::offset_of!(MilletRouterForward, tile_counts) - 168usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletRouterBackward {
    pub router: MilletRouter,
    pub tokens: i64,
    pub hidden: i32,
    pub aligned: i32,
    pub logits: *const ::std::os::raw::c_void,
    pub x: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub ids: *const i32,
    pub weights: *const f32,
    pub lse: *const f32,
    pub counts: *const i32,
    pub weights_grad: *const f32,
    pub aux: f32,
    pub z: f32,
    pub logits_grad: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletRouterBackward"][::std::mem::size_of::<MilletRouterBackward>() - 128usize];
    ["Alignment of MilletRouterBackward"][::std::mem::align_of::<MilletRouterBackward>() - 8usize];
    ["Offset of field: MilletRouterBackward::router"]
        [::std::mem::offset_of!(MilletRouterBackward, router) - 0usize];
    ["Offset of field: MilletRouterBackward::tokens"]
        [::std::mem::offset_of!(MilletRouterBackward, tokens) - 32usize];
    ["Offset of field: MilletRouterBackward::hidden"]
        [::std::mem::offset_of!(MilletRouterBackward, hidden) - 40usize];
    ["Offset of field: MilletRouterBackward::aligned"]
        [::std::mem::offset_of!(MilletRouterBackward, aligned) - 44usize];
    ["Offset of field: MilletRouterBackward::logits"]
        [::std::mem::offset_of!(MilletRouterBackward, logits) - 48usize];
    ["Offset of field: MilletRouterBackward::x"]
        [::std::mem::offset_of!(MilletRouterBackward, x) - 56usize];
    ["Offset of field: MilletRouterBackward::weight"]
        [::std::mem::offset_of!(MilletRouterBackward, weight) - 64usize];
    ["Offset of field: MilletRouterBackward::ids"]
        [::std::mem::offset_of!(MilletRouterBackward, ids) - 72usize];
    ["Offset of field: MilletRouterBackward::weights"]
        [::std::mem::offset_of!(MilletRouterBackward, weights) - 80usize];
    ["Offset of field: MilletRouterBackward::lse"]
        [::std::mem::offset_of!(MilletRouterBackward, lse) - 88usize];
    ["Offset of field: MilletRouterBackward::counts"]
        [::std::mem::offset_of!(MilletRouterBackward, counts) - 96usize];
    ["Offset of field: MilletRouterBackward::weights_grad"]
        [::std::mem::offset_of!(MilletRouterBackward, weights_grad) - 104usize];
    ["Offset of field: MilletRouterBackward::aux"]
        [::std::mem::offset_of!(MilletRouterBackward, aux) - 112usize];
    ["Offset of field: MilletRouterBackward::z"]
        [::std::mem::offset_of!(MilletRouterBackward, z) - 116usize];
    ["Offset of field: MilletRouterBackward::logits_grad"]
        [::std::mem::offset_of!(MilletRouterBackward, logits_grad) - 120usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletDispatch {
    pub experts: i32,
    pub top_k: i32,
    pub assignments: i64,
    pub tile_assignments: i64,
    pub tiles: i32,
    pub policy: i32,
    pub capacity: i32,
    pub renormalize_to: f32,
    pub max_rows: i64,
    pub tile_rows: i32,
    pub max_row_tiles: i32,
    pub ids: *const i32,
    pub weights: *mut f32,
    pub offsets: *mut i32,
    pub row_to_assignment: *mut i32,
    pub assignment_to_row: *mut i32,
    pub row_tiles: *mut i32,
    pub phases: *mut u32,
    pub tile_counts: *mut i32,
    pub totals: *mut i32,
    pub sorted: *mut i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletDispatch"][::std::mem::size_of::<MilletDispatch>() - 136usize];
    ["Alignment of MilletDispatch"][::std::mem::align_of::<MilletDispatch>() - 8usize];
    ["Offset of field: MilletDispatch::experts"]
        [::std::mem::offset_of!(MilletDispatch, experts) - 0usize];
    ["Offset of field: MilletDispatch::top_k"]
        [::std::mem::offset_of!(MilletDispatch, top_k) - 4usize];
    ["Offset of field: MilletDispatch::assignments"]
        [::std::mem::offset_of!(MilletDispatch, assignments) - 8usize];
    ["Offset of field: MilletDispatch::tile_assignments"]
        [::std::mem::offset_of!(MilletDispatch, tile_assignments) - 16usize];
    ["Offset of field: MilletDispatch::tiles"]
        [::std::mem::offset_of!(MilletDispatch, tiles) - 24usize];
    ["Offset of field: MilletDispatch::policy"]
        [::std::mem::offset_of!(MilletDispatch, policy) - 28usize];
    ["Offset of field: MilletDispatch::capacity"]
        [::std::mem::offset_of!(MilletDispatch, capacity) - 32usize];
    ["Offset of field: MilletDispatch::renormalize_to"]
        [::std::mem::offset_of!(MilletDispatch, renormalize_to) - 36usize];
    ["Offset of field: MilletDispatch::max_rows"]
        [::std::mem::offset_of!(MilletDispatch, max_rows) - 40usize];
    ["Offset of field: MilletDispatch::tile_rows"]
        [::std::mem::offset_of!(MilletDispatch, tile_rows) - 48usize];
    ["Offset of field: MilletDispatch::max_row_tiles"]
        [::std::mem::offset_of!(MilletDispatch, max_row_tiles) - 52usize];
    ["Offset of field: MilletDispatch::ids"][::std::mem::offset_of!(MilletDispatch, ids) - 56usize];
    ["Offset of field: MilletDispatch::weights"]
        [::std::mem::offset_of!(MilletDispatch, weights) - 64usize];
    ["Offset of field: MilletDispatch::offsets"]
        [::std::mem::offset_of!(MilletDispatch, offsets) - 72usize];
    ["Offset of field: MilletDispatch::row_to_assignment"]
        [::std::mem::offset_of!(MilletDispatch, row_to_assignment) - 80usize];
    ["Offset of field: MilletDispatch::assignment_to_row"]
        [::std::mem::offset_of!(MilletDispatch, assignment_to_row) - 88usize];
    ["Offset of field: MilletDispatch::row_tiles"]
        [::std::mem::offset_of!(MilletDispatch, row_tiles) - 96usize];
    ["Offset of field: MilletDispatch::phases"]
        [::std::mem::offset_of!(MilletDispatch, phases) - 104usize];
    ["Offset of field: MilletDispatch::tile_counts"]
        [::std::mem::offset_of!(MilletDispatch, tile_counts) - 112usize];
    ["Offset of field: MilletDispatch::totals"]
        [::std::mem::offset_of!(MilletDispatch, totals) - 120usize];
    ["Offset of field: MilletDispatch::sorted"]
        [::std::mem::offset_of!(MilletDispatch, sorted) - 128usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletRows {
    pub tokens: i64,
    pub top_k: i32,
    pub hidden: i32,
    pub vectorized: i32,
    pub column_vectors: i32,
    pub assignment_to_row: *const i32,
    pub tokens_in: *const ::std::os::raw::c_void,
    pub tokens_out: *mut ::std::os::raw::c_void,
    pub rows_in: *const ::std::os::raw::c_void,
    pub rows_out: *mut ::std::os::raw::c_void,
    pub weights: *const f32,
    pub weights_grad: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletRows"][::std::mem::size_of::<MilletRows>() - 80usize];
    ["Alignment of MilletRows"][::std::mem::align_of::<MilletRows>() - 8usize];
    ["Offset of field: MilletRows::tokens"][::std::mem::offset_of!(MilletRows, tokens) - 0usize];
    ["Offset of field: MilletRows::top_k"][::std::mem::offset_of!(MilletRows, top_k) - 8usize];
    ["Offset of field: MilletRows::hidden"][::std::mem::offset_of!(MilletRows, hidden) - 12usize];
    ["Offset of field: MilletRows::vectorized"]
        [::std::mem::offset_of!(MilletRows, vectorized) - 16usize];
    ["Offset of field: MilletRows::column_vectors"]
        [::std::mem::offset_of!(MilletRows, column_vectors) - 20usize];
    ["Offset of field: MilletRows::assignment_to_row"]
        [::std::mem::offset_of!(MilletRows, assignment_to_row) - 24usize];
    ["Offset of field: MilletRows::tokens_in"]
        [::std::mem::offset_of!(MilletRows, tokens_in) - 32usize];
    ["Offset of field: MilletRows::tokens_out"]
        [::std::mem::offset_of!(MilletRows, tokens_out) - 40usize];
    ["Offset of field: MilletRows::rows_in"][::std::mem::offset_of!(MilletRows, rows_in) - 48usize];
    ["Offset of field: MilletRows::rows_out"]
        [::std::mem::offset_of!(MilletRows, rows_out) - 56usize];
    ["Offset of field: MilletRows::weights"][::std::mem::offset_of!(MilletRows, weights) - 64usize];
    ["Offset of field: MilletRows::weights_grad"]
        [::std::mem::offset_of!(MilletRows, weights_grad) - 72usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletRouterWeightGrad {
    pub tokens: i64,
    pub experts: i32,
    pub hidden: i32,
    pub range_tokens: i64,
    pub ranges: i32,
    pub aligned: i32,
    pub accumulate: i32,
    pub logits_grad: *const f32,
    pub x: *const ::std::os::raw::c_void,
    pub grad: *mut ::std::os::raw::c_void,
    pub phases: *mut u32,
    pub range_sums: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletRouterWeightGrad"][::std::mem::size_of::<MilletRouterWeightGrad>() - 80usize];
    ["Alignment of MilletRouterWeightGrad"]
        [::std::mem::align_of::<MilletRouterWeightGrad>() - 8usize];
    ["Offset of field: MilletRouterWeightGrad::tokens"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, tokens) - 0usize];
    ["Offset of field: MilletRouterWeightGrad::experts"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, experts) - 8usize];
    ["Offset of field: MilletRouterWeightGrad::hidden"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, hidden) - 12usize];
    ["Offset of field: MilletRouterWeightGrad::range_tokens"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, range_tokens) - 16usize];
    ["Offset of field: MilletRouterWeightGrad::ranges"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, ranges) - 24usize];
    ["Offset of field: MilletRouterWeightGrad::aligned"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, aligned) - 28usize];
    ["Offset of field: MilletRouterWeightGrad::accumulate"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, accumulate) - 32usize];
    ["Offset of field: MilletRouterWeightGrad::logits_grad"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, logits_grad) - 40usize];
    ["Offset of field: MilletRouterWeightGrad::x"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, x) - 48usize];
    ["Offset of field: MilletRouterWeightGrad::grad"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, grad) - 56usize];
    ["Offset of field: MilletRouterWeightGrad::phases"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, phases) - 64usize];
    ["Offset of field: MilletRouterWeightGrad::range_sums"]
        [::std::mem::offset_of!(MilletRouterWeightGrad, range_sums) - 72usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletRouterInputGrad {
    pub tokens: i64,
    pub experts: i32,
    pub hidden: i32,
    pub top_k: i32,
    pub vectorized: i32,
    pub weight_aligned: i32,
    pub logits_grad: *const f32,
    pub weight: *const ::std::os::raw::c_void,
    pub assignment_to_row: *const i32,
    pub rows: *const ::std::os::raw::c_void,
    pub x_grad: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletRouterInputGrad"][::std::mem::size_of::<MilletRouterInputGrad>() - 72usize];
    ["Alignment of MilletRouterInputGrad"]
        [::std::mem::align_of::<MilletRouterInputGrad>() - 8usize];
    ["Offset of field: MilletRouterInputGrad::tokens"]
        [::std::mem::offset_of!(MilletRouterInputGrad, tokens) - 0usize];
    ["Offset of field: MilletRouterInputGrad::experts"]
        [::std::mem::offset_of!(MilletRouterInputGrad, experts) - 8usize];
    ["Offset of field: MilletRouterInputGrad::hidden"]
        [::std::mem::offset_of!(MilletRouterInputGrad, hidden) - 12usize];
    ["Offset of field: MilletRouterInputGrad::top_k"]
        [::std::mem::offset_of!(MilletRouterInputGrad, top_k) - 16usize];
    ["Offset of field: MilletRouterInputGrad::vectorized"]
        [::std::mem::offset_of!(MilletRouterInputGrad, vectorized) - 20usize];
    ["Offset of field: MilletRouterInputGrad::weight_aligned"]
        [::std::mem::offset_of!(MilletRouterInputGrad, weight_aligned) - 24usize];
    ["Offset of field: MilletRouterInputGrad::logits_grad"]
        [::std::mem::offset_of!(MilletRouterInputGrad, logits_grad) - 32usize];
    ["Offset of field: MilletRouterInputGrad::weight"]
        [::std::mem::offset_of!(MilletRouterInputGrad, weight) - 40usize];
    ["Offset of field: MilletRouterInputGrad::assignment_to_row"]
        [::std::mem::offset_of!(MilletRouterInputGrad, assignment_to_row) - 48usize];
    ["Offset of field: MilletRouterInputGrad::rows"]
        [::std::mem::offset_of!(MilletRouterInputGrad, rows) - 56usize];
    ["Offset of field: MilletRouterInputGrad::x_grad"]
        [::std::mem::offset_of!(MilletRouterInputGrad, x_grad) - 64usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletActivation {
    pub kind: i32,
    pub alpha: f32,
    pub limit: f32,
    pub offset: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletActivation"][::std::mem::size_of::<MilletActivation>() - 16usize];
    ["Alignment of MilletActivation"][::std::mem::align_of::<MilletActivation>() - 4usize];
    ["Offset of field: MilletActivation::kind"]
        [::std::mem::offset_of!(MilletActivation, kind) - 0usize];
    ["Offset of field: MilletActivation::alpha"]
        [::std::mem::offset_of!(MilletActivation, alpha) - 4usize];
    ["Offset of field: MilletActivation::limit"]
        [::std::mem::offset_of!(MilletActivation, limit) - 8usize];
    ["Offset of field: MilletActivation::offset"]
        [::std::mem::offset_of!(MilletActivation, offset) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletExperts {
    pub hidden: i32,
    pub inner: i32,
    pub experts: i32,
    pub top_k_multiplier: u32,
    pub top_k_shift: u32,
    pub tile_rows: i32,
    pub row_tiles_bound: u32,
    pub column_tiles: u32,
    pub column_band: u32,
    pub tf32: i32,
    pub activation: MilletActivation,
    pub max_rows: i64,
    pub assignments: i64,
    pub offsets: *const i32,
    pub row_to_assignment: *const i32,
    pub assignment_to_row: *const i32,
    pub row_tiles: *const i32,
    pub tokens: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub bias: *const ::std::os::raw::c_void,
    pub rows_in: *const ::std::os::raw::c_void,
    pub rows_out: *mut ::std::os::raw::c_void,
    pub h: *mut ::std::os::raw::c_void,
    pub weights: *const f32,
    pub weights_grad: *mut f32,
    pub dots: *mut f32,
    pub grad: *mut ::std::os::raw::c_void,
    pub grad_sum: *mut f32,
    pub tickets: *mut u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletExperts"][::std::mem::size_of::<MilletExperts>() - 200usize];
    ["Alignment of MilletExperts"][::std::mem::align_of::<MilletExperts>() - 8usize];
    ["Offset of field: MilletExperts::hidden"]
        [::std::mem::offset_of!(MilletExperts, hidden) - 0usize];
    ["Offset of field: MilletExperts::inner"]
        [::std::mem::offset_of!(MilletExperts, inner) - 4usize];
    ["Offset of field: MilletExperts::experts"]
        [::std::mem::offset_of!(MilletExperts, experts) - 8usize];
    ["Offset of field: MilletExperts::top_k_multiplier"]
        [::std::mem::offset_of!(MilletExperts, top_k_multiplier) - 12usize];
    ["Offset of field: MilletExperts::top_k_shift"]
        [::std::mem::offset_of!(MilletExperts, top_k_shift) - 16usize];
    ["Offset of field: MilletExperts::tile_rows"]
        [::std::mem::offset_of!(MilletExperts, tile_rows) - 20usize];
    ["Offset of field: MilletExperts::row_tiles_bound"]
        [::std::mem::offset_of!(MilletExperts, row_tiles_bound) - 24usize];
    ["Offset of field: MilletExperts::column_tiles"]
        [::std::mem::offset_of!(MilletExperts, column_tiles) - 28usize];
    ["Offset of field: MilletExperts::column_band"]
        [::std::mem::offset_of!(MilletExperts, column_band) - 32usize];
    ["Offset of field: MilletExperts::tf32"][::std::mem::offset_of!(MilletExperts, tf32) - 36usize];
    ["Offset of field: MilletExperts::activation"]
        [::std::mem::offset_of!(MilletExperts, activation) - 40usize];
    ["Offset of field: MilletExperts::max_rows"]
        [::std::mem::offset_of!(MilletExperts, max_rows) - 56usize];
    ["Offset of field: MilletExperts::assignments"]
        [::std::mem::offset_of!(MilletExperts, assignments) - 64usize];
    ["Offset of field: MilletExperts::offsets"]
        [::std::mem::offset_of!(MilletExperts, offsets) - 72usize];
    ["Offset of field: MilletExperts::row_to_assignment"]
        [::std::mem::offset_of!(MilletExperts, row_to_assignment) - 80usize];
    ["Offset of field: MilletExperts::assignment_to_row"]
        [::std::mem::offset_of!(MilletExperts, assignment_to_row) - 88usize];
    ["Offset of field: MilletExperts::row_tiles"]
        [::std::mem::offset_of!(MilletExperts, row_tiles) - 96usize];
    ["Offset of field: MilletExperts::tokens"]
        [::std::mem::offset_of!(MilletExperts, tokens) - 104usize];
    ["Offset of field: MilletExperts::weight"]
        [::std::mem::offset_of!(MilletExperts, weight) - 112usize];
    ["Offset of field: MilletExperts::bias"]
        [::std::mem::offset_of!(MilletExperts, bias) - 120usize];
    ["Offset of field: MilletExperts::rows_in"]
        [::std::mem::offset_of!(MilletExperts, rows_in) - 128usize];
    ["Offset of field: MilletExperts::rows_out"]
        [::std::mem::offset_of!(MilletExperts, rows_out) - 136usize];
    ["Offset of field: MilletExperts::h"][::std::mem::offset_of!(MilletExperts, h) - 144usize];
    ["Offset of field: MilletExperts::weights"]
        [::std::mem::offset_of!(MilletExperts, weights) - 152usize];
    ["Offset of field: MilletExperts::weights_grad"]
        [::std::mem::offset_of!(MilletExperts, weights_grad) - 160usize];
    ["Offset of field: MilletExperts::dots"]
        [::std::mem::offset_of!(MilletExperts, dots) - 168usize];
    ["Offset of field: MilletExperts::grad"]
        [::std::mem::offset_of!(MilletExperts, grad) - 176usize];
    ["Offset of field: MilletExperts::grad_sum"]
        [::std::mem::offset_of!(MilletExperts, grad_sum) - 184usize];
    ["Offset of field: MilletExperts::tickets"]
        [::std::mem::offset_of!(MilletExperts, tickets) - 192usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MilletExpertBias {
    pub tokens: i64,
    pub top_k: i32,
    pub hidden: i32,
    pub inner: i32,
    pub experts: i32,
    pub vectorized: i32,
    pub gate_up_blocks: i32,
    pub down_blocks: i32,
    pub offsets: *const i32,
    pub row_to_assignment: *const i32,
    pub assignment_to_row: *const i32,
    pub output_grad: *const ::std::os::raw::c_void,
    pub h_grad: *const ::std::os::raw::c_void,
    pub down_bias: *const ::std::os::raw::c_void,
    pub weights: *const f32,
    pub weights_grad: *mut f32,
    pub gate_up_grad: *mut ::std::os::raw::c_void,
    pub gate_up_grad_sum: *mut f32,
    pub down_grad: *mut ::std::os::raw::c_void,
    pub down_grad_sum: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MilletExpertBias"][::std::mem::size_of::<MilletExpertBias>() - 136usize];
    ["Alignment of MilletExpertBias"][::std::mem::align_of::<MilletExpertBias>() - 8usize];
    ["Offset of field: MilletExpertBias::tokens"]
        [::std::mem::offset_of!(MilletExpertBias, tokens) - 0usize];
    ["Offset of field: MilletExpertBias::top_k"]
        [::std::mem::offset_of!(MilletExpertBias, top_k) - 8usize];
    ["Offset of field: MilletExpertBias::hidden"]
        [::std::mem::offset_of!(MilletExpertBias, hidden) - 12usize];
    ["Offset of field: MilletExpertBias::inner"]
        [::std::mem::offset_of!(MilletExpertBias, inner) - 16usize];
    ["Offset of field: MilletExpertBias::experts"]
        [::std::mem::offset_of!(MilletExpertBias, experts) - 20usize];
    ["Offset of field: MilletExpertBias::vectorized"]
        [::std::mem::offset_of!(MilletExpertBias, vectorized) - 24usize];
    ["Offset of field: MilletExpertBias::gate_up_blocks"]
        [::std::mem::offset_of!(MilletExpertBias, gate_up_blocks) - 28usize];
    ["Offset of field: MilletExpertBias::down_blocks"]
        [::std::mem::offset_of!(MilletExpertBias, down_blocks) - 32usize];
    ["Offset of field: MilletExpertBias::offsets"]
        [::std::mem::offset_of!(MilletExpertBias, offsets) - 40usize];
    ["Offset of field: MilletExpertBias::row_to_assignment"]
        [::std::mem::offset_of!(MilletExpertBias, row_to_assignment) - 48usize];
    ["Offset of field: MilletExpertBias::assignment_to_row"]
        [::std::mem::offset_of!(MilletExpertBias, assignment_to_row) - 56usize];
    ["Offset of field: MilletExpertBias::output_grad"]
        [::std::mem::offset_of!(MilletExpertBias, output_grad) - 64usize];
    ["Offset of field: MilletExpertBias::h_grad"]
        [::std::mem::offset_of!(MilletExpertBias, h_grad) - 72usize];
    ["Offset of field: MilletExpertBias::down_bias"]
        [::std::mem::offset_of!(MilletExpertBias, down_bias) - 80usize];
    ["Offset of field: MilletExpertBias::weights"]
        [::std::mem::offset_of!(MilletExpertBias, weights) - 88usize];
    ["Offset of field: MilletExpertBias::weights_grad"]
        [::std::mem::offset_of!(MilletExpertBias, weights_grad) - 96usize];
    ["Offset of field: MilletExpertBias::gate_up_grad"]
        [::std::mem::offset_of!(MilletExpertBias, gate_up_grad) - 104usize];
    ["Offset of field: MilletExpertBias::gate_up_grad_sum"]
        [::std::mem::offset_of!(MilletExpertBias, gate_up_grad_sum) - 112usize];
    ["Offset of field: MilletExpertBias::down_grad"]
        [::std::mem::offset_of!(MilletExpertBias, down_grad) - 120usize];
    ["Offset of field: MilletExpertBias::down_grad_sum"]
        [::std::mem::offset_of!(MilletExpertBias, down_grad_sum) - 128usize];
};
