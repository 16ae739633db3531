//! What a launch did, counted exactly.

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
}
