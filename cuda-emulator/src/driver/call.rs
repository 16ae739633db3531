//! What every exported function shares: arguments as C passes them, errors with a sentence, and the guard that turns a panic or a
//! failure into a `CUresult`.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::result::CUresult;

const _: () = assert!(
    size_of::<usize>() == 8,
    "device addresses and handles have 64 bits"
);

/// An opaque pointer of the API (`CUcontext`, `CUstream`, …). Ours are numbers that no object has as its address.
pub(super) type Handle = u64;

/// A pointer that a result is written through; null is `None`.
pub(super) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Why a call failed: what the program gets, and what a person reads on the standard error stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: CUresult,
    pub(super) message: String,
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// A failed outcome.
pub(super) fn fail<T>(code: CUresult, message: impl Into<String>) -> Outcome<T> {
    let message = message.into();
    Err(Failure { code, message })
}

/// An answer that is an error code but no mistake ("not ready"): nothing is said.
pub(super) fn answer<T>(code: CUresult) -> Outcome<T> {
    fail(code, "")
}

/// A failed outcome for an argument that is not allowed.
pub(super) fn invalid<T>(message: impl Into<String>) -> Outcome<T> {
    fail(CUresult::INVALID_VALUE, message)
}

/// A failed outcome for what this driver does not do.
pub(super) fn unsupported<T>(message: impl Into<String>) -> Outcome<T> {
    fail(CUresult::NOT_SUPPORTED, message)
}

/// The length of a list that the program passes. No list of options or attributes is longer than [`LONGEST_LIST`].
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for more, rather than reading what is no list.
pub(super) fn list_length(count: u32, what: &str) -> Outcome<usize> {
    match count {
        0..=LONGEST_LIST => Ok(count as usize),
        _ => invalid(format!("a list of {count} {what}")),
    }
}

const LONGEST_LIST: u32 = 1024;

/// Null pointers as errors.
pub(super) trait Required<T> {
    /// The pointer's target, or `CUDA_ERROR_INVALID_VALUE` naming the parameter.
    fn need(self, name: &str) -> Outcome<T>;
}

impl<T> Required<T> for Option<T> {
    fn need(self, name: &str) -> Outcome<T> {
        self.ok_or(())
            .or_else(|()| invalid(format!("`{name}` is a null pointer")))
    }
}

/// A NUL-terminated string that a C caller passed.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Text(*const c_char);

impl Text {
    /// The bytes up to the NUL.
    pub(super) fn bytes(&self, name: &str) -> Outcome<&[u8]> {
        if self.0.is_null() {
            return invalid(format!("`{name}` is a null pointer"));
        }
        // SAFETY: values of this type come only from callers of the C interface, who promise a NUL-terminated string there.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }

    /// The string, which must be UTF-8.
    pub(super) fn get(&self, name: &str) -> Outcome<&str> {
        std::str::from_utf8(self.bytes(name)?)
            .or_else(|e| invalid(format!("`{name}` is not UTF-8: {e}")))
    }
}

/// A pointer into the program's own memory.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPtr(pub(super) usize);

impl HostPtr {
    pub(super) fn is_null(self) -> bool {
        self.0 == 0
    }

    pub(super) fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Copies `into.len()` bytes from here. Memory that is not mapped is an error, not a crash.
    pub(super) fn read(self, into: &mut [u8]) -> Outcome {
        transfer(self, into.as_mut_ptr(), into.len(), Direction::Read)
    }

    /// Copies `from` to here. Memory that is not mapped or not writable is an error, not a crash.
    pub(super) fn write(self, from: &[u8]) -> Outcome {
        transfer(self, from.as_ptr().cast_mut(), from.len(), Direction::Write)
    }

    /// A copy of the `bytes` bytes from here. Room is made only for memory that can be there.
    pub(super) fn read_all(self, bytes: usize) -> Outcome<Vec<u8>> {
        let Some(last) = bytes.checked_sub(1) else {
            return Ok(Vec::new());
        };
        if self.0.checked_add(last).is_none() {
            return invalid(format!("{bytes} host bytes at {:#x} overflow", self.0));
        }
        self.read(&mut [0])?;
        self.offset(last).read(&mut [0])?;
        let mut data = Vec::new();
        if data.try_reserve_exact(bytes).is_err() {
            return fail(
                CUresult::OUT_OF_MEMORY,
                format!("no room for a copy of {bytes} host bytes"),
            );
        }
        data.resize(bytes, 0);
        self.read(&mut data)?;
        Ok(data)
    }

    /// The eight bytes here, e.g. a pointer in an array of pointers.
    pub(super) fn read_u64(self) -> Outcome<u64> {
        let mut bytes = [0; 8];
        self.read(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn read_u32(self) -> Outcome<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Moves bytes between `ours`, a live buffer of `len` bytes, and the program's memory. The kernel does the copy, since it returns
/// an error where a plain copy would crash; a sandbox that forbids the system call gets the plain copy.
fn transfer(theirs: HostPtr, ours: *mut u8, len: usize, direction: Direction) -> Outcome {
    if len == 0 {
        return Ok(());
    }
    let explain = || {
        let verb = if direction == Direction::Read {
            "read"
        } else {
            "written"
        };
        invalid(format!(
            "host memory at {:#x} ({len} bytes) cannot be {verb}",
            theirs.0
        ))
    };
    if theirs.is_null() || theirs.0.checked_add(len).is_none() {
        return explain();
    }
    #[cfg(target_os = "linux")]
    {
        let mut done = 0;
        while done < len {
            let local = libc::iovec {
                iov_base: ours.wrapping_add(done).cast(),
                iov_len: len - done,
            };
            let remote = libc::iovec {
                iov_base: (theirs.0 + done) as *mut _,
                iov_len: len - done,
            };
            // SAFETY: both vectors have one element; `local` is inside our buffer, and the kernel checks `remote`.
            let moved = unsafe {
                let pid = libc::getpid();
                match direction {
                    Direction::Read => libc::process_vm_readv(pid, &local, 1, &remote, 1, 0),
                    Direction::Write => libc::process_vm_writev(pid, &local, 1, &remote, 1, 0),
                }
            };
            match moved {
                1.. => done += moved as usize,
                _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) => {
                    return explain();
                }
                _ => break,
            }
        }
        if done == len {
            return Ok(());
        }
    }
    // SAFETY: the program promises that its memory is valid for `len` bytes, as the driver API demands; `ours` is too, and they
    // are different memory (`copy` allows overlap all the same).
    unsafe {
        match direction {
            Direction::Read => std::ptr::copy(theirs.0 as *const u8, ours, len),
            Direction::Write => std::ptr::copy(ours, theirs.0 as *mut u8, len),
        }
    }
    Ok(())
}

thread_local! {
    /// The thread is inside a function that the program gave to `cuLaunchHostFunc` or the like.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is inside a function of the program's.
pub(super) fn in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// Runs a function of the program's on behalf of a stream.
pub(super) fn host_function(call: impl FnOnce()) {
    IN_HOST_FUNCTION.set(true);
    call();
    IN_HOST_FUNCTION.set(false);
}

thread_local! {
    /// The thread is inside a variant of a function for per-thread default streams.
    static STREAM_0_IS_PER_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether stream 0 of the call that goes on is the thread's default stream rather than the legacy one.
pub(super) fn stream_0_is_per_thread() -> bool {
    STREAM_0_IS_PER_THREAD.get()
}

/// Makes a call whose stream 0 is the thread's default stream.
pub(super) fn with_per_thread_stream_0(call: impl FnOnce() -> CUresult) -> CUresult {
    STREAM_0_IS_PER_THREAD.set(true);
    let result = call();
    STREAM_0_IS_PER_THREAD.set(false);
    result
}

/// Runs an exported function that works before `cuInit` and anywhere. Its failures have no sentence.
pub(super) fn entry_without_driver(body: impl FnOnce() -> Option<()>) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Some(())) => CUresult::SUCCESS,
        Ok(None) => CUresult::INVALID_VALUE,
        Err(_) => CUresult::UNKNOWN,
    }
}

/// Runs `body`; a failure is explained on the standard error stream, a panic becomes `CUDA_ERROR_UNKNOWN`.
pub(super) fn guarded(name: &'static str, body: impl FnOnce() -> Outcome) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CUresult::SUCCESS,
        Ok(Err(failure)) if failure.message.is_empty() => failure.code,
        Ok(Err(failure)) => {
            explain(name, &failure);
            failure.code
        }
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            say(&format!(
                "{name}: CUDA_ERROR_UNKNOWN: a mistake in the emulator itself: {what}"
            ));
            CUresult::UNKNOWN
        }
    }
}

/// Lines for one function and error before the rest is left out.
const LINES_EACH: u32 = 8;

fn explain(name: &'static str, failure: &Failure) {
    static SAID: LazyLock<Mutex<HashMap<(&'static str, u32), u32>>> = LazyLock::new(Mutex::default);
    let times = {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        let times = said.entry((name, failure.code.number())).or_default();
        *times += 1;
        *times
    };
    if times <= LINES_EACH {
        let rest = if times == LINES_EACH {
            " (further ones of this kind are not shown)"
        } else {
            ""
        };
        say(&format!(
            "{name}: {}: {}{rest}",
            failure.code.name(),
            failure.message
        ));
    }
}

/// One line on the standard error stream, unless `CUDA_EMULATOR_QUIET=1`.
pub(super) fn say(line: &str) {
    static QUIET: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("CUDA_EMULATOR_QUIET").is_some_and(|v| v == "1"));
    if !*QUIET {
        use std::io::Write;
        // Nobody can be told when the standard error stream is closed.
        let _ = writeln!(std::io::stderr(), "cuda-emulator: {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmapped_host_memory_is_an_error() {
        let mut buffer = [0; 16];
        for address in [0, 8, 0x0001_0000_0000_0000, usize::MAX - 3] {
            let failure = HostPtr(address).read(&mut buffer).unwrap_err();
            assert_eq!(failure.code, CUresult::INVALID_VALUE, "{address:#x}");
        }
        let source = [1u8, 2, 3, 4];
        let mut target = [0; 4];
        HostPtr(source.as_ptr() as usize).read(&mut target).unwrap();
        assert_eq!(target, source);
        HostPtr(target.as_mut_ptr() as usize)
            .write(&[9; 4])
            .unwrap();
        assert_eq!(target, [9; 4]);
    }

    #[test]
    fn a_panic_is_an_unknown_error() {
        let code = guarded("test", || panic!("on purpose"));
        assert_eq!(code, CUresult::UNKNOWN);
    }
}
