//! Work: what a command in a stream or a node of a graph does, and the positions in streams that order commands.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

use super::call::{Handle, HostPtr, Outcome, Required};
use super::result::CUresult;
use crate::lower::Kernel;

/// Positions in streams, by stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(pub(super) BTreeMap<Handle, u64>);

impl Clock {
    pub(super) fn advance(&mut self, stream: Handle, position: u64) {
        let at = self.0.entry(stream).or_default();
        *at = position.max(*at);
    }

    /// Forgets streams that are gone: everything in them was done before they went.
    pub(super) fn forget_all_but(&mut self, lives: impl Fn(&Handle) -> bool) {
        self.0.retain(|stream, _| lives(stream));
    }

    /// Whether what had the clock comes after `position` of `stream`.
    pub(super) fn covers(&self, stream: Handle, position: u64) -> bool {
        self.0.get(&stream).is_some_and(|&p| p >= position)
    }

    pub(super) fn merge(&mut self, other: &Clock) {
        for (&stream, &position) in &other.0 {
            self.advance(stream, position);
        }
    }
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) position: u64,
    /// Place among all commands of the process.
    pub(super) sequence: u64,
    pub(super) after: Arc<Clock>,
    pub(super) work: Work,
}

/// What a command does.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Kernel(Arc<KernelLaunch>),
    Copy(Copy),
    Fill(Fill),
    /// The end of a stream-ordered allocation.
    Free(u64),
    /// An event, and the record's place among all commands.
    Record(Handle, u64),
    /// Only the order matters.
    Nothing,
    Host(HostCall),
    Graph(Arc<Vec<Node>>),
}

impl Work {
    /// Whether a function of the program's is part of it.
    pub(super) fn calls_host(&self) -> bool {
        match self {
            Self::Host(_) => true,
            Self::Graph(nodes) => nodes.iter().any(|n| n.work.calls_host()),
            _ => false,
        }
    }

    /// A kernel in it for which `is` holds.
    pub(super) fn kernel(&self, is: &impl Fn(&KernelLaunch) -> bool) -> Option<&KernelLaunch> {
        match self {
            Self::Kernel(kernel) => is(kernel).then_some(kernel),
            Self::Graph(nodes) => nodes.iter().find_map(|n| n.work.kernel(is)),
            _ => None,
        }
    }

    /// In a few words.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Kernel(kernel) => format!("kernel {}", kernel.name()),
            Self::Copy(_) => "a copy".into(),
            Self::Fill(_) => "a fill".into(),
            Self::Free(_) => "a free".into(),
            Self::Record(..) | Self::Nothing => "an event".into(),
            Self::Host(_) => "a host function".into(),
            Self::Graph(_) => "a graph".into(),
        }
    }
}

/// A node of a graph; `after` holds the indices of the nodes it comes after, all smaller than its own.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) after: Vec<usize>,
}

/// A function of the program's, run in a stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum HostCall {
    Function(extern "C" fn(*mut c_void), HostPtr),
    Callback(
        extern "C" fn(Handle, CUresult, *mut c_void),
        Handle,
        HostPtr,
    ),
}

/// A launch that was checked, waiting in a queue or a graph.
#[derive(Debug)]
pub(super) struct KernelLaunch {
    pub(super) kernel: Arc<Kernel>,
    /// The module that the kernel came from, which may have been unloaded since.
    pub(super) module: Handle,
    pub(super) shape: Shape,
    pub(super) params: Vec<u8>,
}

impl KernelLaunch {
    pub(super) fn name(&self) -> &str {
        &self.kernel.name
    }
}

/// How a kernel is launched, apart from its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) cluster: [u32; 3],
    /// Bytes.
    pub(super) dynamic_shared: u32,
    pub(super) cooperative: bool,
}

/// One side of a copy.
#[derive(Debug, Clone)]
pub(super) enum Side {
    Device(u64),
    Host(HostPtr),
    /// Host data that was read at submission.
    Staged(Arc<[u8]>),
}

impl Side {
    pub(super) fn offset(&self, bytes: usize) -> Self {
        match self {
            Self::Device(address) => Self::Device(address.wrapping_add(bytes as u64)),
            Self::Host(pointer) => Self::Host(pointer.offset(bytes)),
            Self::Staged(data) => Self::Staged(Arc::clone(data)),
        }
    }
}

/// Rows of bytes; one row when linear.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) to: Side,
    pub(super) from: Side,
    /// Bytes.
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) to_pitch: usize,
    pub(super) from_pitch: usize,
}

impl Copy {
    pub(super) fn linear(to: Side, from: Side, bytes: usize) -> Self {
        Self {
            to,
            from,
            width: bytes,
            height: 1,
            to_pitch: bytes,
            from_pitch: bytes,
        }
    }

    /// Bytes of host data that wait with the command.
    pub(super) fn staged(&self) -> usize {
        if let Side::Staged(data) = &self.from {
            data.len()
        } else {
            0
        }
    }

    /// Reads a source in host memory now, without what is between its rows.
    pub(super) fn stage(&mut self, source: HostPtr) -> Outcome {
        let bytes = self.width.checked_mul(self.height);
        let bytes = bytes.need("the size, which overflows,")?;
        let mut data = Vec::new();
        if self.from_pitch == self.width || self.height == 1 {
            data = source.read_all(bytes)?;
        } else {
            for row in 0..self.height {
                let row = source.offset(row * self.from_pitch);
                data.extend(row.read_all(self.width)?);
            }
        }
        self.from = Side::Staged(data.into());
        self.from_pitch = self.width;
        Ok(())
    }

    /// Bytes from the first to the last one touched at a side with this pitch.
    pub(super) fn extent(&self, pitch: usize) -> Option<usize> {
        (self.height - 1)
            .checked_mul(pitch)?
            .checked_add(self.width)
    }
}

/// Rows of repetitions of a pattern.
#[derive(Debug, Clone)]
pub(super) struct Fill {
    pub(super) address: u64,
    /// 1, 2 or 4 bytes.
    pub(super) pattern: Vec<u8>,
    /// Elements.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bytes.
    pub(super) pitch: usize,
}
