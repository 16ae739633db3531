// CUB's primitives for warps, blocks and devices, against the C++ standard library.
#include <algorithm>
#include <cub/cub.cuh>
#include <map>
#include <numeric>

#include "check.h"

constexpr int THREADS = 128, ITEMS = 4, TILE = THREADS * ITEMS;

template <cub::BlockReduceAlgorithm Algorithm> __global__ void block_reduce(const int *in, int *out) {
    using Reduce = cub::BlockReduce<int, THREADS, Algorithm>;
    __shared__ typename Reduce::TempStorage storage;
    int items[ITEMS];
    cub::LoadDirectBlocked(threadIdx.x, in + blockIdx.x * TILE, items);
    int sum = Reduce(storage).Sum(items);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

template <cub::BlockScanAlgorithm Algorithm> __global__ void block_scan(const int *in, int *out) {
    using Load = cub::BlockLoad<int, THREADS, ITEMS, cub::BLOCK_LOAD_WARP_TRANSPOSE>;
    using Store = cub::BlockStore<int, THREADS, ITEMS, cub::BLOCK_STORE_TRANSPOSE>;
    using Scan = cub::BlockScan<int, THREADS, Algorithm>;
    __shared__ union {
        typename Load::TempStorage load;
        typename Store::TempStorage store;
        typename Scan::TempStorage scan;
    } storage;
    int items[ITEMS];
    Load(storage.load).Load(in + blockIdx.x * TILE, items);
    __syncthreads();
    Scan(storage.scan).InclusiveSum(items, items);
    __syncthreads();
    Store(storage.store).Store(out + blockIdx.x * TILE, items);
}

__global__ void block_sort(unsigned *keys, int *values) {
    using Sort = cub::BlockRadixSort<unsigned, THREADS, ITEMS, int>;
    __shared__ typename Sort::TempStorage storage;
    unsigned key[ITEMS];
    int value[ITEMS];
    cub::LoadDirectBlocked(threadIdx.x, keys, key);
    cub::LoadDirectBlocked(threadIdx.x, values, value);
    Sort(storage).Sort(key, value);
    cub::StoreDirectBlocked(threadIdx.x, keys, key);
    cub::StoreDirectBlocked(threadIdx.x, values, value);
}

struct Less {
    template <typename T> __host__ __device__ bool operator()(const T &a, const T &b) const { return a < b; }
};

__global__ void block_merge_sort(int *keys) {
    using Sort = cub::BlockMergeSort<int, THREADS, ITEMS>;
    __shared__ typename Sort::TempStorage storage;
    int key[ITEMS];
    cub::LoadDirectBlocked(threadIdx.x, keys, key);
    Sort(storage).Sort(key, Less());
    cub::StoreDirectBlocked(threadIdx.x, keys, key);
}

template <cub::BlockHistogramAlgorithm Algorithm> __global__ void block_histogram(const unsigned char *in, unsigned *out) {
    using Histogram = cub::BlockHistogram<unsigned char, THREADS, ITEMS, 16, Algorithm>;
    __shared__ typename Histogram::TempStorage storage;
    __shared__ unsigned bins[16];
    unsigned char items[ITEMS];
    cub::LoadDirectBlocked(threadIdx.x, in, items);
    Histogram(storage).Histogram(items, bins);
    __syncthreads();
    if (threadIdx.x < 16) out[threadIdx.x] = bins[threadIdx.x];
}

template <int Width> __global__ void warp_primitives(const int *in, int *sums, int *scans) {
    using Reduce = cub::WarpReduce<int, Width>;
    using Scan = cub::WarpScan<int, Width>;
    __shared__ typename Reduce::TempStorage reduce[THREADS / Width];
    __shared__ typename Scan::TempStorage scan[THREADS / Width];
    int warp = threadIdx.x / Width, scanned;
    int sum = Reduce(reduce[warp]).Sum(in[threadIdx.x]);
    if (threadIdx.x % Width == 0) sums[warp] = sum;
    Scan(scan[warp]).InclusiveSum(in[threadIdx.x], scanned);
    scans[threadIdx.x] = scanned;
}

struct Odd {
    __host__ __device__ bool operator()(int x) const { return x & 1; }
};

/// CUB's two calls: the first asks for the size of the workspace.
template <typename Call> void device(const char *name, Call call) {
    size_t bytes = 0;
    check(call(nullptr, bytes), name);
    Buffer<char> workspace(bytes);
    check(call(workspace.data, bytes), name);
    check(cudaDeviceSynchronize(), name);
}

int main() {
    Random random{7};
    std::vector<int> in(TILE);
    for (auto &x : in) x = random.below(2001) - 1000;
    Buffer<int> d(in), out(TILE);
    int total = std::accumulate(in.begin(), in.end(), 0);
    std::vector<int> scanned(TILE);
    std::partial_sum(in.begin(), in.end(), scanned.begin());

    auto reduce = [&](const char *name, auto kernel) {
        Buffer<int> sum(1);
        kernel<<<1, THREADS>>>(d.data, sum.data);
        check(cudaDeviceSynchronize(), name);
        verdict(name, sum.host(), std::vector<int>{total});
    };
    reduce("BlockReduce, warps", block_reduce<cub::BLOCK_REDUCE_WARP_REDUCTIONS>);
    reduce("BlockReduce, raking", block_reduce<cub::BLOCK_REDUCE_RAKING>);
    reduce("BlockReduce, raking commutative", block_reduce<cub::BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY>);
    auto scan = [&](const char *name, auto kernel) {
        kernel<<<1, THREADS>>>(d.data, out.data);
        check(cudaDeviceSynchronize(), name);
        verdict(name, out.host(), scanned);
    };
    scan("BlockScan, warps", block_scan<cub::BLOCK_SCAN_WARP_SCANS>);
    scan("BlockScan, raking", block_scan<cub::BLOCK_SCAN_RAKING>);
    scan("BlockScan, raking memoize", block_scan<cub::BLOCK_SCAN_RAKING_MEMOIZE>);

    std::vector<unsigned> keys(TILE);
    std::vector<int> values(TILE);
    for (int i = 0; i < TILE; i++) keys[i] = unsigned(random.next()) >> (i % 3 * 10), values[i] = i;
    std::vector<int> order(values);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return keys[a] < keys[b]; });
    std::vector<unsigned> sorted(keys);
    std::sort(sorted.begin(), sorted.end());
    {
        Buffer<unsigned> k(keys);
        Buffer<int> v(values);
        block_sort<<<1, THREADS>>>(k.data, v.data);
        check(cudaDeviceSynchronize(), "BlockRadixSort");
        verdict("BlockRadixSort, keys", k.host(), sorted);
        verdict("BlockRadixSort, values", v.host(), order);
    }
    {
        // The merge looks at one key beyond the last.
        Buffer<int> k(in);
        block_merge_sort<<<1, THREADS>>>(k.data);
        check(cudaDeviceSynchronize(), "BlockMergeSort");
        std::vector<int> expected(in);
        std::sort(expected.begin(), expected.end());
        verdict("BlockMergeSort", k.host(), expected);
    }
    std::vector<unsigned char> bytes(TILE);
    std::vector<unsigned> bins(16);
    for (auto &b : bytes) bins[b = random.below(16)]++;
    {
        Buffer<unsigned char> b(bytes);
        Buffer<unsigned> h(16);
        block_histogram<cub::BLOCK_HISTO_ATOMIC><<<1, THREADS>>>(b.data, h.data);
        check(cudaDeviceSynchronize(), "BlockHistogram, atomics");
        verdict("BlockHistogram, atomics", h.host(), bins);
        block_histogram<cub::BLOCK_HISTO_SORT><<<1, THREADS>>>(b.data, h.data);
        check(cudaDeviceSynchronize(), "BlockHistogram, sort");
        verdict("BlockHistogram, sort", h.host(), bins);
    }
    auto warps = [&](const char *name, auto kernel, int width) {
        Buffer<int> sums(THREADS / width), scans(THREADS);
        kernel<<<1, THREADS>>>(d.data, sums.data, scans.data);
        check(cudaDeviceSynchronize(), name);
        std::vector<int> sum(THREADS / width), prefix(THREADS);
        for (int i = 0; i < THREADS; i++) prefix[i] = sum[i / width] += in[i];
        verdict(name, sums.host(), sum);
        verdict(name, scans.host(), prefix);
    };
    warps("WarpReduce and WarpScan of 32", warp_primitives<32>, 32);
    warps("WarpReduce and WarpScan of 8", warp_primitives<8>, 8);

    const int n = 20000;
    std::vector<int> many(n);
    std::vector<unsigned> many_keys(n);
    std::vector<float> reals(n);
    for (int i = 0; i < n; i++) {
        many[i] = random.below(201) - 100;
        many_keys[i] = unsigned(random.next());
        reals[i] = float(random.unit() - 0.5);
    }
    Buffer<int> dm(many), result(n), one(1);
    device("DeviceReduce::Sum", [&](void *w, size_t &b) { return cub::DeviceReduce::Sum(w, b, dm.data, one.data, n); });
    verdict("DeviceReduce::Sum", one.host(), std::vector<int>{std::accumulate(many.begin(), many.end(), 0)});
    device("DeviceReduce::Max", [&](void *w, size_t &b) { return cub::DeviceReduce::Max(w, b, dm.data, one.data, n); });
    verdict("DeviceReduce::Max", one.host(), std::vector<int>{*std::max_element(many.begin(), many.end())});
    std::vector<int> prefix(n);
    std::partial_sum(many.begin(), many.end(), prefix.begin());
    device("DeviceScan", [&](void *w, size_t &b) { return cub::DeviceScan::InclusiveSum(w, b, dm.data, result.data, n); });
    verdict("DeviceScan::InclusiveSum (decoupled look-back)", result.host(), prefix);
    std::vector<int> odd;
    std::copy_if(many.begin(), many.end(), std::back_inserter(odd), Odd());
    device("DeviceSelect::If", [&](void *w, size_t &b) { return cub::DeviceSelect::If(w, b, dm.data, result.data, one.data, n, Odd()); });
    auto selected = result.host();
    selected.resize(one.host()[0]);
    verdict("DeviceSelect::If", selected, odd);
    {
        Buffer<unsigned> k(many_keys), k2(n);
        Buffer<int> v2(n);
        std::vector<int> index(n);
        std::iota(index.begin(), index.end(), 0);
        Buffer<int> v(index);
        device("DeviceRadixSort", [&](void *w, size_t &b) {
            return cub::DeviceRadixSort::SortPairs(w, b, k.data, k2.data, v.data, v2.data, n);
        });
        std::stable_sort(index.begin(), index.end(), [&](int a, int b) { return many_keys[a] < many_keys[b]; });
        std::vector<unsigned> expected(many_keys);
        std::sort(expected.begin(), expected.end());
        verdict("DeviceRadixSort::SortPairs, keys", k2.host(), expected);
        verdict("DeviceRadixSort::SortPairs, values", v2.host(), index);
    }
    {
        Buffer<float> k(reals), k2(n);
        device("DeviceRadixSort", [&](void *w, size_t &b) { return cub::DeviceRadixSort::SortKeysDescending(w, b, k.data, k2.data, n); });
        std::vector<float> expected(reals);
        std::sort(expected.rbegin(), expected.rend());
        verdict("DeviceRadixSort::SortKeysDescending, float", k2.host(), expected);
        device("DeviceMergeSort", [&](void *w, size_t &b) { return cub::DeviceMergeSort::SortKeys(w, b, k.data, n, Less()); });
        std::reverse(expected.begin(), expected.end());
        verdict("DeviceMergeSort::SortKeys", k.host(), expected);
    }
    {
        std::map<int, int> counts;
        for (int x : many) counts[x]++;
        std::vector<int> expected;
        for (int x = -100; x <= 100; x++) expected.push_back(counts[x]);
        Buffer<int> bins(201);
        device("DeviceHistogram", [&](void *w, size_t &b) {
            return cub::DeviceHistogram::HistogramEven(w, b, dm.data, bins.data, 202, -100, 101, n);
        });
        verdict("DeviceHistogram::HistogramEven", bins.host(), expected);
    }
    return failures != 0;
}
