//! The plan: what the runtime needs to know of a pipeline.

use std::{
    fs,
    path::{Path, PathBuf},
};

use driftline_types::{
    PipelineName, StageName,
    config::{ByteSize, ConfigProblem, Millis},
};
use serde::{Deserialize, Deserializer, de};

use crate::{
    Graph, Kinds, Override, Place, Problem, Problems, Role, SchemaSpec, Severity, TelemetryConfig, TestCase, compile,
};

/// A pipeline that was checked: names are unique, every input exists, schemas fit, there is no cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The name.
    pub name: PipelineName,
    /// The file it was read from, as it was named.
    pub file: PathBuf,
    /// The number of partitions of each topic, at least 1.
    pub partitions: u32,
    /// Who keeps the log.
    pub broker: BrokerConfig,
    /// How signals are monitored.
    pub monitor: MonitorConfig,
    /// What is told to the outside.
    pub telemetry: TelemetryConfig,
    /// The sources, in the order of the file; at least one.
    pub sources: Vec<Node>,
    /// The stages, each after those it reads, else in the order of the file.
    pub stages: Vec<Node>,
    /// The sinks, in the order of the file; at least one.
    pub sinks: Vec<Node>,
    /// The tests, in the order of the file.
    pub tests: Vec<TestCase>,
    /// What is allowed but most likely a mistake.
    pub warnings: Vec<Problem>,
}

impl Plan {
    /// Reads a pipeline file, with overrides in the order given (the last one wins).
    ///
    /// A path in the file is relative to the folder of the file, one from `--set` to the current
    /// directory. The overrides of each test are tried as well, so that a test that was loaded can
    /// be run by loading the file again with [`TestCase::overrides`].
    ///
    /// # Errors
    /// Every problem of the file and of the overrides.
    pub fn load(file: &Path, overrides: &[Override], kinds: &Kinds) -> Result<Self, Problems> {
        match fs::read_to_string(file) {
            Ok(text) => compile::compile(file, &text, overrides, kinds),
            Err(error) => {
                let message = format!("the pipeline file cannot be read: {error}");
                let problem = ConfigProblem { path: Vec::new(), found: None, message };
                let file = file.to_owned();
                Err(Problems::new(vec![Problem { file, place: Place::File, severity: Severity::Error, problem }]))
            }
        }
    }

    /// Visits every node with its role: sources, stages, sinks.
    pub fn nodes(&self) -> impl Iterator<Item = (Role, &Node)> {
        let sources = self.sources.iter().map(|node| (Role::Source, node));
        let stages = self.stages.iter().map(|node| (Role::Stage, node));
        let sinks = self.sinks.iter().map(|node| (Role::Sink, node));
        sources.chain(stages).chain(sinks)
    }

    /// Draws the graph.
    #[must_use]
    pub fn graph(&self) -> Graph {
        Graph::of(self)
    }
}

/// A source, stage or sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name, unique in the pipeline.
    pub name: StageName,
    /// The kind, one of the [`Kinds`] given.
    pub kind: &'static str,
    /// The nodes it reads; empty for a source.
    pub inputs: Vec<StageName>,
    /// What it reads; `None` for a source.
    pub input: Option<SchemaSpec>,
    /// What it writes; `None` for a sink.
    pub output: Option<SchemaSpec>,
    /// How records are batched.
    pub batch: BatchConfig,
    /// What the kind itself reads: every other key of its table. Paths are absolute.
    pub config: toml::Table,
}

/// How records are gathered into a batch: until one of the limits is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Records, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub max_records: usize,
    /// Bytes of keys, values and headers, at least 1; one record may be larger.
    #[serde(deserialize_with = "some_bytes")]
    pub max_bytes: ByteSize,
    /// How long the oldest record of a batch waits for others.
    pub max_wait: Millis,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_records: 256, max_bytes: ByteSize::mib(8), max_wait: Millis(20) }
    }
}

/// Who keeps the log, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// The kind of broker.
    pub kind: BrokerKind,
    /// The folder of the log; `None` is an empty temporary one, removed afterwards.
    pub path: Option<PathBuf>,
    /// What of a topic may be removed.
    pub retention: Retention,
    /// What a commit survives.
    pub durability: Durability,
}

/// The kind of broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// A log in this process.
    #[default]
    Embedded,
}

/// Limits beyond which the oldest records of a partition may be removed; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Bytes of keys, values and headers a partition.
    pub bytes: Option<ByteSize>,
    /// Age by event time, against the newest record of the partition.
    pub age: Option<Millis>,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The death of the process, by SIGKILL too; after a power failure the last commits may be gone.
    #[default]
    Process,
    /// A power failure: each commit waits for the disk.
    Power,
}

/// How signals are monitored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorConfig {
    /// The event time that one profile covers, at least 1 ms.
    #[serde(deserialize_with = "some_time")]
    pub window: Millis,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self { window: Millis(10_000) }
    }
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(de::Error::invalid_value(de::Unexpected::Unsigned(0), &"a whole number from 1")),
        n => Ok(n),
    }
}

fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    match ByteSize::deserialize(deserializer)? {
        ByteSize(0) => Err(de::Error::invalid_value(de::Unexpected::Unsigned(0), &"a size of at least 1 byte")),
        size => Ok(size),
    }
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    match Millis::deserialize(deserializer)? {
        Millis(0) => Err(de::Error::invalid_value(de::Unexpected::Str("0s"), &"a duration of at least \"1ms\"")),
        time => Ok(time),
    }
}
