//! Definedness, with all checks: which bits of registers and memory hold a value that somebody gave them.
//!
//! Undefined bits are followed through registers, predicates and every kind of memory, and nothing is said of them until one matters:
//! an address, a branch, a guard of what cannot be undone, or a copy to the host. Then it is a finding, and in the kernel the bits count
//! as defined, so that what follows from them is not reported again.
//!
//! A warp's shadow mirrors its registers and local memory, a block's its shared memory: a set bit is undefined. Global memory has its
//! record in [`DeviceMemory`](crate::memory::DeviceMemory): there a set bit is defined, for pages begin with zeros. So that correct code
//! costs little, each register has a [`Mark`] beside, which is 0 while nothing has to be said of it.

mod collective;
mod dependence;
mod follow;
mod memory;
pub(super) mod origins;
mod records;
mod rules;
pub(super) mod shadow;

pub(crate) use self::collective::{collective, product};
pub(crate) use self::dependence::{
    awaited_by_atomic, awaited_by_register, awaited_by_rows, awaited_by_store,
};
pub(crate) use self::follow::{
    check_address, check_decision, define, define_local, follow, one_source, passed, reduced,
    reduction, set,
};
pub(crate) use self::memory::{
    atomic, await_load, copied, discarded, executed, instance, loaded, piece_loaded, piece_stored,
    rows_loaded, rows_stored, stored,
};
pub(crate) use self::shadow::Marks;
