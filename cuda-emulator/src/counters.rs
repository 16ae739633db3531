//! What a launch did, counted exactly. With `Options::count` all of it, on one thread so that the cache model sees one order;
//! otherwise the first two only.

use std::fmt::Write;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Per launch. Counts are of warps' instructions unless the name says threads.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name, in order: what reports list.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Executed instructions × active lanes.
    thread_instructions,
    /// Executed instructions.
    warp_instructions,
    /// Integer and bit arithmetic, address computations included.
    integer_instructions,
    /// f32 and f64 arithmetic.
    float_instructions,
    /// f16 and bf16 arithmetic, packed or not.
    half_instructions,
    /// Moves, conversions, comparisons, selections, special registers.
    move_instructions,
    /// Loads and stores, of any space, and matrix loads and stores.
    memory_instructions,
    /// `atom` and `red`, of any space.
    atomic_instructions,
    /// `cp.async` and its commits and waits.
    async_copy_instructions,
    /// `mma` and `wmma.mma`.
    tensor_instructions,
    /// shfl, vote, match, redux and their kin.
    collective_instructions,
    /// Branches, calls, returns, barriers, fences.
    control_instructions,
    /// Conditional branches that a warp took both ways.
    diverged_branches,
    /// Arrivals of warps at a block's barriers.
    barrier_arrivals,
    /// Loads from global memory, `cp.async` included; a `wmma.load` is one for each piece of a lane's fragment.
    global_load_requests,
    /// 32-byte sectors that those loads touch, each counted once per load.
    global_load_sectors,
    /// Bytes that the lanes of those loads ask for; a byte that lanes share counts for each.
    global_load_bytes,
    /// Stores to global memory; a `wmma.store` is one for each piece of a lane's fragment.
    global_store_requests,
    /// 32-byte sectors that those stores touch, each counted once per store.
    global_store_sectors,
    /// Bytes that the lanes of those stores write; a byte that lanes share counts for each.
    global_store_bytes,
    /// Atomic operations on global memory.
    global_atomic_requests,
    /// 32-byte sectors that those operations touch, each counted once per operation.
    global_atomic_sectors,
    /// Different bytes of global memory whose first access is a load or an atomic operation. With `first_written_bytes` it is the
    /// traffic that no cache can save.
    first_read_bytes,
    /// Different bytes of global memory whose first access is a store.
    first_written_bytes,
    /// Loaded sectors that a cache of the device's L2 size (16 ways, least recently used, cold at the start, no L1 before it)
    /// would have had. Blocks that the device would hold at a time take short turns.
    l2_sector_hits,
    /// Loaded sectors that this cache would not have had.
    l2_sector_misses,
    /// Accesses to shared memory: loads, stores, atomics, and the stores of `cp.async`; `wmma` as for global memory.
    shared_requests,
    /// Passes over the 32 banks of shared memory that these accesses take.
    shared_wavefronts,
    /// Passes beyond those that the bytes alone need.
    shared_bank_conflicts,
    /// 2·m·n·k for every mma.
    tensor_flops,
}

impl Counters {
    /// Bytes asked for per byte of the sectors that loads moved: 1 is perfect, less is waste; above 1, lanes share bytes.
    pub fn global_load_efficiency(&self) -> f64 {
        self.global_load_bytes as f64 / (32 * self.global_load_sectors.max(1)) as f64
    }

    /// As [`Counters::global_load_efficiency`], for stores.
    pub fn global_store_efficiency(&self) -> f64 {
        self.global_store_bytes as f64 / (32 * self.global_store_sectors.max(1)) as f64
    }

    /// Mean number of lanes for which an instruction was executed.
    pub fn mean_active_lanes(&self) -> f64 {
        self.thread_instructions as f64 / self.warp_instructions.max(1) as f64
    }

    /// One line of JSON: the kernel's name and every counter.
    pub fn to_json(&self, kernel: &str) -> String {
        let mut line = String::from("{\"kernel\":\"");
        for c in kernel.chars() {
            match c {
                '"' | '\\' => line.extend(['\\', c]),
                c if c.is_control() => {
                    let _ = write!(line, "\\u{:04x}", c as u32);
                }
                c => line.push(c),
            }
        }
        line.push('"');
        for (name, value) in self.entries() {
            let _ = write!(line, ",\"{name}\":{value}");
        }
        line.push('}');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json() {
        let counters = Counters {
            thread_instructions: 64,
            warp_instructions: 4,
            ..Counters::default()
        };
        let line = counters.to_json("a\"b");
        assert!(line.starts_with("{\"kernel\":\"a\\\"b\",\"thread_instructions\":64,"));
        assert!(line.ends_with(",\"tensor_flops\":0}"));
        assert_eq!(counters.mean_active_lanes(), 16.0);
    }
}
