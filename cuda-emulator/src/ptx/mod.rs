//! PTX text to a syntax tree in which names are resolved.

pub mod ast;
mod body;
mod cursor;
mod lexer;
mod names;
mod parser;

pub use parser::parse;
