//! An estimate of the registers a kernel needs, from live ranges in the order of the text.

use crate::ptx::ast::{AddressBase, Function, Operand, RegId, Type};

/// 32-bit registers a thread, at least 16 and at most 255: the widest cut through the live ranges, where a range that
/// is alive at the start of a loop and used in it lasts to its end. Addresses and bookkeeping that ptxas adds are not in it.
pub(crate) fn estimate(func: &Function) -> u32 {
    let body = func.body.as_deref().unwrap_or_default();
    let mut first = vec![usize::MAX; func.registers.len()];
    let mut last = vec![0; func.registers.len()];
    let mut see = |id: RegId, at: usize| {
        let i = id.0 as usize;
        first[i] = first[i].min(at);
        last[i] = last[i].max(at);
    };
    for (at, inst) in body.iter().enumerate() {
        if let Some(g) = &inst.guard {
            see(g.register, at);
        }
        inst.operands
            .iter()
            .for_each(|o| each_register(o, &mut |id| see(id, at)));
    }
    let mut loops = Vec::new();
    for (at, inst) in body.iter().enumerate() {
        for operand in &inst.operands {
            if let Operand::Label(l) = operand
                && let Some(&start) = func.labels.get(l.0 as usize)
                && start <= at
            {
                loops.push((start, at));
            }
        }
    }
    loops.sort_by_key(|&(start, end)| (end - start, start));
    let mut change = vec![0i64; body.len() + 2];
    for (i, register) in func.registers.iter().enumerate() {
        if first[i] == usize::MAX {
            continue;
        }
        for &(start, end) in &loops {
            if first[i] < start && last[i] >= start && last[i] < end {
                last[i] = end;
            }
        }
        let weight = match register.ty {
            Type::Pred => 0,
            ty => i64::from(ty.size().div_ceil(4)),
        };
        change[first[i]] += weight;
        change[last[i] + 1] -= weight;
    }
    let mut alive = 0;
    let mut most = 0;
    for c in change {
        alive += c;
        most = most.max(alive);
    }
    (most as u32 + 6).clamp(16, 255)
}

fn each_register(operand: &Operand, f: &mut impl FnMut(RegId)) {
    match operand {
        Operand::Register(id) | Operand::NotRegister(id) => f(*id),
        Operand::Address {
            base: AddressBase::Register(id),
            ..
        } => f(*id),
        Operand::TensorAddress {
            base, coordinates, ..
        } => {
            if let AddressBase::Register(id) = base {
                f(*id);
            }
            coordinates.iter().for_each(|o| each_register(o, f));
        }
        Operand::Vector(list) => list.iter().for_each(|o| each_register(o, f)),
        Operand::Pair(a, b) => {
            each_register(a, f);
            each_register(b, f);
        }
        _ => {}
    }
}
