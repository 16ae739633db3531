//! Where undefined bits come from.

use std::collections::HashMap;

use crate::lower::op::MemSpace;

/// Where undefined bits come from: what a finding says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A register that was never written.
    Register,
    /// Memory that was read.
    Memory(MemSpace),
    /// A lane that takes no part in a `shfl`.
    Lane,
}

/// A source at a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) source: Source,
    pub(super) line: u32,
    pub(super) address: Option<u64>,
}

/// Index + 1 of [`Source::Register`], which needs no line.
pub(super) const NEVER_WRITTEN: u32 = 1;

/// The origins of a worker's grid. Named by index + 1.
#[derive(Debug)]
pub(crate) struct Origins {
    pub(super) list: Vec<Origin>,
    pub(super) known: HashMap<(Source, u32), u32>,
}

impl Origins {
    pub(crate) fn new() -> Self {
        let first = Origin {
            source: Source::Register,
            line: 0,
            address: None,
        };
        Self {
            list: vec![first],
            known: HashMap::new(),
        }
    }

    /// The origin of what a line takes from a source; the address is that of the first time.
    pub(super) fn of(&mut self, source: Source, line: u32, address: Option<u64>) -> u32 {
        let list = &mut self.list;
        *self.known.entry((source, line)).or_insert_with(|| {
            list.push(Origin {
                source,
                line,
                address,
            });
            list.len() as u32
        })
    }

    pub(super) fn get(&self, origin: u32) -> Origin {
        self.list[(origin.max(1) - 1) as usize]
    }
}

impl Origin {
    pub(super) fn describe(self) -> String {
        match (self.source, self.address) {
            (Source::Register, _) => "a register that was never written".into(),
            (Source::Memory(space), Some(address)) => {
                let name = match space {
                    MemSpace::Shared => "shared",
                    MemSpace::Local => "local",
                    _ => "global",
                };
                format!(
                    "{name} memory that was never written, or only with such a value: the byte at {address:#x}, read at line {}",
                    self.line
                )
            }
            (Source::Memory(_), None) => format!("undefined memory, read at line {}", self.line),
            (Source::Lane, _) => format!(
                "what line {} takes from a lane that does not take part",
                self.line
            ),
        }
    }
}
