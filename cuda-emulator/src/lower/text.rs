//! Instructions as text, for messages.

use crate::ptx::ast::{AddressBase, Function, Immediate, Instruction, Operand, RegId};

/// The instruction as text, for messages.
pub(super) fn text_of(inst: &Instruction, func: &Function) -> String {
    let name = |id: &RegId| match func.registers.get(id.0 as usize) {
        Some(r) => r.name.clone(),
        None => "?".into(),
    };
    let mut text = String::new();
    if let Some(g) = &inst.guard {
        let not = if g.negated { "!" } else { "" };
        text += &format!("@{not}{} ", name(&g.register));
    }
    text += &inst.opcode;
    for m in &inst.modifiers {
        text += &format!(".{m}");
    }
    fn operand(o: &Operand, name: &dyn Fn(&RegId) -> String, func: &Function) -> String {
        let address = |base: &AddressBase, offset: i64| {
            let base = match base {
                AddressBase::Register(id) => name(id),
                AddressBase::Symbol(s) => s.clone(),
                AddressBase::Absolute => return offset.to_string(),
            };
            if offset == 0 {
                base
            } else {
                format!("{base}{offset:+}")
            }
        };
        let list = |v: &[Operand]| {
            let parts: Vec<_> = v.iter().map(|o| operand(o, name, func)).collect();
            format!("{{{}}}", parts.join(", "))
        };
        match o {
            Operand::Register(id) => name(id),
            Operand::NotRegister(id) => format!("!{}", name(id)),
            Operand::Special(s) | Operand::Table(s) => s.clone(),
            Operand::Immediate(Immediate::Integer(i)) => i.to_string(),
            Operand::Immediate(Immediate::F32(b)) => format!("0f{b:08X}"),
            Operand::Immediate(Immediate::F64(b)) => format!("0d{b:016X}"),
            Operand::Symbol { name, addend: 0 } => name.clone(),
            Operand::Symbol { name, addend } => format!("{name}{addend:+}"),
            Operand::Element { name, offset } => format!("{name}[{offset} bytes]"),
            Operand::Address { base, offset } => format!("[{}]", address(base, *offset)),
            Operand::TensorAddress {
                base,
                offset,
                coordinates,
            } => {
                format!("[{}, {}]", address(base, *offset), list(coordinates))
            }
            Operand::Vector(v) => list(v),
            Operand::Pair(a, b) => {
                format!("{}|{}", operand(a, name, func), operand(b, name, func))
            }
            Operand::Sink => "_".into(),
            Operand::Label(l) => func
                .label_names
                .get(l.0 as usize)
                .cloned()
                .unwrap_or_default(),
        }
    }
    for (i, o) in inst.operands.iter().enumerate() {
        text += if i == 0 { " " } else { ", " };
        text += &operand(o, &name, func);
    }
    text
}
