//! The modifiers of one instruction, taken one by one; what is left over was not understood.

use super::op::Rounding;
use super::program::LowerError;
use super::text::text_of;
use crate::check::hooks::Scope;
use crate::ptx::ast::{Function, Instruction, Type};

pub(crate) struct Words<'a> {
    pub(crate) inst: &'a Instruction,
    func: &'a Function,
    left: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(inst: &'a Instruction, func: &'a Function) -> Self {
        let left = inst.modifiers.iter().map(String::as_str).collect();
        Self { inst, func, left }
    }

    /// An error at this instruction, with its text.
    pub(crate) fn error(&self, what: impl std::fmt::Display) -> LowerError {
        let text = text_of(self.inst, self.func);
        LowerError {
            line: self.inst.line,
            message: format!("{what} (in `{text}`)"),
        }
    }

    /// Takes a word; false if it is not there.
    pub(crate) fn flag(&mut self, word: &str) -> bool {
        match self.left.iter().position(|&w| w == word) {
            Some(i) => {
                self.left.remove(i);
                true
            }
            None => false,
        }
    }

    /// Takes the first word that `f` knows.
    pub(crate) fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (i, value) = self
            .left
            .iter()
            .enumerate()
            .find_map(|(i, w)| Some((i, f(w)?)))?;
        self.left.remove(i);
        Some(value)
    }

    /// Takes the first of the words in the table.
    pub(crate) fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        self.find(|w| {
            table
                .iter()
                .find(|(name, _)| *name == w)
                .map(|&(_, value)| value)
        })
    }

    /// Takes every word that names a type, in order.
    pub(crate) fn types(&mut self) -> Vec<Type> {
        std::iter::from_fn(|| self.find(Type::from_word)).collect()
    }

    /// Takes the one type.
    pub(crate) fn one_type(&mut self) -> Result<Type, LowerError> {
        match self.types()[..] {
            [ty] => Ok(ty),
            [] => Err(self.error("a type is missing or not implemented")),
            _ => Err(self.error("one type expected; the form with several is not implemented")),
        }
    }

    /// An error for a type that no register is moved or selected as: packed and short floats, bytes.
    pub(crate) fn movable(&self, ty: Type) -> Result<(), LowerError> {
        use Type::*;
        match ty {
            B16 | B32 | B64 | U16 | U32 | U64 | S16 | S32 | S64 | F32 | F64 => Ok(()),
            _ => Err(self.error("this instruction has no such type")),
        }
    }

    pub(crate) fn rounding(&mut self) -> Option<Rounding> {
        self.one_of(&[
            ("rn", Rounding::Near),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ])
    }

    pub(crate) fn scope(&mut self) -> Option<Scope> {
        self.one_of(&[
            ("cta", Scope::Cta),
            ("cluster", Scope::Cluster),
            ("gpu", Scope::Gpu),
            ("sys", Scope::Sys),
        ])
    }

    /// Takes cache hints; whether `.L2::cache_hint` (an extra operand) is among them.
    pub(crate) fn cache_hints(&mut self) -> bool {
        const HINTS: [&str; 13] = [
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::evict_normal",
            "L2::evict_first",
            "L2::evict_last",
            "L2::64B",
            "L2::128B",
            "L2::256B",
            "L2::evict_unchanged",
            "unified",
        ];
        for hint in HINTS {
            self.flag(hint);
        }
        self.flag("L2::cache_hint")
    }

    /// An error if a word was not taken.
    pub(crate) fn done(&self) -> Result<(), LowerError> {
        match self.left[..] {
            [] => Ok(()),
            [word, ..] => Err(self.error(format_args!(
                "modifier .{word} is not implemented for `{}`",
                self.inst.opcode
            ))),
        }
    }
}
