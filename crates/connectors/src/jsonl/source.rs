//! The source `jsonl`: a record a line.
//!
//! ```toml
//! [sources.queries]
//! kind = "jsonl"
//! path = "queries.jsonl"     # or "-", standard input
//! key = "user.id"            # the member whose value is the record's key
//! event_time = "time"        # the member with its event time: RFC 3339, or milliseconds since 1970
//! ```
//!
//! A member is named by the way to it, with dots. Without `key` all records have the path as key,
//! and so stay in order; without `event_time` a record's is the time it was read.
//!
//! A line that is no JSON object, or lacks a member, goes to the dead letters as it stands; of one
//! longer than 1 MiB the first 1 MiB. Empty lines are skipped. Progress is the place in the file; a
//! resumed run goes on there. Standard input cannot be read again: what was read from it and not
//! committed when a run is interrupted is lost to it.

use std::{
    fs::File,
    io::{self, BufReader, Seek, SeekFrom},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    time::Duration,
};

use bytes::Bytes;
use driftline_payloads::JsonValue;
use driftline_stage::{
    Checks, ConfigProblem, Key, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lines::{Line, MAX_LINE, read_line};
use crate::files;

/// The path that means standard input.
const STANDARD: &str = "-";
/// Lines and bytes of one read, about.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;
/// How soon new lines are looked for.
const RETRY: Duration = Duration::from_millis(20);
/// Lines of standard input that wait to be read.
const QUEUE: usize = 1_024;
/// The state entry.
const PLACE: &[u8] = b"place";

/// The config table of the source `jsonl`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLinesSourceConfig {
    /// The file, or `-` for standard input.
    pub path: String,
    /// The member that is the key, such as `user.id`.
    #[serde(default)]
    pub key: Option<String>,
    /// The member that is the event time.
    #[serde(default)]
    pub event_time: Option<String>,
}

/// The source `jsonl`.
pub struct JsonLinesSource {
    config: JsonLinesSourceConfig,
    follow: bool,
    input: Input,
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

enum Input {
    File(BufReader<File>),
    /// Lines a thread reads, since waiting for them would hold up the pipeline.
    Standard(Receiver<io::Result<(Line, u64)>>),
}

/// What is wrong with a line.
struct Wrong {
    found: String,
    allowed: String,
}

impl SourceKind for JsonLinesSource {
    const KIND: &'static str = "jsonl";
    const PATHS: &'static [&'static str] = &["path"];
    type Config = JsonLinesSourceConfig;

    fn check(config: &JsonLinesSourceConfig) -> Vec<ConfigProblem> {
        let mut checks = Checks::default();
        checks.expect(!config.path.is_empty(), "path", "\"\"", "a file or \"-\" for standard input");
        for (key, member) in [("key", &config.key), ("event_time", &config.event_time)] {
            let holds = member.as_deref() != Some("");
            checks.expect(holds, key, "\"\"", "the way to a member, such as \"user.id\"");
        }
        checks.problems()
    }

    fn open(config: JsonLinesSourceConfig, follow: bool) -> Result<Self, StageError> {
        let input = if config.path == STANDARD {
            let (sender, receiver) = sync_channel(QUEUE);
            std::thread::spawn(move || {
                let mut input = BufReader::new(io::stdin());
                loop {
                    let line = read_line(&mut input);
                    let done = !matches!(line, Ok((Line::Whole(_) | Line::TooLong(..), _)));
                    // A source that is gone takes no more lines.
                    if sender.send(line).is_err() || done {
                        return;
                    }
                }
            });
            Input::Standard(receiver)
        } else {
            Input::File(BufReader::new(files::open(&config.path)?))
        };
        Ok(Self { config, follow, input, place: Place::default() })
    }
}

impl Source for JsonLinesSource {
    type Output = JsonValue;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let place = (key == PLACE).then(|| serde_json::from_slice(&value).ok()).flatten();
            self.place = place.ok_or_else(|| StageError::fatal("the state of a jsonl source is damaged"))?;
        }
        let Input::File(file) = &mut self.input else { return Ok(()) };
        let Place { bytes, .. } = self.place;
        let length = file.get_ref().metadata().map_or(0, |metadata| metadata.len());
        let path = &self.config.path;
        if length < bytes {
            let message =
                format!("{path}: found {length} bytes, allowed are at least the {bytes} that were read before");
            return Err(StageError::fatal(message));
        }
        // A pipe is refused here, where no error is tried again.
        file.seek(SeekFrom::Start(bytes)).map(|_| ()).map_err(|error| unreadable(path, error))
    }

    fn read(&mut self, out: &mut SourceBatch<JsonValue>) -> Result<SourceStatus, StageError> {
        let first = self.place;
        // What was taken before an error is lost with it, and is read again.
        let status = self.read_lines(out).inspect_err(|_| self.place = first)?;
        if self.place != first {
            let place = serde_json::to_vec(&self.place);
            out.put_state(PLACE, place.map_err(|error| StageError::fatal("state has no encoding").caused_by(error))?);
        }
        Ok(status)
    }
}

impl JsonLinesSource {
    fn read_lines(&mut self, out: &mut SourceBatch<JsonValue>) -> Result<SourceStatus, StageError> {
        let first = self.place;
        if let Input::File(file) = &mut self.input {
            // It stands elsewhere after an error, and after a line whose end is still to be written.
            let sought = file.seek(SeekFrom::Start(first.bytes));
            sought.map_err(|error| unreadable(&self.config.path, error))?;
        }
        while self.place.lines - first.lines < BATCH as u64 && self.place.bytes - first.bytes < BATCH_BYTES {
            let (line, taken) = match self.next_line()? {
                Ok(next) => next,
                Err(nothing) => return Ok(nothing),
            };
            self.place.bytes += taken;
            self.place.lines += 1;
            self.take(line, out);
        }
        Ok(SourceStatus::More)
    }

    /// Reads a line, or says what to do when there is none.
    fn next_line(&mut self) -> Result<Result<(Line, u64), SourceStatus>, StageError> {
        let path = &self.config.path;
        let (line, taken) = match &mut self.input {
            Input::File(file) => read_line(file).map_err(|error| unreadable(path, error))?,
            Input::Standard(lines) => match lines.try_recv() {
                // It is not read on after an error.
                Ok(line) => {
                    line.map_err(|error| StageError::fatal("standard input: cannot be read").caused_by(error))?
                }
                Err(TryRecvError::Empty) => return Ok(Err(SourceStatus::Wait(RETRY))),
                Err(TryRecvError::Disconnected) => (Line::End, 0),
            },
        };
        Ok(match (line, &self.input) {
            // A line whose end is still to be written is read again, whole.
            (Line::End | Line::Unended(_), Input::File(_)) if self.follow => Err(SourceStatus::Wait(RETRY)),
            (Line::End, _) => Err(SourceStatus::End),
            (line, _) => Ok((line, taken)),
        })
    }

    /// Makes a record of a line, or a dead letter.
    fn take(&self, line: Line, out: &mut SourceBatch<JsonValue>) {
        let (bytes, record) = match line {
            Line::End => return,
            Line::TooLong(bytes, length) => {
                let found = format!("a line of {length} bytes, of which {MAX_LINE} are kept");
                (bytes, Err(Wrong { found, allowed: format!("at most {MAX_LINE} bytes") }))
            }
            Line::Whole(bytes) | Line::Unended(bytes) => {
                let bom = if self.place.lines == 1 { "\u{feff}".as_bytes() } else { b"" };
                let text = bytes.strip_prefix(bom).unwrap_or(&bytes).trim_ascii();
                if text.is_empty() {
                    return;
                }
                let record = self.record(text);
                (bytes, record)
            }
        };
        match record {
            Ok((key, time, value)) => out.emit(key, time, value),
            Err(Wrong { found, allowed }) => {
                let place = format!("{}:{}", self.config.path, self.place.lines);
                let reason = format!("{place}: found {found}, allowed {allowed}");
                out.reject(Key::new(place), bytes, reason);
            }
        }
    }

    fn record(&self, text: &[u8]) -> Result<(Key, Timestamp, JsonValue), Wrong> {
        let object = || "a JSON object".to_owned();
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| Wrong { found: format!("no JSON at column {}", error.column()), allowed: object() })?;
        if !value.is_object() {
            return Err(Wrong { found: "JSON that is no object".to_owned(), allowed: object() });
        }
        let key = match &self.config.key {
            None => self.config.path.clone(),
            Some(member) => match find(&value, member) {
                Some(Value::String(text)) => text.clone(),
                Some(scalar @ (Value::Number(_) | Value::Bool(_))) => scalar.to_string(),
                other => return Err(wrong(member, other, "a text, a number or a truth value")),
            },
        };
        let time = match &self.config.event_time {
            None => Timestamp::now(),
            Some(member) => {
                let found = find(&value, member);
                let time = match found {
                    Some(Value::String(text)) => Timestamp::parse(text),
                    Some(Value::Number(millis)) => millis.as_i64().map(Timestamp::from_millis),
                    _ => None,
                };
                time.ok_or_else(|| wrong(member, found, "a time in RFC 3339 or milliseconds since 1970"))?
            }
        };
        // It was read as JSON, so it is UTF-8.
        let json = JsonValue::try_new(Bytes::copy_from_slice(text));
        Ok((Key::new(key), time, json.map_err(|error| Wrong { found: error.found, allowed: error.allowed })?))
    }
}

fn find<'a>(value: &'a Value, member: &str) -> Option<&'a Value> {
    member.split('.').try_fold(value, |value, name| value.get(name))
}

fn wrong(member: &str, found: Option<&Value>, allowed: &str) -> Wrong {
    let kind = match found {
        None => return Wrong { found: format!("no member {member:?}"), allowed: format!("{allowed} there") },
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a truth value",
        Some(Value::Number(_)) => "a number that is none",
        Some(Value::String(_)) => "a text that is none",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    };
    Wrong { found: format!("{kind} as member {member:?}"), allowed: allowed.to_owned() }
}

fn unreadable(path: &str, error: io::Error) -> StageError {
    StageError::transient(format!("{path}: cannot be read")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead as _, Write as _},
        path::Path,
    };

    use proptest::prelude::*;

    use super::*;

    fn config(path: &Path) -> JsonLinesSourceConfig {
        JsonLinesSourceConfig {
            path: path.to_str().unwrap().to_owned(),
            key: Some("user.id".to_owned()),
            event_time: Some("t".to_owned()),
        }
    }

    fn file(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn each_line_is_a_record_or_a_dead_letter_as_it_stands() {
        let lines: [&[u8]; 9] = [
            b"\xef\xbb\xbf{\"user\": {\"id\": \"ann\"}, \"t\": \"1970-01-01T00:00:05Z\"}\r",
            b"",
            b"{\"user\": {\"id\": 7}, \"t\": 6000}",
            b"{\"user\": {\"id\": \"bob\"}, \"t\": \"noon\"}",
            b"{\"user\": {}, \"t\": 1}",
            b"[1]",
            b"{\"user\": \xff}",
            b"{\"user\": {\"id\": []}, \"t\": 1}",
            b"{\"user\": {\"id\": true}, \"t\": 1}",
        ];
        let (_folder, path) = file(&lines.join(&b'\n'));
        let mut source = JsonLinesSource::open(config(&path), false).unwrap();
        let mut batch = SourceBatch::new();
        assert_eq!(source.read(&mut batch).unwrap(), SourceStatus::End);

        let records: Vec<_> =
            batch.records().iter().map(|(key, time, _)| (key.to_string(), time.as_millis())).collect();
        assert_eq!(records, [("ann".to_owned(), 5_000), ("7".to_owned(), 6_000), ("true".to_owned(), 1)]);
        assert_eq!(batch.records()[1].2.as_bytes(), lines[2]);

        let rejected: Vec<_> = batch
            .rejected()
            .iter()
            .map(|rejected| (rejected.reason.strip_prefix(path.to_str().unwrap()).unwrap(), &rejected.value[..]))
            .collect();
        let time = "a time in RFC 3339 or milliseconds since 1970";
        let key = "a text, a number or a truth value";
        let expected = [
            (format!(":4: found a text that is none as member \"t\", allowed {time}"), lines[3]),
            (format!(":5: found no member \"user.id\", allowed {key} there"), lines[4]),
            (":6: found JSON that is no object, allowed a JSON object".to_owned(), lines[5]),
            (":7: found no JSON at column 10, allowed a JSON object".to_owned(), lines[6]),
            (format!(":8: found an array as member \"user.id\", allowed {key}"), lines[7]),
        ];
        let expected: Vec<_> = expected.iter().map(|(reason, value)| (reason.as_str(), *value)).collect();
        assert_eq!(rejected, expected);
    }

    #[test]
    fn with_follow_a_line_is_taken_when_it_is_whole() {
        let (_folder, path) = file(b"{\"n\":1}\n{\"n\"");
        let config = JsonLinesSourceConfig { key: None, event_time: None, ..config(&path) };
        let mut source = JsonLinesSource::open(config, true).unwrap();
        let mut read = || {
            let mut batch = SourceBatch::new();
            assert_eq!(source.read(&mut batch).unwrap(), SourceStatus::Wait(RETRY));
            batch.records().iter().map(|record| record.2.as_bytes().clone()).collect::<Vec<_>>()
        };
        assert_eq!(read(), [b"{\"n\":1}".as_slice()]);
        assert!(read().is_empty());
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b":2}\n").unwrap();
        assert_eq!(read(), [b"{\"n\":2}".as_slice()]);
    }

    #[test]
    fn an_error_in_the_middle_of_a_read_loses_no_line() {
        let lines: String = (0..100).map(|n| format!("{{\"n\":{n},\"more\":{:200}}}\n", 0)).collect();
        let (_folder, path) = file(lines.as_bytes());
        let config = JsonLinesSourceConfig { key: None, event_time: None, ..config(&path) };
        let mut source = JsonLinesSource::open(config, false).unwrap();
        let replace = |source: &mut JsonLinesSource, file: File| {
            let Input::File(reader) = &mut source.input else { panic!() };
            reader.fill_buf().unwrap();
            std::mem::replace(reader.get_mut(), file)
        };
        // The first lines are in memory, and what comes after them cannot be read for a while.
        let whole = replace(&mut source, fs::OpenOptions::new().write(true).open(&path).unwrap());
        let error = source.read(&mut SourceBatch::new()).unwrap_err();
        assert_eq!(error.class(), driftline_types::ErrorClass::Transient);
        let Input::File(reader) = &mut source.input else { panic!() };
        *reader.get_mut() = whole;
        let mut batch = SourceBatch::new();
        assert_eq!(source.read(&mut batch).unwrap(), SourceStatus::End);
        assert_eq!((batch.len(), batch.rejected().len()), (100, 0));
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = JsonLinesSource::open(config(folder.path()), false).err().unwrap().to_string();
        assert_eq!(error, format!("path: found the folder {:?}, allowed is a file", folder.path()));
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let (_folder, path) = file(b"{}\n");
        let mut source = JsonLinesSource::open(config(&path), false).unwrap();
        let state = (Bytes::from_static(PLACE), Bytes::from_static(b"{\"bytes\":9,\"lines\":2}"));
        let error = source.restore(vec![state]).unwrap_err().to_string();
        assert!(error.ends_with("found 3 bytes, allowed are at least the 9 that were read before"), "{error}");
    }

    proptest! {
        /// Any bytes at all: each line that is not empty is a record or a dead letter, also across
        /// interruptions.
        #[test]
        fn no_line_is_lost(
            lines in prop::collection::vec("[ -~]{0,12}|\\{\"user\":\\{\"id\":[0-9]\\},\"t\":[0-9]\\}", 0..900),
            interrupted in any::<bool>(),
        ) {
            let (_folder, path) = file(lines.join("\n").as_bytes());
            let mut source = JsonLinesSource::open(config(&path), false).unwrap();
            let mut seen = Vec::new();
            loop {
                let mut batch = SourceBatch::new();
                let status = source.read(&mut batch).unwrap();
                seen.extend(batch.records().iter().map(|record| record.2.as_bytes().clone()));
                seen.extend(batch.rejected().iter().map(|rejected| rejected.value.clone()));
                if status == SourceStatus::End {
                    break;
                }
                if interrupted {
                    source = JsonLinesSource::open(config(&path), false).unwrap();
                    let entry = |change: &driftline_stage::StateChange| (change.key.clone(), change.value.clone().unwrap());
                    source.restore(batch.state().iter().map(entry).collect()).unwrap();
                }
            }
            let mut expected: Vec<_> = lines.iter().filter(|line| !line.trim_ascii().is_empty()).map(|line| line.trim_ascii().as_bytes().to_vec()).collect();
            let mut seen: Vec<_> = seen.iter().map(|line| line.trim_ascii().to_vec()).collect();
            seen.sort();
            expected.sort();
            prop_assert_eq!(seen, expected);
        }
    }
}
