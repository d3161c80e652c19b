//! The plan: what the runtime needs to know of a pipeline.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use driftline_types::{
    Injections, PipelineName, StageName,
    config::{ByteSize, ConfigProblem, Millis},
};
use serde::{Deserialize, Deserializer, de};

use crate::{
    Graph, Kinds, MonitorConfig, Override, Place, Problem, Problems, Role, SchemaSpec, Severity, TelemetryConfig,
    TestCase, compile,
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
    /// What is injected into sources and stages.
    pub injections: BTreeMap<StageName, Injections>,
    /// The tests, in the order of the file.
    pub tests: Vec<TestCase>,
    /// What is allowed but most likely a mistake.
    pub warnings: Vec<Problem>,
    /// Where the entries of `[monitor]` stand that name files.
    pub(crate) monitor_files: BTreeMap<Vec<String>, Place>,
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

    /// Makes the problem of a file that an entry of `[monitor]` names, such as `["monitor", "reference"]`, at the place where the
    /// entry was written.
    #[must_use]
    pub fn problem_of_file(&self, entry: &[&str], message: String) -> Problem {
        let path: Vec<String> = entry.iter().map(|&key| key.to_owned()).collect();
        let place = self.monitor_files.get(&path).cloned().unwrap_or(Place::File);
        let problem = ConfigProblem { path, found: None, message };
        Problem { file: self.file.clone(), place, severity: Severity::Error, problem }
    }

    /// Visits every node with its role: sources, stages, sinks.
    pub fn nodes(&self) -> impl Iterator<Item = (Role, &Node)> {
        let sources = self.sources.iter().map(|node| (Role::Source, node));
        let stages = self.stages.iter().map(|node| (Role::Stage, node));
        let sinks = self.sinks.iter().map(|node| (Role::Sink, node));
        sources.chain(stages).chain(sinks)
    }

    /// Keeps only these nodes: those that one of several processes runs.
    ///
    /// # Errors
    /// The names that no node has.
    pub fn only(mut self, names: &[StageName]) -> Result<Self, Vec<StageName>> {
        let unknown: Vec<_> =
            names.iter().filter(|name| !self.nodes().any(|(_, node)| node.name == **name)).cloned().collect();
        for nodes in [&mut self.sources, &mut self.stages, &mut self.sinks] {
            nodes.retain(|node| names.contains(&node.name));
        }
        if unknown.is_empty() { Ok(self) } else { Err(unknown) }
    }

    /// Returns what is injected into a node.
    #[must_use]
    pub fn injections_of(&self, node: &StageName) -> Injections {
        self.injections.get(node).cloned().unwrap_or_default()
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
    /// The folder of an embedded log; `None` is an empty temporary one, removed afterwards.
    pub path: Option<PathBuf>,
    /// What of a topic may be removed.
    pub retention: Retention,
    /// What a commit to an embedded log survives.
    pub durability: Durability,
    /// The brokers of a Kafka cluster, `host:port` separated by commas.
    pub bootstrap_servers: Option<String>,
    /// What a unit without state guarantees on Kafka.
    pub delivery: Delivery,
    /// Put before the name of every topic, group and transaction on Kafka.
    pub prefix: String,
    /// Copies of each partition on Kafka, at least 1; `None` is the cluster's default.
    #[serde(deserialize_with = "copies")]
    pub replication: Option<u16>,
    /// Properties of the Kafka client, by librdkafka's names.
    pub properties: BTreeMap<String, Property>,
    /// The token of a Kafka client whose `sasl.mechanism` is `OAUTHBEARER`, read anew whenever the client asks for one.
    pub token: Option<Property>,
}

/// The kind of broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// A log in this process.
    #[default]
    Embedded,
    /// A Kafka cluster.
    Kafka,
}

/// What a unit without state guarantees on Kafka. One that changes state is a transaction in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Outputs, then offsets; a repeat after a crash has the same ids and is dropped by whoever reads it.
    #[default]
    AtLeastOnce,
    /// Outputs and offsets in one transaction.
    ExactlyOnce,
}

/// The value of a client property: text, or where to find a secret. It is read when the broker is opened and never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Property {
    /// As it stands in the file.
    Text(String),
    /// The content of a file, without the line's end.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

impl Property {
    /// Reads the value.
    ///
    /// # Errors
    /// A sentence that names the file or variable, never what it holds.
    pub fn read(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("the file {} cannot be read: {error}", path.display())),
            Self::Env(name) => {
                std::env::var(name).map_err(|_| format!("the environment variable {name} is not set, or no UTF-8"))
            }
        }
    }
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Env(name) => write!(f, "Env({name:?})"),
        }
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALLOWED: &str = "a text, a number, true or false, { file = \"PATH\" } or { env = \"NAME\" }";
        let wrong = |found: de::Unexpected<'_>| de::Error::invalid_value(found, &ALLOWED);
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self::Text(text)),
            toml::Value::Integer(number) => Ok(Self::Text(number.to_string())),
            toml::Value::Boolean(on) => Ok(Self::Text(on.to_string())),
            toml::Value::Table(table) if table.len() == 1 => match (table.get("file"), table.get("env")) {
                (Some(toml::Value::String(path)), None) => Ok(Self::File(path.into())),
                (None, Some(toml::Value::String(name))) => Ok(Self::Env(name.clone())),
                _ => Err(wrong(de::Unexpected::Map)),
            },
            toml::Value::Table(_) => Err(wrong(de::Unexpected::Map)),
            toml::Value::Array(_) => Err(wrong(de::Unexpected::Seq)),
            _ => Err(wrong(de::Unexpected::Other("a value of another type"))),
        }
    }
}

/// Limits beyond which the oldest records of a partition may be removed; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Bytes of keys, values and headers a partition.
    pub bytes: Option<ByteSize>,
    /// Time since a record was written, by the wall clock.
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

fn copies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let found = i64::deserialize(deserializer)?;
    match u16::try_from(found) {
        Ok(n @ 1..) => Ok(Some(n)),
        _ => Err(de::Error::invalid_value(de::Unexpected::Signed(found), &"a whole number from 1 to 65535")),
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
