//! The exported functions by topic: the `cu*` functions of the driver, and in [`control`] our own (`cudaEmulator…`).

mod address;
mod capture;
mod context;
mod control;
mod copy;
mod error;
mod event;
mod function;
mod graph;
mod launch;
mod library;
mod memory;
mod module;
mod occupancy;
mod per_thread;
mod pool;
mod query;
mod stream;
