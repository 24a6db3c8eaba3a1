//! Graphs: work and what comes before what.

use std::sync::Arc;

use super::objects::Held;
use super::order::Record;
use super::state::State;
use super::work::{Copy, End, Fill, Work};
use super::{Answer, Refusal, codes};

/// What a node does.
#[derive(Clone)]
pub(crate) enum Task {
    Work(Work),
    /// Records an event that work outside the graph may wait for.
    Record(u64),
    /// Waits for an event that was recorded outside the graph.
    Wait(u64),
}

/// A node.
#[derive(Clone)]
pub(crate) struct Node {
    pub task: Task,
    /// Indices of the nodes it comes after.
    pub after: Vec<usize>,
}

/// A graph under construction.
#[derive(Clone)]
pub(crate) struct Graph {
    pub context: u64,
    pub nodes: Vec<Node>,
    /// The nodes' handles.
    pub handles: Vec<u64>,
    pub objects: Held,
}

/// What a node's handle stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeHandle {
    pub graph: u64,
    pub index: usize,
}

/// A graph that can be launched.
pub(crate) struct Exec {
    pub context: u64,
    pub nodes: Vec<Node>,
    /// The handles that its nodes had in the graph it was made from.
    pub handles: Vec<u64>,
    /// Launches of one graph run one after the other.
    pub last: Option<Arc<Record>>,
    pub objects: Held,
}

/// A numbering in which every node comes after those it depends on; none if they form a circle.
pub(crate) fn sorted(nodes: &[Node]) -> Option<Vec<usize>> {
    let mut left: Vec<usize> = nodes.iter().map(|node| node.after.len()).collect();
    let mut order: Vec<usize> = (0..nodes.len()).filter(|&index| left[index] == 0).collect();
    let mut next = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|&before| next[before].push(index));
    }
    let mut at = 0;
    while let Some(&done) = order.get(at) {
        at += 1;
        for &index in &next[done] {
            left[index] -= 1;
            if left[index] == 0 {
                order.push(index);
            }
        }
    }
    (order.len() == nodes.len()).then_some(order)
}

impl Task {
    /// `CUgraphNodeType`
    pub fn kind(&self) -> u32 {
        match self {
            Task::Work(Work::Launch(_)) => 0,
            Task::Work(Work::Copy(_)) => 1,
            Task::Work(Work::Fill(_)) => 2,
            Task::Work(Work::Call(_)) => 3,
            Task::Work(Work::Nothing | Work::Free(_)) => 5,
            Task::Wait(_) => 6,
            Task::Record(_) => 7,
        }
    }

    /// Whether an executable graph may have `new` in this one's place, as the manual has it: a node stays of its kind;
    /// copies and memsets stay between the same memories and have one dimension before and after.
    pub fn replaceable_by(&self, new: &Task) -> Result<(), Change> {
        match (self, new) {
            (Task::Work(Work::Copy(old)), Task::Work(Work::Copy(new))) => {
                let flat = |copy: &Copy| copy.size[1..] == [1, 1] && copy.size[0] > 0;
                let same = same_memory(&old.from.end, &new.from.end) && same_memory(&old.to.end, &new.to.end);
                if same && (old == new || flat(old) && flat(new)) { Ok(()) } else { Err(Change::Parameters) }
            }
            (Task::Work(Work::Fill(old)), Task::Work(Work::Fill(new))) => {
                let flat = |fill: &Fill| fill.rows == 1 && fill.width > 0;
                let same = old.device == new.device;
                if same && (old == new || flat(old) && flat(new)) { Ok(()) } else { Err(Change::Parameters) }
            }
            _ if self.kind() != new.kind() => Err(Change::Kind),
            _ => Ok(()),
        }
    }
}

fn same_memory(old: &End, new: &End) -> bool {
    match (old, new) {
        (End::Device(old, _), End::Device(new, _)) => old == new,
        (End::Device(..), _) | (_, End::Device(..)) => false,
        _ => true,
    }
}

/// Why an executable graph cannot become another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The number of nodes, or a node's edges.
    Topology,
    Kind,
    Parameters,
}

/// Where two graphs differ: at which of the new nodes, and at the edge from which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Difference {
    pub change: Change,
    pub node: Option<usize>,
    pub from: Option<usize>,
}

/// What keeps nodes from taking the place of others. They pair up in the order in which they were added: whoever makes
/// a graph anew makes it in the same way.
pub(crate) fn difference(old: &[Node], new: &[Node]) -> Option<Difference> {
    if old.len() != new.len() {
        return Some(Difference { change: Change::Topology, node: None, from: None });
    }
    old.iter().zip(new).enumerate().find_map(|(index, (old, new))| {
        let unknown = |a: &Node, b: &Node| a.after.iter().find(|&from| !b.after.contains(from)).copied();
        let from = unknown(new, old);
        let change = if from.is_some() || unknown(old, new).is_some() {
            Some(Change::Topology)
        } else {
            old.task.replaceable_by(&new.task).err()
        };
        change.map(|change| Difference { change, node: Some(index), from })
    })
}

impl State {
    pub fn new_graph(&mut self, context: u64, nodes: Vec<Node>) -> u64 {
        let graph = self.graphs.insert(Graph {
            context,
            nodes: Vec::new(),
            handles: Vec::new(),
            objects: Held::new(),
        });
        for node in nodes {
            self.push_node(graph, node);
        }
        graph
    }

    pub fn push_node(&mut self, graph: u64, node: Node) -> u64 {
        let index = self.graphs.get(graph).map_or(0, |graph| graph.nodes.len());
        let handle = self.nodes.insert(NodeHandle { graph, index });
        if let Some(graph) = self.graphs.get_mut(graph) {
            graph.nodes.push(node);
            graph.handles.push(handle);
        }
        handle
    }

    pub fn graph(&self, handle: u64) -> Answer<&Graph> {
        self.graphs.get(handle).ok_or_else(|| codes::INVALID_HANDLE.into())
    }

    /// The index of a node of a graph.
    pub fn node_of(&self, graph: u64, handle: u64) -> Answer<usize> {
        match self.nodes.get(handle) {
            Some(node) if node.graph == graph => Ok(node.index),
            _ => Err(Refusal::new(codes::INVALID_VALUE, format!("{handle:#x} is no node of this graph"))),
        }
    }

    /// Adds a node after others, by their handles.
    pub fn add_node(&mut self, graph: u64, after: &[u64], task: Task) -> Answer<u64> {
        let context = self.graph(graph)?.context;
        self.fits(context, &task)?;
        let mut indices = Vec::new();
        for &handle in after {
            let index = self.node_of(graph, handle)?;
            if indices.contains(&index) {
                return Err(Refusal::new(codes::INVALID_VALUE, "a dependency is named twice"));
            }
            indices.push(index);
        }
        Ok(self.push_node(graph, Node { task, after: indices }))
    }

    /// Kernels run on the device of the graph's context.
    pub fn fits(&self, context: u64, task: &Task) -> Answer {
        match task {
            Task::Work(Work::Launch(launch)) if launch.code.device != self.context(context)?.device => {
                Err(Refusal::new(codes::NOT_SUPPORTED, "kernels of several devices in one graph"))
            }
            _ => Ok(()),
        }
    }

    pub fn destroy_graph(&mut self, handle: u64) -> Answer {
        let graph = self.graphs.remove(handle).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        graph.handles.iter().for_each(|&node| _ = self.nodes.remove(node));
        self.release_all(graph.objects, None);
        Ok(())
    }

    pub fn instantiate(&mut self, graph: u64) -> Answer<u64> {
        let Graph { context, nodes, handles, objects } = self.graph(graph)?.clone();
        if sorted(&nodes).is_none() {
            return Err(Refusal::new(codes::INVALID_VALUE, "the graph has a circle"));
        }
        self.retain_all(&objects);
        Ok(self.execs.insert(Exec { context, nodes, handles, last: None, objects }))
    }

    /// Puts a graph behind what the stream has: its nodes run in any order that its edges allow.
    pub fn launch_graph(&mut self, exec: u64, stream: u64) -> Answer {
        let found = self.execs.get(exec).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let (context, nodes) = (found.context, found.nodes.clone());
        let mut before = self.predecessors(stream)?;
        before.extend(found.last.clone());
        let mut records: Vec<Option<Arc<Record>>> = vec![None; nodes.len()];
        for index in sorted(&nodes).unwrap_or_default() {
            let node = &nodes[index];
            let mut waits: Vec<Arc<Record>> =
                node.after.iter().filter_map(|&before| records[before].clone()).collect();
            if waits.is_empty() {
                waits.clone_from(&before);
            }
            let work = match &node.task {
                Task::Work(work) => work.clone(),
                Task::Record(_) => Work::Nothing,
                Task::Wait(event) => {
                    waits.extend(self.events.get(*event).and_then(|event| event.record.clone()));
                    Work::Nothing
                }
            };
            let record = self.add(context, work, waits)?;
            if let Task::Record(event) = node.task
                && let Some(event) = self.events.get_mut(event)
            {
                (event.record, event.captured) = (Some(record.clone()), None);
            }
            records[index] = Some(record);
        }
        let mut ends: Vec<Arc<Record>> = records.into_iter().flatten().collect();
        ends.extend(before);
        let end = self.add(context, Work::Nothing, ends)?;
        if let Some(exec) = self.execs.get_mut(exec) {
            exec.last = Some(end.clone());
        }
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.tail = Some(end);
        }
        self.drift();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(after: &[&[usize]]) -> Vec<Node> {
        let node = |after: &&[usize]| Node { task: Task::Work(Work::Nothing), after: after.to_vec() };
        after.iter().map(node).collect()
    }

    #[test]
    fn nodes_come_after_what_they_depend_on() {
        assert_eq!(sorted(&nodes(&[&[2], &[0], &[]])), Some(vec![2, 0, 1]));
        assert_eq!(sorted(&nodes(&[&[], &[0, 2], &[1]])), None);
        assert_eq!(sorted(&[]), Some(vec![]));
    }
}
