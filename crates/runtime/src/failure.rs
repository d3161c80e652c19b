//! Why a batch was not committed, and in which words.

use driftline_broker::BrokerError;
use driftline_stage::StageError;
use driftline_types::ErrorClass;

/// Why a batch was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Transient(String),
    #[error("{0}")]
    Record(String),
    #[error("{0}")]
    Fatal(String),
    #[error("{0}")]
    Broker(String),
    #[error("the partition was taken over by another member")]
    Fenced,
}

impl Failure {
    pub(crate) fn of(error: &StageError) -> Self {
        let text = with_causes(error);
        match error.class() {
            ErrorClass::Transient => Self::Transient(text),
            ErrorClass::Record => Self::Record(text),
            ErrorClass::Fatal => Self::Fatal(text),
        }
    }

    pub(crate) fn of_broker(error: &BrokerError) -> Self {
        match (error, error.class()) {
            (BrokerError::Fenced { .. }, _) => Self::Fenced,
            (error, ErrorClass::Record) => Self::Record(error.to_string()),
            (error, ErrorClass::Transient) => Self::Transient(error.to_string()),
            (error, ErrorClass::Fatal) => Self::Broker(error.to_string()),
        }
    }

    /// Names the reaction, without the words.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::Record(_) => "record",
            Self::Fatal(_) => "fatal",
            Self::Broker(_) => "broker",
            Self::Fenced => "fenced",
        }
    }
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
