//! Errors by the reaction they ask for, so that a caller knows what to do without parsing text.

use serde::{Deserialize, Serialize};

/// What the runtime does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The same call may succeed later: repeat it with backoff.
    Transient,
    /// This one record can never succeed: dead-letter it and go on.
    Record,
    /// Nothing after this can succeed: stop without committing, and be restarted or fixed.
    Fatal,
}

impl ErrorClass {
    /// Names the class as it stands in the `driftline-error-class` header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Record => "record",
            Self::Fatal => "fatal",
        }
    }
}
