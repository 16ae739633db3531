//! The objects behind the handles.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::{Arc, Weak};
use std::thread::ThreadId;
use std::time::Instant;

use super::call::{Failure, Handle, Outcome, invalid};
use super::result::CUresult;
use super::work::{Clock, Command, Node};
use crate::engine::Loaded;
use crate::lower::Kernel;

/// Kinds of handles, in their upper bits: above every address that a process can have.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(super) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Capture,
    Graph,
    Node,
    Executable,
    Pool,
}

/// The object of a handle.
///
/// # Errors
/// `CUDA_ERROR_INVALID_HANDLE`.
pub(super) fn find<'a, T>(
    objects: &'a mut HashMap<Handle, T>,
    handle: Handle,
    what: &str,
) -> Outcome<&'a mut T> {
    objects.get_mut(&handle).ok_or_else(|| Failure {
        code: CUresult::INVALID_HANDLE,
        message: match handle {
            0 => format!("the {what} is null"),
            _ => format!("{handle:#x} is no live {what}: never created, or destroyed before"),
        },
    })
}

/// The device's primary context.
#[derive(Debug, Default)]
pub(super) struct Primary {
    pub(super) context: Option<Handle>,
    pub(super) retained: u32,
    pub(super) flags: u32,
}

/// A context and the settings of its functions.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) flags: u32,
    pub(super) primary: bool,
    /// The legacy default stream.
    pub(super) legacy: Handle,
    /// Default streams of threads, with what dies with the thread.
    pub(super) per_thread: HashMap<ThreadId, (Weak<()>, Handle)>,
    /// What a kernel did to the context: every later call returns it.
    pub(super) broken: Option<Broken>,
    pub(super) limits: HashMap<u32, usize>,
    pub(super) cache_config: u32,
}

/// The failure of a context.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) failure: Failure,
    /// What failed, in a few words.
    pub(super) what: String,
    /// A call has returned the whole message.
    pub(super) told: bool,
}

/// A stream's queue. Positions count its commands from 1.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) context: Handle,
    /// Waits for, and is waited for by, the legacy default stream.
    pub(super) blocking: bool,
    pub(super) priority: i32,
    pub(super) queue: VecDeque<Command>,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    /// A thread is executing the head, which was taken off the queue.
    pub(super) running: bool,
    /// What commands submitted from now on come after.
    pub(super) clock: Clock,
    pub(super) capture: Option<StreamCapture>,
}

impl Stream {
    pub(super) fn new(context: Handle, blocking: bool, priority: i32) -> Self {
        Self {
            context,
            blocking,
            priority,
            queue: VecDeque::new(),
            submitted: 0,
            completed: 0,
            running: false,
            clock: Clock::default(),
            capture: None,
        }
    }
}

/// A stream that is being captured.
#[derive(Debug, Clone)]
pub(super) struct StreamCapture {
    pub(super) capture: Handle,
    /// Nodes that the next one comes after.
    pub(super) frontier: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) context: Handle,
    pub(super) timing: bool,
    pub(super) recorded: Option<Recorded>,
    /// The event was last recorded in a capture: which, and after which nodes.
    pub(super) captured: Option<(Handle, Vec<usize>)>,
}

/// The last record of an event.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) stream: Handle,
    pub(super) position: u64,
    /// The record's place among all commands.
    pub(super) sequence: u64,
    pub(super) clock: Arc<Clock>,
    /// When the command ran.
    pub(super) time: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Module {
    pub(super) context: Handle,
    pub(super) loaded: Loaded,
    /// Number of `.target sm_80`.
    pub(super) sm: u32,
    /// Handles of kernels that were asked for.
    pub(super) functions: HashMap<String, Handle>,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) module: Handle,
    pub(super) context: Handle,
    pub(super) kernel: Arc<Kernel>,
    /// The kernel's name for C.
    pub(super) name: CString,
    /// Bytes a launch may ask for.
    pub(super) max_dynamic_shared: u32,
    /// Of its module's `.const` variables: all functions of a module share one bank.
    pub(super) constant_bytes: i32,
    /// Percentage, -1 for the driver's choice.
    pub(super) carveout: i32,
    /// Compute capabilities of the PTX and of the code made from it.
    pub(super) ptx_version: i32,
    pub(super) binary_version: i32,
}

/// `CUstreamCaptureMode`: what else is forbidden while a capture goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub(super) fn from_number(number: u32) -> Outcome<Self> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => invalid(format!("{number} is no CUstreamCaptureMode (0, 1, 2)")),
        }
    }
}

/// A capture that goes on.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) context: Handle,
    pub(super) mode: Mode,
    pub(super) origin: Handle,
    pub(super) thread: ThreadId,
    pub(super) nodes: Vec<Node>,
    /// A forbidden call has spoilt it.
    pub(super) invalid: bool,
}

#[derive(Debug)]
pub(super) struct Graph {
    pub(super) context: Handle,
    pub(super) nodes: Vec<Node>,
    /// Handles of the nodes that were given one.
    pub(super) handles: HashMap<usize, Handle>,
}

impl Graph {
    pub(super) fn new(context: Handle, nodes: Vec<Node>) -> Self {
        Self {
            context,
            nodes,
            handles: HashMap::new(),
        }
    }
}

/// An instantiated graph.
#[derive(Debug, Clone)]
pub(super) struct Executable {
    pub(super) context: Handle,
    /// The graph it was made from.
    pub(super) graph: Handle,
    pub(super) nodes: Arc<Vec<Node>>,
    pub(super) flags: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Allocation {
    pub(super) context: Handle,
    pub(super) bytes: u64,
    /// Host address of a pinned allocation.
    pub(super) host: Option<usize>,
    /// A stream-ordered free was submitted.
    pub(super) freed: bool,
    pub(super) pool: Option<Handle>,
}

/// Page-locked host memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pinned {
    pub(super) bytes: usize,
    pub(super) flags: u32,
    pub(super) context: Handle,
    /// Device address of an allocation of ours; `None` for registered memory.
    pub(super) device: Option<u64>,
}

/// A pool's settings, which change nothing here.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) is_default: bool,
    /// Attributes 1 to 4 of `CUmemPool_attribute`: three licences to reuse, and the release threshold in bytes.
    pub(super) settings: [u64; 4],
}
