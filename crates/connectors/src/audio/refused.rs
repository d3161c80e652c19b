//! Why a recording is refused.

use std::fmt;

/// A recording, or a place in it, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    place: String,
    found: String,
    allowed: String,
}

impl Refused {
    /// Names the place in the recording, what was found there and what is allowed.
    pub(crate) fn new(place: impl Into<String>, found: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { place: place.into(), found: found.into(), allowed: allowed.into() }
    }
}

/// `place: found …, allowed …`.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, allowed {}", self.place, self.found, self.allowed)
    }
}
