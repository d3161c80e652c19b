//! The words every crate shares: records, ids, names, event time and the error class.
//!
//! Nothing here does I/O or knows a clock. A [`Message`] is what a broker carries (bytes and
//! headers); a [`Record`] is what a stage sees (a typed value and its [`Context`]). [`wire`] maps
//! one to the other: `CloudEvents` 1.0 in Kafka's binary mode, W3C trace context, and the
//! `driftline-*` headers. [`config`] reads TOML tables and reports every problem of one at once.

pub mod config;
mod error;
mod headers;
mod injection;
mod message;
mod name;
mod record;
mod text;
mod time;
pub mod wire;

pub use error::ErrorClass;
pub use headers::{HeaderWriter, Headers};
pub use injection::{Injection, Injections, Parameter};
pub use message::{Message, Offset, Outgoing, Partition, TopicPartition};
pub use name::{GroupId, NameError, PipelineName, SchemaId, StageName, StageVersion, Topic};
pub use record::{Code, Context, Key, Probe, Record, RecordId, Timing, TraceContext};
pub use text::{counted, visible};
pub use time::Timestamp;
