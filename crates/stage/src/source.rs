//! Where records enter a pipeline.

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use driftline_types::{Injections, Key, Parameter, Timestamp, config::ConfigProblem};
use serde::de::DeserializeOwned;

use crate::{Payload, StageError, StateChange};

/// Reads the outside world. Its progress is keyed state, written with the records it describes, so
/// that an interrupted run goes on where it stopped.
pub trait Source: Send + 'static {
    /// What it writes.
    type Output: Payload;

    /// Takes back the progress of an earlier run, before the first read.
    ///
    /// # Errors
    /// If an entry cannot be read.
    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError>;

    /// Reads some records, a few hundred at most. It may block on files, never to wait for time or
    /// for new input: that is what the status is for.
    ///
    /// # Errors
    /// By [`StageError::class`]; a bad input goes to [`SourceBatch::reject`] and the rest goes on.
    fn read(&mut self, out: &mut SourceBatch<Self::Output>) -> Result<SourceStatus, StageError>;
}

/// What a source wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// Read again at once.
    More,
    /// Read again after this long.
    Wait(Duration),
    /// Nothing will ever come: the pipeline drains and the run ends.
    End,
}

/// A kind of source as named in TOML.
pub trait SourceKind: Source + Sized {
    /// The name in `kind = "…"`.
    const KIND: &'static str;
    /// Config keys that hold paths; the words `builtin` and `-` stand for themselves.
    const PATHS: &'static [&'static str] = &[];
    /// What may be injected; read by [`SourceBatch::parameter`].
    const PARAMETERS: &'static [&'static Parameter] = &[];
    /// The config table; `deny_unknown_fields`. Its `Debug` is part of the version, so all that decides on outputs is in it.
    type Config: DeserializeOwned + Debug;

    /// Returns the event time at which its records begin, if the config says it. Times of injections are relative to it.
    fn start(config: &Self::Config) -> Option<Timestamp> {
        let _ = config;
        None
    }

    /// Finds what is wrong with a config beyond its types.
    fn check(config: &Self::Config) -> Vec<ConfigProblem> {
        let _ = config;
        Vec::new()
    }

    /// Opens the source. With `follow` it waits for new input where it would end.
    ///
    /// # Errors
    /// If the input cannot be reached.
    fn open(config: Self::Config, follow: bool) -> Result<Self, StageError>;
}

/// Takes what a source reads.
pub struct SourceBatch<T> {
    pub(crate) outputs: Vec<(Key, Timestamp, T)>,
    pub(crate) rejected: Vec<Rejected>,
    pub(crate) state: Vec<StateChange>,
    injections: Injections,
}

/// Input that is no record, kept byte for byte.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// What names the input, such as the path of a file.
    pub key: Key,
    /// The input's bytes, whole unless they exceed what a message may hold.
    pub value: Bytes,
    /// What was found and what is allowed.
    pub reason: String,
}

impl<T: Payload> SourceBatch<T> {
    /// Makes an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::with_injections(Injections::default())
    }

    /// Makes an empty batch for a source into which something is injected.
    #[must_use]
    pub fn with_injections(injections: Injections) -> Self {
        Self { outputs: Vec::new(), rejected: Vec::new(), state: Vec::new(), injections }
    }

    /// Returns the value of a parameter of this source at a time: what is injected, or its neutral value.
    #[must_use]
    pub fn parameter(&self, parameter: &Parameter, time: Timestamp) -> f64 {
        self.injections.value(parameter, time)
    }

    /// Emits a record.
    pub fn emit(&mut self, key: Key, event_time: Timestamp, value: T) {
        self.outputs.push((key, event_time, value));
    }

    /// Sends input that is no record to the source's dead-letter topic.
    pub fn reject(&mut self, key: Key, value: impl Into<Bytes>, reason: impl Into<String>) {
        self.rejected.push(Rejected { key, value: value.into(), reason: reason.into() });
    }

    /// Writes an entry of the source's progress.
    pub fn put_state(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.state.push(StateChange { key: key.into(), value: Some(value.into()) });
    }

    /// Removes an entry of the source's progress.
    pub fn delete_state(&mut self, key: impl Into<Bytes>) {
        self.state.push(StateChange { key: key.into(), value: None });
    }

    /// Returns the number of records emitted so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    /// Returns whether nothing was emitted, rejected or noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.rejected.is_empty() && self.state.is_empty()
    }

    /// Returns the emitted records: for tests of sources.
    #[must_use]
    pub fn records(&self) -> &[(Key, Timestamp, T)] {
        &self.outputs
    }

    /// Returns the rejected inputs: for tests of sources.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Returns the changes of progress: for tests of sources.
    #[must_use]
    pub fn state(&self) -> &[StateChange] {
        &self.state
    }
}

impl<T: Payload> Default for SourceBatch<T> {
    fn default() -> Self {
        Self::new()
    }
}
