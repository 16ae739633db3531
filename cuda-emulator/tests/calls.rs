//! Calls in any order with any handles, as no program makes them: live ones, others' ones, dead ones, null and nonsense, from two threads.
//! Each call has some result, never a crash or a panic inside; nothing ends twice; and when every context is gone the device has all of
//! its memory.
//!
//! `CUDA_EMULATOR_TEST_CASES` sets how many sequences there are instead of 1000, and `CUDA_EMULATOR_TEST_SEED` which.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use cuda_emulator_loader as _;
use cudarc::driver::sys;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use sys::CUstreamCaptureMode as Mode;
use sys::cudaError_enum as Code;

/// Which of the handles of a kind that the program has, or something else in its place.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// The last ones are tried again and again, so that calls have to do with each other.
    Slot(usize),
    Null,
    /// Of another kind.
    Stranger,
    Number(u64),
}

/// Kinds of handles.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Context,
    Stream,
    Event,
    Memory,
    Pinned,
    Module,
    Function,
    Graph,
    Executable,
    Node,
}

const KINDS: usize = 10;
const SLOTS: usize = 3;

#[derive(Debug, Clone)]
enum Call {
    CreateContext(usize),
    DestroyContext(Which),
    SetCurrent(Which),
    Push(Which),
    Pop,
    Retain(usize),
    Release,
    Reset,
    Synchronize,
    CreateStream(usize, u32),
    DestroyStream(Which),
    SynchronizeStream(Which),
    QueryStream(Which),
    Wait(Which, Which),
    CreateEvent(usize, u32),
    DestroyEvent(Which),
    Record(Which, Which),
    QueryEvent(Which),
    SynchronizeEvent(Which),
    Elapsed(Which, Which),
    Allocate(usize, usize),
    Free(Which),
    AllocateIn(usize, usize, Which),
    FreeIn(Which, Which),
    AllocatePinned(usize, usize),
    FreePinned(Which),
    Fill(Which, usize, Which),
    FillNow(Which, usize),
    Copy(Which, Which, usize, Which),
    CopyIn(Which, usize, Which),
    CopyOut(Which, usize, Which),
    CopyAny(Which, Which, usize),
    Load(usize, usize),
    Unload(Which),
    Function(usize, Which, usize),
    Launch {
        function: Which,
        stream: Which,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        words: [Which; 2],
        has_parameters: bool,
    },
    Begin(Which, u32),
    End(usize, Which),
    IsCapturing(Which),
    CreateGraph(usize),
    DestroyGraph(Which),
    CloneGraph(usize, Which),
    Nodes(usize, Which),
    AddNode(usize, Which, Which, Which, [Which; 2]),
    Instantiate(usize, Which),
    LaunchGraph(Which, Which),
    DestroyExecutable(Which),
    HostFunction(Which),
    Info,
    Occupancy(Which, i32, usize),
    Attribute(i32, Which),
    SetAttribute(Which, i32, i32),
    Pointer(Which, i32),
    Range(Which),
}

fn calls() -> impl Strategy<Value = Vec<(bool, Call)>> {
    let slot = || 0..SLOTS;
    let which = || {
        prop_oneof![
            40 => slot().prop_map(Which::Slot),
            4 => Just(Which::Null),
            1 => Just(Which::Stranger),
            1 => prop::sample::select(vec![1, 2, 3, 1 << 20, 1 << 50, u64::MAX]).prop_map(Which::Number),
        ]
    };
    // Streams are more often null.
    let stream = || prop_oneof![3 => which(), 1 => Just(Which::Null), 1 => Just(Which::Number(2))];
    let size = || {
        let sizes = vec![0, 1, 3, 4, 8, 100, 4096, 1 << 20, 1 << 40, usize::MAX];
        prop_oneof![4 => Just(8usize), 1 => prop::sample::select(sizes)]
    };
    let flags = || prop_oneof![9 => 0u32..2, 1 => any::<u32>()];
    let side = || prop_oneof![6 => Just(1u32), 3 => 1u32..8, 1 => prop::sample::select(vec![0, 65535, 65536, u32::MAX])];
    let sides = |first: u32| {
        (
            prop_oneof![Just(1), Just(first), side()],
            prop_oneof![8 => Just(1), 1 => side()],
            prop_oneof![8 => Just(1), 1 => side()],
        )
            .prop_map(|(x, y, z)| [x, y, z])
    };
    // Mostly memory that a kernel may touch: its mistakes end all calls in its context.
    let word = || prop_oneof![60 => (0usize..2).prop_map(Which::Slot), 1 => which()];
    let launch = (
        (which(), stream(), sides(2), sides(32)),
        (
            prop_oneof![8 => Just(0u32), 1 => any::<u32>()],
            [word(), word()],
            prop::bool::weighted(0.97),
        ),
    )
        .prop_map(
            |((function, stream, grid, block), (shared, words, has_parameters))| Call::Launch {
                function,
                stream,
                grid,
                block,
                shared,
                words,
                has_parameters,
            },
        );
    let contexts = prop_oneof![
        10 => slot().prop_map(Call::CreateContext),
        1 => which().prop_map(Call::DestroyContext),
        10 => which().prop_map(Call::SetCurrent),
        3 => which().prop_map(Call::Push),
        3 => Just(Call::Pop),
        10 => slot().prop_map(Call::Retain),
        1 => Just(Call::Release),
        1 => Just(Call::Reset),
        10 => Just(Call::Synchronize),
    ];
    let streams = prop_oneof![
        (slot(), flags()).prop_map(|(s, f)| Call::CreateStream(s, f)),
        which().prop_map(Call::DestroyStream),
        stream().prop_map(Call::SynchronizeStream),
        stream().prop_map(Call::QueryStream),
        (stream(), which()).prop_map(|(s, e)| Call::Wait(s, e)),
        (slot(), flags()).prop_map(|(s, f)| Call::CreateEvent(s, f)),
        which().prop_map(Call::DestroyEvent),
        (which(), stream()).prop_map(|(e, s)| Call::Record(e, s)),
        which().prop_map(Call::QueryEvent),
        which().prop_map(Call::SynchronizeEvent),
        (which(), which()).prop_map(|(a, b)| Call::Elapsed(a, b)),
        stream().prop_map(Call::HostFunction),
    ];
    let memory = prop_oneof![
        3 => (slot(), size()).prop_map(|(s, n)| Call::Allocate(s, n)),
        1 => which().prop_map(Call::Free),
        2 => (slot(), size(), stream()).prop_map(|(s, n, at)| Call::AllocateIn(s, n, at)),
        1 => (which(), stream()).prop_map(|(m, s)| Call::FreeIn(m, s)),
        2 => (slot(), size()).prop_map(|(s, n)| Call::AllocatePinned(s, n)),
        1 => which().prop_map(Call::FreePinned),
        2 => (which(), size(), stream()).prop_map(|(m, n, s)| Call::Fill(m, n, s)),
        1 => (which(), size()).prop_map(|(m, n)| Call::FillNow(m, n)),
        2 => (which(), which(), size(), stream()).prop_map(|(a, b, n, s)| Call::Copy(a, b, n, s)),
        1 => (which(), size(), stream()).prop_map(|(m, n, s)| Call::CopyIn(m, n, s)),
        1 => (which(), size(), stream()).prop_map(|(m, n, s)| Call::CopyOut(m, n, s)),
        1 => (which(), which(), size()).prop_map(|(a, b, n)| Call::CopyAny(a, b, n)),
        1 => Just(Call::Info),
        1 => (which(), -1i32..40).prop_map(|(m, a)| Call::Pointer(m, a)),
        1 => which().prop_map(Call::Range),
    ];
    let modules = prop_oneof![
        2 => (slot(), 0..TEXTS.len()).prop_map(|(s, t)| Call::Load(s, t)),
        1 => which().prop_map(Call::Unload),
        3 => (slot(), which(), prop_oneof![4 => Just(0), 1 => 0..NAMES.len()]).prop_map(|(s, m, n)| Call::Function(s, m, n)),
        6 => launch,
        1 => (which(), -2i32..2000, size()).prop_map(|(f, n, b)| Call::Occupancy(f, n, b)),
        1 => (-1i32..20, which()).prop_map(|(a, f)| Call::Attribute(a, f)),
        // Of these only the 8th, dynamic shared memory, and the 9th may be set.
        1 => (
            which(),
            prop_oneof![-1i32..20, 8i32..10],
            prop_oneof![any::<i32>(), 0i32..100],
        )
            .prop_map(|(f, a, v)| Call::SetAttribute(f, a, v)),
    ];
    let graphs = prop_oneof![
        3 => (stream(), 0u32..4).prop_map(|(s, m)| Call::Begin(s, m)),
        3 => (slot(), stream()).prop_map(|(g, s)| Call::End(g, s)),
        1 => stream().prop_map(Call::IsCapturing),
        1 => slot().prop_map(Call::CreateGraph),
        1 => which().prop_map(Call::DestroyGraph),
        1 => (slot(), which()).prop_map(|(s, g)| Call::CloneGraph(s, g)),
        1 => (slot(), which()).prop_map(|(s, g)| Call::Nodes(s, g)),
        2 => (slot(), which(), which(), which(), [word(), word()]).prop_map(|(s, g, d, f, w)| Call::AddNode(s, g, d, f, w)),
        3 => (slot(), which()).prop_map(|(s, g)| Call::Instantiate(s, g)),
        3 => (which(), stream()).prop_map(|(x, s)| Call::LaunchGraph(x, s)),
        1 => which().prop_map(Call::DestroyExecutable),
    ];
    let call = prop_oneof![1 => contexts, 4 => streams, 4 => memory, 4 => modules, 4 => graphs];
    prop::collection::vec((prop::bool::weighted(0.2), call), 1..80)
}

const TEXTS: [&str; 3] = [
    concat!(include_str!("data/tests.ptx"), "\0"),
    ".version 8.0\n.target sm_80\n.address_size 64\n.global .u32 word = 3;\n\0",
    "nonsense\0",
];
const NAMES: [&str; 4] = ["move", "bounded", "reverse", "absent"];

/// What the program has.
#[derive(Debug, Default)]
struct Program {
    handles: [[u64; SLOTS]; KINDS],
    contexts: Vec<u64>,
    retained: u32,
    /// Handles of what it ended.
    ended: HashSet<u64>,
}

/// Memory of the host that calls read and write.
static HOST: Mutex<[u8; 4096]> = Mutex::new([0; 4096]);

/// How often each call was made with success: sequences of mistakes alone would tell little.
static SUCCEEDED: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

extern "C" fn nothing(_: *mut c_void) {}

impl Program {
    fn get(&self, kind: Kind, which: Which) -> u64 {
        match which {
            Which::Slot(slot) => self.handles[kind as usize][slot],
            Which::Null => 0,
            Which::Stranger => self.handles[(kind as usize + 1) % KINDS][0],
            Which::Number(number) => number,
        }
    }

    /// Keeps what a call gave, if it gave something.
    fn set(&mut self, kind: Kind, slot: usize, handle: u64) {
        if handle != 0 {
            self.handles[kind as usize][slot] = handle;
        }
    }

    /// Ends what has a handle that nothing else gets later, so that no second time can have success.
    fn end_one(&mut self, kind: Kind, which: Which, destroy: impl FnOnce(u64) -> Code) -> Code {
        let handle = self.get(kind, which);
        let code = destroy(handle);
        if code == Code::CUDA_SUCCESS {
            assert!(self.ended.insert(handle), "{kind:?} {handle:#x} ends again");
        }
        code
    }

    /// Memory of either kind.
    fn memory(&self, which: Which) -> u64 {
        match which {
            Which::Slot(2) => self.get(Kind::Pinned, Which::Slot(0)),
            which => self.get(Kind::Memory, which),
        }
    }

    fn make(&mut self, call: &Call) -> Code {
        use Kind::*;
        let mut new = 0u64;
        let out = &raw mut new;
        let mut host = HOST.lock().unwrap();
        let bytes = |n: &usize| (*n).min(4096);
        // SAFETY: none of the handles need to be live, which is the point; results and host memory are ours.
        unsafe {
            macro_rules! handle {
                ($kind:ident, $which:expr) => {
                    self.get($kind, *$which) as *mut _
                };
            }
            match call {
                Call::CreateContext(slot) => {
                    let code = sys::cuCtxCreate_v4(out.cast(), null_mut(), 0, 0);
                    if code == Code::CUDA_SUCCESS {
                        self.set(Context, *slot, new);
                        self.contexts.push(new);
                    }
                    code
                }
                Call::DestroyContext(c) => sys::cuCtxDestroy_v2(handle!(Context, c)),
                Call::SetCurrent(c) => sys::cuCtxSetCurrent(handle!(Context, c)),
                Call::Push(c) => sys::cuCtxPushCurrent_v2(handle!(Context, c)),
                Call::Pop => sys::cuCtxPopCurrent_v2(out.cast()),
                Call::Retain(slot) => {
                    let code = sys::cuDevicePrimaryCtxRetain(out.cast(), 0);
                    self.set(Context, *slot, new);
                    self.retained += 1;
                    code
                }
                Call::Release => sys::cuDevicePrimaryCtxRelease_v2(0),
                Call::Reset => sys::cuDevicePrimaryCtxReset_v2(0),
                Call::Synchronize => sys::cuCtxSynchronize(),
                Call::CreateStream(slot, flags) => {
                    let code = sys::cuStreamCreate(out.cast(), *flags);
                    self.set(Stream, *slot, new);
                    code
                }
                Call::DestroyStream(s) => {
                    self.end_one(Stream, *s, |s| sys::cuStreamDestroy_v2(s as *mut _))
                }
                Call::SynchronizeStream(s) => sys::cuStreamSynchronize(handle!(Stream, s)),
                Call::QueryStream(s) => sys::cuStreamQuery(handle!(Stream, s)),
                Call::Wait(s, e) => {
                    sys::cuStreamWaitEvent(handle!(Stream, s), handle!(Event, e), 0)
                }
                Call::CreateEvent(slot, flags) => {
                    let code = sys::cuEventCreate(out.cast(), *flags);
                    self.set(Event, *slot, new);
                    code
                }
                Call::DestroyEvent(e) => {
                    self.end_one(Event, *e, |e| sys::cuEventDestroy_v2(e as *mut _))
                }
                Call::Record(e, s) => sys::cuEventRecord(handle!(Event, e), handle!(Stream, s)),
                Call::QueryEvent(e) => sys::cuEventQuery(handle!(Event, e)),
                Call::SynchronizeEvent(e) => sys::cuEventSynchronize(handle!(Event, e)),
                Call::Elapsed(a, b) => {
                    sys::cuEventElapsedTime_v2(out.cast(), handle!(Event, a), handle!(Event, b))
                }
                Call::Allocate(slot, bytes) => {
                    let code = sys::cuMemAlloc_v2(out, *bytes);
                    self.set(Memory, *slot, new);
                    code
                }
                Call::Free(m) => sys::cuMemFree_v2(self.memory(*m)),
                Call::AllocateIn(slot, bytes, s) => {
                    let code = sys::cuMemAllocAsync(out, *bytes, handle!(Stream, s));
                    self.set(Memory, *slot, new);
                    code
                }
                Call::FreeIn(m, s) => sys::cuMemFreeAsync(self.memory(*m), handle!(Stream, s)),
                Call::AllocatePinned(slot, bytes) => {
                    let code = sys::cuMemHostAlloc(out.cast(), *bytes, 0);
                    self.set(Pinned, *slot, new);
                    code
                }
                Call::FreePinned(m) => sys::cuMemFreeHost(handle!(Pinned, m)),
                Call::Fill(m, n, s) => {
                    sys::cuMemsetD8Async(self.memory(*m), 3, *n, handle!(Stream, s))
                }
                Call::FillNow(m, n) => sys::cuMemsetD32_v2(self.memory(*m), 5, *n),
                Call::Copy(a, b, n, s) => sys::cuMemcpyDtoDAsync_v2(
                    self.memory(*a),
                    self.memory(*b),
                    *n,
                    handle!(Stream, s),
                ),
                Call::CopyIn(m, n, s) => {
                    let from = host.as_ptr().cast();
                    sys::cuMemcpyHtoDAsync_v2(self.memory(*m), from, bytes(n), handle!(Stream, s))
                }
                Call::CopyOut(m, n, s) => {
                    let to = host.as_mut_ptr().cast();
                    sys::cuMemcpyDtoHAsync_v2(to, self.memory(*m), bytes(n), handle!(Stream, s))
                }
                Call::CopyAny(a, b, n) => sys::cuMemcpy(self.memory(*a), self.memory(*b), bytes(n)),
                Call::Load(slot, text) => {
                    let code = sys::cuModuleLoadData(out.cast(), TEXTS[*text].as_ptr().cast());
                    self.set(Module, *slot, new);
                    code
                }
                Call::Unload(m) => self.end_one(Module, *m, |m| sys::cuModuleUnload(m as *mut _)),
                Call::Function(slot, m, name) => {
                    let name = CString::new(NAMES[*name]).unwrap();
                    let code =
                        sys::cuModuleGetFunction(out.cast(), handle!(Module, m), name.as_ptr());
                    self.set(Function, *slot, new);
                    code
                }
                Call::Launch {
                    function,
                    stream,
                    grid: [gx, gy, gz],
                    block: [bx, by, bz],
                    shared,
                    words,
                    has_parameters,
                } => {
                    let mut words = words.map(|w| self.memory(w));
                    let mut params = words.each_mut().map(|w| (w as *mut u64).cast());
                    let params = match has_parameters {
                        true => params.as_mut_ptr(),
                        false => null_mut(),
                    };
                    let (f, s) = (handle!(Function, function), handle!(Stream, stream));
                    sys::cuLaunchKernel(
                        f,
                        *gx,
                        *gy,
                        *gz,
                        *bx,
                        *by,
                        *bz,
                        *shared,
                        s,
                        params,
                        null_mut(),
                    )
                }
                Call::Begin(s, mode) => {
                    let modes = [
                        Mode::CU_STREAM_CAPTURE_MODE_GLOBAL,
                        Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
                        Mode::CU_STREAM_CAPTURE_MODE_RELAXED,
                        Mode::CU_STREAM_CAPTURE_MODE_RELAXED,
                    ];
                    sys::cuStreamBeginCapture_v2(handle!(Stream, s), modes[*mode as usize])
                }
                Call::End(slot, s) => {
                    let code = sys::cuStreamEndCapture(handle!(Stream, s), out.cast());
                    self.set(Graph, *slot, new);
                    code
                }
                Call::IsCapturing(s) => sys::cuStreamIsCapturing(handle!(Stream, s), out.cast()),
                Call::CreateGraph(slot) => {
                    let code = sys::cuGraphCreate(out.cast(), 0);
                    self.set(Graph, *slot, new);
                    code
                }
                Call::DestroyGraph(g) => {
                    self.end_one(Graph, *g, |g| sys::cuGraphDestroy(g as *mut _))
                }
                Call::CloneGraph(slot, g) => {
                    let code = sys::cuGraphClone(out.cast(), handle!(Graph, g));
                    self.set(Graph, *slot, new);
                    code
                }
                Call::Nodes(slot, g) => {
                    let mut nodes = [null_mut(); 3];
                    let mut count = 3;
                    let code =
                        sys::cuGraphGetNodes(handle!(Graph, g), nodes.as_mut_ptr(), &mut count);
                    self.set(Node, *slot, nodes[*slot] as u64);
                    code
                }
                Call::AddNode(slot, g, after, f, words) => {
                    let mut words = words.map(|w| self.memory(w));
                    let mut params: [*mut c_void; 2] =
                        words.each_mut().map(|w| (w as *mut u64).cast());
                    let after: sys::CUgraphNode = handle!(Node, after);
                    let mut node: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
                    node.func = handle!(Function, f);
                    (node.gridDimX, node.gridDimY, node.gridDimZ) = (1, 1, 1);
                    (node.blockDimX, node.blockDimY, node.blockDimZ) = (1, 1, 1);
                    node.kernelParams = params.as_mut_ptr();
                    let count = usize::from(!after.is_null());
                    let code = sys::cuGraphAddKernelNode_v2(
                        out.cast(),
                        handle!(Graph, g),
                        &after,
                        count,
                        &node,
                    );
                    self.set(Node, *slot, new);
                    code
                }
                Call::Instantiate(slot, g) => {
                    let code = sys::cuGraphInstantiateWithFlags(out.cast(), handle!(Graph, g), 0);
                    self.set(Executable, *slot, new);
                    code
                }
                Call::LaunchGraph(x, s) => {
                    sys::cuGraphLaunch(handle!(Executable, x), handle!(Stream, s))
                }
                Call::DestroyExecutable(x) => {
                    self.end_one(Executable, *x, |x| sys::cuGraphExecDestroy(x as *mut _))
                }
                Call::HostFunction(s) => {
                    sys::cuLaunchHostFunc(handle!(Stream, s), Some(nothing), null_mut())
                }
                Call::Info => {
                    let mut total = 0usize;
                    sys::cuMemGetInfo_v2(out.cast(), &mut total)
                }
                Call::Occupancy(f, threads, shared) => {
                    sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                        out.cast(),
                        handle!(Function, f),
                        *threads,
                        *shared,
                    )
                }
                // The emulator takes any number; bindings have only those of the enumeration.
                Call::Attribute(a, f) => {
                    let a =
                        std::mem::transmute::<i32, sys::CUfunction_attribute>((*a).clamp(0, 15));
                    sys::cuFuncGetAttribute(out.cast(), a, handle!(Function, f))
                }
                Call::SetAttribute(f, a, value) => {
                    let a =
                        std::mem::transmute::<i32, sys::CUfunction_attribute>((*a).clamp(0, 15));
                    sys::cuFuncSetAttribute(handle!(Function, f), a, *value)
                }
                Call::Pointer(m, a) => {
                    let a = std::mem::transmute::<i32, sys::CUpointer_attribute>((*a).clamp(1, 17));
                    let mut answer = [0u64; 4];
                    sys::cuPointerGetAttribute(answer.as_mut_ptr().cast(), a, self.memory(*m))
                }
                Call::Range(m) => {
                    let mut size = 0usize;
                    sys::cuMemGetAddressRange_v2(out, &mut size, self.memory(*m))
                }
            }
        }
    }

    /// Takes every context away. The device then has all of its memory.
    fn end(&mut self) {
        // SAFETY: handles need not be live.
        unsafe {
            for context in self.contexts.drain(..) {
                let _ = sys::cuCtxDestroy_v2(context as sys::CUcontext);
            }
            let _ = sys::cuDevicePrimaryCtxReset_v2(0);
        }
    }
}

/// A thread that makes calls one at a time.
fn caller() -> Sender<Box<dyn FnOnce() + Send>> {
    let (sender, receiver) = channel::<Box<dyn FnOnce() + Send>>();
    std::thread::spawn(move || receiver.iter().for_each(|call| call()));
    sender
}

/// What a program has at first: without it most calls would fail for want of a context.
fn beginning() -> Vec<(bool, Call)> {
    let first = Which::Slot(0);
    let mut calls = vec![(false, Call::Retain(0))];
    calls.extend([false, true].map(|thread| (thread, Call::SetCurrent(first))));
    for slot in 0..SLOTS {
        calls.extend([
            (false, Call::CreateStream(slot, slot as u32 % 2)),
            (false, Call::CreateEvent(slot, 0)),
            (false, Call::Allocate(slot, 8)),
            (false, Call::AllocatePinned(slot, 8)),
            (false, Call::Load(slot, 0)),
            (false, Call::Function(slot, first, 0)),
        ]);
    }
    calls
}

fn check(calls: &[(bool, Call)]) {
    // SAFETY: no requirements.
    unsafe { sys::cuInit(0) }.result().unwrap();
    let callers = [caller(), caller()];
    let program = std::sync::Arc::new(Mutex::new(Program::default()));
    let run = |thread: usize, body: Box<dyn FnOnce(&mut Program) -> Code + Send>| {
        let (sender, receiver) = channel();
        let program = program.clone();
        let call = move || {
            let code = body(&mut program.lock().unwrap_or_else(|e| e.into_inner()));
            let _ = sender.send(code);
        };
        callers[thread].send(Box::new(call)).unwrap();
        receiver.recv().expect("the call panicked")
    };
    for (thread, call) in beginning().iter().chain(calls) {
        let own = call.clone();
        let code = run(
            usize::from(*thread),
            Box::new(move |program| program.make(&own)),
        );
        assert_ne!(code, Code::CUDA_ERROR_UNKNOWN, "{call:?}");
        let name = format!("{call:?}");
        let name = name.split(['(', ' ']).next().unwrap_or_default().to_owned();
        let mut succeeded = SUCCEEDED.lock().unwrap();
        *succeeded.entry(name).or_default() += usize::from(code == Code::CUDA_SUCCESS);
    }
    let code = run(
        0,
        Box::new(|program| {
            program.end();
            Code::CUDA_SUCCESS
        }),
    );
    assert_eq!(code, Code::CUDA_SUCCESS);
    let code = run(
        0,
        Box::new(|_| {
            let (mut context, mut word) = (null_mut(), 0u64);
            let (mut free, mut total) = (0usize, 0usize);
            // SAFETY: live results.
            unsafe {
                sys::cuCtxCreate_v4(&mut context, null_mut(), 0, 0)
                    .result()
                    .unwrap();
                sys::cuMemGetInfo_v2(&mut free, &mut total)
                    .result()
                    .unwrap();
                assert_eq!(free, total, "bytes that nobody has are in use");
                sys::cuMemAlloc_v2(&mut word, 4).result().unwrap();
                sys::cuMemcpyHtoD_v2(word, (&raw const free).cast(), 4)
                    .result()
                    .unwrap();
                sys::cuMemFree_v2(word).result().unwrap();
                sys::cuCtxDestroy_v2(context)
            }
        }),
    );
    assert_eq!(code, Code::CUDA_SUCCESS);
}

#[test]
fn calls_in_any_order() {
    let number = |name: &str, otherwise: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    };
    for (name, value) in [
        ("CUDA_EMULATOR_CHECK", "fast"),
        ("CUDA_EMULATOR_LIMIT", "20000"),
    ] {
        cuda_emulator_loader::set_option(name, Some(value))
            .unwrap()
            .unwrap();
    }
    let config = ProptestConfig {
        cases: number("CUDA_EMULATOR_TEST_CASES", 1000) as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("CUDA_EMULATOR_TEST_SEED", 0).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let result = TestRunner::new_with_rng(config, rng).run(&calls(), |calls| {
        check(&calls);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    let succeeded = SUCCEEDED.lock().unwrap();
    println!("calls with success: {succeeded:?}");
    assert!(succeeded.values().all(|&n| n > 0), "{succeeded:?}");
}
