//! A kernel's instructions with what is known of them once somebody asks.

use std::ops::Deref;
use std::sync::OnceLock;

use super::op::Instructions;
use super::operands::{Slots, slots};
use super::tracked::{Tracked, tracked};

/// What a kernel executes.
#[derive(Debug, Default)]
pub(crate) struct Code {
    instructions: Instructions,
    slots: OnceLock<Vec<Slots>>,
    tracked: OnceLock<Tracked>,
}

impl From<Instructions> for Code {
    fn from(instructions: Instructions) -> Self {
        Self {
            instructions,
            ..Self::default()
        }
    }
}

impl Deref for Code {
    type Target = Instructions;

    #[inline(always)]
    fn deref(&self) -> &Instructions {
        &self.instructions
    }
}

impl Code {
    /// The slots of every instruction's operands.
    pub(crate) fn slots(&self) -> &[Slots] {
        self.slots.get_or_init(|| slots(self))
    }

    /// Which loads are followed to stores that depend on them.
    pub(crate) fn tracked(&self) -> &Tracked {
        self.tracked.get_or_init(|| tracked(self))
    }
}
