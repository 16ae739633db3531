// Permute: tokens to rows in expert order.
//
//   rows[r] = x[t]   for every assignment of token t that has a row r
//
// Grid: one warp per token, blocks of 8 warps; a second dimension splits the columns when there are few tokens. A token
// is read once and stored to all of its rows, so the bytes are the floor: T·H read, R·H written, and the map of T·K
// words. Rows beyond the last are not touched. The backward pass (a sum over rows) is in combine.cu.
#include "device/rows.cuh"
#include "device/types.cuh"

namespace millet {

template <typename T, int N> __device__ __forceinline__ void permute(const MilletRows &params) {
    const T *x = static_cast<const T *>(params.tokens_in);
    T *rows = static_cast<T *>(params.rows_out);
    int64_t token = warp_token();
    if (token >= params.tokens) return;  // guard: the last block's spare warps
    Slots slots = Slots::load(params, token, 0);
    if (params.top_k <= WARP && __all_sync(ALL_LANES, slots.row < 0)) return;  // guard: nothing of this token was kept
    for_columns<N>(params, [&](int64_t column, bool inside) {
        Vector<T, N> values;
        if (inside) values = Vector<T, N>::load(&x[token * params.hidden + column]);
        for (int first = 0; first < params.top_k; first += WARP) {
            if (params.top_k > WARP) slots = Slots::load(params, token, first);
            for (int slot = 0; slot < min(WARP, params.top_k - first); ++slot) {
                int64_t row = slots.row_of(slot);
                if (inside && row >= 0) values.store(&rows[row * params.hidden + column]);
            }
        }
    });
}

}  // namespace millet

#define MILLET_PERMUTE(NAME, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS) permute_##NAME(MilletRows params) {       \
        params.vectorized ? millet::permute<T, millet::VECTOR<T>>(params) : millet::permute<T, 1>(params); \
    }

MILLET_FOR_TYPES(MILLET_PERMUTE)
