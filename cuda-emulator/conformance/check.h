// What the conformance programs share: errors, device buffers, data, verdicts.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <cuda_runtime.h>

inline int failures = 0;

inline void check(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    std::printf("%s: error %d, %s\n", what, int(error), cudaGetErrorString(error));
    std::exit(1);
}

/// Device memory that holds a copy of host data.
template <typename T> struct Buffer {
    T *data = nullptr;
    size_t len;

    explicit Buffer(size_t n) : len(n) { check(cudaMalloc(reinterpret_cast<void **>(&data), n * sizeof(T) + 1), "cudaMalloc"); }
    explicit Buffer(const std::vector<T> &host) : Buffer(host.size()) {
        check(cudaMemcpy(data, host.data(), len * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() { cudaFree(data); }

    std::vector<T> host() const {
        std::vector<T> out(len);
        check(cudaMemcpy(out.data(), data, len * sizeof(T), cudaMemcpyDeviceToHost), "copy to the host");
        return out;
    }
};

/// The same numbers everywhere (SplitMix64).
struct Random {
    uint64_t state;
    uint64_t next() {
        state += 0x9e3779b97f4a7c15u;
        uint64_t z = state;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    int below(int limit) { return int(next() % uint64_t(limit)); }
    double unit() { return double(next() >> 11) / double(uint64_t(1) << 53); }
};

/// Prints a test's verdict and the first difference.
template <typename T, typename U>
void verdict(const char *name, const std::vector<T> &found, const std::vector<U> &expected, double tolerance = 0) {
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < expected.size(); i++) {
        double difference = std::abs(double(found[i]) - double(expected[i]));
        if (difference <= tolerance) continue;
        if (wrong++ == 0) first = i;
    }
    if (found.size() != expected.size()) wrong = expected.size() + 1;
    if (wrong == 0) {
        std::printf("ok    %s\n", name);
    } else {
        failures++;
        std::printf("WRONG %s: %zu of %zu, first [%zu]: expected %.9g, found %.9g\n", name, wrong, expected.size(), first,
                    double(expected[first]), double(found[first]));
    }
    std::fflush(stdout);
}
