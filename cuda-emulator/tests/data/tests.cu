// Kernels of the driver's tests. Made into tests.ptx by:
//
//   nvcc -ptx -arch=compute_80 tests.cu -o tests.ptx

// out = a + b.
extern "C" __global__ void add(float *out, const float *a, const float *b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

// Each block reverses its part through dynamic shared memory.
extern "C" __global__ void reverse(int *data) {
    extern __shared__ int tile[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = data[i];
    __syncthreads();
    data[i] = tile[blockDim.x - 1 - threadIdx.x];
}

// Static shared memory and a limit on the block.
extern "C" __global__ void __launch_bounds__(128) bounded(int *out) {
    __shared__ int cells[128];
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[127 - threadIdx.x];
}

// One value, from one cell to another.
extern "C" __global__ void move(int *to, const int *from) {
    *to = *from;
}

// Never ends.
extern "C" __global__ void spin(volatile int *flag) {
    while (*flag == 0) {
    }
}

struct Pair {
    double x;
    char y;
};

// Parameters of all sizes.
extern "C" __global__ void parameters(long long *out, char a, short b, int c, long long d, Pair e) {
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
    out[4] = (long long)e.x;
    out[5] = e.y;
}
