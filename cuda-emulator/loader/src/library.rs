//! Finding and loading the shared library, before `main`; and the functions in it.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, Ordering};

const FILE: &str = "libcuda_emulator.so";
/// Cargo adds `-` and a hash to the name where the emulator comes from a registry.
const HASHED: (&str, &str) = ("libcuda_emulator-", ".so");
/// What the library that was built with this loader has in it.
const BUILD: &str = env!("EMULATOR_BUILD_ID");

/// What dlopen returned for the emulator; null while it is not loaded.
static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The dynamic linker calls this before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    // Nothing may unwind into the dynamic linker.
    let outcome = std::panic::catch_unwind(choose);
    if outcome.is_err() {
        eprintln!("cuda-emulator: the loader failed");
    }
}

fn choose() {
    let setting = std::env::var_os("CUDA_EMULATOR");
    match setting.as_deref().map(OsStrExt::as_bytes) {
        Some(b"0") => say("driver: the system's (CUDA_EMULATOR=0)"),
        Some(b"1") => {
            if let Err(message) = load("CUDA_EMULATOR=1") {
                eprintln!("cuda-emulator: CUDA_EMULATOR=1, but {message}");
                std::process::exit(1);
            }
        }
        None => match nvidia_device() {
            Some(device) => say(&format!("driver: the system's ({device} is there)")),
            None => {
                if let Err(message) = load("no NVIDIA device here") {
                    say(&format!("driver: none: {message}"));
                }
            }
        },
        Some(_) => {
            eprintln!("cuda-emulator: CUDA_EMULATOR={setting:?}: expected 0 or 1");
            std::process::exit(1);
        }
    }
}

fn say(line: &str) {
    if std::env::var_os("CUDA_EMULATOR_QUIET").is_none_or(|v| v != "1") {
        eprintln!("cuda-emulator: {line}");
    }
}

/// A file that exists where the kernel has an NVIDIA device: a discrete card, one of a Tegra, or one behind WSL.
fn nvidia_device() -> Option<&'static str> {
    let files = [
        "/dev/nvidia0",
        "/dev/nvidiactl",
        "/dev/nvhost-ctrl-gpu",
        "/dev/nvgpu",
        "/usr/lib/wsl/lib/libcuda.so.1",
    ];
    files.into_iter().find(|f| Path::new(f).exists())
}

/// Loads the library from the first place that has this loader's build of it.
fn load(why: &str) -> Result<(), String> {
    let mut stale = Vec::new();
    let places = places();
    for path in &places {
        if !path.is_file() {
            continue;
        }
        if !is_our_build(path) {
            stale.push(path.display().to_string());
            continue;
        }
        LIBRARY.store(open(path)?, Ordering::Release);
        let device = std::env::var("CUDA_EMULATOR_DEVICE").unwrap_or_else(|_| "a100".into());
        say(&format!(
            "driver: emulated {device} ({why}); results are no evidence of a GPU"
        ));
        return Ok(());
    }
    let at = |paths: &[String]| paths.join(", ");
    if !stale.is_empty() {
        return Err(format!(
            "{} is of another build: run cargo again, or remove it",
            at(&stale)
        ));
    }
    let places: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
    Err(format!("there is no {FILE} at {}", at(&places)))
}

/// Where the library may be, best first: cargo refreshes `deps` in every build, `target/<profile>` only sometimes.
fn places() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_EMULATOR_LIBRARY") {
        return vec![path.into()];
    }
    let mut directories = Vec::new();
    if let Ok(executable) = std::env::current_exe()
        && let Some(directory) = executable.parent()
    {
        // Tests are in `deps`, examples in `examples`, binaries beside both.
        directories.push(directory.join("deps"));
        directories.extend(directory.parent().map(|d| d.join("deps")));
        directories.push(directory.to_owned());
    }
    // Doctests run from a temporary directory, but with cargo's search path.
    let search: OsString = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let (deps, others): (Vec<_>, Vec<_>) = std::env::split_paths(&search)
        .filter(|d| d.is_absolute())
        .partition(|d| d.ends_with("deps"));
    directories.extend(others.iter().map(|d| d.join("deps")));
    directories.extend(deps);
    directories.extend(others);
    let mut files = Vec::new();
    for directory in directories {
        for file in std::iter::once(directory.join(FILE)).chain(hashed(&directory)) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// The libraries of a directory whose names have a hash.
fn hashed(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_one = |name: &[u8]| {
        let rest = name.strip_prefix(HASHED.0.as_bytes());
        rest.is_some_and(|rest| rest.ends_with(HASHED.1.as_bytes()))
    };
    let mut files: Vec<_> = entries
        .filter(|entry| is_one(entry.file_name().as_bytes()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

fn open(path: &Path) -> Result<*mut c_void, String> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| format!("{} has a NUL in its name", path.display()))?;
    // SAFETY: the name is a C string; the library's initialisers only set up Rust's runtime.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: dlerror returns null or a C string that is valid until the thread's next such call.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "unknown".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Err(format!("{} cannot be loaded: {reason}", path.display()))
}

fn symbol(handle: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the handle is dlopen's, the name a C string.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Whether the file holds this loader's build number. It is read, not loaded: a library that was loaded once keeps the name
/// `libcuda.so` to itself.
fn is_our_build(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    // SAFETY: both pointers come from live slices of the lengths given.
    let found = unsafe {
        libc::memmem(
            bytes.as_ptr().cast(),
            bytes.len(),
            BUILD.as_ptr().cast(),
            BUILD.len(),
        )
    };
    !found.is_null()
}

pub(crate) fn is_loaded() -> bool {
    !LIBRARY.load(Ordering::Acquire).is_null()
}

/// A function of the emulator, if it is the driver.
fn function(name: &CStr) -> Option<*mut c_void> {
    let handle = LIBRARY.load(Ordering::Acquire);
    if handle.is_null() {
        None
    } else {
        symbol(handle, name)
    }
}

/// What a function of the shape of `cudaEmulatorFindings` gives.
pub(crate) fn text_of(name: &CStr) -> Option<String> {
    let address = function(name)?;
    // SAFETY: the library is of this loader's build, where these functions have this signature.
    let read: extern "C" fn(*mut u8, usize) -> usize = unsafe { std::mem::transmute(address) };
    let mut text = Vec::new();
    loop {
        let needed = read(text.as_mut_ptr(), text.len());
        if needed == 0 {
            return None;
        }
        if needed <= text.len() {
            // Lines may have gone since the size was asked for; the text ends at its NUL.
            text.truncate(needed - 1);
            return String::from_utf8(text).ok();
        }
        text.resize(needed, 0);
    }
}

pub(crate) fn set(name: &CStr, value: Option<&CStr>) -> Option<bool> {
    let address = function(c"cudaEmulatorSetOption")?;
    // SAFETY: as in `text_of`.
    let set: extern "C" fn(*const c_char, *const c_char) -> c_int =
        unsafe { std::mem::transmute(address) };
    Some(set(name.as_ptr(), value.map_or(std::ptr::null(), CStr::as_ptr)) == 0)
}

pub(crate) fn clear() -> Option<()> {
    let address = function(c"cudaEmulatorClear")?;
    // SAFETY: as in `text_of`.
    let clear: extern "C" fn() -> c_int = unsafe { std::mem::transmute(address) };
    (clear() == 0).then_some(())
}
