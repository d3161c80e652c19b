//! The sinks `jsonl` and `stdout`: a line a record.
//!
//! ```toml
//! [sinks.responses]
//! kind = "jsonl"
//! inputs = ["search"]
//! path = "responses.jsonl"   # or "-", standard output, which is what the kind "stdout" writes to
//! record_ids = false          # whether a line names its record: what feedback refers to
//! ```
//!
//! A file is written exactly once. Each commit notes the file's length as a decimal number of
//! bytes, after the bytes are on disk; a run that is resumed cuts the file off there and writes the
//! rest again. A run that starts anew starts the file anew. On standard output nothing can be cut
//! off: there, what was written after the last commit is written twice.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    time::SystemTime,
};

use driftline_payloads::JsonValue;
use driftline_stage::{Checks, ConfigProblem, Payload, Sink, SinkKind, StageError, Timestamp};
use driftline_types::{Message, wire::Reader};
use serde::Deserialize;

use super::format::{Ids, write_line};

/// The path that means standard output.
const STANDARD: &str = "-";

/// The config table of the sink `jsonl`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLinesConfig {
    /// The file, or `-` for standard output.
    pub path: String,
    /// Whether each line has a member `record`, the name that feedback refers to.
    #[serde(default)]
    pub record_ids: bool,
}

/// The config table of the sink `stdout`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {
    /// Whether each line has a member `record`, the name that feedback refers to.
    #[serde(default)]
    pub record_ids: bool,
}

/// The sink `jsonl`.
pub struct JsonLinesSink {
    target: Target,
    /// Lines of the call in progress.
    lines: Vec<u8>,
    ids: Ids,
}

/// The sink `stdout`.
pub struct StdoutSink(JsonLinesSink);

enum Target {
    File { path: String, file: BufWriter<File>, length: u64 },
    Standard(BufWriter<io::Stdout>),
}

impl JsonLinesSink {
    fn standard(record_ids: bool) -> Self {
        Self { target: Target::Standard(BufWriter::new(io::stdout())), lines: Vec::new(), ids: ids(record_ids) }
    }
}

fn ids(shown: bool) -> Ids {
    if shown { Ids::Shown } else { Ids::Hidden }
}

impl SinkKind for JsonLinesSink {
    const KIND: &'static str = "jsonl";
    const CONTENT_TYPE: Option<&'static str> = Some(<JsonValue as Payload>::CONTENT_TYPE);
    const PATHS: &'static [&'static str] = &["path"];
    type Config = JsonLinesConfig;

    fn check(config: &JsonLinesConfig) -> Vec<ConfigProblem> {
        let mut checks = Checks::default();
        checks.expect(!config.path.is_empty(), "path", "\"\"", "a file or \"-\" for standard output");
        checks.problems()
    }

    fn open(config: JsonLinesConfig) -> Result<Self, StageError> {
        let JsonLinesConfig { path, record_ids } = config;
        if path == STANDARD {
            return Ok(Self::standard(record_ids));
        }
        // What the file holds stays until it is known where to go on.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file =
            file.map_err(|error| StageError::fatal(format!("path: {path:?} cannot be written")).caused_by(error))?;
        let target = Target::File { path, file: BufWriter::new(file), length: 0 };
        Ok(Self { target, lines: Vec::new(), ids: ids(record_ids) })
    }
}

impl SinkKind for StdoutSink {
    const KIND: &'static str = "stdout";
    const CONTENT_TYPE: Option<&'static str> = Some(<JsonValue as Payload>::CONTENT_TYPE);
    type Config = StdoutConfig;

    fn open(StdoutConfig { record_ids }: StdoutConfig) -> Result<Self, StageError> {
        Ok(Self(JsonLinesSink::standard(record_ids)))
    }
}

impl Sink for JsonLinesSink {
    fn resume(&mut self, note: Option<&str>) -> Result<(), StageError> {
        let Target::File { path, file, length } = &mut self.target else { return Ok(()) };
        let noted = match note {
            None => 0,
            Some(note) => note.parse().map_err(|_| {
                StageError::fatal(format!("{path}: found the note {note:?}, allowed is the file's length in bytes"))
            })?,
        };
        let cut = |file: &mut File| {
            let found = file.metadata()?.len();
            if found < noted {
                return Ok(Some(found));
            }
            file.set_len(noted)?;
            file.seek(SeekFrom::Start(noted))?;
            Ok(None)
        };
        match cut(file.get_mut()) {
            Err(error) => Err(failed(path, error)),
            Ok(Some(found)) => Err(StageError::fatal(format!(
                "{path}: found {found} bytes, allowed are at least the {noted} that were committed"
            ))),
            Ok(None) => {
                *length = noted;
                Ok(())
            }
        }
    }

    fn write(&mut self, records: &[Message]) -> Result<(), StageError> {
        // All lines or none: a batch that is repeated without its bad record repeats no line.
        self.lines.clear();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        let mut reader = Reader::default();
        for record in records {
            write_line(record, &reader.context(record), now, self.ids, &mut self.lines).map_err(|error| {
                let place = format!("{}[{}] offset {}", record.topic, record.partition, record.offset);
                StageError::record(format!("{place}: found a value that is no JSON, allowed is JSON")).caused_by(error)
            })?;
        }
        match &mut self.target {
            Target::File { path, file, length } => {
                file.write_all(&self.lines).map_err(|error| failed(path, error))?;
                *length += self.lines.len() as u64;
            }
            Target::Standard(out) => out.write_all(&self.lines).map_err(standard_failed)?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<String>, StageError> {
        match &mut self.target {
            Target::File { path, file, length } => {
                let synced = file.flush().and_then(|()| file.get_ref().sync_data());
                synced.map_err(|error| failed(path, error))?;
                Ok(Some(length.to_string()))
            }
            Target::Standard(out) => out.flush().map(|()| None).map_err(standard_failed),
        }
    }
}

impl Sink for StdoutSink {
    fn resume(&mut self, note: Option<&str>) -> Result<(), StageError> {
        self.0.resume(note)
    }

    fn write(&mut self, records: &[Message]) -> Result<(), StageError> {
        self.0.write(records)
    }

    fn flush(&mut self) -> Result<Option<String>, StageError> {
        self.0.flush()
    }
}

/// After a write that failed it is not known what is in the file: only a new start from the last
/// note puts it right.
fn failed(path: &str, error: io::Error) -> StageError {
    StageError::fatal(format!("{path}: cannot be written")).caused_by(error)
}

fn standard_failed(error: io::Error) -> StageError {
    let message = match error.kind() {
        io::ErrorKind::BrokenPipe => "standard output was closed by its reader",
        _ => "standard output cannot be written",
    };
    StageError::fatal(message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use driftline_stage::SinkDef;
    use driftline_types::{Headers, Topic};
    use proptest::prelude::*;

    use super::*;

    fn message(offset: u64, value: &str) -> Message {
        Message {
            topic: Topic::try_new("speech.search").unwrap(),
            partition: 0,
            offset,
            key: None,
            value: Some(value.as_bytes().to_vec().into()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(0),
        }
    }

    fn open(path: &std::path::Path) -> JsonLinesSink {
        JsonLinesSink::open(JsonLinesConfig { path: path.to_str().unwrap().to_owned(), record_ids: false }).unwrap()
    }

    fn numbers(path: &std::path::Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        let number = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap();
        text.lines().map(number).collect()
    }

    proptest! {
        /// However a run is interrupted, each record is in the file once, in order.
        #[test]
        fn each_record_is_written_once(
            steps in prop::collection::vec((1usize..20, any::<bool>(), any::<bool>()), 1..20),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out.jsonl");
            let (mut note, mut committed, mut next) = (None::<String>, 0u64, 0u64);
            let mut sink = open(&path);
            sink.resume(None).unwrap();
            for (count, commit, crash) in steps {
                let batch: Vec<_> = (next..next + count as u64).map(|n| message(n, &format!("{{\"n\":{n}}}"))).collect();
                sink.write(&batch).unwrap();
                next += count as u64;
                if commit {
                    note = sink.flush().unwrap();
                    committed = next;
                }
                if crash {
                    // Dropping writes what was buffered, which is worse than losing it.
                    drop(sink);
                    sink = open(&path);
                    sink.resume(note.as_deref()).unwrap();
                    next = committed;
                }
            }
            sink.flush().unwrap();
            prop_assert_eq!(numbers(&path), (0..next).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_that_lost_what_was_committed_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut sink = open(&path);
        let error = sink.resume(Some("10")).unwrap_err().to_string();
        assert!(error.ends_with("found 0 bytes, allowed are at least the 10 that were committed"), "{error}");
        let error = sink.resume(Some("ten")).unwrap_err().to_string();
        assert!(error.ends_with("found the note \"ten\", allowed is the file's length in bytes"), "{error}");
    }

    #[test]
    fn a_value_that_is_no_json_fails_the_record_and_writes_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut sink = open(&path);
        sink.resume(None).unwrap();
        let error = sink.write(&[message(0, "{\"n\":0}"), message(1, "RIFF")]).unwrap_err();
        assert_eq!(error.class(), driftline_types::ErrorClass::Record);
        assert_eq!(error.to_string(), "speech.search[0] offset 1: found a value that is no JSON, allowed is JSON");
        sink.write(&[message(0, "{\"n\":0}")]).unwrap();
        sink.flush().unwrap();
        assert_eq!(numbers(&path), [0]);
    }

    #[test]
    fn a_reader_that_goes_away_is_named() {
        let error = standard_failed(io::ErrorKind::BrokenPipe.into());
        assert_eq!(error.to_string(), "standard output was closed by its reader");
        assert_eq!(error.class(), driftline_types::ErrorClass::Fatal);
    }

    #[test]
    fn configs_are_checked() {
        let jsonl = SinkDef::of::<JsonLinesSink>();
        assert_eq!((jsonl.check)(&"path = \"-\"".parse().unwrap()), []);
        assert_eq!((jsonl.check)(&"path = \"\"".parse().unwrap()).len(), 1);
        assert_eq!((jsonl.check)(&"".parse().unwrap()).len(), 1);
        let stdout = SinkDef::of::<StdoutSink>();
        assert_eq!((stdout.check)(&"".parse().unwrap()), []);
        assert_eq!((stdout.check)(&"path = \"-\"".parse().unwrap()).len(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let error = JsonLinesSink::open(JsonLinesConfig { path: "no/such/folder/out.jsonl".into(), record_ids: false })
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "path: \"no/such/folder/out.jsonl\" cannot be written");
    }
}
