//! The state of the driver: every object by its handle, and the lock around them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::call::{
    Failure, Handle, Outcome, fail, guarded, in_host_function, invalid, say, stream_0_is_per_thread,
};
use super::objects::{
    Allocation, Capture, Context, Event, Executable, Function, Graph, Kind, Module, Pinned, Pool,
    Primary, Stream, find,
};
use super::order::Order;
use super::report::Reporter;
use super::result::CUresult;
use super::work::Clock;
use crate::device::Device;
use crate::memory::DeviceMemory;
use crate::options::{self, Options};
use crate::random::Random;

/// Everything of the process. There is one device, number 0.
pub(super) struct Driver {
    pub(super) device: &'static Device,
    pub(super) memory: Arc<DeviceMemory>,
    pub(super) options: Options,
    /// Threads that run a launch's blocks when the options do not say; asking the system takes longer than a small launch.
    pub(super) cores: usize,
    /// Options set by the program, which come before the environment's.
    pub(super) overrides: HashMap<String, String>,
    pub(super) random: Option<Random>,
    pub(super) primary: Primary,
    pub(super) contexts: HashMap<Handle, Context>,
    pub(super) streams: HashMap<Handle, Stream>,
    pub(super) events: HashMap<Handle, Event>,
    pub(super) modules: HashMap<Handle, Module>,
    pub(super) functions: HashMap<Handle, Function>,
    pub(super) captures: HashMap<Handle, Capture>,
    pub(super) graphs: HashMap<Handle, Graph>,
    /// Graph and index of each node that was given a handle.
    pub(super) nodes: HashMap<Handle, (Handle, usize)>,
    pub(super) executables: HashMap<Handle, Executable>,
    pub(super) pools: HashMap<Handle, Pool>,
    /// The program's allocations by address.
    pub(super) allocations: BTreeMap<u64, Allocation>,
    /// Host ranges of `cuMemHostRegister` and of pinned allocations, by address.
    pub(super) pinned: BTreeMap<usize, Pinned>,
    pub(super) report: Reporter,
    /// What commands in different streams did to the same memory.
    pub(super) order: Order,
    /// A copy that could not reach host memory; the next wait for a stream returns it.
    pub(super) refused: Option<Failure>,
    /// What the host has waited for.
    pub(super) host_clock: Clock,
    /// Commands submitted so far.
    pub(super) sequence: u64,
    handles: u64,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
static SOMETHING_ENDED: Condvar = Condvar::new();

thread_local! {
    /// Dies with the thread.
    static LIVES: Arc<()> = Arc::default();
    /// The thread's stack of current contexts.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// The driver's state, locked; the lock is let go while a function of the program's runs.
pub(super) struct Locked {
    guard: Option<MutexGuard<'static, Option<Driver>>>,
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    // A panic inside the driver was already reported; what it left is still memory-safe.
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Locked {
    /// # Errors
    /// `CUDA_ERROR_NOT_INITIALIZED` before `cuInit`.
    pub(super) fn lock() -> Outcome<Self> {
        let guard = lock();
        if guard.is_none() {
            return fail(CUresult::NOT_INITIALIZED, "cuInit was not called");
        }
        Ok(Self { guard: Some(guard) })
    }

    /// As [`Locked::lock`], and what `cuInit` does where it was not called.
    pub(super) fn lock_or_init() -> Outcome<Self> {
        let mut guard = lock();
        if guard.is_none() {
            *guard = Some(Driver::new()?);
        }
        Ok(Self { guard: Some(guard) })
    }

    /// Runs a function of the program's without the lock.
    pub(super) fn unlocked(&mut self, body: impl FnOnce()) {
        self.guard = None;
        body();
        self.guard = Some(lock());
    }

    /// Waits until another thread's command ended.
    pub(super) fn wait_for_others(&mut self) {
        if let Some(guard) = self.guard.take() {
            let guard = SOMETHING_ENDED
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
            self.guard = Some(guard);
        }
    }

    /// Wakes the threads in [`Locked::wait_for_others`].
    pub(super) fn announce(&self) {
        SOMETHING_ENDED.notify_all();
    }
}

impl Deref for Locked {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.guard
            .as_ref()
            .and_then(|g| g.as_ref())
            .expect("locked and initialised")
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Driver {
        self.guard
            .as_mut()
            .and_then(|g| g.as_mut())
            .expect("locked and initialised")
    }
}

/// Runs an exported function that needs the driver's state.
pub(super) fn entry(name: &'static str, body: impl FnOnce(&mut Locked) -> Outcome) -> CUresult {
    guarded(name, || {
        if in_host_function() {
            return fail(
                CUresult::NOT_PERMITTED,
                "called from inside a host function of a stream",
            );
        }
        body(&mut Locked::lock()?)
    })
}

impl Driver {
    fn new() -> Outcome<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let options = Options::from_variables(variable).or_else(invalid)?;
        for name in options::unknown_variables() {
            say(&format!(
                "{name} is no variable of the emulator's and is ignored"
            ));
        }
        let key = variable("CUDA_EMULATOR_DEVICE").unwrap_or_else(|| "a100".into());
        let device = Device::from_key(&key)
            .or_else(|e| invalid(format!("CUDA_EMULATOR_DEVICE={key}: {e}")))?;
        Ok(Self {
            device,
            memory: Arc::new(reserve(device.memory_bytes, &options)?),
            random: options.seed.map(Random::new),
            report: Reporter::new(variable).or_else(invalid)?,
            options,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            overrides: HashMap::new(),
            primary: Primary::default(),
            contexts: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            nodes: HashMap::new(),
            executables: HashMap::new(),
            pools: HashMap::new(),
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
            order: Order::default(),
            refused: None,
            host_clock: Clock::default(),
            sequence: 0,
            handles: 0,
        })
    }

    /// A handle that was never used before.
    pub(super) fn handle(&mut self, kind: Kind) -> Handle {
        self.handles += 1;
        (kind as u64) << 48 | self.handles << 4
    }

    pub(super) fn new_context(&mut self, flags: u32, primary: bool) -> Handle {
        let handle = self.handle(Kind::Context);
        let legacy = self.new_stream(handle, true, 0);
        let context = Context {
            flags,
            primary,
            legacy,
            per_thread: HashMap::new(),
            broken: None,
            limits: HashMap::new(),
            cache_config: 0,
        };
        self.contexts.insert(handle, context);
        handle
    }

    pub(super) fn new_stream(&mut self, context: Handle, blocking: bool, priority: i32) -> Handle {
        let handle = self.handle(Kind::Stream);
        self.streams
            .insert(handle, Stream::new(context, blocking, priority));
        handle
    }

    /// A context that exists, broken or not.
    pub(super) fn context(&mut self, handle: Handle) -> Outcome<&mut Context> {
        if handle == 0 {
            return fail(
                CUresult::INVALID_CONTEXT,
                "no context is current to the calling thread",
            );
        }
        self.contexts.get_mut(&handle).ok_or_else(|| {
            let was_ours = handle >> 48 == Kind::Context as u64;
            let (code, what) = if was_ours {
                (CUresult::CONTEXT_IS_DESTROYED, "was destroyed")
            } else {
                (CUresult::INVALID_CONTEXT, "is no context")
            };
            Failure {
                code,
                message: format!("{handle:#x} {what}"),
            }
        })
    }

    /// The error that a kernel left in the context, if any.
    pub(super) fn check_context(&mut self, handle: Handle) -> Outcome {
        let Some(broken) = &mut self.context(handle)?.broken else {
            return Ok(());
        };
        if !std::mem::replace(&mut broken.told, true) {
            return Err(broken.failure.clone());
        }
        fail(
            broken.failure.code,
            format!("the context failed before, by {}", broken.what),
        )
    }

    /// The calling thread's context, which must be usable.
    pub(super) fn current(&mut self) -> Outcome<Handle> {
        let handle = current_handle();
        self.check_context(handle)?;
        Ok(handle)
    }

    /// The stream that a program names: 1 is the legacy default stream, 2 is the thread's default stream, 0 is the one that the
    /// called variant of the function uses. Its context must be usable.
    pub(super) fn stream(&mut self, handle: Handle) -> Outcome<Handle> {
        match handle {
            0 if stream_0_is_per_thread() => self.stream(2),
            0 | 1 => {
                let context = self.current()?;
                Ok(self.context(context)?.legacy)
            }
            2 => {
                let context = self.current()?;
                let thread = std::thread::current().id();
                if let Some(&(_, stream)) = self.context(context)?.per_thread.get(&thread) {
                    return Ok(stream);
                }
                self.forget_threads(context);
                let stream = self.new_stream(context, true, 0);
                let lives = LIVES.try_with(Arc::downgrade).unwrap_or_default();
                let threads = &mut self.context(context)?.per_thread;
                threads.insert(thread, (lives, stream));
                Ok(stream)
            }
            _ => {
                let context = find(&mut self.streams, handle, "stream")?.context;
                self.check_context(context)?;
                Ok(handle)
            }
        }
    }

    /// Takes away the default streams of threads that have ended, if the host has waited for all of their work. Not while another
    /// command waits: that may have to be compared with it.
    fn forget_threads(&mut self, context: Handle) {
        if self.streams.values().any(|s| !s.queue.is_empty()) {
            return;
        }
        let (streams, host, mut gone) = (&self.streams, &self.host_clock, Vec::new());
        let is_done = |handle: Handle, s: &Stream| {
            s.capture.is_none() && (s.submitted == 0 || host.covers(handle, s.submitted))
        };
        let Some(context) = self.contexts.get_mut(&context) else {
            return;
        };
        context.per_thread.retain(|_, (lives, stream)| {
            let done = streams.get(stream).is_none_or(|s| is_done(*stream, s));
            let ends = lives.strong_count() == 0 && done;
            if ends {
                gone.push(*stream);
            }
            !ends
        });
        for stream in gone {
            self.streams.remove(&stream);
            self.host_clock.0.remove(&stream);
        }
    }

    pub(super) fn event(&mut self, handle: Handle) -> Outcome<&mut Event> {
        let context = find(&mut self.events, handle, "event")?.context;
        self.check_context(context)?;
        find(&mut self.events, handle, "event")
    }

    pub(super) fn function(&mut self, handle: Handle) -> Outcome<&mut Function> {
        find(&mut self.functions, handle, "function")
    }

    pub(super) fn module(&mut self, handle: Handle) -> Outcome<&mut Module> {
        find(&mut self.modules, handle, "module")
    }

    /// Takes a module's kernels and variables away.
    pub(super) fn remove_module(&mut self, handle: Handle) {
        if let Some(module) = self.modules.remove(&handle) {
            module.loaded.unload(&self.memory);
            self.functions.retain(|_, f| f.module != handle);
        }
    }

    /// Ends an allocation now.
    pub(super) fn release(&mut self, address: u64) -> Outcome {
        self.allocations.remove(&address);
        self.memory
            .free(address)
            .or_else(|e| fail(CUresult::ILLEGAL_ADDRESS, e.message))
    }

    /// The page-locked range that holds `address`, with its start.
    pub(super) fn pinned_at(&self, address: usize) -> Option<(usize, Pinned)> {
        let (&base, &pinned) = self.pinned.range(..=address).next_back()?;
        (address - base < pinned.bytes).then_some((base, pinned))
    }
}

/// Device memory of the card's size, or of as much address space as the host gives.
pub(super) fn reserve(bytes: u64, options: &Options) -> Outcome<DeviceMemory> {
    let track = options.check == crate::options::Check::All;
    let mut bytes = bytes;
    loop {
        match DeviceMemory::with_tracking(bytes, track) {
            Ok(memory) => return Ok(memory),
            Err(_) if bytes > 1 << 28 => bytes /= 2,
            Err(e) => {
                let message = format!("no address space for {bytes} bytes of device memory: {e}");
                return fail(CUresult::OUT_OF_MEMORY, message);
            }
        }
    }
}

/// The calling thread's current context, 0 if none.
pub(super) fn current_handle() -> Handle {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// Replaces the calling thread's current context; 0 takes it away.
pub(super) fn set_current(context: Handle) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
}

pub(super) fn push_current(context: Handle) {
    CURRENT.with_borrow_mut(|stack| stack.push(context));
}

pub(super) fn pop_current() -> Option<Handle> {
    CURRENT.with_borrow_mut(Vec::pop)
}
