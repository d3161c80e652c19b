//! The source `event-files`: logs of real shops, CSV or JSON Lines.
//!
//! ```toml
//! [sources.log]
//! kind = "event-files"
//! path = "2019-Oct.csv"              # .csv, .jsonl or .ndjson
//! columns = { user = "user_id", kind = "event_type", product = "product_id", category = "category_code", time = "event_time" }
//! kinds = { cart = "add-to-cart", purchase = "buy" }   # words of the log that are not ours
//! ```
//!
//! A column is the header's name in CSV, the way to a member with dots in JSON. A time is RFC 3339,
//! `2019-10-01 00:00:00 UTC`, or a number: of milliseconds since 1970, or of seconds if it is below
//! 100,000,000,000. A row is a line: a quoted field has no line break in it.
//!
//! A line that is no event goes to the dead letters as it stands, with file, line, column, what was
//! found and what is allowed. Progress is the place in the file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use driftline_payloads::{ClickEvent, ClickKind};
use driftline_stage::{
    Checks, ConfigProblem, Key, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jsonl::lines::{Line, MAX_LINE, read_line};

/// Lines of one read, about.
const BATCH: u64 = 256;
/// How soon new lines are looked for.
const RETRY: Duration = Duration::from_millis(20);
/// The state entry.
const PLACE: &[u8] = b"place";
/// Numbers below are seconds, from here on milliseconds: 1973 in milliseconds, 5138 in seconds.
const SECONDS: i64 = 100_000_000_000;

/// The config table of the source `event-files`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilesConfig {
    /// The file.
    pub path: String,
    /// Where the fields of an event stand.
    #[serde(default)]
    pub columns: Columns,
    /// What the log's words for kinds mean.
    #[serde(default)]
    pub kinds: BTreeMap<String, ClickKind>,
}

/// Where the fields of an event stand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The user.
    pub user: String,
    /// The kind of event.
    pub kind: String,
    /// The product; may be missing.
    pub product: String,
    /// The category; may be missing.
    pub category: String,
    /// The time.
    pub time: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [user, kind, product, category, time] =
            ["user", "kind", "product", "category", "time_ms"].map(str::to_owned);
        Self { user, kind, product, category, time }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv,
    JsonLines,
}

impl Format {
    fn of(path: &str) -> Option<Self> {
        match Path::new(path).extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// The source `event-files`.
pub struct EventFiles {
    config: EventFilesConfig,
    follow: bool,
    format: Format,
    file: BufReader<File>,
    /// The names of a CSV's columns, once they are read.
    header: Option<Vec<String>>,
    place: Place,
}

/// The next line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Bytes before it.
    bytes: u64,
    /// Lines before it.
    lines: u64,
}

/// What is wrong with a line: where, what was found, what is allowed.
type Wrong = (String, String, String);

impl SourceKind for EventFiles {
    const KIND: &'static str = "event-files";
    const PATHS: &'static [&'static str] = &["path"];
    type Config = EventFilesConfig;

    fn check(config: &EventFilesConfig) -> Vec<ConfigProblem> {
        let EventFilesConfig { path, columns: Columns { user, kind, product, category, time }, .. } = config;
        let mut checks = Checks::default();
        let named = "a file named .csv, .jsonl or .ndjson";
        checks.expect(Format::of(path).is_some(), "path", format_args!("{path:?}"), named);
        let names = [("user", user), ("kind", kind), ("product", product), ("category", category), ("time", time)];
        for (key, name) in names {
            checks.expect(!name.is_empty(), &format!("columns.{key}"), "\"\"", "the name of a column");
        }
        checks.problems()
    }

    fn open(config: EventFilesConfig, follow: bool) -> Result<Self, StageError> {
        let unreadable = || StageError::fatal(format!("path: {:?} cannot be read", config.path));
        let format = Format::of(&config.path).ok_or_else(unreadable)?;
        let file = File::open(&config.path).map_err(|error| unreadable().caused_by(error))?;
        Ok(Self { follow, format, file: BufReader::new(file), header: None, place: Place::default(), config })
    }
}

impl Source for EventFiles {
    type Output = ClickEvent;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let place = (key == PLACE).then(|| serde_json::from_slice(&value).ok()).flatten();
            self.place = place.ok_or_else(|| StageError::fatal("the state of an event-files source is damaged"))?;
        }
        let length = self.file.get_ref().metadata().map_or(0, |metadata| metadata.len());
        let (path, bytes) = (&self.config.path, self.place.bytes);
        if length < bytes {
            let message =
                format!("{path}: found {length} bytes, allowed are at least the {bytes} that were read before");
            return Err(StageError::fatal(message));
        }
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<ClickEvent>) -> Result<SourceStatus, StageError> {
        let unreadable =
            |path: &str, error: io::Error| StageError::transient(format!("{path}: cannot be read")).caused_by(error);
        let path = self.config.path.clone();
        let first = self.place;
        let mut status = SourceStatus::More;
        if self.format == Format::Csv && self.header.is_none() {
            self.file.rewind().map_err(|error| unreadable(&path, error))?;
            let (line, taken) = read_line(&mut self.file).map_err(|error| unreadable(&path, error))?;
            match line {
                Line::Whole(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let header = fields(text.trim_start_matches('\u{feff}')).unwrap_or_default();
                    self.check_header(&header)?;
                    self.header = Some(header);
                }
                _ if self.follow => return Ok(SourceStatus::Wait(RETRY)),
                _ => return Err(StageError::fatal(format!("{path}:1: found no header, allowed is a line of names"))),
            }
            if self.place.bytes == 0 {
                self.place = Place { bytes: taken, lines: 1 };
            }
        }
        self.file.seek(SeekFrom::Start(self.place.bytes)).map_err(|error| unreadable(&path, error))?;
        while self.place.lines - first.lines < BATCH {
            let (line, taken) = read_line(&mut self.file).map_err(|error| unreadable(&path, error))?;
            // A line whose end is still to be written is read again, whole.
            if self.follow && matches!(line, Line::End | Line::Unended(_)) {
                status = SourceStatus::Wait(RETRY);
                break;
            }
            if line == Line::End {
                status = SourceStatus::End;
                break;
            }
            self.place.bytes += taken;
            self.place.lines += 1;
            self.take(line, out);
        }
        if self.place != first {
            let place = serde_json::to_vec(&self.place);
            out.put_state(PLACE, place.map_err(|error| StageError::fatal("state has no encoding").caused_by(error))?);
        }
        Ok(status)
    }
}

impl EventFiles {
    /// Checks that the columns that every event has are there.
    fn check_header(&self, header: &[String]) -> Result<(), StageError> {
        let Columns { user, kind, time, .. } = &self.config.columns;
        for (key, name) in [("user", user), ("kind", kind), ("time", time)] {
            if !header.contains(name) {
                let path = &self.config.path;
                let message =
                    format!("{path}:1: columns.{key}: found no column {name:?}, allowed are {}", header.join(", "));
                return Err(StageError::fatal(message));
            }
        }
        Ok(())
    }

    /// Makes a record of a line, or a dead letter.
    fn take(&self, line: Line, out: &mut SourceBatch<ClickEvent>) {
        let (bytes, event) = match line {
            Line::End => return,
            Line::TooLong(bytes, length) => {
                let found = format!("{length} bytes, of which {MAX_LINE} are kept");
                (bytes, Err(("line".to_owned(), found, format!("at most {MAX_LINE} bytes"))))
            }
            Line::Whole(bytes) | Line::Unended(bytes) => {
                if bytes.trim_ascii().is_empty() {
                    return;
                }
                let event = self.event(&bytes);
                (bytes, event)
            }
        };
        match event {
            Ok(event) => out.emit(Key::new(event.user.clone()), Timestamp::from_millis(event.time_ms), event),
            Err((column, found, allowed)) => {
                let place = format!("{}:{}", self.config.path, self.place.lines);
                out.reject(
                    Key::new(place.clone()),
                    bytes,
                    format!("{place}: {column}: found {found}, allowed {allowed}"),
                );
            }
        }
    }

    fn event(&self, bytes: &[u8]) -> Result<ClickEvent, Wrong> {
        let wrong =
            |column: &str, found: &str, allowed: &str| (column.to_owned(), found.to_owned(), allowed.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("line", "bytes that are no UTF-8", "text"))?;
        let text = text.trim_start_matches('\u{feff}').trim_end_matches('\r');
        let row = match (self.format, &self.header) {
            (Format::Csv, Some(header)) => {
                let fields = fields(text).ok_or_else(|| wrong("line", "no CSV", "a row of CSV"))?;
                if fields.len() != header.len() {
                    let (found, allowed) = (format!("{} fields", fields.len()), format!("{}", header.len()));
                    return Err(wrong("line", &found, &allowed));
                }
                Row::Csv { header, fields }
            }
            _ => match serde_json::from_str(text) {
                Ok(value @ Value::Object(_)) => Row::Json(value),
                Ok(_) => return Err(wrong("line", "JSON that is no object", "a JSON object")),
                Err(error) => {
                    return Err(wrong("line", &format!("no JSON at column {}", error.column()), "a JSON object"));
                }
            },
        };
        let Columns { user, kind, product, category, time } = &self.config.columns;
        let needed = |name: &str| row.get(name).ok_or_else(|| wrong(name, "nothing", "a text or a number"));
        let word = needed(kind)?;
        let known = self.config.kinds.get(&word).copied().or_else(|| ClickKind::named(&word));
        let known = known.ok_or_else(|| {
            let mut names: Vec<&str> = self.config.kinds.keys().map(String::as_str).collect();
            names.extend(ClickKind::ALL.map(ClickKind::name));
            wrong(kind, "another word", &names.join(", "))
        })?;
        let time_ms = parse_time(&needed(time)?)
            .ok_or_else(|| wrong(time, "no time", "RFC 3339, \"2019-10-01 00:00:00 UTC\", or a number since 1970"))?;
        ClickEvent::try_new(needed(user)?, known, row.get(product), row.get(category), time_ms)
            .map_err(|error| (error.place, error.found, error.allowed))
    }
}

enum Row<'a> {
    Csv { header: &'a [String], fields: Vec<String> },
    Json(Value),
}

impl Row<'_> {
    /// Returns what stands in a column; nothing for what is empty or null.
    fn get(&self, name: &str) -> Option<String> {
        let text = match self {
            Self::Csv { header, fields } => fields.get(header.iter().position(|column| column == name)?)?.clone(),
            Self::Json(value) => match name.split('.').try_fold(value, |value, name| value.get(name))? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            },
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Splits a row of CSV (RFC 4180).
fn fields(line: &str) -> Option<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(line.len().max(1))
        .from_reader(line.trim_end_matches('\r').as_bytes());
    let mut record = csv::StringRecord::new();
    let read = reader.read_record(&mut record).ok()?;
    read.then(|| record.iter().map(str::to_owned).collect())
}

fn parse_time(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return if number.abs() < SECONDS { number.checked_mul(1_000) } else { Some(number) };
    }
    let time = Timestamp::parse(text).or_else(|| {
        let (date, clock) = text.strip_suffix(" UTC").unwrap_or(text).split_once(' ')?;
        Timestamp::parse(&format!("{date}T{clock}Z"))
    });
    time.map(Timestamp::as_millis)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use driftline_stage::StateChange;

    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn config(path: &Path, more: &str) -> EventFilesConfig {
        toml::from_str(&format!("path = {:?}\n{more}", path.to_str().unwrap())).unwrap()
    }

    /// Reads to the end, a new source after every read; gives events and reasons.
    fn read(config: &EventFilesConfig) -> (Vec<ClickEvent>, Vec<String>) {
        let (mut events, mut reasons, mut state) = (Vec::new(), Vec::new(), Vec::<StateChange>::new());
        loop {
            let mut source = EventFiles::open(config.clone(), false).unwrap();
            let entry = |change: &StateChange| (change.key.clone(), change.value.clone().unwrap());
            source.restore(state.iter().map(entry).collect()).unwrap();
            let mut batch = SourceBatch::new();
            let status = source.read(&mut batch).unwrap();
            events.extend(batch.records().iter().map(|record| record.2.clone()));
            reasons
                .extend(batch.rejected().iter().map(|rejected| rejected.reason.rsplit('/').next().unwrap().to_owned()));
            state = batch.state().to_vec();
            if status == SourceStatus::End {
                return (events, reasons);
            }
        }
    }

    const SHOP: &str = r#"
        columns = { user = "user_id", kind = "event_type", product = "product_id", category = "category_code", time = "event_time" }
        kinds = { cart = "add-to-cart", purchase = "buy" }
    "#;

    #[test]
    fn a_log_in_csv_is_read_and_bad_rows_say_why() {
        let text = "event_time,event_type,product_id,category_code,price,user_id\r\n\
            2019-10-01 00:00:00 UTC,view,44600062,\"beauty,skin\",35.79,541312140\r\n\
            2019-10-01T00:00:01Z,cart,1,,1.0,7\r\n\
            \r\n\
            1569888002,purchase,1,auto,1.0,7\r\n\
            yesterday,view,1,auto,1.0,7\r\n\
            1569888003,look,1,auto,1.0,7\r\n\
            1569888004,view,1,auto,1.0\r\n\
            1569888005,view,1,auto,1.0,\r\n\
            1569888006000,view,,,1.0,8";
        let (_folder, path) = file("log.csv", text);
        let (events, reasons) = read(&config(&path, SHOP));
        let event = |kind, product: &str, category: &str, time_ms, user: &str| {
            let (product, category) = (Some(product.to_owned()), Some(category.to_owned()));
            ClickEvent::try_new(user.to_owned(), kind, product, category, time_ms).unwrap()
        };
        let expected = [
            event(ClickKind::View, "44600062", "beauty,skin", 1_569_888_000_000, "541312140"),
            event(ClickKind::AddToCart, "1", "", 1_569_888_001_000, "7"),
            event(ClickKind::Buy, "1", "auto", 1_569_888_002_000, "7"),
            event(ClickKind::View, "", "", 1_569_888_006_000, "8"),
        ];
        assert_eq!(events, expected);
        let expected = [
            "log.csv:6: event_time: found no time, allowed RFC 3339, \"2019-10-01 00:00:00 UTC\", or a number since 1970",
            "log.csv:7: event_type: found another word, allowed cart, purchase, visit, search, view, add-to-cart, buy, erase",
            "log.csv:8: line: found 5 fields, allowed 6",
            "log.csv:9: user_id: found nothing, allowed a text or a number",
        ];
        assert_eq!(reasons, expected);
    }

    #[test]
    fn json_lines_are_read_across_interruptions() {
        let line = |n: u32| {
            format!("{{\"who\":{{\"id\":{n}}},\"kind\":\"view\",\"product\":\"p\",\"time_ms\":1600000000000}}\n")
        };
        let text: String = (0..700).map(line).chain(["[1]\n".to_owned(), "{\"a\"\n".to_owned()]).collect();
        let (_folder, path) = file("log.jsonl", &text);
        let (events, reasons) = read(&config(&path, "columns = { user = \"who.id\" }"));
        let users: Vec<u32> = events.iter().map(|event| event.user.parse().unwrap()).collect();
        assert_eq!(users, (0..700).collect::<Vec<_>>());
        assert_eq!(reasons.len(), 2);
        assert!(reasons[0].contains(":701: line: found JSON that is no object, allowed a JSON object"), "{reasons:?}");
    }

    #[test]
    fn a_header_without_a_needed_column_is_an_error() {
        let (_folder, path) = file("log.csv", "user,product\n1,2\n");
        let mut source = EventFiles::open(config(&path, ""), false).unwrap();
        let error = source.read(&mut SourceBatch::new()).unwrap_err().to_string();
        assert!(error.ends_with("columns.kind: found no column \"kind\", allowed are user, product"), "{error}");
    }

    #[test]
    fn another_suffix_is_refused() {
        let problems = EventFiles::check(&config(Path::new("log.xml"), ""));
        assert_eq!(problems[0].path, ["path"]);
    }
}
