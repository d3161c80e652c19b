//! Event time.
//!
//! Its text stands in a header of every record, so that times of four-digit years, as [`Timestamp`] writes them, are written and
//! read here by integer arithmetic (Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2013); jiff takes care of all others.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

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

    /// Returns the time of the wall clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
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
        utc(text.as_bytes()).or_else(|| {
            let time: jiff::Timestamp = text.parse().ok()?;
            Some(Self(time.as_millisecond()))
        })
    }
}

const DAY: i64 = 86_400_000;
/// The first moment of the year 0 and of the year 10,000, in milliseconds.
const YEARS: std::ops::Range<i64> = -719_528 * DAY..2_932_897 * DAY;
/// Days of 400 years, and from 1 March of the year 0 to the epoch.
const ERA: i64 = 146_097;
const EPOCH: i64 = 719_468;

/// Returns the days since the epoch of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin with March, so that the day that may be missing is the last one.
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH
}

/// Returns year, month and day of the days since the epoch.
fn date(days: i64) -> (i64, i64, i64) {
    let (era, of_era) = ((days + EPOCH).div_euclid(ERA), (days + EPOCH).rem_euclid(ERA));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// Reads a time such as `2025-10-09T08:53:20.123Z`, with none to three digits after the second; `None` for any other.
fn utc(text: &[u8]) -> Option<Timestamp> {
    let (start, rest) = text.split_first_chunk::<19>()?;
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0')))
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|&(at, mark)| start[at] != mark) {
        return None;
    }
    let (year, month, day) = (number(&start[..4])?, number(&start[5..7])?, number(&start[8..10])?);
    let (hour, minute, second) = (number(&start[11..13])?, number(&start[14..16])?, number(&start[17..])?);
    let millis = match rest {
        [b'Z'] => 0,
        [b'.', fraction @ .., b'Z'] if (1..=3).contains(&fraction.len()) => {
            number(fraction)? * [100, 10, 1][fraction.len() - 1]
        }
        _ => return None,
    };
    let days = days(year, month, day);
    let valid =
        (1..=12).contains(&month) && date(days) == (year, month, day) && hour < 24 && minute < 60 && second < 60;
    valid.then(|| Timestamp(days * DAY + ((hour * 60 + minute) * 60 + second) * 1_000 + millis))
}

/// RFC 3339 in UTC, as in the `ce_time` header; plain milliseconds beyond the year 9999.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !YEARS.contains(&self.0) {
            return match jiff::Timestamp::from_millisecond(self.0) {
                Ok(time) => fmt::Display::fmt(&time, f),
                Err(_) => write!(f, "{}", self.0),
            };
        }
        let (year, month, day) = date(self.0.div_euclid(DAY));
        let millis = self.0.rem_euclid(DAY);
        let (seconds, millis) = (millis / 1_000, millis % 1_000);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |end: usize, digits: usize, mut number: i64| {
            for digit in text[end - digits..end].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(4, 4, year);
        put(7, 2, month);
        put(10, 2, day);
        put(13, 2, seconds / 3_600);
        put(16, 2, seconds / 60 % 60);
        put(19, 2, seconds % 60);
        put(23, 3, millis);
        // Without zeros at the end.
        let length = match millis {
            0 => 19,
            _ if millis % 100 == 0 => 21,
            _ if millis % 10 == 0 => 22,
            _ => 23,
        };
        text[length] = b'Z';
        f.write_str(std::str::from_utf8(&text[..=length]).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn other_forms_of_a_time_are_read_too() {
        let time = Timestamp(1_760_000_000_123);
        for text in ["2025-10-09T08:53:20.123Z", "2025-10-09T10:53:20.123+02:00", "2025-10-09t08:53:20.123456z"] {
            assert_eq!(Timestamp::parse(text), Some(time), "{text}");
        }
        for text in
            ["2025-02-29T00:00:00Z", "2025-13-01T00:00:00Z", "2025-10-09T24:00:00Z", "2025-10-09T08:53:20.Z", ""]
        {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_is_jiffs(millis in prop_oneof![YEARS, any::<i64>(), (YEARS.start / 1_000..YEARS.end / 1_000).prop_map(|s| s * 1_000)]) {
            let time = Timestamp(millis);
            let text = time.to_string();
            if let Ok(jiff) = jiff::Timestamp::from_millisecond(millis) {
                prop_assert_eq!(&text, &jiff.to_string());
                prop_assert_eq!(Timestamp::parse(&text), Some(time));
            } else {
                prop_assert_eq!(text, millis.to_string());
            }
        }

        /// What is read here, jiff reads as the same.
        #[test]
        fn times_that_are_nearly_right_are_jiffs(text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,4})?Z") {
            let jiffs = text.parse::<jiff::Timestamp>().ok().map(|time| Timestamp(time.as_millisecond()));
            prop_assert_eq!(Timestamp::parse(&text), jiffs);
        }
    }
}
