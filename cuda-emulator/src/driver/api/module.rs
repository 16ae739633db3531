//! Modules: PTX text and fat binaries into kernels and variables.

use std::collections::HashMap;

use crate::check::{Finding, FindingKind};
use crate::driver::call::{
    Failure, Handle, HostPtr, Out, Outcome, Required, Text, fail, invalid, list_length, unsupported,
};
use crate::driver::objects::{Kind, Module};
use crate::driver::result::CUresult;
use crate::driver::schedule::{finish_context, waiting_kernel};
use crate::driver::state::{Driver, Locked, entry};
use crate::driver::work::{KernelLaunch, Node};
use crate::driver::{capture, fatbin};
use crate::engine::{self, LoadError};
use crate::options::Check;
use crate::ptx;

/// Newest `.version` that is read: CUDA 13.5's.
const NEWEST_PTX: (u32, u32) = (9, 5);

/// The text of an image in the program's memory. Nobody says how long it is: its first bytes tell what it is.
fn text_of(driver: &Driver, image: HostPtr) -> Outcome<Vec<u8>> {
    match image.read_u32()? {
        fatbin::CONTAINER => fatbin::ptx_for(&fatbin::read(image)?, driver.device),
        fatbin::WRAPPER => {
            let container = HostPtr(image.offset(8).read_u64()? as usize);
            match container.read_u32()? {
                fatbin::CONTAINER => fatbin::ptx_for(&fatbin::read(container)?, driver.device),
                word => fail(
                    CUresult::INVALID_IMAGE,
                    format!("a fat binary begins with {word:#010x}"),
                ),
            }
        }
        // "\x7fELF".
        0x464c_457f => fail(
            CUresult::NO_BINARY_FOR_GPU,
            "the image is machine code (a cubin), which cannot be emulated: load PTX, or a fat binary with PTX",
        ),
        _ => read_to_nul(image),
    }
}

/// Bytes up to a NUL, a page at a time since the next page may not be there.
fn read_to_nul(start: HostPtr) -> Outcome<Vec<u8>> {
    const PAGE: usize = 4096;
    let mut bytes = Vec::new();
    loop {
        let at = start.offset(bytes.len());
        let mut page = vec![0; PAGE - at.0 % PAGE];
        at.read(&mut page)?;
        if let Some(end) = page.iter().position(|&b| b == 0) {
            bytes.extend_from_slice(&page[..end]);
            return Ok(bytes);
        }
        bytes.append(&mut page);
    }
}

/// Loads PTX text into the calling thread's context.
fn load_text(driver: &mut Driver, bytes: &[u8]) -> Outcome<Handle> {
    let context = driver.current()?;
    let bytes = &bytes[..bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len())];
    let text = std::str::from_utf8(bytes).or_else(|e| {
        fail(
            CUresult::INVALID_IMAGE,
            format!("neither a fat binary nor PTX text: {e}"),
        )
    })?;
    let module = ptx::parse(text).or_else(|e| fail(CUresult::INVALID_PTX, e.to_string()))?;
    if module.version > NEWEST_PTX {
        let (major, minor) = module.version;
        let message = format!(
            "PTX .version {major}.{minor} is newer than {}.{}, the newest that is read",
            NEWEST_PTX.0, NEWEST_PTX.1
        );
        return fail(CUresult::UNSUPPORTED_PTX_VERSION, message);
    }
    let (target, sm) = (module.target, driver.device.sm());
    let suffix = target.suffix.map(String::from).unwrap_or_default();
    let fits = match target.suffix {
        None => target.sm <= sm,
        Some('f') => target.sm / 10 == sm / 10 && target.sm <= sm,
        Some(_) => target.sm == sm,
    };
    if !fits {
        let message = format!(
            "PTX for .target sm_{}{suffix} does not run on {} (sm_{sm}); CUDA_EMULATOR_DEVICE chooses another device",
            target.sm, driver.device.name
        );
        return fail(CUresult::INVALID_PTX, message);
    }
    let loaded = engine::load(&module, &driver.memory).or_else(|e| match e {
        LoadError::OutOfMemory { .. } => fail(CUresult::OUT_OF_MEMORY, e.to_string()),
        LoadError::Lower(_) => fail(CUresult::INVALID_PTX, e.to_string()),
    })?;
    let most = driver.device.shared_per_block;
    if let Some(k) = loaded
        .program
        .kernels
        .iter()
        .find(|k| k.static_shared > most)
    {
        let message = format!(
            "{}: {} bytes of static shared memory, at most {most} (more must be dynamic)",
            k.name, k.static_shared
        );
        loaded.unload(&driver.memory);
        return fail(CUresult::INVALID_PTX, message);
    }
    let handle = driver.handle(Kind::Module);
    let module = Module {
        context,
        loaded,
        sm: target.sm,
        functions: HashMap::new(),
    };
    driver.modules.insert(handle, module);
    Ok(handle)
}

fn load_image(driver: &mut Driver, image: HostPtr) -> Outcome<Handle> {
    driver.current()?;
    if image.is_null() {
        return invalid("`image` is a null pointer");
    }
    capture::refuse_unsafe(driver)?;
    let text = text_of(driver, image)?;
    load_text(driver, &text)
}

/// Loads PTX text (ended by NUL) or a fat binary.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoadData(out: Out<'_, Handle>, image: HostPtr) -> CUresult {
    entry("cuModuleLoadData", |driver| {
        let out = out.need("module")?;
        out.write(load_image(driver, image)?);
        Ok(())
    })
}

/// As [`cuModuleLoadData`].
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoadFatBinary(out: Out<'_, Handle>, image: HostPtr) -> CUresult {
    cuModuleLoadData(out, image)
}

/// As [`cuModuleLoadData`] with options of `CUjit_option`: the error log is filled, the information log left empty, the rest are
/// wishes to a compiler that is not here.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoadDataEx(
    out: Out<'_, Handle>,
    image: HostPtr,
    count: u32,
    options: HostPtr,
    values: HostPtr,
) -> CUresult {
    entry("cuModuleLoadDataEx", |driver| {
        let out = out.need("module")?;
        let log = Logs::read(count, options, values)?;
        let result = load_image(driver, image);
        log.write(result.as_ref().err())?;
        out.write(result?);
        Ok(())
    })
}

/// The log buffers among the options of a load.
#[derive(Debug, Default)]
struct Logs {
    /// Buffer, and where its size is given and the written size goes.
    information: (HostPtr, Option<HostPtr>),
    error: (HostPtr, Option<HostPtr>),
}

impl Logs {
    fn read(count: u32, options: HostPtr, values: HostPtr) -> Outcome<Self> {
        let mut logs = Self::default();
        for i in 0..list_length(count, "options")? {
            let slot = values.offset(8 * i);
            match options.offset(4 * i).read_u32()? {
                3 => logs.information.0 = HostPtr(slot.read_u64()? as usize),
                4 => logs.information.1 = Some(slot),
                5 => logs.error.0 = HostPtr(slot.read_u64()? as usize),
                6 => logs.error.1 = Some(slot),
                _ => {}
            }
        }
        Ok(logs)
    }

    fn write(&self, failure: Option<&Failure>) -> Outcome {
        let text = failure.map_or("", |f| f.message.as_str());
        for ((buffer, size), text) in [(self.information, ""), (self.error, text)] {
            let Some(slot) = size else { continue };
            // The value itself is an unsigned int in the pointer's place.
            let room = slot.read_u32()? as usize;
            let kept = text.len().min(room.saturating_sub(1));
            if !buffer.is_null() && room > 0 {
                let mut line = text.as_bytes()[..kept].to_vec();
                line.push(0);
                buffer.write(&line)?;
            }
            slot.write(&(kept as u64).to_le_bytes())?;
        }
        Ok(())
    }
}

/// Loads a file.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoad(out: Out<'_, Handle>, path: Text) -> CUresult {
    entry("cuModuleLoad", |driver| {
        let out = out.need("module")?;
        let path = path.get("fname")?;
        driver.current()?;
        capture::refuse_unsafe(driver)?;
        let bytes = std::fs::read(path)
            .or_else(|e| fail(CUresult::FILE_NOT_FOUND, format!("{path}: {e}")))?;
        out.write(load_file(driver, &bytes)?);
        Ok(())
    })
}

fn load_file(driver: &mut Driver, bytes: &[u8]) -> Outcome<Handle> {
    match bytes.first_chunk().copied().map(u32::from_le_bytes) {
        Some(fatbin::CONTAINER) => {
            let text = fatbin::ptx_for(bytes, driver.device)?;
            load_text(driver, &text)
        }
        Some(0x464c_457f) => fail(
            CUresult::NO_BINARY_FOR_GPU,
            "the file is machine code (a cubin), which cannot be emulated: load PTX, or a fat binary with PTX",
        ),
        _ => load_text(driver, bytes),
    }
}

/// Ends a module.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    entry("cuModuleUnload", |driver| {
        driver.module(module)?;
        capture::refuse_unsafe(driver)?;
        unload(driver, module)
    })
}

/// Takes a module away at the program's request. Work of it that has been submitted is done first, which no driver promises.
pub(super) fn unload(driver: &mut Locked, module: Handle) -> Outcome {
    let context = driver.module(module)?.context;
    if driver.options.check != Check::Off
        && let Some((stream, kernel)) = waiting_kernel(driver, module)
    {
        let message = format!(
            "the module of {kernel} is unloaded while a launch of it in stream {stream:#x} may still run: synchronise first"
        );
        let kernel = kernel.to_owned();
        report_unloaded(driver, kernel, message);
    }
    let result = finish_context(driver, context);
    driver.remove_module(module);
    result
}

/// Whether the kernels of a graph are still loaded.
///
/// # Errors
/// What a card may do with code that is gone.
pub(super) fn check_loaded(driver: &mut Driver, nodes: &[Node]) -> Outcome {
    let modules = &driver.modules;
    let gone = |k: &KernelLaunch| !modules.contains_key(&k.module);
    let Some(kernel) = nodes.iter().find_map(|n| n.work.kernel(&gone)) else {
        return Ok(());
    };
    let kernel = kernel.name().to_owned();
    let message = format!(
        "the graph has a node of {kernel}, whose module was unloaded after the graph was instantiated"
    );
    report_unloaded(driver, kernel, message.clone());
    fail(CUresult::ILLEGAL_ADDRESS, message)
}

fn report_unloaded(driver: &mut Driver, kernel: String, message: String) {
    driver.report.find(&Finding {
        kernel,
        ..Finding::of_host(FindingKind::UseAfterFree, message, None)
    });
}

/// Address and bytes of a module's variable.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetGlobal_v2(
    address: Out<'_, u64>,
    bytes: Out<'_, usize>,
    module: Handle,
    name: Text,
) -> CUresult {
    entry("cuModuleGetGlobal", |driver| {
        let name = name.get("name")?;
        driver.current()?;
        let globals = &driver.module(module)?.loaded.globals;
        let Some(&(at, size)) = globals.get(name) else {
            let mut names: Vec<_> = globals.keys().map(String::as_str).collect();
            names.sort_unstable();
            names.truncate(20);
            let message = format!(
                "the module has no variable `{name}`; it has: {}",
                names.join(", ")
            );
            return fail(CUresult::NOT_FOUND, message);
        };
        // Either may be left out.
        address.map(|a| a.write(at));
        bytes.map(|b| b.write(size as usize));
        Ok(())
    })
}

/// Modules are loaded at once (`CU_MODULE_EAGER_LOADING`).
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetLoadingMode(mode: Out<'_, u32>) -> CUresult {
    entry("cuModuleGetLoadingMode", |_| {
        mode.need("mode")?.write(1);
        Ok(())
    })
}

/// Linking PTX is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLinkCreate_v2(
    _count: u32,
    _options: HostPtr,
    _values: HostPtr,
    _state: Out<'_, Handle>,
) -> CUresult {
    entry("cuLinkCreate", |_| {
        unsupported("linking at run time: link with nvcc -dlink, or load one module")
    })
}
