//! Event time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Event time: milliseconds since the Unix epoch, set at the source and never by a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes an event time from milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns this time moved by `millis`, saturating at the ends of the range.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Returns the start of the window of `width` milliseconds that holds this time; windows are
    /// aligned to the epoch. A `width` below 1 counts as 1.
    #[must_use]
    pub const fn window_start(self, width: i64) -> Self {
        let width = if width < 1 { 1 } else { width };
        Self(self.0.saturating_sub(self.0.rem_euclid(width)))
    }

    /// Parses RFC 3339; `None` if the text is no valid time.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.parse().ok()?;
        Some(Self(time.as_millisecond()))
    }
}

/// RFC 3339 in UTC, as in the `ce_time` header; plain milliseconds beyond the year 9999.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => fmt::Display::fmt(&time, f),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_to_the_epoch_on_both_sides() {
        assert_eq!(Timestamp(12_345).window_start(10_000), Timestamp(10_000));
        assert_eq!(Timestamp(-1).window_start(10_000), Timestamp(-10_000));
        assert_eq!(Timestamp(7).window_start(0), Timestamp(7));
    }

    #[test]
    fn text_round_trips() {
        let time = Timestamp(1_760_000_000_123);
        assert_eq!(time.to_string(), "2025-10-09T08:53:20.123Z");
        assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
