//! The driver API as a program loads it.
//!
//! Work is never done when it is submitted. Each stream has a queue ([`schedule`]); commands run when something waits for them, and
//! with a seed in a random order that respects streams and events, so that a missing wait shows. Errors that a kernel causes stay
//! with its context until the context is destroyed.
//!
//! Each file uses those above it only:
//!
//! | file | what |
//! |---|---|
//! | [`result`], [`call`] | error codes; arguments as C passes them, and the guard of every exported function |
//! | [`report`], [`fatbin`] | findings and counters; fat binaries |
//! | [`work`], [`objects`] | what a command does; the objects behind the handles |
//! | [`order`] | what commands in different streams did to the same memory |
//! | [`state`] | all of it by handle, and the lock |
//! | [`capture`], [`execute`], [`schedule`] | rules of stream capture; doing a command's work; which command is next |
//! | [`api`] | the exported functions, by topic |

// The names are the driver's.
#![allow(non_snake_case)]

mod api;
mod call;
mod capture;
mod execute;
mod fatbin;
mod objects;
mod order;
mod report;
mod result;
mod schedule;
mod state;
mod work;

pub use fatbin::module_text;
