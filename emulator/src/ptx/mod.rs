//! PTX text to a syntax tree in which names are resolved.

pub mod ast;
