//! Makes the CUDA emulator the driver of a test executable when there is no GPU.
