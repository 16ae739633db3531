/* automatically generated from csrc/params.h */

pub const MILLET_THREADS: u32 = 256;
pub const MILLET_MAX_TILES: u32 = 256;
pub const MILLET_MAX_EXPERTS: u32 = 4096;
pub const MILLET_MAX_TOP_K: u32 = 64;
pub const MILLET_PHASE_WORDS: u32 = 8;
pub const MILLET_SOFTMAX_AFTER_TOP_K: u32 = 0;
pub const MILLET_SOFTMAX_BEFORE_TOP_K: u32 = 1;
pub const MILLET_SIGMOID: u32 = 2;
pub const MILLET_KEEP_ALL: u32 = 0;
pub const MILLET_KEEP_PROBABILITY: u32 = 1;
pub const MILLET_KEEP_POSITION: u32 = 2;
pub const MILLET_KEEP_SLOT_MAJOR: u32 = 3;
pub const MILLET_PRODUCT_THREADS: u32 = 128;
pub const MILLET_PRODUCT_COLUMNS: u32 = 128;
pub const MILLET_PRODUCT_STAGES: u32 = 3;
pub const MILLET_PRODUCT_STEP_BYTES: u32 = 64;
pub const MILLET_PRODUCT_RESIDENT: u32 = 2;
pub const MILLET_DOT_COLUMNS: u32 = 64;
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
    pub max_rows: i64,
    pub assignments: i64,
    pub offsets: *const i32,
    pub row_to_assignment: *const i32,
    pub assignment_to_row: *const i32,
    pub row_tiles: *const i32,
    pub tokens: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
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
