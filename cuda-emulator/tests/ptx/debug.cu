// Debugging data: nvcc -ptx -arch=compute_80 -G debug.cu -o debug.ptx
__device__ int twice(int x) { return 2 * x; }
__global__ void debug(int *x) { x[threadIdx.x] = twice(x[threadIdx.x]); }
