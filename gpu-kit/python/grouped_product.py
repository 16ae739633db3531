"""A grouped product in Triton, as one would write it without the instructions of one architecture: c[r] = x[rows[r]] · w[e]ᵀ for the
rows r of expert e. Row tiles are listed on the device, so nothing is read back and a CUDA graph can hold it."""

import torch
import triton
import triton.language as tl

# Rows, columns and depth of a tile, warps, pipeline stages.
TILES = ((128, 256, 64, 8, 3), (128, 128, 64, 4, 4), (64, 64, 64, 4, 4))


@triton.jit
def grouped_product(
    x, rows, w, c, tile_expert, tile_begin, tile_end, N, K, E,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Block (tile, columns), columns fastest. x [·, K], w [E, N, K], c [R, N]; K is a multiple of BLOCK_K and N of BLOCK_N."""
    column_tiles = N // BLOCK_N
    tile = tl.program_id(0) // column_tiles
    column = tl.program_id(0) % column_tiles
    expert = tl.load(tile_expert + tile)
    if expert >= E:  # there are fewer tiles than blocks
        return
    row = tl.load(tile_begin + tile) + tl.arange(0, BLOCK_M)
    inside = row < tl.load(tile_end + tile)
    source = tl.load(rows + row, mask=inside, other=0)
    n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_at = x + source[:, None].to(tl.int64) * K + k[None, :]
    w_at = w + expert.to(tl.int64) * N * K + n[None, :] * K + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(0, K, BLOCK_K):
        total = tl.dot(tl.load(x_at, mask=inside[:, None], other=0.0), tl.load(w_at), total)
        x_at += BLOCK_K
        w_at += BLOCK_K
    c_at = c + row[:, None].to(tl.int64) * N + n[None, :]
    tl.store(c_at, total.to(c.dtype.element_ty), mask=inside[:, None])


def tiles(offsets, rows, block_m):
    """Of each row tile, or place for one, its expert (E: none) and its rows; offsets [E] are where the experts' rows end."""
    experts = len(offsets)
    first = torch.cat([offsets.new_zeros(1), offsets[:-1]])
    ends = ((offsets - first + block_m - 1) // block_m).cumsum(0)
    tile = torch.arange(rows // block_m + experts, device=offsets.device)
    expert = torch.searchsorted(ends, tile, right=True)
    known = expert.clamp(max=experts - 1)
    before = torch.where(known > 0, ends[known - 1], 0)
    begin = first[known] + (tile - before) * block_m
    return expert.int(), begin.int(), offsets[known].int()


def prepared(x, rows, w, offsets, tile=TILES[0]):
    """A function that computes c [R, N], of x by the rows of each expert in turn. The tiles are listed once."""
    block_m, block_n, block_k, warps, stages = tile
    experts, n, k = w.shape
    if n % block_n or k % block_k:
        raise ValueError(f"a tile of {block_n} columns and depth {block_k} does not divide {n} × {k}")
    out = x.new_empty(len(rows), n)
    expert, begin, end = tiles(offsets, len(rows), block_m)
    grid = (len(expert) * (n // block_n),)

    def run():
        grouped_product[grid](
            x, rows, w, out, expert, begin, end, n, k, experts,
            BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out

    return run
