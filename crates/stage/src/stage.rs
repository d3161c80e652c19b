//! Stages and their kinds.

use std::fmt::Debug;

use bytes::Bytes;
use driftline_types::{Parameter, Record, config::ConfigProblem};
use serde::de::DeserializeOwned;

use crate::{Emitter, Payload, StageError};

/// One instance per assigned partition, so state needs no locks. Runs on a compute thread, never
/// on the I/O runtime.
pub trait Stage: Send + 'static {
    /// What it reads.
    type Input: Payload;
    /// What it writes.
    type Output: Payload;

    /// Processes a batch of records of one partition, in offset order. No I/O, no clock: time
    /// comes from the records. What it does must depend on the records and the state alone, not on
    /// how they were batched, since a repeat may batch them differently.
    ///
    /// A single bad record goes to [`Emitter::reject`]; `Err` fails the batch.
    ///
    /// # Errors
    /// By [`StageError::class`]: *transient* repeats the batch, *record* makes the runtime search
    /// the batch for the record that fails, *fatal* stops the stage. The instance is not used
    /// again after an error: a new one is restored from the committed state.
    fn process(&mut self, batch: &[Record<Self::Input>], out: &mut Emitter<'_, Self::Output>)
    -> Result<(), StageError>;

    /// Emits what is buffered when the input has ended for good.
    ///
    /// # Errors
    /// As [`Stage::process`].
    fn flush(&mut self, out: &mut Emitter<'_, Self::Output>) -> Result<(), StageError> {
        let _ = out;
        Ok(())
    }

    /// Takes back the state written by [`Emitter::put_state`], before the first record.
    ///
    /// # Errors
    /// If an entry cannot be read.
    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        if entries.is_empty() {
            return Ok(());
        }
        Err(StageError::fatal("state was found for a stage that keeps none"))
    }
}

/// A kind of stage as named in TOML: its config, and what all instances in a process share.
pub trait StageKind: Sized + Send + Sync + 'static {
    /// The name in `kind = "…"`.
    const KIND: &'static str;
    /// Config keys that hold paths; the words `builtin` and `-` stand for themselves.
    const PATHS: &'static [&'static str] = &[];
    /// What may be injected; read by [`Emitter::parameter`].
    const PARAMETERS: &'static [&'static Parameter] = &[];
    /// The config table; `deny_unknown_fields`. Its `Debug` is part of the version, so all that decides on outputs is in it.
    type Config: DeserializeOwned + Debug;
    /// The stage.
    type Stage: Stage;

    /// Finds what is wrong with a config beyond its types, without loading anything large.
    fn check(config: &Self::Config) -> Vec<ConfigProblem> {
        let _ = config;
        Vec::new()
    }

    /// Loads models and whatever else the instances share. Called once a process.
    ///
    /// # Errors
    /// If a file cannot be read or is no such model.
    fn open(config: Self::Config) -> Result<Self, StageError>;

    /// Returns what tells this version of the stage from others besides its config: the hashes of
    /// its model files and data.
    fn fingerprint(&self) -> String;

    /// Makes the stage of one partition.
    fn instance(&self) -> Self::Stage;
}
