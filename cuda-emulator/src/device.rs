//! The cards that can be imitated: limits and attributes, chosen by `CUDA_EMULATOR_DEVICE`.

/// Limits of a card, from NVIDIA's tables of technical specifications per compute capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `a100`, `rtx4090`, `h100`, …
    pub key: &'static str,
    /// What `cuDeviceGetName` answers.
    pub name: &'static str,
    /// Major and minor: (8, 0) for sm_80.
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors (SMs).
    pub multiprocessors: u32,
    /// Most threads in a block, over its three dimensions together.
    pub max_threads_per_block: u32,
    /// Most threads resident on a multiprocessor at once.
    pub max_threads_per_multiprocessor: u32,
    /// Most blocks resident on a multiprocessor at once.
    pub max_blocks_per_multiprocessor: u32,
    /// 32-bit registers.
    pub registers_per_block: u32,
    /// 32-bit registers that resident blocks share.
    pub registers_per_multiprocessor: u32,
    /// Bytes that a block may use without opting in.
    pub shared_per_block: u32,
    /// Bytes a kernel may use after opting in by `cuFuncSetAttribute`.
    pub shared_per_block_optin: u32,
    /// Bytes that resident blocks share.
    pub shared_per_multiprocessor: u32,
    /// Bytes the system keeps of each block's shared memory.
    pub reserved_shared_per_block: u32,
    /// Bytes of L2 cache, which is also the size of the cache that the counters model.
    pub l2_bytes: u32,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: u32,
    /// kHz; two transfers per clock, so the peak is `memory_clock_khz * memory_bus_bits / 4` kB/s.
    pub memory_clock_khz: u32,
    /// Peak clock of the multiprocessors in kHz.
    pub clock_khz: u32,
}

/// What cards of one compute capability have in common.
const fn family(compute_capability: (u32, u32)) -> Device {
    let (threads, blocks, shared_kib) = match compute_capability {
        (8, 0) => (2048, 32, 164),
        (8, 6) => (1536, 16, 100),
        (8, 9) | (12, 0) => (1536, 24, 100),
        _ => (2048, 32, 228),
    };
    Device {
        key: "",
        name: "",
        compute_capability,
        multiprocessors: 0,
        max_threads_per_block: 1024,
        max_threads_per_multiprocessor: threads,
        max_blocks_per_multiprocessor: blocks,
        registers_per_block: 65536,
        registers_per_multiprocessor: 65536,
        shared_per_block: 48 << 10,
        shared_per_block_optin: (shared_kib - 1) << 10,
        shared_per_multiprocessor: shared_kib << 10,
        reserved_shared_per_block: 1 << 10,
        l2_bytes: 0,
        memory_bytes: 0,
        memory_bus_bits: 0,
        memory_clock_khz: 0,
        clock_khz: 0,
    }
}

/// Every card that can be imitated; the first is the default.
pub const DEVICES: &[Device] = &[
    Device {
        key: "a100",
        name: "NVIDIA A100-SXM4-80GB",
        multiprocessors: 108,
        l2_bytes: 40 << 20,
        memory_bytes: 80 << 30,
        memory_bus_bits: 5120,
        memory_clock_khz: 1_593_000,
        clock_khz: 1_410_000,
        ..family((8, 0))
    },
    Device {
        key: "rtx3090",
        name: "NVIDIA GeForce RTX 3090",
        multiprocessors: 82,
        l2_bytes: 6 << 20,
        memory_bytes: 24 << 30,
        memory_bus_bits: 384,
        memory_clock_khz: 9_751_000,
        clock_khz: 1_695_000,
        ..family((8, 6))
    },
    Device {
        key: "rtx4090",
        name: "NVIDIA GeForce RTX 4090",
        multiprocessors: 128,
        l2_bytes: 72 << 20,
        memory_bytes: 24 << 30,
        memory_bus_bits: 384,
        memory_clock_khz: 10_501_000,
        clock_khz: 2_520_000,
        ..family((8, 9))
    },
    Device {
        key: "l40",
        name: "NVIDIA L40",
        multiprocessors: 142,
        l2_bytes: 96 << 20,
        memory_bytes: 48 << 30,
        memory_bus_bits: 384,
        memory_clock_khz: 9_001_000,
        clock_khz: 2_490_000,
        ..family((8, 9))
    },
    Device {
        key: "h100",
        name: "NVIDIA H100 80GB HBM3",
        multiprocessors: 132,
        l2_bytes: 50 << 20,
        memory_bytes: 80 << 30,
        memory_bus_bits: 5120,
        memory_clock_khz: 2_619_000,
        clock_khz: 1_980_000,
        ..family((9, 0))
    },
    Device {
        key: "rtx5090",
        name: "NVIDIA GeForce RTX 5090",
        multiprocessors: 170,
        l2_bytes: 96 << 20,
        memory_bytes: 32 << 30,
        memory_bus_bits: 512,
        memory_clock_khz: 14_001_000,
        clock_khz: 2_407_000,
        ..family((12, 0))
    },
    Device {
        key: "b200",
        name: "NVIDIA B200",
        multiprocessors: 148,
        l2_bytes: 126 << 20,
        memory_bytes: 180_000_000_000,
        memory_bus_bits: 8192,
        memory_clock_khz: 3_996_000,
        clock_khz: 1_965_000,
        ..family((10, 0))
    },
];

impl Device {
    /// The card of that key.
    ///
    /// # Errors
    /// A sentence that lists the keys there are.
    pub fn from_key(key: &str) -> Result<&'static Device, String> {
        DEVICES.iter().find(|d| d.key == key).ok_or_else(|| {
            let keys: Vec<_> = DEVICES.iter().map(|d| d.key).collect();
            format!("no device `{key}`: expected one of {}", keys.join(", "))
        })
    }

    /// `sm_80` → 80.
    pub fn sm(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }

    /// Most warps, of 32 threads each, resident on a multiprocessor at once.
    pub fn warps_per_multiprocessor(&self) -> u32 {
        self.max_threads_per_multiprocessor / 32
    }

    /// What `cuDeviceGetAttribute` answers for the attribute numbered `id` in `CUdevice_attribute`; `None` for a number that
    /// enumeration does not have.
    ///
    /// Limits are the card's. A capability that the emulator lacks (managed memory, textures' atomics, virtual memory management,
    /// inter-process handles, …) is answered with 0, so that programs do not rely on it.
    pub fn attribute(&self, id: i32) -> Option<i32> {
        let hopper = i32::from(self.compute_capability.0 >= 9);
        let value = |bits: u32| i32::try_from(bits).unwrap_or(i32::MAX);
        Some(match id {
            1 => value(self.max_threads_per_block),
            2 | 3 => 1024,                         // block x, y
            4 => 64,                               // block z
            5 => i32::MAX,                         // grid x
            6 | 7 => 65535,                        // grid y, z
            8 => value(self.shared_per_block),     // bytes
            9 => 65536,                            // constant memory, bytes
            10 => 32,                              // warp
            11 => i32::MAX,                        // pitch
            12 => value(self.registers_per_block), // 32-bit registers
            13 => value(self.clock_khz),           // kHz
            14 => 512,                             // texture alignment
            15 => 1,                               // copies overlap kernels
            16 => value(self.multiprocessors),     //
            17 | 18 => 0,                          // kernel timeout, integrated
            19 => 1,                               // can map host memory
            20 => 0,                               // compute mode: default
            21 => 131_072,                         // texture 1D width
            22 => 131_072,                         // texture 2D
            23 => 65536,                           //
            24..=26 => 16384,                      // texture 3D
            27 | 28 => 32768,                      // texture 2D layered
            29 => 2048,                            //
            30 => 512,                             // surface alignment
            31 => 1,                               // concurrent kernels
            32 => 0,                               // ECC
            33 => 1,                               // PCI bus
            34 | 35 => 0,                          // PCI device, TCC
            36 => value(self.memory_clock_khz),    // kHz
            37 => value(self.memory_bus_bits),     // bits
            38 => value(self.l2_bytes),            // bytes
            39 => value(self.max_threads_per_multiprocessor),
            40 => 2,                                // copy engines
            41 => 0,     // unified addressing: pinned memory has a device address of its own
            42 => 32768, // texture 1D layered
            43 => 2048,  //
            44 => 1,     // tex2Dgather
            45 | 46 => 32768, //
            47..=49 => 16384, // texture 3D alternate
            50 => 0,     // PCI domain
            51 => 32,    // texture pitch alignment
            52 | 53 => 32768, // cube maps
            54 => 2046,  //
            55 => 32768, // surface 1D
            56 => 131_072, // surface 2D
            57 => 65536, //
            58..=60 => 16384, // surface 3D
            61 | 63 | 64 | 66 | 67 => 32768, // layered surfaces, cube maps
            62 | 65 => 2048, //
            68 => 2046,  //
            69 => 268_435_456, // texture 1D linear
            70 => 131_072, // texture 2D linear
            71 => 65000, //
            72 => 2_097_120, // bytes
            73 | 74 => 32768, // texture 2D mipmapped
            75 => value(self.compute_capability.0), //
            76 => value(self.compute_capability.1), //
            77 => 32768, // texture 1D mipmapped
            78..=80 => 1, // priorities, global L1, local L1
            81 => value(self.shared_per_multiprocessor),
            82 => value(self.registers_per_multiprocessor),
            83..=86 => 0, // managed memory, multi-GPU board and group, host atomics
            87 => match self.compute_capability {
                (8, 0) | (9, 0) | (10, 0) => 2, // f32 to f64 throughput
                (8, 6) | (8, 9) | (12, 0) => 64,
                _ => 32,
            },
            88..=90 => 0, // pageable access, managed access, preemption
            91 => 0,      // registered memory by its host address
            92..=94 => 0, // stream memory operations
            95 => 1,      // cooperative launch
            96 => 0,      // … on several devices
            97 => value(self.shared_per_block_optin),
            98 => 0,        // flush of remote writes
            99 => 1,        // cuMemHostRegister
            100..=105 => 0, // host page tables, virtual memory management, handles
            106 => value(self.max_blocks_per_multiprocessor),
            107 => 0,       // compressible memory
            108 | 109 => 0, // persisting L2
            110 => 0,       //
            111 => value(self.reserved_shared_per_block),
            112..=114 => 0, // sparse arrays, read-only registration, timeline semaphores
            115 => 1,       // cuMemAllocAsync
            116..=119 => 0, // RDMA, pool handle types
            120 => hopper,  // clusters
            121..=126 => 0, // deferred mapping, stream memory operations, DMA-buf, IPC events, domains
            127 => hopper,  // tensor maps
            128 | 129 => 0, // fabric handles, unified function pointers
            130..=133 => 0, // NUMA, multicast, MPS
            134 => -1,      // host NUMA node: not known
            135..=138 => 0, // graphics, decompression
            139 | 140 => 0, // PCI ids
            141..=148 => 0, // host pools, DMA-buf of host memory, atomics over the bus
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_and_others_listed() {
        for device in DEVICES {
            assert_eq!(Device::from_key(device.key), Ok(device));
        }
        let message = Device::from_key("a101").unwrap_err();
        assert!(
            message.contains("`a101`") && message.contains("a100, rtx3090"),
            "{message}"
        );
    }

    #[test]
    fn limits_agree_with_each_other() {
        for d in DEVICES {
            assert_eq!(
                d.shared_per_multiprocessor,
                d.shared_per_block_optin + 1024,
                "{}",
                d.key
            );
            assert_eq!(d.attribute(97), Some(d.shared_per_block_optin as i32));
            assert_eq!(
                d.attribute(75)
                    .zip(d.attribute(76))
                    .map(|(a, b)| (a * 10 + b) as u32),
                Some(d.sm())
            );
            assert_eq!(d.attribute(120), Some((d.sm() >= 90) as i32));
            assert!(d.max_blocks_per_multiprocessor * 32 <= d.max_threads_per_multiprocessor);
        }
        let a100 = &DEVICES[0];
        assert_eq!(
            (a100.shared_per_block_optin, a100.shared_per_multiprocessor),
            (166_912, 167_936)
        );
        assert_eq!(
            Device::from_key("h100").unwrap().shared_per_block_optin,
            232_448
        );
        assert_eq!(
            Device::from_key("rtx4090").unwrap().shared_per_block_optin,
            101_376
        );
    }

    #[test]
    fn every_attribute_has_an_answer_and_no_other_number() {
        assert!((1..=148).all(|id| DEVICES[0].attribute(id).is_some()));
        assert!(
            [-1, 0, 149, 10_000]
                .iter()
                .all(|&id| DEVICES[0].attribute(id).is_none())
        );
    }
}
