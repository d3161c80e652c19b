//! What a stage author sees: stages, payloads, signals, the emitter and the registry.
//!
//! A stage is a payload type, a config struct and [`Stage::process`]. Serving, metrics, profiles,
//! retries, dead letters, batching and offsets happen outside, for every stage alike: an
//! [`Operator`](operator::Operator) wraps the typed stage once, decodes what comes in, observes it,
//! calls the stage, observes what goes out and encodes it. A stage cannot forget to be observed.
//!
//! Sources and sinks are the same idea at the ends of the graph: [`Source`] and [`Sink`].

mod emitter;
mod error;
pub mod operator;
mod payload;
mod probe;
mod registry;
mod sink;
mod source;
mod stage;

pub use driftline_stats::{Scale, Signal, SignalKind, SignalVisitor};
pub use driftline_types::{
    Context, Injections, Key, Parameter, Probe, Record, RecordId, SchemaId, Timestamp,
    config::{self, Checks, ConfigProblem},
};
pub use emitter::{Emitter, FLUSHED, Held, Sender, StateChange};
pub use error::{CodecError, StageError};
pub use payload::Payload;
pub use registry::{OpenSource, OpenStage, Registry, ShowSignals, SinkDef, SourceDef, StageDef};
pub use sink::{Sink, SinkKind};
pub use source::{Rejected, Source, SourceBatch, SourceKind, SourceStatus};
pub use stage::{Stage, StageKind};
