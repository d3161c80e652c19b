//! What the loader knows of the kinds of sources, stages and sinks.

use std::fmt;

use driftline_types::{Parameter, SchemaId, Timestamp, config::ConfigProblem};

/// A kind that a node of a pipeline may have.
#[derive(Clone, Debug)]
pub struct KindSpec {
    /// The name in `kind = "…"`.
    pub name: &'static str,
    /// What it reads; `None` for a source.
    pub input: Option<SchemaSpec>,
    /// What it writes; `None` for a sink.
    pub output: Option<SchemaSpec>,
    /// Its config keys that hold paths; of a sink, of what it writes.
    pub paths: &'static [&'static str],
    /// Checks its own keys. Paths are absolute by then; the common keys are not in the table.
    pub check: fn(&toml::Table) -> Vec<ConfigProblem>,
    /// What may be injected into it; none into a sink.
    pub parameters: &'static [&'static Parameter],
    /// Of a source: returns the event time at which its records begin, if a right config says it.
    pub start: fn(&toml::Table) -> Option<Timestamp>,
}

/// The schemas that can stand at one end of an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaSpec {
    /// This one.
    Exactly(SchemaId),
    /// One of these.
    OneOf(Vec<SchemaId>),
    /// Whatever stands at the other end.
    Any,
}

impl SchemaSpec {
    /// Returns the schema if there is only one.
    #[must_use]
    pub fn exact(&self) -> Option<SchemaId> {
        match self {
            Self::Exactly(schema) => Some(*schema),
            Self::OneOf(_) | Self::Any => None,
        }
    }

    /// Returns whether a schema is among these.
    #[must_use]
    pub fn contains(&self, schema: SchemaId) -> bool {
        match self {
            Self::Exactly(one) => *one == schema,
            Self::OneOf(some) => some.contains(&schema),
            Self::Any => true,
        }
    }
}

/// As it follows "reads" and "writes".
impl fmt::Display for SchemaSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(schema) => schema.fmt(f),
            Self::OneOf(some) => {
                let names: Vec<_> = some.iter().map(|schema| schema.as_str()).collect();
                write!(f, "one of {}", names.join(", "))
            }
            Self::Any => f.write_str("any schema"),
        }
    }
}

/// Every kind there is.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// The kinds of sources.
    pub sources: Vec<KindSpec>,
    /// The kinds of stages.
    pub stages: Vec<KindSpec>,
    /// The kinds of sinks.
    pub sinks: Vec<KindSpec>,
    /// The client properties that `[broker.properties]` may set.
    pub properties: &'static [&'static str],
}

impl Kinds {
    /// Returns the kinds that a node of this role may have.
    #[must_use]
    pub fn of(&self, role: Role) -> &[KindSpec] {
        match role {
            Role::Source => &self.sources,
            Role::Stage => &self.stages,
            Role::Sink => &self.sinks,
        }
    }
}

/// What a node is to its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Records begin here.
    Source,
    /// Records come in and go out.
    Stage,
    /// Records end here.
    Sink,
}

impl Role {
    /// The roles, in the order in which records pass them.
    pub const ALL: [Self; 3] = [Self::Source, Self::Stage, Self::Sink];

    /// Returns the section of the file that holds the nodes of this role.
    #[must_use]
    pub fn section(self) -> &'static str {
        match self {
            Self::Source => "sources",
            Self::Stage => "stages",
            Self::Sink => "sinks",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Stage => "stage",
            Self::Sink => "sink",
        })
    }
}
