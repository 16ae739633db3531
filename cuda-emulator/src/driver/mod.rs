//! The driver API as a program loads it: the exported `cu*` functions, by topic.
//!
//! Work is never done when it is submitted. Each stream has a queue ([`schedule`]); commands run when something waits for them, and
//! with a seed in a random order that respects streams and events, so that a missing wait shows. Errors that a kernel causes stay
//! with its context until the context is destroyed.
//!
//! [`call`] guards every exported function, [`state`] holds the objects behind the handles, [`report`] gathers findings and counters,
//! [`control`] has the functions of our own (`cudaEmulator…`).

// The names are the driver's.
#![allow(non_snake_case)]

mod address;
mod call;
mod capture;
mod context;
mod control;
mod copy;
mod event;
mod fatbin;
mod function;
mod graph;
mod launch;
mod library;
mod memory;
mod module;
mod occupancy;
mod order;
mod per_thread;
mod pool;
mod query;
mod report;
mod result;
mod schedule;
mod state;
mod stream;

pub use fatbin::module_text;
