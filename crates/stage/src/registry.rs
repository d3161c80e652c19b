//! Kinds by name, their types erased: what the command hands to the runtime.

use std::{fmt::Debug, sync::Arc};

use bytes::{Bytes, BytesMut};
use driftline_stats::{Direction, SignalVisitor};
use driftline_types::{
    Context, Headers, Message, Outgoing, Parameter, Probe, RecordId, SchemaId, StageName, StageVersion, Timestamp,
    Topic,
    config::{self, ConfigProblem},
    wire::{self, Origin},
};

use serde::de::DeserializeOwned;

use crate::{
    CodecError, Payload, Sink, SinkKind, Source, SourceBatch, SourceKind, SourceStatus, Stage, StageError, StageKind,
    operator::{Effects, Observer, Operator, Site, StageOperator},
    probe,
};

/// Every kind a command knows. One explicit list: a new stage is one entry.
#[derive(Clone, Copy)]
pub struct Registry {
    /// Kinds of sources.
    pub sources: &'static [SourceDef],
    /// Kinds of stages.
    pub stages: &'static [StageDef],
    /// Kinds of sinks.
    pub sinks: &'static [SinkDef],
}

impl Registry {
    /// Finds a kind of source.
    #[must_use]
    pub fn source(&self, kind: &str) -> Option<&'static SourceDef> {
        self.sources.iter().find(|def| def.kind == kind)
    }

    /// Finds a kind of stage.
    #[must_use]
    pub fn stage(&self, kind: &str) -> Option<&'static StageDef> {
        self.stages.iter().find(|def| def.kind == kind)
    }

    /// Finds a kind of sink.
    #[must_use]
    pub fn sink(&self, kind: &str) -> Option<&'static SinkDef> {
        self.sinks.iter().find(|def| def.kind == kind)
    }

    /// Lists the schemas that some source or stage writes as a media type, in the order of their names.
    #[must_use]
    pub fn schemas_of(&self, content_type: &str) -> Vec<SchemaId> {
        let sources = self.sources.iter().map(|def| (def.output, def.content_type));
        let stages = self.stages.iter().map(|def| (def.output, def.content_type));
        let written = sources.chain(stages).filter(|(_, written)| *written == content_type);
        let mut schemas: Vec<SchemaId> = written.map(|(schema, _)| schema).collect();
        schemas.sort_by_key(|schema| schema.as_str());
        schemas.dedup();
        schemas
    }
}

/// Decodes the value of a record and shows its signals.
pub type ShowSignals = fn(&Bytes, &mut dyn SignalVisitor) -> Result<(), CodecError>;

fn show<P: Payload>(value: &Bytes, visit: &mut dyn SignalVisitor) -> Result<(), CodecError> {
    P::decode(value).map(|value| value.signals(visit))
}

/// A kind of stage.
pub struct StageDef {
    /// The name in `kind = "…"`.
    pub kind: &'static str,
    /// The schema it reads.
    pub input: SchemaId,
    /// The schema it writes.
    pub output: SchemaId,
    /// The media type it writes.
    pub content_type: &'static str,
    /// Config keys that hold paths.
    pub paths: &'static [&'static str],
    /// What may be injected.
    pub parameters: &'static [&'static Parameter],
    /// Finds what is wrong with a config table.
    pub check: fn(&toml::Table) -> Vec<ConfigProblem>,
    /// Shows the signals of a record that it wrote.
    pub signals: ShowSignals,
    open: fn(&toml::Table) -> Result<Box<dyn OpenStage>, StageError>,
}

impl StageDef {
    /// Describes a kind.
    #[must_use]
    pub const fn of<K: StageKind>() -> Self {
        Self {
            kind: K::KIND,
            input: <K::Stage as Stage>::Input::SCHEMA,
            output: <K::Stage as Stage>::Output::SCHEMA,
            content_type: <K::Stage as Stage>::Output::CONTENT_TYPE,
            paths: K::PATHS,
            parameters: K::PARAMETERS,
            check: |table| check(table, K::check),
            signals: show::<<K::Stage as Stage>::Output>,
            open: |table| {
                let kind = K::open(read(table)?)?;
                let version = version_of(K::KIND, &settings::<K::Config>(table, K::PATHS)?, &kind.fingerprint())?;
                Ok(Box::new(Opened { version, kind }))
            },
        }
    }

    /// Loads what the instances of a stage share.
    ///
    /// # Errors
    /// As [`StageKind::open`].
    pub fn open(&self, config: &toml::Table) -> Result<Box<dyn OpenStage>, StageError> {
        (self.open)(config)
    }
}

/// A stage that is loaded and makes instances.
pub trait OpenStage: Send + Sync {
    /// Returns the hash of model files, config and build.
    fn version(&self) -> &StageVersion;

    /// Makes the operator of one partition.
    fn instance(&self, site: Arc<Site>) -> Box<dyn Operator>;
}

struct Opened<K> {
    kind: K,
    version: StageVersion,
}

impl<K: StageKind> OpenStage for Opened<K> {
    fn version(&self) -> &StageVersion {
        &self.version
    }

    fn instance(&self, site: Arc<Site>) -> Box<dyn Operator> {
        Box::new(StageOperator::new(self.kind.instance(), site))
    }
}

/// A kind of source.
pub struct SourceDef {
    /// The name in `kind = "…"`.
    pub kind: &'static str,
    /// The schema it writes.
    pub output: SchemaId,
    /// The media type it writes.
    pub content_type: &'static str,
    /// Config keys that hold paths.
    pub paths: &'static [&'static str],
    /// What may be injected.
    pub parameters: &'static [&'static Parameter],
    /// Finds what is wrong with a config table.
    pub check: fn(&toml::Table) -> Vec<ConfigProblem>,
    /// Returns the event time at which its records begin, if a right config says it.
    pub start: fn(&toml::Table) -> Option<Timestamp>,
    /// Shows the signals of a record that it wrote.
    pub signals: ShowSignals,
    settings: fn(&toml::Table) -> Result<String, StageError>,
    open: OpenSourceFn,
}

type OpenSourceFn = fn(&toml::Table, bool, Arc<Site>) -> Result<Box<dyn OpenSource>, StageError>;

impl SourceDef {
    /// Describes a kind.
    #[must_use]
    pub const fn of<S: SourceKind>() -> Self {
        Self {
            kind: S::KIND,
            output: <S as Source>::Output::SCHEMA,
            content_type: <S as Source>::Output::CONTENT_TYPE,
            paths: S::PATHS,
            parameters: S::PARAMETERS,
            check: |table| check(table, S::check),
            start: |table| S::start(&read(table).ok()?),
            signals: show::<<S as Source>::Output>,
            settings: |table| settings::<S::Config>(table, S::PATHS),
            open: |table, follow, site| Ok(Box::new(SourceOperator::new(S::open(read(table)?, follow)?, site))),
        }
    }

    /// Opens a source; with `follow` it waits for new input where it would end.
    ///
    /// # Errors
    /// As [`SourceKind::open`].
    pub fn open(&self, config: &toml::Table, follow: bool, site: Arc<Site>) -> Result<Box<dyn OpenSource>, StageError> {
        (self.open)(config, follow, site)
    }

    /// Returns the version of a source: the hash of its config, paths left out, and build.
    ///
    /// # Errors
    /// If the config is wrong.
    pub fn version(&self, config: &toml::Table) -> Result<StageVersion, StageError> {
        version_of(self.kind, &(self.settings)(config)?, "")
    }
}

/// A source, its types erased.
pub trait OpenSource: Send {
    /// Takes back the progress of an earlier run.
    ///
    /// # Errors
    /// As [`Source::restore`].
    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError>;

    /// Reads some records; `now` is the wall clock.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn read(&mut self, now: Timestamp) -> Result<(Effects, SourceStatus), StageError>;
}

/// The state entry in which a source's sequence number is kept.
const SEQUENCE: &[u8] = b"\0sequence";
/// The state entry of when probes are due next, milliseconds.
const DUE: &[u8] = b"\0probes";

struct SourceOperator<S: Source> {
    source: S,
    site: Arc<Site>,
    topic: Topic,
    origin: Origin,
    observer: Observer,
    versions: Arc<[(StageName, StageVersion)]>,
    sequence: u64,
    /// When probes are due next.
    due: Option<Timestamp>,
}

impl<S: Source> SourceOperator<S> {
    fn new(source: S, site: Arc<Site>) -> Self {
        let origin = Origin::new(&site.pipeline, &site.stage, S::Output::SCHEMA);
        let observer = Observer::new(Arc::clone(&site));
        let versions = Arc::new([(site.stage.clone(), site.version.clone())]);
        let topic = site.pipeline.output_topic(&site.stage);
        Self { source, topic, origin, observer, versions, site, sequence: 0, due: None }
    }
}

impl<S: Source> SourceOperator<S> {
    /// Makes the context of the next record.
    fn context(&mut self, now: Timestamp) -> Context {
        let id = RecordId { topic: self.topic.clone(), partition: 0, offset: self.sequence, index: 0 };
        self.sequence += 1;
        Context { versions: Arc::clone(&self.versions), ..Context::at_source(id, now) }
    }

    /// Sends the probes that are due before a record of this time.
    fn probe(&mut self, time: Timestamp, now: Timestamp, effects: &mut Effects) {
        let Some(schedule) = self.site.probes.clone() else { return };
        let (due, next) = schedule.due(self.due, time);
        self.due = Some(next);
        let Some(round) = due else { return };
        for recording in &schedule.recordings {
            let key = probe::key(&recording.name);
            let mark = Probe { name: recording.name.as_str().into(), round };
            for value in &recording.values {
                let context = Context { probe: Some(mark.clone()), ..self.context(now) };
                effects.counts.probes += 1;
                effects.outputs.push(Outgoing {
                    topic: context.id.topic.clone(),
                    partition: None,
                    key: Some(key.clone()),
                    value: Some(value.clone()),
                    headers: self.origin.headers(&context, round, S::Output::CONTENT_TYPE, &mut BytesMut::new()),
                    timestamp: round,
                });
            }
        }
    }
}

impl<S: Source> OpenSource for SourceOperator<S> {
    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        let (own, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key == SEQUENCE || key == DUE);
        for (key, value) in own {
            let bytes = value.as_ref().try_into().map_err(|_| StageError::fatal("sequence number is damaged"))?;
            if key == SEQUENCE {
                self.sequence = u64::from_le_bytes(bytes);
            } else {
                self.due = Some(Timestamp::from_millis(i64::from_le_bytes(bytes)));
            }
        }
        self.source.restore(entries)
    }

    fn read(&mut self, now: Timestamp) -> Result<(Effects, SourceStatus), StageError> {
        let mut batch = SourceBatch::with_injections(self.site.injections.clone());
        let status = self.source.read(&mut batch)?;
        let mut effects = Effects::default();
        effects.outputs.reserve(batch.outputs.len());
        let mut buffer = wire::header_buffer(batch.outputs.len());
        let (first, was_due) = (self.sequence, self.due);
        for (key, event_time, value) in batch.outputs {
            self.probe(event_time, now, &mut effects);
            let context = self.context(now);
            let code = self.observer.observe(Direction::Output, event_time, &value);
            self.observer.pair(event_time, None, code);
            value
                .encode(&mut buffer)
                .map_err(|error| StageError::fatal(format!("cannot encode {}: {error}", S::Output::SCHEMA)))?;
            effects.outputs.push(Outgoing {
                topic: self.topic.clone(),
                partition: None,
                key: Some(key.as_bytes().clone()),
                value: Some(buffer.split().freeze()),
                headers: self.origin.headers(&context, event_time, value.content_type(), &mut buffer),
                timestamp: event_time,
            });
        }
        effects.counts.written = effects.outputs.len() as u64 - effects.counts.probes;
        effects.counts.rejected = batch.rejected.len() as u64;
        for rejected in batch.rejected {
            let message = Message {
                topic: self.topic.clone(),
                partition: 0,
                offset: self.sequence,
                key: Some(rejected.key.as_bytes().clone()),
                value: Some(rejected.value),
                headers: Headers::default(),
                timestamp: now,
            };
            effects.dead_letters.push(wire::dead_letter(
                &self.site.pipeline,
                &self.site.stage,
                &message,
                rejected.reason,
            ));
        }
        effects.state = batch.state;
        if self.sequence != first {
            effects.state.push(crate::StateChange {
                key: Bytes::from_static(SEQUENCE),
                value: Some(Bytes::copy_from_slice(&self.sequence.to_le_bytes())),
            });
        }
        if self.due != was_due {
            effects.state.push(crate::StateChange {
                key: Bytes::from_static(DUE),
                value: self.due.map(|due| Bytes::copy_from_slice(&due.as_millis().to_le_bytes())),
            });
        }
        self.observer.take(&mut effects);
        Ok((effects, status))
    }
}

/// A kind of sink.
pub struct SinkDef {
    /// The name in `kind = "…"`.
    pub kind: &'static str,
    /// The media type of the records it takes; `None` for any.
    pub content_type: Option<&'static str>,
    /// Config keys that hold paths.
    pub paths: &'static [&'static str],
    /// Finds what is wrong with a config table.
    pub check: fn(&toml::Table) -> Vec<ConfigProblem>,
    open: fn(&toml::Table) -> Result<Box<dyn Sink>, StageError>,
}

impl SinkDef {
    /// Describes a kind.
    #[must_use]
    pub const fn of<S: SinkKind>() -> Self {
        Self {
            kind: S::KIND,
            content_type: S::CONTENT_TYPE,
            paths: S::PATHS,
            check: |table| check(table, S::check),
            open: |table| Ok(Box::new(S::open(read(table)?)?)),
        }
    }

    /// Opens a sink.
    ///
    /// # Errors
    /// As [`SinkKind::open`].
    pub fn open(&self, config: &toml::Table) -> Result<Box<dyn Sink>, StageError> {
        (self.open)(config)
    }
}

/// Finds what is wrong with a config: what does not fit its types and, with that left out, what its
/// kind has to say of the rest.
fn check<C: DeserializeOwned>(table: &toml::Table, semantic: fn(&C) -> Vec<ConfigProblem>) -> Vec<ConfigProblem> {
    let mut problems = match config::read(table) {
        Ok(config) => return semantic(&config),
        Err(problems) => problems,
    };
    let wrong = |key: &str| problems.iter().any(|problem| problem.path.first().is_some_and(|first| first == key));
    let rest: toml::Table =
        table.iter().filter(|(key, _)| !wrong(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Ok(config) = config::read(&rest) {
        problems.extend(semantic(&config));
    }
    problems
}

/// Reads a config that was checked before; a problem here names the first one only.
fn read<C: DeserializeOwned>(table: &toml::Table) -> Result<C, StageError> {
    config::read(table).map_err(|problems| {
        let first = problems.first().map_or_else(|| "unknown problem".to_owned(), ToString::to_string);
        StageError::fatal(format!("config: {first}"))
    })
}

/// Writes a config out with its defaults, so that one who writes a default down has the same version. Paths are left out: a stage's
/// fingerprint says what is in its files, wherever they are, and the files of a source are what it reads.
fn settings<C: DeserializeOwned + Debug>(table: &toml::Table, paths: &[&str]) -> Result<String, StageError> {
    let mut table = table.clone();
    table.extend(paths.iter().map(|&path| (path.to_owned(), toml::Value::from(config::BUILTIN))));
    read::<C>(&table).map(|config| format!("{config:?}"))
}

fn version_of(kind: &str, settings: &str, fingerprint: &str) -> Result<StageVersion, StageError> {
    let mut hasher = blake3::Hasher::new();
    // Lengths keep the parts apart.
    for part in [kind, settings, fingerprint, env!("CARGO_PKG_VERSION")] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    StageVersion::try_new(&hasher.finalize().to_hex()[..16])
        .map_err(|error| StageError::fatal("no version").caused_by(error))
}
