//! Where records leave a pipeline.

use driftline_types::{Message, config::ConfigProblem};
use serde::de::DeserializeOwned;

use crate::StageError;

/// Writes to the outside world. The runtime commits offsets after [`Sink::flush`], together with
/// the note it returns, so that a sink that can cut off what was not committed writes each record
/// exactly once.
pub trait Sink: Send + 'static {
    /// Goes on from the note of the last commit, before the first write; `None` at the very start.
    /// What was written after that note is written again: cut it off.
    ///
    /// # Errors
    /// If the target cannot be reached or is not what the note describes.
    fn resume(&mut self, note: Option<&str>) -> Result<(), StageError>;

    /// Writes records, in offset order within each partition.
    ///
    /// # Errors
    /// By [`StageError::class`]. [`StageError::record`] says that one of the records is bad and that none of them was
    /// written: the runtime writes the others and makes a dead letter of that one.
    fn write(&mut self, records: &[Message]) -> Result<(), StageError>;

    /// Hands everything written to the target and returns a note for [`Sink::resume`].
    ///
    /// # Errors
    /// By [`StageError::class`].
    fn flush(&mut self) -> Result<Option<String>, StageError>;
}

/// A kind of sink as named in TOML.
pub trait SinkKind: Sink + Sized {
    /// The name in `kind = "…"`.
    const KIND: &'static str;
    /// The media type of the records it takes, as in [`Payload::CONTENT_TYPE`](crate::Payload::CONTENT_TYPE); `None`
    /// takes any. Edges of the graph are checked on it.
    const CONTENT_TYPE: Option<&'static str> = None;
    /// Config keys that hold paths; the words `builtin` and `-` stand for themselves.
    const PATHS: &'static [&'static str] = &[];
    /// The config table; `deny_unknown_fields`.
    type Config: DeserializeOwned;

    /// Finds what is wrong with a config beyond its types.
    fn check(config: &Self::Config) -> Vec<ConfigProblem> {
        let _ = config;
        Vec::new()
    }

    /// Opens the sink.
    ///
    /// # Errors
    /// If the target cannot be reached.
    fn open(config: Self::Config) -> Result<Self, StageError>;
}
