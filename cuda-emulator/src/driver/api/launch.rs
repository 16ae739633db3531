//! Kernel launches and what is checked before.

use std::sync::Arc;

use crate::driver::call::{
    Failure, Handle, HostPtr, Outcome, Required, fail, guarded, invalid, list_length, unsupported,
};
use crate::driver::result::CUresult;
use crate::driver::schedule::submit;
use crate::driver::state::{Locked, entry};
use crate::driver::work::{KernelLaunch, Shape, Work};
use crate::lower::Kernel;
use crate::ptx::ast::volume;
use crate::residency::Needs;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: Handle,
    attributes: HostPtr,
    attribute_count: u32,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct NodeParams {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    params: HostPtr,
    extra: HostPtr,
    kernel: Handle,
    context: Handle,
}

/// Bytes of a `CUlaunchAttribute`: the number, padding to 8, a union of 64.
const ATTRIBUTE_BYTES: usize = 72;

/// Checks a launch against the function's and the device's limits and copies its parameters.
fn prepare(
    driver: &mut Locked,
    context: Handle,
    function: Handle,
    shape: Shape,
    params: HostPtr,
    extra: HostPtr,
) -> Outcome<Arc<KernelLaunch>> {
    let device = driver.device;
    let f = driver.function(function)?;
    if f.context != context {
        return fail(
            CUresult::INVALID_HANDLE,
            "function and stream belong to different contexts",
        );
    }
    let (kernel, module) = (Arc::clone(&f.kernel), f.module);
    let name = &kernel.name;
    let grid_limits = [i32::MAX as u32, 65535, 65535];
    let block_limits = [1024, 1024, 64];
    for (axis, letter) in ["x", "y", "z"].iter().enumerate() {
        for (what, value, limit) in [
            ("grid", shape.grid[axis], grid_limits[axis]),
            ("block", shape.block[axis], block_limits[axis]),
        ] {
            if value == 0 || value > limit {
                return invalid(format!(
                    "{name}: {what}.{letter} is {value}, expected 1 to {limit}"
                ));
            }
        }
    }
    // Far below what fits, by the limits.
    let threads = volume(shape.block) as u32;
    if threads > device.max_threads_per_block {
        let most = device.max_threads_per_block;
        return invalid(format!(
            "{name}: a block of {threads} threads, the device takes {most}"
        ));
    }
    if let Some(exact) = kernel.directives.reqntid
        && exact != shape.block
    {
        let block = shape.block;
        return invalid(format!(
            "{name}: a block of {block:?}, the kernel demands {exact:?} (.reqntid)"
        ));
    }
    if let Some(most) = kernel.directives.maxntid {
        let most = volume(most);
        if u64::from(threads) > most {
            let message = format!(
                "{name}: a block of {threads} threads, the kernel was compiled for at most {most} (.maxntid)"
            );
            return invalid(message);
        }
    }
    let needs = Needs::of(&kernel);
    let most = needs.max_threads(device);
    if threads > most {
        let message = format!(
            "{name}: a block of {threads} threads of about {} registers, the register file has room for {most}",
            needs.registers()
        );
        return fail(CUresult::LAUNCH_OUT_OF_RESOURCES, message);
    }
    if kernel.static_shared > device.shared_per_block_optin {
        let message = format!(
            "{name}: {} bytes of static shared memory, a block has {} on this device",
            kernel.static_shared, device.shared_per_block_optin
        );
        return fail(CUresult::LAUNCH_OUT_OF_RESOURCES, message);
    }
    if shape.dynamic_shared > f.max_dynamic_shared {
        let message = format!(
            "{name}: {} bytes of dynamic shared memory beside {} static ones, at most {} (more, up to {}, after \
             cuFuncSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES))",
            shape.dynamic_shared,
            kernel.static_shared,
            f.max_dynamic_shared,
            device
                .shared_per_block_optin
                .saturating_sub(kernel.static_shared)
        );
        return invalid(message);
    }
    if shape.cooperative {
        let blocks = volume(shape.grid);
        let each = needs.resident_blocks(device, threads, shape.dynamic_shared);
        let most = u64::from(each) * u64::from(device.multiprocessors);
        if blocks > most {
            let message = format!(
                "{name}: a cooperative grid of {blocks} blocks, only {most} are resident at once ({each} on each of {} \
                 multiprocessors)",
                device.multiprocessors
            );
            return fail(CUresult::COOPERATIVE_LAUNCH_TOO_LARGE, message);
        }
    }
    check_cluster(&kernel, shape, device.attribute(120) == Some(1))?;
    let params = gather(&kernel, params, extra)?;
    Ok(Arc::new(KernelLaunch {
        kernel,
        module,
        shape,
        params,
    }))
}

fn check_cluster(kernel: &Kernel, shape: Shape, supported: bool) -> Outcome {
    let cluster = shape.cluster;
    let name = &kernel.name;
    if let Some(exact) = kernel.directives.reqnctapercluster
        && exact != cluster
    {
        let message = format!("{name}: a cluster of {cluster:?}, the kernel demands {exact:?}");
        return fail(CUresult::INVALID_CLUSTER_SIZE, message);
    }
    let blocks = volume(cluster);
    if blocks == 1 {
        return Ok(());
    }
    if !supported {
        return unsupported(format!("{name}: clusters need compute capability 9.0"));
    }
    if (0..3).any(|i| cluster[i] == 0 || !shape.grid[i].is_multiple_of(cluster[i])) || blocks > 16 {
        let message = format!(
            "{name}: a cluster of {cluster:?} blocks does not fit a grid of {:?}",
            shape.grid
        );
        return fail(CUresult::INVALID_CLUSTER_SIZE, message);
    }
    unsupported(format!(
        "{name}: a cluster of {cluster:?}: clusters are not emulated"
    ))
}

/// The parameter block, from an array of pointers or from one packed buffer.
fn gather(kernel: &Kernel, params: HostPtr, extra: HostPtr) -> Outcome<Vec<u8>> {
    let bytes = kernel
        .params
        .iter()
        .map(|p| p.offset + p.size)
        .max()
        .unwrap_or(0) as usize;
    let mut block = vec![0; bytes];
    let (name, count) = (&kernel.name, kernel.params.len());
    if !extra.is_null() {
        if !params.is_null() {
            return invalid(format!("{name}: `kernelParams` and `extra` are both given"));
        }
        let (buffer, size) = packed_buffer(extra)?;
        if size < bytes {
            let message =
                format!("{name}: a parameter buffer of {size} bytes, the kernel takes {bytes}");
            return invalid(message);
        }
        buffer.read(&mut block)?;
        return Ok(block);
    }
    if params.is_null() && count > 0 {
        return invalid(format!(
            "{name}: no parameters are given, the kernel takes {count}"
        ));
    }
    for (i, p) in kernel.params.iter().enumerate() {
        let explain = |f: Failure| Failure {
            code: f.code,
            message: format!(
                "{name}: parameter {i} of {count} ({} bytes): {} (are there fewer arguments than parameters?)",
                p.size, f.message
            ),
        };
        let value = HostPtr(params.offset(8 * i).read_u64().map_err(explain)? as usize);
        let range = p.offset as usize..(p.offset + p.size) as usize;
        value.read(&mut block[range]).map_err(explain)?;
    }
    Ok(block)
}

/// Pointer and size from the `extra` list: pairs of a key (1 pointer, 2 pointer to the size) and a value, ended by 0.
fn packed_buffer(extra: HostPtr) -> Outcome<(HostPtr, usize)> {
    let (mut buffer, mut size) = (None, None);
    for pair in 0..2 {
        let value = || extra.offset(16 * pair + 8).read_u64();
        match extra.offset(16 * pair).read_u64()? {
            0 => break,
            1 => buffer = Some(HostPtr(value()? as usize)),
            2 => size = Some(HostPtr(value()? as usize).read_u64()? as usize),
            key => return invalid(format!("`extra` has the unknown key {key}")),
        }
    }
    buffer.zip(size).need("a buffer or its size in `extra`")
}

fn launch(
    name: &'static str,
    function: Handle,
    shape: Shape,
    stream: Handle,
    params: HostPtr,
    extra: HostPtr,
) -> CUresult {
    entry(name, |driver| {
        let stream = driver.stream(stream)?;
        let context = driver.streams.get(&stream).map_or(0, |s| s.context);
        let launch = prepare(driver, context, function, shape, params, extra)?;
        submit(driver, stream, Work::Kernel(launch))
    })
}

/// The kernel of a graph's node.
pub(super) fn prepare_node(
    driver: &mut Locked,
    context: Handle,
    params: &NodeParams,
) -> Outcome<Arc<KernelLaunch>> {
    if params.kernel != 0 || params.context != 0 {
        return unsupported("graph nodes with a CUkernel or a context of their own");
    }
    let (cluster, cooperative) = ([1; 3], false);
    let shape = Shape {
        grid: params.grid,
        block: params.block,
        cluster,
        dynamic_shared: params.dynamic_shared,
        cooperative,
    };
    prepare(
        driver,
        context,
        params.function,
        shape,
        params.params,
        params.extra,
    )
}

/// Submits a kernel.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: Handle,
    params: HostPtr,
    extra: HostPtr,
) -> CUresult {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let shape = Shape {
        grid,
        block,
        cluster: [1; 3],
        dynamic_shared,
        cooperative: false,
    };
    launch("cuLaunchKernel", function, shape, stream, params, extra)
}

/// Submits a kernel whose blocks are all resident at once, so that they may wait for each other.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: Handle,
    params: HostPtr,
) -> CUresult {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let shape = Shape {
        grid,
        block,
        cluster: [1; 3],
        dynamic_shared,
        cooperative: true,
    };
    launch(
        "cuLaunchCooperativeKernel",
        function,
        shape,
        stream,
        params,
        HostPtr(0),
    )
}

/// Submits a kernel with attributes: cooperative and cluster dimensions matter, hints do not, and what would change the order of
/// work is refused (apart from programmatic serialisation, which is only ever a licence to overlap).
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchKernelEx(
    config: Option<&LaunchConfig>,
    function: Handle,
    params: HostPtr,
    extra: HostPtr,
) -> CUresult {
    let name = "cuLaunchKernelEx";
    let mut shape = None;
    let read = guarded(name, || {
        let config = config.need("config")?;
        let mut new = Shape {
            grid: config.grid,
            block: config.block,
            cluster: [1; 3],
            dynamic_shared: config.dynamic_shared,
            cooperative: false,
        };
        for i in 0..list_length(config.attribute_count, "attributes")? {
            let attribute = config.attributes.offset(i * ATTRIBUTE_BYTES);
            let value = attribute.offset(8);
            match attribute.read_u32()? {
                // Ignore, access policy, synchronisation policy, cluster scheduling, programmatic serialisation, priority, domains,
                // preferred carve-out and the like: none changes what may be relied on.
                0 | 1 | 3 | 5 | 6 | 8 | 9 | 10 | 11 | 14 => {}
                2 => new.cooperative = value.read_u32()? != 0,
                4 => {
                    for (axis, size) in new.cluster.iter_mut().enumerate() {
                        *size = value.offset(4 * axis).read_u32()?;
                    }
                }
                7 | 12 => {
                    return unsupported(format!(
                        "{name}: events recorded by a launch's attributes"
                    ));
                }
                13 => return unsupported(format!("{name}: kernel nodes updated by the device")),
                id => return invalid(format!("launch attribute {id} is not known")),
            }
        }
        shape = Some((new, config.stream));
        Ok(())
    });
    match shape {
        Some((shape, stream)) => launch(name, function, shape, stream, params, extra),
        None => read,
    }
}
