//! A row of a log, and the event that it tells of.

use driftline_payloads::{ClickEvent, ClickKind};
use driftline_stage::{Timestamp, config::did_you_mean};
use serde_json::Value;

use super::EventFilesConfig;

/// Numbers below are seconds, from here on milliseconds: 1973 in milliseconds, 5138 in seconds.
const SECONDS: i64 = 100_000_000_000;
/// Longest word that is compared with those allowed, bytes.
const MAX_WORD: usize = 20;
/// Most characters of a word that is repeated.
const MAX_SHOWN: usize = 64;

/// What is wrong with a row: where, what was found, what is allowed.
pub(super) type Wrong = (String, String, String);

/// A row.
pub(super) enum Row<'a> {
    /// Of CSV, with the names of its columns.
    Csv { header: &'a [String], fields: Vec<String> },
    /// An object; a member of a member is named with dots, which a member's own name may have too.
    Object(Value),
}

impl<'a> Row<'a> {
    /// Reads a line of CSV with these columns.
    pub(super) fn csv(line: &[u8], header: &'a [String]) -> Result<Self, Wrong> {
        let fields = fields(text(line)?).ok_or_else(|| wrong("line", "no CSV", "a row of CSV"))?;
        if fields.len() != header.len() {
            return Err(wrong("line", &format!("{} fields", fields.len()), &header.len().to_string()));
        }
        Ok(Self::Csv { header, fields })
    }

    /// Reads a line of JSON.
    pub(super) fn json(line: &[u8]) -> Result<Self, Wrong> {
        match serde_json::from_str(text(line)?) {
            Ok(value @ Value::Object(_)) => Ok(Self::Object(value)),
            Ok(_) => Err(wrong("line", "JSON that is no object", "a JSON object")),
            Err(error) => Err(wrong("line", &format!("no JSON at column {}", error.column()), "a JSON object")),
        }
    }

    /// Returns what stands in a column; nothing for what is empty or null.
    fn get(&self, name: &str) -> Option<String> {
        let text = match self {
            Self::Csv { header, fields } => fields.get(header.iter().position(|column| column == name)?)?.clone(),
            Self::Object(value) => {
                let within = || name.split('.').try_fold(value, |value, name| value.get(name));
                match value.get(name).or_else(within)? {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => return None,
                }
            }
        };
        Some(text).filter(|text| !text.is_empty())
    }

    /// Returns the event that stands in the columns.
    pub(super) fn event(&self, config: &EventFilesConfig) -> Result<ClickEvent, Wrong> {
        let columns = &config.columns;
        let needed = |name: &str| self.get(name).ok_or_else(|| wrong(name, "nothing", "a text or a number"));
        let word = needed(&columns.kind)?;
        let known = config.kinds.get(&word).copied().or_else(|| ClickKind::named(&word)).ok_or_else(|| {
            let mut names: Vec<&str> = config.kinds.keys().map(String::as_str).collect();
            names.extend(ClickKind::ALL.map(ClickKind::name));
            let mut allowed = names.join(", ");
            let meant = if word.len() <= MAX_WORD { did_you_mean(&word, names) } else { None };
            if let Some(meant) = meant {
                allowed.push_str(&format!(" (did you mean {meant:?}?)"));
            }
            let shown: String = word.chars().take(MAX_SHOWN).collect();
            wrong(&columns.kind, &format!("{shown:?}"), &allowed)
        })?;
        let time = needed(&columns.time)?;
        let time_ms = parse_time(&time).ok_or_else(|| {
            wrong(
                &columns.time,
                "no time",
                "RFC 3339, \"2019-10-01 00:00:00\" with or without UTC, a date, or a number since 1970",
            )
        })?;
        let (product, category) = (self.get(&columns.product), self.get(&columns.category));
        let event = ClickEvent::try_new(needed(&columns.user)?, known, product, category, time_ms);
        // The event's fields by the names that they have in the file.
        event.map_err(|error| match error.place.as_str() {
            "user" => (columns.user.clone(), error.found, error.allowed),
            "product" => (columns.product.clone(), error.found, error.allowed),
            "category" => (columns.category.clone(), error.found, error.allowed),
            _ => wrong(&columns.time, &time, "a time in the years 2000 to 2099"),
        })
    }
}

fn wrong(place: &str, found: &str, allowed: &str) -> Wrong {
    (place.to_owned(), found.to_owned(), allowed.to_owned())
}

fn text(line: &[u8]) -> Result<&str, Wrong> {
    let text = std::str::from_utf8(line).map_err(|_| wrong("line", "bytes that are no UTF-8", "text"))?;
    Ok(text.trim_start_matches('\u{feff}').trim_end_matches('\r'))
}

/// Splits a row of CSV (RFC 4180).
pub(super) fn fields(line: &str) -> Option<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(line.len().max(1))
        .from_reader(line.trim_end_matches('\r').as_bytes());
    let mut record = csv::StringRecord::new();
    let read = reader.read_record(&mut record).ok()?;
    read.then(|| record.iter().map(str::to_owned).collect())
}

/// Reads a time as milliseconds since 1970; one without a zone is in UTC, and a date is its first moment.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return if number.abs() < SECONDS { number.checked_mul(1_000) } else { Some(number) };
    }
    if let Ok(number) = text.parse::<f64>() {
        let millis = if number.abs() < SECONDS as f64 { number * 1_000.0 } else { number };
        return millis.is_finite().then(|| millis.round() as i64);
    }
    let time = Timestamp::parse(text).or_else(|| {
        let text = text.strip_suffix(" UTC").unwrap_or(text);
        let (date, clock) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
        Timestamp::parse(&format!("{date}T{clock}Z"))
    });
    time.map(Timestamp::as_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_logs_write_them() {
        let november = Some(1_572_566_400_000);
        for text in [
            "1572566400",
            "1572566400000",
            "1572566400.000",
            "1572566400000.4",
            "2019-11-01T00:00:00Z",
            "2019-11-01T00:00:00",
            "2019-11-01 00:00:00.000",
            "2019-11-01 00:00:00 UTC",
            "2019-11-01T01:00:00+01:00",
            "2019-11-01",
        ] {
            assert_eq!(parse_time(text), november, "{text}");
        }
        assert_eq!(parse_time("1572566400.1236"), Some(1_572_566_400_124));
        for text in ["yesterday", "nan", "inf", "2019-11-31", "2019-11-01T", "T", ""] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
