//! Nodes that the command line names.

use driftline_pipeline::{Node, Plan, Role};
use driftline_types::StageName;

use crate::exit::Failure;

/// Finds the node of a name, which must have one of these roles.
pub(crate) fn named<'a>(plan: &'a Plan, name: &StageName, roles: &[Role]) -> Result<&'a Node, Failure> {
    let found = plan.nodes().find(|(_, node)| node.name == *name);
    if let Some((role, node)) = found
        && roles.contains(&role)
    {
        return Ok(node);
    }
    let what = found.map_or_else(|| "no node of the pipeline".to_owned(), |(role, _)| format!("a {role}"));
    let sections: Vec<_> = roles.iter().map(|role| role.section()).collect();
    let nodes = plan.nodes().filter(|(role, _)| roles.contains(role)).map(|(_, node)| node.name.as_str());
    let nodes = nodes.collect::<Vec<_>>().join(", ");
    Err(Failure::usage(format!(
        "{}: found {name:?}, {what}, allowed are its {}: {}",
        plan.file.display(),
        sections.join(" and "),
        if nodes.is_empty() { "none" } else { &nodes }
    )))
}
