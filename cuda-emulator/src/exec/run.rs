//! The inner loop: a warp runs until it waits, ends, fails or has used its budget.

use super::frame::At;
use super::state::{Block, Warp};
use super::worker::{Exec, Flow, Level, POLL, POLL_COST, Stop};
use super::{alu, arithmetic, control, defined, memory, outside};
use crate::lower::op::{HELPER, Op};

/// Backward branches after which a group lets the others of its warp run.
const PATIENCE: u32 = 10_000;

macro_rules! runner {
    ($name:ident $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        fn $name(x: &mut Exec<'_>, block: &mut Block<'_>, warp: &mut Warp, budget: i64) -> Stop {
            run_inline(x, block, warp, budget)
        }
    };
}

runner!(run_portable);
#[cfg(target_arch = "x86_64")]
runner!(run_avx2, "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c");

/// Runs a warp.
pub(crate) fn run(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    budget: i64,
) -> Stop {
    match exec.level {
        Level::Portable => run_portable(exec, block, warp, budget),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::detect` found the features.
        Level::Avx2 => unsafe { run_avx2(exec, block, warp, budget) },
    }
}

#[inline(always)]
fn run_inline(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    mut budget: i64,
) -> Stop {
    let code = exec.grid.code;
    let insts = code.insts.as_slice();
    let seed = exec.grid.launch.options.approx_seed;
    let slots = match warp.shadow {
        Some(_) => code.slots(),
        None => &[],
    };
    'pick: loop {
        let Some((group, stop)) = warp.pick() else {
            return if warp.live == 0 {
                Stop::Done
            } else {
                Stop::Blocked
            };
        };
        if warp.met != 0 {
            control::met(block, warp);
        }
        let mut pc = warp.groups[group].pc;
        let mask = warp.groups[group].mask;
        let frame = warp.groups[group].frame;
        let alone = warp.groups.len() == 1;
        let regs = warp.regs(frame);
        let marks = defined::Marks::new(warp.shadow.as_deref(), frame);
        loop {
            if pc >= stop {
                warp.groups[group].pc = pc;
                continue 'pick;
            }
            if budget <= 0 {
                warp.groups[group].pc = pc;
                return Stop::Budget;
            }
            // SAFETY: lowering ends every function with `Ret` and gives branches targets inside it.
            let inst = unsafe { insts.get_unchecked(pc as usize) };
            let guard = inst.guard;
            // SAFETY: a predicate of this frame.
            let m = mask & unsafe { regs.pred(guard & !HELPER) };
            let at = At {
                pc,
                lanes: m,
                frame,
                regs,
            };
            let counted = (guard >> 31) ^ 1;
            budget -= 1;
            exec.warp_instructions += u64::from(counted);
            exec.thread_instructions += u64::from(counted * m.count_ones());
            if exec.watched {
                if exec.profile {
                    exec.count(|t| t.instruction(pc));
                }
                // SAFETY: the frame is the running one; a warp has a shadow if there are slots, and one for each instruction.
                let any = |slots| unsafe { marks.any(slots) };
                if slots.get(pc as usize).is_some_and(any) {
                    defined::follow(exec, block, warp, at, inst, mask);
                }
            }
            if m == 0 {
                pc += 1;
                continue;
            }
            // SAFETY: slots of this frame.
            if unsafe { alu::execute(regs, inst, m) } {
                pc += 1;
                continue;
            }
            match inst.op {
                Op::Ld(index) => {
                    // SAFETY: slots of this frame.
                    if !unsafe { memory::load(exec, block, warp, at, index) } {
                        return Stop::Fault;
                    }
                    if code.mems[index as usize].poll {
                        budget -= POLL_COST;
                        warp.backward += POLL;
                        block.polls += 1;
                        warp.poll(exec.changes);
                    }
                    pc += 1;
                }
                Op::St(index) => {
                    // SAFETY: slots of this frame.
                    if !unsafe { memory::store(exec, block, warp, at, index) } {
                        return Stop::Fault;
                    }
                    exec.changes += 1;
                    pc += 1;
                }
                Op::Bra(target) => {
                    if m == mask {
                        if target <= pc && !alone {
                            warp.backward += 1;
                            if warp.backward > PATIENCE {
                                warp.groups[group].pc = target;
                                warp.give_way(group);
                                continue 'pick;
                            }
                        }
                        pc = target;
                        continue;
                    }
                    exec.count(|t| t.diverged());
                    warp.groups[group].pc = pc + 1;
                    let taken = warp.split(group, m);
                    warp.groups[taken].pc = target;
                    continue 'pick;
                }
                Op::Special(special) => {
                    super::special::read(exec, block, warp, regs, inst.d, special, m);
                    pc += 1;
                }
                Op::LocalAddress => {
                    let value = u64::from(frame.local.wrapping_add(inst.a));
                    // SAFETY: a slot of this frame.
                    unsafe { regs.set64(inst.d, &[value; 32], m) };
                    pc += 1;
                }
                Op::Ret | Op::Exit => {
                    warp.groups[group].pc = pc;
                    let leaving = match m == mask {
                        true => group,
                        false => {
                            warp.groups[group].pc = pc + 1;
                            let leaving = warp.split(group, m);
                            warp.groups[leaving].pc = pc;
                            leaving
                        }
                    };
                    if inst.op == Op::Exit || warp.groups[leaving].stack.is_empty() {
                        control::exit(exec, block, warp, leaving);
                    } else {
                        control::ret(exec, warp, leaving);
                    }
                    continue 'pick;
                }
                Op::Slow(index) => {
                    warp.groups[group].pc = pc;
                    match outside::execute(exec, block, warp, group, index, m, &mut budget) {
                        Flow::Next => pc += 1,
                        Flow::Regroup => continue 'pick,
                        Flow::Fault => return Stop::Fault,
                    }
                }
                _ => {
                    // SAFETY: slots of this frame.
                    unsafe { arithmetic::execute(regs, inst, m, &mut warp.carry, seed) };
                    pc += 1;
                }
            }
        }
    }
}
