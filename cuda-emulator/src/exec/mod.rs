//! Execution: blocks on threads, warps at once. Each file uses those above it only:
//!
//! | file | what |
//! |---|---|
//! | `registers`, `lanes`, `alu`, `arithmetic`, `compare`, `cvt`, `float`, `integer`, `collective` | operations on registers |
//! | `frame`, `state`, `access` | calls' registers, warps and blocks, accesses to memory |
//! | `awaited`, `defined` (its data) | what registers depend on, and which bits are undefined |
//! | `count`, `grid`, `worker` | counters, what workers share, a worker |
//! | `memory`, `atomic`, `async_copy`, `matrix`, `wmma`, `print`, `special`, `barrier`, `control` | operations on more than registers |
//! | `outside`, `run` | operations outside the inner loop, and the inner loop |
//! | `turns`, `launch` | which block and warp is next, and launches from start to report |

mod access;
mod alu;
mod arithmetic;
mod async_copy;
mod atomic;
pub(crate) mod awaited;
mod barrier;
mod collective;
mod compare;
mod control;
mod count;
mod cvt;
mod defined;
mod float;
mod frame;
mod grid;
mod integer;
mod lanes;
pub(crate) mod launch;
mod matrix;
mod memory;
mod outside;
mod print;
mod registers;
mod run;
mod special;
mod state;
mod turns;
mod wmma;
mod worker;
