//! Everything below the driver: PTX text into the parser and the engine, without `cu*` functions in between.

mod arithmetic;
mod check_cost;
mod damage;
mod data_order;
mod gpu;
mod isa;
mod layers;
mod machine;
mod mutants;
mod parser;
mod programs;
mod residency;
mod undefined;
