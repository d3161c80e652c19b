//! Durations and byte sizes as people write them: `"10s"`, `"64 MiB"`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in whole milliseconds, written as text with a unit: `"250ms"`, `"10s"`,
/// `"1h 30m"`, `"7d"` (a day has 24 hours).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    const ALLOWED: &str = "a duration such as \"250ms\", \"10s\", \"1h\" or \"7d\"";

    /// Returns the duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// Text that is not a duration, or not one of whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, allowed is {}", Millis::ALLOWED)]
pub struct DurationError {
    found: String,
}

impl FromStr for Millis {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let parsed = || {
            let span: jiff::Span = text.parse().ok()?;
            let nanos = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?.as_nanos();
            (nanos % 1_000_000 == 0).then(|| u64::try_from(nanos / 1_000_000).ok())?
        };
        parsed().map(Self).ok_or_else(|| DurationError { found: text.to_owned() })
    }
}

/// The largest unit that leaves no fraction: `90s`, `2m`, `250ms`.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, per) = largest_unit(self.0, &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)])
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", self.0 / per)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Millis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Millis::ALLOWED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Millis, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// A number of bytes, written as text with a unit (`"64 MiB"`, `"1.5GB"`) or as a plain number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const ALLOWED: &str = "a number of bytes, or a size such as \"512 KiB\", \"64 MiB\" or \"1 GB\"";

    /// Makes a size from mebibytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, allowed is {}", ByteSize::ALLOWED)]
pub struct SizeError {
    found: String,
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let parsed: Result<bytesize::ByteSize, _> = text.parse();
        parsed.map(|size| Self(size.as_u64())).map_err(|_| SizeError { found: text.to_owned() })
    }
}

/// The largest binary unit that leaves no fraction: `64 MiB`, `1000 B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let (unit, per) = largest_unit(self.0, &units).unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / per)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ByteSize::ALLOWED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Returns the first unit that divides the amount, which must not be 0.
fn largest_unit(amount: u64, units: &[(&'static str, u64)]) -> Option<(&'static str, u64)> {
    units.iter().copied().find(|(_, per)| amount != 0 && amount.is_multiple_of(*per))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("1.5s", 1_500),
            ("1h", 3_600_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
            ("1500us", 0),
        ] {
            let parsed = text.parse::<Millis>();
            if text.ends_with("us") {
                assert!(parsed.is_err(), "{text} is not a whole number of milliseconds");
            } else {
                assert_eq!(parsed, Ok(Millis(ms)), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_duration_says_what_is() {
        for text in ["", "10", "-1s", "1 month", "10 parsecs", "1s ago"] {
            let error = text.parse::<Millis>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("found {text:?}, allowed is a duration such as \"250ms\", \"10s\", \"1h\" or \"7d\"")
            );
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("64 MiB", 64 << 20), ("64MiB", 64 << 20), ("1 GB", 1_000_000_000), ("1.5 KiB", 1536), ("12", 12)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_what_is() {
        for text in ["", "MiB", "-1 MiB", "1 potato"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("found {text:?}, allowed is a number of bytes, or a size")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_what_it_writes(ms in 0..=u64::from(u32::MAX) * 1000) {
            prop_assert_eq!(Millis(ms).to_string().parse(), Ok(Millis(ms)));
        }

        #[test]
        fn a_size_reads_what_it_writes(bytes in 0..=1_u64 << 52) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
