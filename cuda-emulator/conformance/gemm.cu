// CUTLASS and CuTe matrix products for sm_80, known to be right on hardware, against sums on the CPU.
#include <cute/tensor.hpp>
#include <cutlass/gemm/device/gemm.h>
#include <cutlass/gemm/device/gemm_splitk_parallel.h>

#include "check.h"

using cutlass::layout::ColumnMajor;
using cutlass::layout::RowMajor;

template <typename T> std::vector<T> data(size_t n, int seed, bool whole) {
    Random random{uint64_t(seed)};
    std::vector<T> out(n);
    for (auto &x : out) x = T(whole ? float(random.below(9) - 4) : float(random.unit() * 2 - 1));
    return out;
}

/// α·A·B + β·C. With whole numbers every sum is exact, so that the result must be too.
template <typename Gemm> void run(const char *name, int m, int n, int k, bool whole, int slices = 1) {
    using A = typename Gemm::ElementA;
    using B = typename Gemm::ElementB;
    using C = typename Gemm::ElementC;
    constexpr bool a_rows = std::is_same_v<typename Gemm::LayoutA, RowMajor>;
    constexpr bool b_rows = std::is_same_v<typename Gemm::LayoutB, RowMajor>;
    auto a = data<A>(size_t(m) * k, 1, whole);
    auto b = data<B>(size_t(k) * n, 2, whole);
    auto c = data<C>(size_t(m) * n, 3, whole);
    const float alpha = 0.5f, beta = 2;
    Buffer<A> da(a);
    Buffer<B> db(b);
    Buffer<C> dc(c), dd(size_t(m) * n);
    typename Gemm::Arguments arguments({m, n, k}, {da.data, a_rows ? k : m}, {db.data, b_rows ? n : k}, {dc.data, n}, {dd.data, n},
                                       {alpha, beta}, slices);
    Gemm gemm;
    Buffer<char> workspace(Gemm::get_workspace_size(arguments));
    cutlass::Status status = gemm.initialize(arguments, workspace.data);
    if (status == cutlass::Status::kSuccess) status = gemm();
    if (status != cutlass::Status::kSuccess) {
        std::printf("WRONG %s: %s\n", name, cutlassGetStatusString(status));
        failures++;
        return;
    }
    check(cudaDeviceSynchronize(), name);
    std::vector<double> expected(size_t(m) * n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++) {
                float left = float(a[a_rows ? size_t(i) * k + l : size_t(l) * m + i]);
                float right = float(b[b_rows ? size_t(l) * n + j : size_t(j) * k + l]);
                sum += double(left) * double(right);
            }
            double exact = alpha * sum + beta * double(float(c[size_t(i) * n + j]));
            // What is stored is rounded once.
            expected[size_t(i) * n + j] = whole ? double(float(C(float(exact)))) : exact;
        }
    // Gemm80s lie in [-1, 1] and are summed to 24 bits, truncated; f16 results have 11 bits, tf32 factors too.
    bool coarse = sizeof(C) == 2 || sizeof(A) == 4;
    double tolerance = whole ? 0 : coarse ? k * 2e-3 : k * 1e-6;
    verdict(name, dd.host(), expected, tolerance);
}

template <typename T, typename C, typename LayoutA, typename LayoutB, int M, int N, int K, int WM, int WN, typename Instruction, int Stages,
          bool Serial = false>
using Gemm80 = cutlass::gemm::device::Gemm<
    T, LayoutA, T, LayoutB, C, RowMajor, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, cutlass::gemm::GemmShape<M, N, K>,
    cutlass::gemm::GemmShape<WM, WN, K>, Instruction, cutlass::epilogue::thread::LinearCombination<C, 4, float, float>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, Stages, 16 / sizeof(T), 16 / sizeof(T), Serial>;

/// By `wmma`, from shared memory whose rows are padded.
template <typename C, typename LayoutA, typename LayoutB, typename Instruction>
using Wmma = cutlass::gemm::device::Gemm<
    cutlass::half_t, LayoutA, cutlass::half_t, LayoutB, C, RowMajor, float, cutlass::arch::OpClassWmmaTensorOp, cutlass::arch::Sm70,
    cutlass::gemm::GemmShape<64, 64, 32>, cutlass::gemm::GemmShape<32, 32, 32>, Instruction,
    cutlass::epilogue::thread::LinearCombination<C, 4, float, float>, cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, 2>;

using K8 = cutlass::gemm::GemmShape<16, 8, 8>;
using K16 = cutlass::gemm::GemmShape<16, 8, 16>;
using bf16 = cutlass::bfloat16_t;
using f16 = cutlass::half_t;
using tf32 = cutlass::tfloat32_t;

// CuTe: cp.async in a ring of three stages, ldmatrix from swizzled shared memory, mma.
using namespace cute;

using CuteAtom = decltype(composition(Swizzle<3, 3, 3>{}, Layout<Shape<_8, _64>, Stride<_64, _1>>{}));
using CuteTile = decltype(tile_to_shape(CuteAtom{}, Shape<_64, _64, _3>{}));
using CuteCopy = decltype(make_tiled_copy(Copy_Atom<SM80_CP_ASYNC_CACHEGLOBAL<uint128_t>, bf16>{},
                                          Layout<Shape<_16, _8>, Stride<_8, _1>>{}, Layout<Shape<_1, _8>>{}));
using CuteMma = decltype(make_tiled_mma(SM80_16x8x16_F32BF16BF16F32_TN{}, Layout<Shape<_2, _2>>{}, Tile<_32, _32, _16>{}));

__global__ void __launch_bounds__(128) cute_gemm(const bf16 *a, const bf16 *b, float *c, int m, int n, int k) {
    extern __shared__ __align__(128) bf16 shared[];
    Tensor ga = local_tile(make_tensor(make_gmem_ptr(a), make_shape(m, k), make_stride(k, _1{})),
                           Shape<_64, _64>{}, make_coord(blockIdx.x, _));
    Tensor gb = local_tile(make_tensor(make_gmem_ptr(b), make_shape(n, k), make_stride(k, _1{})),
                           Shape<_64, _64>{}, make_coord(blockIdx.y, _));
    Tensor gc = local_tile(make_tensor(make_gmem_ptr(c), make_shape(m, n), make_stride(n, _1{})),
                           Shape<_64, _64>{}, make_coord(blockIdx.x, blockIdx.y));
    Tensor sa = make_tensor(make_smem_ptr(shared), CuteTile{});
    Tensor sb = make_tensor(make_smem_ptr(shared + cosize_v<CuteTile>), CuteTile{});
    CuteCopy copy_global;
    auto thread_copy = copy_global.get_slice(threadIdx.x);
    Tensor from_a = thread_copy.partition_S(ga);
    Tensor from_b = thread_copy.partition_S(gb);
    Tensor to_a = thread_copy.partition_D(sa);
    Tensor to_b = thread_copy.partition_D(sb);
    CuteMma mma;
    auto thread_mma = mma.get_slice(threadIdx.x);
    Tensor ra = thread_mma.partition_fragment_A(sa(_, _, 0));
    Tensor rb = thread_mma.partition_fragment_B(sb(_, _, 0));
    Tensor gd = thread_mma.partition_C(gc);
    Tensor rd = thread_mma.make_fragment_C(gd);
    clear(rd);
    auto load_a = make_tiled_copy_A(Copy_Atom<SM75_U32x4_LDSM_N, bf16>{}, mma);
    auto load_b = make_tiled_copy_B(Copy_Atom<SM75_U32x4_LDSM_N, bf16>{}, mma);
    auto slice_a = load_a.get_slice(threadIdx.x);
    auto slice_b = load_b.get_slice(threadIdx.x);
    int tiles = k / 64;
    auto fetch = [&](int tile) {
        if (tile < tiles) {
            copy(copy_global, from_a(_, _, _, tile), to_a(_, _, _, tile % 3));
            copy(copy_global, from_b(_, _, _, tile), to_b(_, _, _, tile % 3));
        }
        cp_async_fence();
    };
    fetch(0);
    fetch(1);
    for (int tile = 0; tile < tiles; tile++) {
        cp_async_wait<1>();
        __syncthreads();
        fetch(tile + 2);
        copy(load_a, slice_a.partition_S(sa(_, _, tile % 3)), slice_a.retile_D(ra));
        copy(load_b, slice_b.partition_S(sb(_, _, tile % 3)), slice_b.retile_D(rb));
        gemm(mma, ra, rb, rd);
    }
    copy(rd, gd);
}

void run_cute(const char *name, int m, int n, int k, bool whole) {
    auto a = data<bf16>(size_t(m) * k, 1, whole);
    auto b = data<bf16>(size_t(k) * n, 2, whole);
    Buffer<bf16> da(a), db(b);
    Buffer<float> dc(size_t(m) * n);
    constexpr int shared = 2 * cosize_v<CuteTile> * sizeof(bf16);
    check(cudaFuncSetAttribute(reinterpret_cast<const void *>(cute_gemm), cudaFuncAttributeMaxDynamicSharedMemorySize, shared), name);
    cute_gemm<<<dim3(m / 64, n / 64), 128, shared>>>(da.data, db.data, dc.data, m, n, k);
    check(cudaDeviceSynchronize(), name);
    std::vector<double> expected;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++) sum += double(float(a[size_t(i) * k + l])) * double(float(b[size_t(j) * k + l]));
            expected.push_back(sum);
        }
    verdict(name, dc.host(), expected, whole ? 0 : k * 1e-6);
}

int main() {
    for (bool whole : {true, false}) {
        std::printf("%s\n", whole ? "whole numbers, exact" : "random numbers");
        // A tile that reaches over the edge is multiplied with what shared memory held before; those products are not stored.
        run<Gemm80<bf16, float, RowMajor, ColumnMajor, 64, 64, 32, 32, 32, K16, 3>>(
            "CUTLASS bf16 TN 64x64x32, 3 stages, partial tiles", 136, 72, 96, whole);
        run<Gemm80<tf32, float, RowMajor, ColumnMajor, 64, 64, 16, 32, 32, K8, 4>>(
            "CUTLASS tf32 TN 64x64x16, 4 stages, partial tiles", 68, 64, 48, whole);
        // Fewer steps along k than the ring has stages: the loop looks one step ahead, at a stage that nobody writes.
        run<Gemm80<bf16, float, RowMajor, ColumnMajor, 64, 64, 32, 32, 32, K16, 3>>(
            "CUTLASS bf16 TN 64x64x32, 3 stages, one step", 128, 64, 32, whole);
        run<Gemm80<bf16, float, RowMajor, ColumnMajor, 64, 64, 32, 32, 32, K16, 3>>(
            "CUTLASS bf16 TN 64x64x32, 3 stages", 128, 64, 96, whole);
        run<Gemm80<bf16, float, RowMajor, RowMajor, 128, 128, 32, 64, 64, K16, 4>>(
            "CUTLASS bf16 TT 128x128x32, 4 stages", 128, 256, 128, whole);
        run<Gemm80<bf16, bf16, ColumnMajor, RowMajor, 128, 64, 64, 64, 32, K16, 3>>(
            "CUTLASS bf16 NT 128x64x64 to bf16", 128, 64, 192, whole);
        run<Gemm80<f16, float, RowMajor, ColumnMajor, 64, 64, 32, 32, 32, K16, 5>>(
            "CUTLASS f16 TN 64x64x32, 5 stages", 64, 128, 160, whole);
        run<Gemm80<f16, f16, ColumnMajor, ColumnMajor, 64, 128, 32, 32, 64, K16, 3>>(
            "CUTLASS f16 NN 64x128x32 to f16", 64, 128, 128, whole);
        run<Gemm80<tf32, float, RowMajor, ColumnMajor, 64, 64, 16, 32, 32, K8, 4>>("CUTLASS tf32 TN 64x64x16, 4 stages", 64, 64, 80, whole);
        run<Gemm80<tf32, float, ColumnMajor, RowMajor, 128, 128, 16, 64, 64, K8, 3>>("CUTLASS tf32 NT 128x128x16", 128, 128, 64, whole);
        run<Gemm80<bf16, float, RowMajor, ColumnMajor, 64, 64, 32, 32, 32, K16, 3, true>>(
            "CUTLASS bf16 TN, serial split-K with a semaphore", 128, 64, 384, whole, 3);
        run<Wmma<float, RowMajor, ColumnMajor, cutlass::gemm::GemmShape<16, 16, 16>>>("CUTLASS wmma f16 TN 16x16x16", 64, 128, 96, whole);
        run<Wmma<float, ColumnMajor, RowMajor, cutlass::gemm::GemmShape<32, 8, 16>>>("CUTLASS wmma f16 NT 32x8x16", 128, 64, 64, whole);
        run<Wmma<f16, RowMajor, RowMajor, cutlass::gemm::GemmShape<8, 32, 16>>>("CUTLASS wmma f16 TT 8x32x16 to f16", 64, 64, 64, whole);
        run_cute("CuTe bf16 TN 64x64x64, swizzled, ring of 3", 128, 128, 256, whole);
    }
    return failures != 0;
}
