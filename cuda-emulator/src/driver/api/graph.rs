//! Graphs: captured work that is launched as a whole.

use std::sync::Arc;

use super::launch::{self, NodeParams};
use super::module;
use crate::driver::call::{Handle, HostPtr, Out, Outcome, Required, fail, invalid, unsupported};
use crate::driver::objects::{Executable, Graph, Kind, find};
use crate::driver::result::CUresult;
use crate::driver::schedule::submit;
use crate::driver::state::{Driver, entry};
use crate::driver::work::{KernelLaunch, Node, Work};

/// An empty graph.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphCreate(graph: Out<'_, Handle>, flags: u32) -> CUresult {
    entry("cuGraphCreate", |driver| {
        let graph = graph.need("phGraph")?;
        if flags != 0 {
            return invalid(format!("flags must be 0, not {flags}"));
        }
        let context = driver.current()?;
        let handle = driver.handle(Kind::Graph);
        let empty = Graph::new(context, Vec::new());
        driver.graphs.insert(handle, empty);
        graph.write(handle);
        Ok(())
    })
}

/// Ends a graph; what was instantiated from it lives on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    entry("cuGraphDestroy", |driver| {
        find(&mut driver.graphs, graph, "graph")?;
        if let Some(graph) = driver.graphs.remove(&graph) {
            for node in graph.handles.values() {
                driver.nodes.remove(node);
            }
        }
        Ok(())
    })
}

/// A copy of a graph.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphClone(clone: Out<'_, Handle>, graph: Handle) -> CUresult {
    entry("cuGraphClone", |driver| {
        let clone = clone.need("phGraphClone")?;
        let original = find(&mut driver.graphs, graph, "graph")?;
        let copy = Graph::new(original.context, original.nodes.clone());
        let handle = driver.handle(Kind::Graph);
        driver.graphs.insert(handle, copy);
        clone.write(handle);
        Ok(())
    })
}

/// The handle of a graph's node.
fn node_handle(driver: &mut Driver, graph: Handle, index: usize) -> Outcome<Handle> {
    let handles = &mut find(&mut driver.graphs, graph, "graph")?.handles;
    if let Some(&handle) = handles.get(&index) {
        return Ok(handle);
    }
    let handle = driver.handle(Kind::Node);
    let handles = &mut find(&mut driver.graphs, graph, "graph")?.handles;
    handles.insert(index, handle);
    driver.nodes.insert(handle, (graph, index));
    Ok(handle)
}

/// The graph's nodes, or their number where `nodes` is null.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphGetNodes(
    graph: Handle,
    nodes: HostPtr,
    count: Option<&mut usize>,
) -> CUresult {
    entry("cuGraphGetNodes", |driver| {
        let count = count.need("numNodes")?;
        let there = find(&mut driver.graphs, graph, "graph")?.nodes.len();
        if nodes.is_null() {
            *count = there;
            return Ok(());
        }
        for i in 0..*count {
            let handle = if i < there {
                node_handle(driver, graph, i)?
            } else {
                0
            };
            nodes.offset(8 * i).write(&handle.to_le_bytes())?;
        }
        *count = there.min(*count);
        Ok(())
    })
}

fn node(driver: &mut Driver, node: Handle) -> Outcome<&mut Node> {
    let &mut (graph, index) = find(&mut driver.nodes, node, "graph node")?;
    let nodes = &mut find(&mut driver.graphs, graph, "graph")?.nodes;
    nodes
        .get_mut(index)
        .map_or_else(|| fail(CUresult::INVALID_HANDLE, "the node is gone"), Ok)
}

/// `CUgraphNodeType`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphNodeGetType(handle: Handle, out: Out<'_, u32>) -> CUresult {
    entry("cuGraphNodeGetType", |driver| {
        let out = out.need("type")?;
        out.write(match node(driver, handle)?.work {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) => 3,
            Work::Graph(_) => 4,
            Work::Nothing | Work::Record(..) => 5,
            Work::Free(_) => 11,
        });
        Ok(())
    })
}

/// Adds a kernel to a graph.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphAddKernelNode_v2(
    out: Out<'_, Handle>,
    graph: Handle,
    dependencies: HostPtr,
    count: usize,
    params: Option<&NodeParams>,
) -> CUresult {
    entry("cuGraphAddKernelNode", |driver| {
        let out = out.need("phGraphNode")?;
        let params = params.need("nodeParams")?;
        let mut after = Vec::new();
        let there = find(&mut driver.graphs, graph, "graph")?.nodes.len();
        if count > there {
            return invalid(format!("{count} dependencies in a graph of {there} nodes"));
        }
        for i in 0..count {
            let handle = dependencies.offset(8 * i).read_u64()?;
            match find(&mut driver.nodes, handle, "graph node")? {
                (other, _) if *other != graph => {
                    return invalid("a dependency is a node of another graph");
                }
                (_, index) if after.contains(index) => {
                    return invalid("a dependency is given twice");
                }
                (_, index) => after.push(*index),
            }
        }
        let context = find(&mut driver.graphs, graph, "graph")?.context;
        let kernel = launch::prepare_node(driver, context, params)?;
        let nodes = &mut find(&mut driver.graphs, graph, "graph")?.nodes;
        nodes.push(Node {
            work: Work::Kernel(kernel),
            after,
        });
        let index = nodes.len() - 1;
        out.write(node_handle(driver, graph, index)?);
        Ok(())
    })
}

/// Replaces the kernel and parameters of a graph's node.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphKernelNodeSetParams_v2(
    handle: Handle,
    params: Option<&NodeParams>,
) -> CUresult {
    entry("cuGraphKernelNodeSetParams", |driver| {
        let params = params.need("nodeParams")?;
        let graph = find(&mut driver.nodes, handle, "graph node")?.0;
        let context = find(&mut driver.graphs, graph, "graph")?.context;
        let kernel = launch::prepare_node(driver, context, params)?;
        replace_kernel(node(driver, handle)?, kernel)
    })
}

/// Replaces the kernel and parameters of a node of an instantiated graph; launches that were submitted keep the old ones.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: Handle,
    handle: Handle,
    params: Option<&NodeParams>,
) -> CUresult {
    entry("cuGraphExecKernelNodeSetParams", |driver| {
        let params = params.need("nodeParams")?;
        let &mut (graph, index) = find(&mut driver.nodes, handle, "graph node")?;
        let instance = find(&mut driver.executables, executable, "executable graph")?;
        if instance.graph != graph {
            return invalid("the node is of another graph than the one that was instantiated");
        }
        let context = instance.context;
        let kernel = launch::prepare_node(driver, context, params)?;
        let nodes = &mut find(&mut driver.executables, executable, "executable graph")?.nodes;
        match Arc::make_mut(nodes).get_mut(index) {
            Some(node) => replace_kernel(node, kernel),
            None => invalid("the node was added to the graph after it was instantiated"),
        }
    })
}

fn replace_kernel(node: &mut Node, kernel: Arc<KernelLaunch>) -> Outcome {
    match &mut node.work {
        Work::Kernel(old) => {
            *old = kernel;
            Ok(())
        }
        _ => invalid("the node is no kernel"),
    }
}

/// Makes a graph ready to launch.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphInstantiateWithFlags(
    executable: Out<'_, Handle>,
    graph: Handle,
    flags: u64,
) -> CUresult {
    entry("cuGraphInstantiate", |driver| {
        let executable = executable.need("phGraphExec")?;
        // Automatic free, upload, use of node priorities; launching from the device (4) is another matter.
        if flags & 4 != 0 {
            return unsupported("graphs that kernels launch");
        }
        if flags & !0xb != 0 {
            return invalid(format!("flags {flags:#x} have bits that are not defined"));
        }
        let context = driver.current()?;
        let nodes = Arc::new(find(&mut driver.graphs, graph, "graph")?.nodes.clone());
        let handle = driver.handle(Kind::Executable);
        driver.executables.insert(
            handle,
            Executable {
                context,
                graph,
                nodes,
                flags,
            },
        );
        executable.write(handle);
        Ok(())
    })
}

/// The flags a graph was instantiated with.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecGetFlags(executable: Handle, flags: Out<'_, u64>) -> CUresult {
    entry("cuGraphExecGetFlags", |driver| {
        let flags = flags.need("flags")?;
        flags.write(find(&mut driver.executables, executable, "executable graph")?.flags);
        Ok(())
    })
}

/// Ends an instantiated graph; launches that were submitted still run.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    entry("cuGraphExecDestroy", |driver| {
        find(&mut driver.executables, executable, "executable graph")?;
        driver.executables.remove(&executable);
        Ok(())
    })
}

/// Nothing has to be moved before a launch here; the arguments are checked.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> CUresult {
    entry("cuGraphUpload", |driver| {
        find(&mut driver.executables, executable, "executable graph")?;
        driver.stream(stream).map(|_| ())
    })
}

/// Submits a whole graph to a stream.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> CUresult {
    entry("cuGraphLaunch", |driver| {
        let stream = driver.stream(stream)?;
        let nodes =
            Arc::clone(&find(&mut driver.executables, executable, "executable graph")?.nodes);
        module::check_loaded(driver, &nodes)?;
        submit(driver, stream, Work::Graph(nodes))
    })
}
