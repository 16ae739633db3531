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
    entry("cuGraphCreate", |d| {
        let graph = graph.need("phGraph")?;
        if flags != 0 {
            return invalid(format!("flags must be 0, not {flags}"));
        }
        let context = d.current()?;
        let handle = d.handle(Kind::Graph);
        d.graphs.insert(
            handle,
            Graph {
                context,
                nodes: Vec::new(),
            },
        );
        graph.write(handle);
        Ok(())
    })
}

/// Ends a graph; what was instantiated from it lives on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    entry("cuGraphDestroy", |d| {
        find(&mut d.graphs, graph, "graph")?;
        d.graphs.remove(&graph);
        d.nodes.retain(|_, node| node.0 != graph);
        Ok(())
    })
}

/// A copy of a graph.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphClone(clone: Out<'_, Handle>, graph: Handle) -> CUresult {
    entry("cuGraphClone", |d| {
        let clone = clone.need("phGraphClone")?;
        let copy = find(&mut d.graphs, graph, "graph")?.clone();
        let handle = d.handle(Kind::Graph);
        d.graphs.insert(handle, copy);
        clone.write(handle);
        Ok(())
    })
}

/// The handle of a graph's node.
fn node_handle(d: &mut Driver, graph: Handle, index: usize) -> Handle {
    if let Some((&handle, _)) = d.nodes.iter().find(|(_, n)| **n == (graph, index)) {
        return handle;
    }
    let handle = d.handle(Kind::Node);
    d.nodes.insert(handle, (graph, index));
    handle
}

/// The graph's nodes, or their number where `nodes` is null.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphGetNodes(
    graph: Handle,
    nodes: HostPtr,
    count: Option<&mut usize>,
) -> CUresult {
    entry("cuGraphGetNodes", |d| {
        let count = count.need("numNodes")?;
        let there = find(&mut d.graphs, graph, "graph")?.nodes.len();
        if nodes.is_null() {
            *count = there;
            return Ok(());
        }
        for i in 0..*count {
            let handle = if i < there {
                node_handle(d, graph, i)
            } else {
                0
            };
            nodes.offset(8 * i).write(&handle.to_le_bytes())?;
        }
        *count = there.min(*count);
        Ok(())
    })
}

fn node(d: &mut Driver, node: Handle) -> Outcome<&mut Node> {
    let &mut (graph, index) = find(&mut d.nodes, node, "graph node")?;
    let nodes = &mut find(&mut d.graphs, graph, "graph")?.nodes;
    nodes
        .get_mut(index)
        .map_or_else(|| fail(CUresult::INVALID_HANDLE, "the node is gone"), Ok)
}

/// `CUgraphNodeType`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphNodeGetType(handle: Handle, out: Out<'_, u32>) -> CUresult {
    entry("cuGraphNodeGetType", |d| {
        let out = out.need("type")?;
        out.write(match node(d, handle)?.work {
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
    entry("cuGraphAddKernelNode", |d| {
        let out = out.need("phGraphNode")?;
        let params = params.need("nodeParams")?;
        let mut after = Vec::new();
        for i in 0..count {
            let handle = dependencies.offset(8 * i).read_u64()?;
            match find(&mut d.nodes, handle, "graph node")? {
                (g, index) if *g == graph => after.push(*index),
                _ => return invalid("a dependency is a node of another graph"),
            }
        }
        let context = find(&mut d.graphs, graph, "graph")?.context;
        let kernel = launch::prepare_node(d, context, params)?;
        let nodes = &mut find(&mut d.graphs, graph, "graph")?.nodes;
        nodes.push(Node {
            work: Work::Kernel(kernel),
            after,
        });
        let index = nodes.len() - 1;
        out.write(node_handle(d, graph, index));
        Ok(())
    })
}

/// Replaces the kernel and parameters of a graph's node.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphKernelNodeSetParams_v2(
    handle: Handle,
    params: Option<&NodeParams>,
) -> CUresult {
    entry("cuGraphKernelNodeSetParams", |d| {
        let params = params.need("nodeParams")?;
        let graph = find(&mut d.nodes, handle, "graph node")?.0;
        let context = find(&mut d.graphs, graph, "graph")?.context;
        let kernel = launch::prepare_node(d, context, params)?;
        replace_kernel(node(d, handle)?, kernel)
    })
}

/// Replaces the kernel and parameters of a node of an instantiated graph; launches that were submitted keep the old ones.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: Handle,
    handle: Handle,
    params: Option<&NodeParams>,
) -> CUresult {
    entry("cuGraphExecKernelNodeSetParams", |d| {
        let params = params.need("nodeParams")?;
        let index = find(&mut d.nodes, handle, "graph node")?.1;
        let context = find(&mut d.executables, executable, "executable graph")?.context;
        let kernel = launch::prepare_node(d, context, params)?;
        let nodes = &mut find(&mut d.executables, executable, "executable graph")?.nodes;
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
    entry("cuGraphInstantiate", |d| {
        let executable = executable.need("phGraphExec")?;
        // Automatic free, upload, use of node priorities; launching from the device (4) is another matter.
        if flags & 4 != 0 {
            return unsupported("graphs that kernels launch");
        }
        if flags & !0xb != 0 {
            return invalid(format!("flags {flags:#x} have bits that are not defined"));
        }
        let context = d.current()?;
        let nodes = Arc::new(find(&mut d.graphs, graph, "graph")?.nodes.clone());
        let handle = d.handle(Kind::Executable);
        d.executables.insert(
            handle,
            Executable {
                context,
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
    entry("cuGraphExecGetFlags", |d| {
        let flags = flags.need("flags")?;
        flags.write(find(&mut d.executables, executable, "executable graph")?.flags);
        Ok(())
    })
}

/// Ends an instantiated graph; launches that were submitted still run.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    entry("cuGraphExecDestroy", |d| {
        find(&mut d.executables, executable, "executable graph")?;
        d.executables.remove(&executable);
        Ok(())
    })
}

/// Nothing has to be moved before a launch here; the arguments are checked.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> CUresult {
    entry("cuGraphUpload", |d| {
        find(&mut d.executables, executable, "executable graph")?;
        d.stream(stream).map(|_| ())
    })
}

/// Submits a whole graph to a stream.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> CUresult {
    entry("cuGraphLaunch", |d| {
        let stream = d.stream(stream)?;
        let nodes = Arc::clone(&find(&mut d.executables, executable, "executable graph")?.nodes);
        module::check_loaded(d, &nodes)?;
        submit(d, stream, Work::Graph(nodes))
    })
}
