//! Graphs: made by capture or node by node, instantiated, updated, launched.

use super::copy::{Area, fill, three_dimensional};
use super::launch::{Shape, prepare};
use crate::driver::abi::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v1,
    CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS_v1, CUgraphExecUpdateResultInfo,
    instantiate_flag, instantiate_result, update_result,
};
use crate::driver::graph::{Change, Graph, Task, difference};
use crate::driver::raw::{Callback, Calls, In, Out};
use crate::driver::work::{Copy, Work};
use crate::driver::{Answer, Call, Refusal, codes};
use std::ffi::c_uint;

api! {
    fn cuGraphCreate(graph: Out<u64>, flags: c_uint) Context |call| {
        if flags != 0 || graph.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        let context = call.context;
        let handle = call.new_graph(context, Vec::new());
        graph.set(handle)
    }

    fn cuGraphDestroy(graph: u64) Init |call| {
        if call.captures.values().any(|capture| capture.graph == graph) {
            return Err(Refusal::new(codes::INVALID_VALUE, "the graph is still being captured"));
        }
        call.destroy_graph(graph)
    }

    fn cuGraphClone(clone: Out<u64>, graph: u64) Init |call| {
        clone.given()?;
        let Graph { context, nodes, objects, .. } = call.graph(graph)?.clone();
        let handle = call.new_graph(context, nodes);
        call.retain_all(&objects);
        if let Some(graph) = call.graphs.get_mut(handle) {
            graph.objects = objects;
        }
        clone.set(handle)
    }

    fn cuGraphAddKernelNode(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        params: In<CUDA_KERNEL_NODE_PARAMS_v1>,
    ) Context |call| {
        let task = kernel_v1(call, params.get()?)?;
        add(call, node, graph, after, count, task)
    }

    fn cuGraphAddKernelNode_v2(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        params: In<CUDA_KERNEL_NODE_PARAMS_v2>,
    ) Context |call| {
        let task = kernel_v2(call, params.get()?)?;
        add(call, node, graph, after, count, task)
    }

    fn cuGraphAddMemcpyNode(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        copy: In<CUDA_MEMCPY3D>,
        context: u64,
    ) Context |call| {
        call.context(context)?;
        let task = copy_task(three_dimensional(call, copy.get()?)?);
        add(call, node, graph, after, count, task)
    }

    fn cuGraphAddMemsetNode(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        params: In<CUDA_MEMSET_NODE_PARAMS_v1>,
        context: u64,
    ) Context |call| {
        call.context(context)?;
        let task = memset(call, params.get()?)?;
        add(call, node, graph, after, count, task)
    }

    fn cuGraphAddHostNode(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        params: In<CUDA_HOST_NODE_PARAMS_v1>,
    ) Context |call| {
        let params = params.get()?;
        let function = params.function.map_or(0, |function| function as usize);
        if function == 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        let callback = Callback { function, data: params.user_data as usize, calls: Calls::Function };
        add(call, node, graph, after, count, Task::Work(Work::Call(callback)))
    }

    fn cuGraphAddEmptyNode(node: Out<u64>, graph: u64, after: In<u64>, count: usize) Context |call| {
        add(call, node, graph, after, count, Task::Work(Work::Nothing))
    }

    fn cuGraphAddEventRecordNode(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        event: u64,
    ) Context |call| {
        call.events.get(event).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        add(call, node, graph, after, count, Task::Record(event))
    }

    fn cuGraphAddEventWaitNode(
        node: Out<u64>,
        graph: u64,
        after: In<u64>,
        count: usize,
        event: u64,
    ) Context |call| {
        call.events.get(event).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        add(call, node, graph, after, count, Task::Wait(event))
    }

    fn cuGraphAddDependencies(graph: u64, from: In<u64>, to: In<u64>, count: usize) Init |call| {
        let mut edges = Vec::new();
        for index in 0..count {
            let edge = (call.node_of(graph, from.at(index)?)?, call.node_of(graph, to.at(index)?)?);
            let known = call.graph(graph)?.nodes[edge.1].after.contains(&edge.0) || edges.contains(&edge);
            if known || edge.0 == edge.1 {
                return Err(Refusal::new(codes::INVALID_VALUE, "an edge that exists, or from a node to itself"));
            }
            edges.push(edge);
        }
        if let Some(graph) = call.graphs.get_mut(graph) {
            edges.into_iter().for_each(|(from, to)| graph.nodes[to].after.push(from));
        }
        Ok(())
    }

    fn cuGraphGetNodes(graph: u64, nodes: Out<u64>, count: Out<usize>) Init |call| {
        list(call.graph(graph)?.handles.clone(), nodes, count)
    }

    fn cuGraphGetRootNodes(graph: u64, nodes: Out<u64>, count: Out<usize>) Init |call| {
        let graph = call.graph(graph)?;
        let roots = graph.nodes.iter().zip(&graph.handles).filter(|(node, _)| node.after.is_empty());
        list(roots.map(|(_, &handle)| handle).collect(), nodes, count)
    }

    fn cuGraphGetEdges(graph: u64, from: Out<u64>, to: Out<u64>, count: Out<usize>) Init |call| {
        let graph = call.graph(graph)?;
        let edges = graph.nodes.iter().zip(&graph.handles).flat_map(|(node, &to)| {
            node.after.iter().map(move |&from| (graph.handles[from], to))
        });
        let edges: Vec<(u64, u64)> = edges.collect();
        if from.is_null() != to.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        let room = if from.is_null() { 0 } else { count.get()? };
        for index in 0..room {
            let (a, b) = edges.get(index).copied().unwrap_or((0, 0));
            from.set_at(index, a)?;
            to.set_at(index, b)?;
        }
        count.set(if from.is_null() { edges.len() } else { edges.len().min(room) })
    }

    fn cuGraphNodeGetType(node: u64, kind: Out<u32>) Init |call| {
        let node = *call.nodes.get(node).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        kind.set(call.graph(node.graph)?.nodes[node.index].task.kind())
    }

    fn cuGraphNodeGetDependencies(node: u64, nodes: Out<u64>, count: Out<usize>) Init |call| {
        let node = *call.nodes.get(node).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let graph = call.graph(node.graph)?;
        list(graph.nodes[node.index].after.iter().map(|&index| graph.handles[index]).collect(), nodes, count)
    }

    fn cuGraphInstantiateWithFlags(exec: Out<u64>, graph: u64, flags: u64) Init |call| {
        instantiate(call, exec, graph, flags)
    }

    fn cuGraphInstantiate_v2(
        exec: Out<u64>,
        graph: u64,
        error_node: Out<u64>,
        log: usize,
        log_size: usize,
    ) Init |call| {
        error_node.set_if(0);
        crate::driver::raw::write_text(log, log_size, "");
        instantiate(call, exec, graph, 0)
    }

    fn cuGraphInstantiateWithParams(
        exec: Out<u64>,
        graph: u64,
        params: Out<CUDA_GRAPH_INSTANTIATE_PARAMS>,
    ) Init |call| {
        let mut asked = params.get()?;
        // Uploading is not needed here, but its stream has to be one.
        if asked.flags & u64::from(instantiate_flag::UPLOAD) != 0 {
            call.stream(asked.h_upload_stream as u64)?;
        }
        let done = instantiate(call, exec, graph, asked.flags & !u64::from(instantiate_flag::UPLOAD));
        asked.h_err_node_out = std::ptr::null_mut();
        asked.result_out = match &done {
            Ok(()) => instantiate_result::SUCCESS,
            Err(refusal) if refusal.code == codes::INVALID_VALUE => instantiate_result::INVALID_STRUCTURE,
            Err(_) => instantiate_result::ERROR,
        };
        params.set(asked)?;
        done
    }

    fn cuGraphExecUpdate(exec: u64, graph: u64, error_node: Out<u64>, result: Out<u32>) Init |call| {
        let (updated, info) = update(call, exec, graph);
        error_node.set_if(info.error_node as u64);
        result.set_if(info.result);
        updated
    }

    fn cuGraphExecUpdate_v2(exec: u64, graph: u64, result: Out<CUgraphExecUpdateResultInfo>) Init |call| {
        if result.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        let (updated, info) = update(call, exec, graph);
        result.set(info)?;
        updated
    }

    fn cuGraphExecDestroy(exec: u64) Init |call| {
        let exec = call.execs.remove(exec).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        call.release_all(exec.objects, exec.last.as_ref());
        call.finish(exec.context)
    }

    fn cuGraphUpload(exec: u64, stream: u64) Context |call| {
        call.stream(stream)?;
        call.execs.get(exec).map(drop).ok_or_else(|| codes::INVALID_HANDLE.into())
    }

    fn cuGraphLaunch(exec: u64, stream: u64) Context |call| {
        let stream = call.stream(stream)?;
        if let Some(id) = call.streams.get(stream).and_then(|s| s.capture.as_ref()).map(|(id, _)| *id) {
            return call.invalidate(id, codes::NOT_SUPPORTED, "graphs inside of graphs");
        }
        call.no_implicit_order(stream)?;
        call.launch_graph(exec, stream)
    }

    fn cuGraphKernelNodeSetParams(node: u64, params: In<CUDA_KERNEL_NODE_PARAMS_v1>) Context |call| {
        let task = kernel_v1(call, params.get()?)?;
        change_node(call, node, task)
    }

    fn cuGraphKernelNodeSetParams_v2(node: u64, params: In<CUDA_KERNEL_NODE_PARAMS_v2>) Context |call| {
        let task = kernel_v2(call, params.get()?)?;
        change_node(call, node, task)
    }

    fn cuGraphExecKernelNodeSetParams(
        exec: u64,
        node: u64,
        params: In<CUDA_KERNEL_NODE_PARAMS_v1>,
    ) Context |call| {
        let task = kernel_v1(call, params.get()?)?;
        change_exec(call, exec, node, task)
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        exec: u64,
        node: u64,
        params: In<CUDA_KERNEL_NODE_PARAMS_v2>,
    ) Context |call| {
        let task = kernel_v2(call, params.get()?)?;
        change_exec(call, exec, node, task)
    }

    fn cuGraphExecMemcpyNodeSetParams(
        exec: u64,
        node: u64,
        copy: In<CUDA_MEMCPY3D>,
        context: u64,
    ) Context |call| {
        call.context(context)?;
        let task = copy_task(three_dimensional(call, copy.get()?)?);
        change_exec(call, exec, node, task)
    }

    fn cuGraphExecMemsetNodeSetParams(
        exec: u64,
        node: u64,
        params: In<CUDA_MEMSET_NODE_PARAMS_v1>,
        context: u64,
    ) Context |call| {
        call.context(context)?;
        let task = memset(call, params.get()?)?;
        change_exec(call, exec, node, task)
    }
}

fn add(call: &mut Call, node: Out<u64>, graph: u64, after: In<u64>, count: usize, task: Task) -> Answer {
    node.given()?;
    let after = if count == 0 { Vec::new() } else { after.list(count)? };
    let handle = call.add_node(graph, &after, task)?;
    node.set(handle)
}

fn kernel_v1(call: &Call, params: CUDA_KERNEL_NODE_PARAMS_v1) -> Answer<Task> {
    let shape = Shape {
        grid: [params.grid_dim_x, params.grid_dim_y, params.grid_dim_z],
        block: [params.block_dim_x, params.block_dim_y, params.block_dim_z],
        shared: params.shared_mem_bytes,
    };
    let arguments = In::to(params.kernel_params as usize);
    let extra = In::to(params.extra as usize);
    let launch = prepare(call, params.func as u64, shape, arguments, extra, false)?;
    Ok(Task::Work(Work::Launch(Box::new(launch))))
}

/// The later form has a kernel handle beside the function, and a context; either handle will do here.
fn kernel_v2(call: &Call, params: CUDA_KERNEL_NODE_PARAMS_v2) -> Answer<Task> {
    kernel_v1(
        call,
        CUDA_KERNEL_NODE_PARAMS_v1 {
            func: if params.func.is_null() { params.kern } else { params.func },
            grid_dim_x: params.grid_dim_x,
            grid_dim_y: params.grid_dim_y,
            grid_dim_z: params.grid_dim_z,
            block_dim_x: params.block_dim_x,
            block_dim_y: params.block_dim_y,
            block_dim_z: params.block_dim_z,
            shared_mem_bytes: params.shared_mem_bytes,
            kernel_params: params.kernel_params,
            extra: params.extra,
        },
    )
}

fn copy_task(copy: Copy) -> Task {
    Task::Work(Work::Copy(Box::new(copy)))
}

fn memset(call: &Call, params: CUDA_MEMSET_NODE_PARAMS_v1) -> Answer<Task> {
    let element = params.element_size as usize;
    if ![1, 2, 4].contains(&element) {
        return Err(codes::INVALID_VALUE.into());
    }
    let area = Area { to: params.dst, pitch: params.pitch, width: params.width, rows: params.height };
    Ok(Task::Work(Work::Fill(fill(call, &area, params.value, element)?)))
}

fn instantiate(call: &mut Call, exec: Out<u64>, graph: u64, flags: u64) -> Answer {
    let known = instantiate_flag::AUTO_FREE_ON_LAUNCH | instantiate_flag::USE_NODE_PRIORITY;
    if flags & !u64::from(known) != 0 {
        let text = format!("instantiation flags {flags:#x}");
        return Err(Refusal::new(codes::NOT_SUPPORTED, text));
    }
    if exec.is_null() {
        return Err(codes::INVALID_VALUE.into());
    }
    let handle = call.instantiate(graph)?;
    exec.set(handle)
}

/// Gives as many handles as there is room for, and says how many there are.
fn list(handles: Vec<u64>, nodes: Out<u64>, count: Out<usize>) -> Answer {
    if nodes.is_null() {
        return count.set(handles.len());
    }
    let room = count.get()?;
    for index in 0..room {
        nodes.set_at(index, handles.get(index).copied().unwrap_or(0))?;
    }
    count.set(handles.len().min(room))
}

/// Gives an executable graph the parameters of a graph of the same form; all of them, or none.
fn update(call: &mut Call, exec: u64, graph: u64) -> (Answer, CUgraphExecUpdateResultInfo) {
    let null = std::ptr::null_mut();
    let info = |result| CUgraphExecUpdateResultInfo { result, error_node: null, error_from_node: null };
    let (Some(old), Some(new)) = (call.execs.get(exec), call.graphs.get(graph)) else {
        return (Err(codes::INVALID_HANDLE.into()), info(update_result::ERROR));
    };
    if let Some(found) = difference(&old.nodes, &new.nodes) {
        let handle = |index: Option<usize>| index.map_or(null, |index| new.handles[index] as _);
        let (result, text) = match found.change {
            Change::Topology => (update_result::ERROR_TOPOLOGY_CHANGED, "nodes or edges"),
            Change::Kind => (update_result::ERROR_NODE_TYPE_CHANGED, "the kind of a node"),
            Change::Parameters => (update_result::ERROR_PARAMETERS_CHANGED, "where a copy or memset goes"),
        };
        let info = CUgraphExecUpdateResultInfo {
            result,
            error_node: handle(found.node),
            error_from_node: handle(found.from),
        };
        let refusal = Refusal::new(codes::GRAPH_EXEC_UPDATE_FAILURE, format!("{text} cannot be changed"));
        return (Err(refusal), info);
    }
    if let Err(refusal) = new.nodes.iter().try_for_each(|node| call.fits(old.context, &node.task)) {
        return (Err(refusal), info(update_result::ERROR_NOT_SUPPORTED));
    }
    let nodes = new.nodes.clone();
    if let Some(exec) = call.execs.get_mut(exec) {
        exec.nodes = nodes;
    }
    (Ok(()), info(update_result::SUCCESS))
}

fn change_node(call: &mut Call, node: u64, task: Task) -> Answer {
    let place = *call.nodes.get(node).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
    let graph = call.graph(place.graph)?;
    call.fits(graph.context, &task)?;
    let old = &graph.nodes[place.index].task;
    if old.kind() != task.kind() {
        return Err(Refusal::new(codes::INVALID_VALUE, "the node is of another kind"));
    }
    if let Some(graph) = call.graphs.get_mut(place.graph) {
        graph.nodes[place.index].task = task;
    }
    Ok(())
}

fn change_exec(call: &mut Call, exec: u64, node: u64, task: Task) -> Answer {
    let found = call.execs.get(exec).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
    let index = found.handles.iter().position(|&handle| handle == node);
    let index = index.ok_or_else(|| Refusal::new(codes::INVALID_VALUE, "no node of this graph"))?;
    call.fits(found.context, &task)?;
    let refused = |change| {
        let text = match change {
            Change::Parameters => "copies and memsets stay in their memories and have one dimension",
            _ => "the node is of another kind",
        };
        Refusal::new(codes::INVALID_VALUE, text)
    };
    found.nodes[index].task.replaceable_by(&task).map_err(refused)?;
    if let Some(exec) = call.execs.get_mut(exec) {
        exec.nodes[index].task = task;
    }
    Ok(())
}
