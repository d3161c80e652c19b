//! The source `event-files`: logs of real shops, CSV, JSON Lines or Parquet.
//!
//! ```toml
//! [sources.log]
//! kind = "event-files"
//! path = "2019-Oct.csv"              # .csv, .jsonl, .ndjson or .parquet
//! columns = { user = "user_id", kind = "event_type", product = "product_id", category = "category_code", time = "event_time" }
//! kinds = { cart = "add-to-cart", purchase = "buy" }   # words of the log that are not ours
//! ```
//!
//! A column is the header's name in CSV, the way to a member with dots in JSON and Parquet. A time is RFC 3339,
//! `2019-10-01 00:00:00 UTC`, a date, a Parquet timestamp, or a number: of milliseconds since 1970, or of seconds if it
//! is below 100,000,000,000, with a fraction or without. One that names no zone is in UTC. A row of CSV is a line: a
//! quoted field has no line break in it.
//!
//! The header of a CSV and the columns of a Parquet file are read when the source is opened: one that lacks a column is
//! an error, and so is a column of Parquet with a type that no field of an event has. Product and category may lack
//! where the config does not name their columns.
//! A row that is no event goes to the dead letters as it stands (one of Parquet as JSON), with file, line or row, column, what
//! was found and what is allowed. Progress is the place in the file. Parquet files do not grow: they end, with `--follow` too.

mod parquet_rows;
mod row;
#[cfg(test)]
mod tests;

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
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};

use self::{
    parquet_rows::Rows,
    row::{Row, Wrong, fields},
};
use crate::{
    files,
    jsonl::lines::{Line, MAX_LINE, read_line},
};

/// Rows of one read, about.
const BATCH: u64 = 256;
/// How soon new lines are looked for.
const RETRY: Duration = Duration::from_millis(20);
/// The state entry.
const PLACE: &[u8] = b"place";

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

impl Columns {
    /// Returns the columns by their keys.
    fn named(&self) -> [(&'static str, &String); 5] {
        let Self { user, kind, product, category, time } = self;
        [("user", user), ("kind", kind), ("product", product), ("category", category), ("time", time)]
    }
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
    Parquet,
}

impl Format {
    fn of(path: &str) -> Option<Self> {
        match Path::new(path).extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
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
    /// The rows of a Parquet file from `place` on, once it is open.
    rows: Option<Rows>,
    place: Place,
}

/// The next row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Bytes before it; 0 in Parquet.
    bytes: u64,
    /// Lines before it, or rows of Parquet.
    lines: u64,
}

impl SourceKind for EventFiles {
    const KIND: &'static str = "event-files";
    const PATHS: &'static [&'static str] = &["path"];
    type Config = EventFilesConfig;

    fn check(config: &EventFilesConfig) -> Vec<ConfigProblem> {
        let EventFilesConfig { path, columns, .. } = config;
        let mut checks = Checks::default();
        let named = "a file named .csv, .jsonl, .ndjson or .parquet";
        checks.expect(Format::of(path).is_some(), "path", format_args!("{path:?}"), named);
        for (key, name) in columns.named() {
            checks.expect(!name.is_empty(), &format!("columns.{key}"), "\"\"", "the name of a column");
        }
        checks.problems()
    }

    fn open(config: EventFilesConfig, follow: bool) -> Result<Self, StageError> {
        let path = &config.path;
        let format = Format::of(path);
        let format = format.ok_or_else(|| StageError::fatal(format!("path: {path:?} cannot be read")))?;
        let file = BufReader::new(files::open(path)?);
        let mut source = Self { follow, format, file, header: None, rows: None, place: Place::default(), config };
        match format {
            Format::Csv => drop(source.read_header().map_err(|error| error.of(&source.config.path))?),
            Format::JsonLines => {}
            Format::Parquet => source.open_rows()?,
        }
        Ok(source)
    }
}

impl Source for EventFiles {
    type Output = ClickEvent;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let place = (key == PLACE).then(|| serde_json::from_slice(&value).ok()).flatten();
            self.place = place.ok_or_else(|| StageError::fatal("the state of an event-files source is damaged"))?;
            self.rows = None;
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
        let first = self.place;
        let read = match self.format {
            Format::Csv | Format::JsonLines => self.read_lines(out).map_err(|error| error.of(&self.config.path)),
            Format::Parquet => self.read_rows(out),
        };
        // What was taken before an error is lost with it, and is read again.
        let status = read.inspect_err(|_| (self.place, self.header, self.rows) = (first, None, None))?;
        if self.place != first {
            let place = serde_json::to_vec(&self.place);
            out.put_state(PLACE, place.map_err(|error| StageError::fatal("state has no encoding").caused_by(error))?);
        }
        Ok(status)
    }
}

/// Why lines could not be read.
enum Unread {
    /// Perhaps they can be later.
    Io(io::Error),
    Never(StageError),
}

impl Unread {
    /// Makes an error of it that names the file.
    fn of(self, path: &str) -> StageError {
        match self {
            Self::Io(error) => StageError::transient(format!("{path}: cannot be read")).caused_by(error),
            Self::Never(error) => error,
        }
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StageError> for Unread {
    fn from(error: StageError) -> Self {
        Self::Never(error)
    }
}

impl EventFiles {
    fn read_lines(&mut self, out: &mut SourceBatch<ClickEvent>) -> Result<SourceStatus, Unread> {
        let first = self.place.lines;
        if self.format == Format::Csv && self.header.is_none() && !self.read_header()? {
            return Ok(SourceStatus::Wait(RETRY));
        }
        self.file.seek(SeekFrom::Start(self.place.bytes))?;
        while self.place.lines - first < BATCH {
            let (line, taken) = read_line(&mut self.file)?;
            // A line whose end is still to be written is read again, whole.
            if self.follow && matches!(line, Line::End | Line::Unended(_)) {
                return Ok(SourceStatus::Wait(RETRY));
            }
            if line == Line::End {
                return Ok(SourceStatus::End);
            }
            self.place.bytes += taken;
            self.place.lines += 1;
            self.take_line(line, out);
        }
        Ok(SourceStatus::More)
    }

    /// Reads the names of a CSV's columns; returns whether they are there, or still to be written.
    fn read_header(&mut self) -> Result<bool, Unread> {
        self.file.rewind()?;
        let (line, taken) = read_line(&mut self.file)?;
        match line {
            Line::Whole(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let header = fields(text.trim_start_matches('\u{feff}')).unwrap_or_default();
                self.check_columns(":1", &header)?;
                self.header = Some(header);
            }
            Line::End | Line::Unended(_) if self.follow => return Ok(false),
            _ => {
                let message = format!("{}:1: found no header, allowed is a line of names", self.config.path);
                return Err(StageError::fatal(message).into());
            }
        }
        if self.place.bytes == 0 {
            self.place = Place { bytes: taken, lines: 1 };
        }
        Ok(true)
    }

    /// Opens a Parquet file at its next row.
    fn open_rows(&mut self) -> Result<(), StageError> {
        let path = &self.config.path;
        let rows = Rows::open(path.as_ref(), self.place.lines).map_err(|error| damaged(path, error))?;
        self.check_columns("", rows.names())?;
        for (key, name) in self.config.columns.named() {
            if let Some(found) = rows.unfit().get(name) {
                let allowed = "texts, numbers, dates and times";
                let message =
                    format!("{path}: columns.{key}: found column {name:?} of the type {found}, allowed are {allowed}");
                return Err(StageError::fatal(message));
            }
        }
        self.rows = Some(rows);
        Ok(())
    }

    fn read_rows(&mut self, out: &mut SourceBatch<ClickEvent>) -> Result<SourceStatus, StageError> {
        if self.rows.is_none() {
            self.open_rows()?;
        }
        let path = &self.config.path;
        let Some(rows) = &mut self.rows else { return Ok(SourceStatus::End) };
        for _ in 0..BATCH {
            let Some(row) = rows.next() else { return Ok(SourceStatus::End) };
            let row = row.map_err(|error| damaged(path, error))?;
            self.place.lines += 1;
            let place = format!("{path}: row {}", self.place.lines);
            let text = row.to_string().into_bytes();
            put(place, text, Row::Object(row).event(&self.config), out);
        }
        Ok(SourceStatus::More)
    }

    /// Checks that the columns are there that every event has, and those that the config names; `place` is where in the
    /// file they are named.
    fn check_columns(&self, place: &str, found: &[String]) -> Result<(), StageError> {
        for ((key, name), (_, default)) in self.config.columns.named().into_iter().zip(Columns::default().named()) {
            let optional = matches!(key, "product" | "category") && name == default;
            if !optional && !found.contains(name) {
                let (path, found) = (&self.config.path, found.join(", "));
                let message = format!("{path}{place}: columns.{key}: found no column {name:?}, allowed are {found}");
                return Err(StageError::fatal(message));
            }
        }
        Ok(())
    }

    /// Makes a record of a line, or a dead letter.
    fn take_line(&self, line: Line, out: &mut SourceBatch<ClickEvent>) {
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
                let row = match &self.header {
                    Some(header) => Row::csv(&bytes, header),
                    None => Row::json(&bytes),
                };
                let event = row.and_then(|row| row.event(&self.config));
                (bytes, event)
            }
        };
        put(format!("{}:{}", self.config.path, self.place.lines), bytes, event, out);
    }
}

fn damaged(path: &str, error: ParquetError) -> StageError {
    StageError::fatal(format!("{path}: cannot be read as Parquet")).caused_by(error)
}

/// Puts out a record, or a dead letter of the row's bytes.
fn put(place: String, bytes: Vec<u8>, event: Result<ClickEvent, Wrong>, out: &mut SourceBatch<ClickEvent>) {
    match event {
        Ok(event) => out.emit(Key::new(event.user.clone()), Timestamp::from_millis(event.time_ms), event),
        Err((column, found, allowed)) => {
            let reason = format!("{place}: {column}: found {found}, allowed {allowed}");
            out.reject(Key::new(place), bytes, reason);
        }
    }
}
