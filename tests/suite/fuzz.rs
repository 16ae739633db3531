//! Random cases of [`millet_testing::fuzz`], the same every time unless the environment says otherwise.

use millet_testing::fuzz::run;

/// How many cases of each target.
macro_rules! fuzz_tests {
    ($backend:ty: $($name:ident $cases:expr;)+) => {
        $(
            #[test]
            fn $name() {
                super::run::<$backend>(stringify!($name), $cases);
            }
        )+
    };
}

mod cpu {
    fuzz_tests! { millet::Cpu: layer 60; router 60; dispatch 100; permute 60; experts 60; planted 60; }
}

#[cfg(feature = "cuda")]
mod cuda {
    fuzz_tests! { millet::Cuda: layer 100; router 40; dispatch 60; permute 60; experts 60; planted 40; routing 300; }
}
