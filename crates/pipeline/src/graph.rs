//! The graph of a pipeline: its order, its cycles, and drawings of it.

use std::fmt::Write;

use driftline_types::{PipelineName, SchemaId, StageName};

use crate::{Plan, Role, SchemaSpec};

/// What comes of ordering a graph.
pub(crate) struct Order {
    /// Every vertex, each after those it reads unless a cycle forbids it, else by number.
    pub(crate) order: Vec<usize>,
    /// Disjoint cycles, each in the direction of the records and beginning with its least vertex.
    pub(crate) cycles: Vec<Vec<usize>>,
}

/// Orders the vertices `0..inputs.len()`, where vertex `v` reads `inputs[v]` (A. B. Kahn, 1962).
///
/// At least one cycle is named if there is one, and every vertex that cannot be ordered lies on a
/// cycle that is named or after one.
pub(crate) fn order(inputs: &[Vec<usize>]) -> Order {
    let mut placed = vec![false; inputs.len()];
    let mut result = Order { order: Vec::with_capacity(inputs.len()), cycles: Vec::new() };
    while let Some(first) = placed.iter().position(|placed| !placed) {
        let ready = (first..inputs.len()).find(|&v| !placed[v] && inputs[v].iter().all(|&input| placed[input]));
        let next = ready.map_or_else(|| cycle_above(first, inputs, &placed), |v| vec![v]);
        for &v in &next {
            placed[v] = true;
        }
        result.order.extend(&next);
        if ready.is_none() {
            result.cycles.push(next);
        }
    }
    result
}

/// Returns a cycle among the vertices not placed, each of which reads another of them.
fn cycle_above(first: usize, inputs: &[Vec<usize>], placed: &[bool]) -> Vec<usize> {
    let mut walk = vec![first];
    loop {
        let last = walk[walk.len() - 1];
        // A vertex with no such input would have been ready.
        let Some(&input) = inputs[last].iter().find(|&&input| !placed[input]) else { return walk };
        if let Some(start) = walk.iter().position(|&v| v == input) {
            let mut cycle = walk.split_off(start);
            cycle.reverse();
            let least = cycle.iter().enumerate().min_by_key(|(_, v)| **v).map_or(0, |(i, _)| i);
            cycle.rotate_left(least);
            return cycle;
        }
        walk.push(input);
    }
}

/// A pipeline as vertices and edges, in the order of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The name of the pipeline.
    pub name: PipelineName,
    /// The sources, stages and sinks.
    pub vertices: Vec<Vertex>,
    /// Who reads whom.
    pub edges: Vec<Edge>,
}

/// A source, stage or sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// The name.
    pub name: StageName,
    /// The kind.
    pub kind: &'static str,
    /// What it is to the pipeline.
    pub role: Role,
}

/// Records that go from one node to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The node that writes, by its number among the vertices.
    pub from: usize,
    /// The node that reads, by its number among the vertices.
    pub to: usize,
    /// What they hold; `None` if neither end says so.
    pub schema: Option<SchemaId>,
}

impl Graph {
    /// Draws the graph of a plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        let nodes: Vec<_> = plan.nodes().collect();
        let mut edges = Vec::new();
        for (to, (_, reader)) in nodes.iter().enumerate() {
            for input in &reader.inputs {
                let Some(from) = nodes.iter().position(|(_, node)| node.name == *input) else { continue };
                let written = nodes[from].1.output.as_ref().and_then(SchemaSpec::exact);
                let read = reader.input.as_ref().and_then(SchemaSpec::exact);
                edges.push(Edge { from, to, schema: written.or(read) });
            }
        }
        let vertex = |&(role, node): &(Role, &crate::Node)| Vertex { name: node.name.clone(), kind: node.kind, role };
        Self { name: plan.name.clone(), vertices: nodes.iter().map(vertex).collect(), edges }
    }

    /// Writes the graph in Graphviz' DOT.
    #[must_use]
    pub fn to_dot(&self) -> String {
        // Writing to a String cannot fail. Names and kinds need no escapes: see `StageName`.
        let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n", self.name);
        for Vertex { name, kind, role } in &self.vertices {
            let shape = match role {
                Role::Source => "cds",
                Role::Stage => "box",
                Role::Sink => "note",
            };
            let _ = writeln!(out, "  \"{name}\" [shape={shape}, label=\"{name}\\n{kind}\"];");
        }
        for Edge { from, to, schema } in &self.edges {
            let label = schema.map(|schema| format!(" [label=\"{schema}\"]")).unwrap_or_default();
            let (from, to) = (&self.vertices[*from].name, &self.vertices[*to].name);
            let _ = writeln!(out, "  \"{from}\" -> \"{to}\"{label};");
        }
        out.push_str("}\n");
        out
    }

    /// Writes the graph as a Mermaid flowchart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        // Numbers as ids: some names, such as "end", are words of Mermaid.
        let mut out = String::from("flowchart LR\n");
        for (i, Vertex { name, kind, role }) in self.vertices.iter().enumerate() {
            let (open, close) = match role {
                Role::Source => ("([", "])"),
                Role::Stage => ("[", "]"),
                Role::Sink => ("[/", "/]"),
            };
            let _ = writeln!(out, "  n{i}{open}\"{name}<br/>{kind}\"{close}");
        }
        for Edge { from, to, schema } in &self.edges {
            let label = schema.map(|schema| format!("|{schema}|")).unwrap_or_default();
            let _ = writeln!(out, "  n{from} -->{label} n{to}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cycle_is_named_whole() {
        // 0 -> 1 -> 2 -> 3 -> 1, and 4 reads itself.
        let order = order(&[vec![], vec![0, 3], vec![1], vec![2], vec![4]]);
        assert_eq!(order.cycles, [vec![1, 2, 3], vec![4]]);
    }

    #[test]
    fn without_constraints_the_order_is_the_files() {
        assert_eq!(order(&[vec![], vec![], vec![]]).order, [0, 1, 2]);
        assert_eq!(order(&[vec![2], vec![], vec![]]).order, [1, 2, 0]);
    }

    fn any_graph() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1_usize..10).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(0..n, 0..3), n))
    }

    proptest! {
        /// Every vertex is ordered once; each follows its inputs, or a cycle is named; each cycle is one.
        #[test]
        fn every_graph_is_ordered_or_has_a_cycle(inputs in any_graph()) {
            let Order { order, cycles } = order(&inputs);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..inputs.len()).collect::<Vec<_>>());
            for cycle in &cycles {
                for (i, from) in cycle.iter().enumerate() {
                    let to = cycle[(i + 1) % cycle.len()];
                    prop_assert!(inputs[to].contains(from));
                }
            }
            let place = |v: usize| order.iter().position(|&w| w == v);
            let ordered = inputs.iter().enumerate().all(|(v, inputs)| inputs.iter().all(|&input| place(input) < place(v)));
            prop_assert_eq!(ordered, cycles.is_empty());
        }
    }
}
