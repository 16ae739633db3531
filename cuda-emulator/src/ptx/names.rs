//! Who a name is: scopes of registers, variables and labels of a function.

use std::collections::HashMap;

use super::ast::{LabelId, RegId, Register, Type};

/// What a name in a function stands for.
#[derive(Debug, Clone)]
pub(super) enum Binding {
    Register(RegId),
    /// A vector register: its components.
    Vector(Vec<RegId>),
    /// A variable or parameter, by the name it has in the tree.
    Variable(String),
}

/// How a register is declared: its type and, for a vector register, the number of components.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegisterShape {
    pub(super) ty: Type,
    pub(super) components: Option<usize>,
}

/// What lies between `{` and `}`.
#[derive(Default)]
pub(super) struct Scope<'a> {
    names: HashMap<&'a str, Binding>,
    /// `%r<10>` by its prefix: registers come into being when first used, so that a range costs nothing.
    ranges: HashMap<&'a str, (u32, RegisterShape)>,
    pub(super) labels: HashMap<&'a str, Labelled>,
    /// Operands that name a label of this scope or of one around it.
    pub(super) pending: Vec<Pending<'a>>,
}

/// What stands after a label.
#[derive(Debug, Clone)]
pub(super) enum Labelled {
    Place(LabelId),
    /// `.branchtargets`, by the name it has in the tree.
    Table(String),
    /// `.callprototype` or `.calltargets`.
    Prototype,
}

/// A label that was named and may be defined further down, and what waits for it.
#[derive(Clone, Copy)]
pub(super) struct Pending<'a> {
    pub(super) waiting: Waiting,
    pub(super) token: super::lexer::Token<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Waiting {
    Operand { instruction: usize, operand: usize },
    BranchTarget { table: usize, entry: usize },
}

/// Components of vector registers, in both spellings.
pub(super) const COMPONENTS: [[&str; 4]; 2] = [["x", "y", "z", "w"], ["r", "g", "b", "a"]];

/// Digits of the largest 32-bit number.
const MAX_DIGITS: usize = 10;

/// The scopes that are open, innermost last, and the registers they declared.
#[derive(Default)]
pub(super) struct Scopes<'a> {
    pub(super) open: Vec<Scope<'a>>,
    pub(super) registers: Vec<Register>,
}

impl<'a> Scopes<'a> {
    /// The innermost scope. There is always one while a function is parsed.
    pub(super) fn innermost(&mut self) -> &mut Scope<'a> {
        if self.open.is_empty() {
            self.open.push(Scope::default());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    /// Binds a name in the innermost scope; false if the scope has it already.
    pub(super) fn bind(&mut self, name: &'a str, binding: Binding) -> bool {
        self.innermost().names.insert(name, binding).is_none()
    }

    /// Declares a register (or vector register) in the innermost scope; false if the scope has the name already.
    pub(super) fn declare(&mut self, name: &'a str, shape: RegisterShape) -> bool {
        let binding = self.create(name, shape);
        self.bind(name, binding)
    }

    /// Declares registers `prefix0` to `prefix(count-1)`; false if the scope has the prefix already.
    pub(super) fn declare_range(
        &mut self,
        prefix: &'a str,
        count: u32,
        shape: RegisterShape,
    ) -> bool {
        let ranges = &mut self.innermost().ranges;
        ranges.insert(prefix, (count, shape)).is_none()
    }

    fn create(&mut self, name: &str, shape: RegisterShape) -> Binding {
        let mut add = |name: String| {
            let id = RegId(self.registers.len() as u32);
            self.registers.push(Register { name, ty: shape.ty });
            id
        };
        match shape.components {
            None => Binding::Register(add(name.into())),
            Some(count) => {
                let names = COMPONENTS[0].iter().take(count);
                Binding::Vector(
                    names
                        .map(|component| add(format!("{name}.{component}")))
                        .collect(),
                )
            }
        }
    }

    /// What a name stands for, from the innermost scope outwards.
    pub(super) fn find(&mut self, name: &'a str) -> Option<&Binding> {
        let digits = name
            .bytes()
            .rev()
            .take(MAX_DIGITS)
            .take_while(u8::is_ascii_digit)
            .count();
        let stem = name.len() - digits;
        let (scope, range) = self
            .open
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, scope)| {
                if scope.names.contains_key(name) {
                    return Some((index, None));
                }
                // `%r12` may be 12 of `%r` or 2 of `%r1`.
                let shape = (stem..name.len()).find_map(|cut| {
                    let (count, shape) = scope.ranges.get(&name[..cut])?;
                    let number = &name[cut..];
                    let canonical = number == "0" || !number.starts_with('0');
                    (canonical && number.parse::<u32>().ok()? < *count).then_some(*shape)
                })?;
                Some((index, Some(shape)))
            })?;
        if let Some(shape) = range {
            let binding = self.create(name, shape);
            self.open[scope].names.insert(name, binding);
        }
        self.open[scope].names.get(name)
    }
}
