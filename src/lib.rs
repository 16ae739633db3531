//! CUDA kernels for fine-grained Mixture-of-Experts layers.
