//! Errors of payloads and stages.

use driftline_types::ErrorClass;

/// Bytes that are no value of a payload, or a value without an encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: found {found}, allowed {allowed}")]
pub struct CodecError {
    /// The field or place in the bytes.
    pub place: String,
    /// What stands there. Never the content of a recording, transcript or key.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

impl CodecError {
    /// Names the place, what was found there and what is allowed.
    #[must_use]
    pub fn new(place: impl Into<String>, found: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { place: place.into(), found: found.into(), allowed: allowed.into() }
    }
}

/// A source, stage or sink that failed, with the reaction it asks for.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StageError {
    class: ErrorClass,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StageError {
    /// Makes an error that may go away when the call is repeated.
    #[must_use]
    pub fn transient(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Transient, message: message.into(), source: None }
    }

    /// Makes an error caused by a record of the batch: the runtime finds it and dead-letters it.
    #[must_use]
    pub fn record(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Record, message: message.into(), source: None }
    }

    /// Makes an error after which nothing can succeed.
    #[must_use]
    pub fn fatal(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Fatal, message: message.into(), source: None }
    }

    /// Adds the error below. The message does not repeat it: whoever reports an error adds its causes.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns what to do about the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}
