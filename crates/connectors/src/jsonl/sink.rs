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
//! A file is written exactly once. Each commit notes the file's length and a hash of its end, after
//! the bytes are on disk; a run that is resumed cuts the file off there and writes the rest again. A
//! run that starts anew starts the file anew. No other file is cut: one that is shorter, or holds
//! other bytes before that length, is an error. Where the file was moved away, a new one begins. A
//! file has one sink at a time: a second one, of this process or another, is refused. So is a file whose first
//! line is no JSON object: it holds something else.
//!
//! On standard output, a pipe or a device nothing can be cut off: there, what was written after the
//! last commit is written twice. A file that takes their place goes on at its end.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
};

use driftline_payloads::JsonValue;
use driftline_stage::{Checks, ConfigProblem, Payload, Sink, SinkKind, StageError, Timestamp};
use driftline_types::{Message, wire::Reader};
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    format::{Ids, write_line},
    lines::{Line, read_line},
};

/// The path that means standard output.
const STANDARD: &str = "-";
/// The note of a commit after which no file can be cut off.
const STREAM: &str = "-";
/// Bytes at the end of a file that tell it from others, at most: lines may all end with the same versions.
const TAIL: usize = 1_024;

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
    File(Output),
    Standard(BufWriter<io::Stdout>),
}

/// A file, or what has a path like one.
struct Output {
    path: String,
    file: File,
    /// How far it is written; `None` for a pipe or a device, which cannot be cut off.
    written: Option<Written>,
}

/// How far a file is written.
#[derive(Default)]
struct Written {
    /// Bytes of the file.
    length: u64,
    /// The last of them, at most [`TAIL`].
    tail: Vec<u8>,
    /// What to note about it. While nothing is written this is the note from which it went on.
    note: Option<String>,
}

impl Written {
    fn add(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        self.length += lines.len() as u64;
        self.tail.extend_from_slice(&lines[lines.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        // The hash has a fixed width: of two notes of a file the later one is longer or greater.
        self.note = Some(format!("{} {:016x}", self.length, xxh3_64(&self.tail)));
    }
}

/// Reads the length and the hash of a note.
fn read_note(note: &str) -> Option<(u64, u64)> {
    let (length, hash) = note.split_once(' ')?;
    Some((length.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
}

/// Reads the last bytes of the first `length` of a file, at most [`TAIL`].
fn read_tail(path: &str, length: u64) -> io::Result<Vec<u8>> {
    let start = length.saturating_sub(TAIL as u64);
    let mut tail = vec![0; (length - start) as usize];
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut tail)?;
    Ok(tail)
}

/// Keeps other sinks from a file until it is closed, as it is by the end of the process.
fn lock(path: &str, file: &File) -> Result<(), StageError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!("path: {path:?}: another sink writes this file, allowed is a file for each sink");
            Err(StageError::fatal(message))
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%path, %error, "the file cannot be locked: another sink that writes it is not noticed");
            Ok(())
        }
    }
}

/// Refuses a file that holds something else than lines of a sink.
fn check_lines(path: &str) -> Result<(), StageError> {
    let unreadable = |error: io::Error| StageError::fatal(format!("path: {path:?} cannot be read")).caused_by(error);
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let is_object =
        |line: &[u8]| serde_json::from_slice::<&RawValue>(line).is_ok_and(|value| value.get().starts_with('{'));
    let holds = match read_line(&mut file).map_err(unreadable)?.0 {
        Line::End => true,
        // An interrupted run may have left half a line, which the next one has ended.
        Line::Whole(line) => line.starts_with(b"{\"") || is_object(&line),
        Line::Unended(line) | Line::TooLong(line, _) => line.starts_with(b"{"),
    };
    if holds {
        return Ok(());
    }
    let allowed = "allowed is a file that is new, empty or JSON Lines";
    Err(StageError::fatal(format!("path: {path:?}: found a first line that is no JSON object, {allowed}")))
}

impl Output {
    fn open(path: String) -> Result<Self, StageError> {
        let failed = |error: io::Error| StageError::fatal(format!("path: {path:?} cannot be written")).caused_by(error);
        // What the file holds stays until it is known where to go on.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let regular = file.metadata().map_err(failed)?.is_file();
        if regular {
            lock(&path, &file)?;
            check_lines(&path)?;
        }
        Ok(Self { path, file, written: regular.then(Written::default) })
    }

    /// Goes on where the note says, and cuts off what was written after it.
    fn resume(&mut self, note: Option<&str>) -> Result<(), StageError> {
        let Self { path, file, written: Some(written) } = self else { return Ok(()) };
        let path = path.as_str();
        let found = file.metadata().map_err(|error| failed(path, error))?.len();
        let way_on = "to begin a new file, move this one away";
        let (length, hash) = match note {
            None => (0, None),
            Some(STREAM) => (found, None),
            Some(note) => {
                let (length, hash) = read_note(note).ok_or_else(|| {
                    let allowed = "the length of a file and a hash of its end";
                    StageError::fatal(format!("{path}: found the note {note:?}, allowed is {allowed}"))
                })?;
                if found == 0 {
                    tracing::warn!(%path, committed = length, "the file is gone or empty: a new one begins");
                    (0, None)
                } else if found < length {
                    return Err(StageError::fatal(format!(
                        "{path}: found {found} bytes, allowed are at least the {length} that were committed; {way_on}"
                    )));
                } else {
                    (length, Some(hash))
                }
            }
        };
        let tail = read_tail(path, length)
            .map_err(|error| StageError::fatal(format!("{path}: cannot be read")).caused_by(error))?;
        if hash.is_some_and(|hash| hash != xxh3_64(&tail)) {
            return Err(StageError::fatal(format!(
                "{path}: found other bytes before byte {length}, allowed are those that were committed; {way_on}"
            )));
        }
        let cut = file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length)));
        cut.map_err(|error| failed(path, error))?;
        let half_a_line = tail.last().is_some_and(|&byte| byte != b'\n');
        *written = Written { length, tail, note: note.map(str::to_owned) };
        // Whoever left it: what is written now are lines of their own.
        if half_a_line { self.write(b"\n") } else { Ok(()) }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), StageError> {
        self.file.write_all(lines).map_err(|error| failed(&self.path, error))?;
        if let Some(written) = &mut self.written {
            written.add(lines);
        }
        Ok(())
    }

    /// Puts on disk what was written, and returns the note about it.
    fn flush(&mut self) -> Result<Option<String>, StageError> {
        let Some(written) = &self.written else { return Ok(Some(STREAM.to_owned())) };
        self.file.sync_data().map_err(|error| failed(&self.path, error))?;
        Ok(written.note.clone())
    }
}

impl JsonLinesSink {
    fn new(target: Target, record_ids: bool) -> Self {
        let ids = if record_ids { Ids::Shown } else { Ids::Hidden };
        Self { target, lines: Vec::new(), ids }
    }

    fn standard(record_ids: bool) -> Self {
        Self::new(Target::Standard(BufWriter::new(io::stdout())), record_ids)
    }
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
        Ok(Self::new(Target::File(Output::open(path)?), record_ids))
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
        match &mut self.target {
            Target::File(output) => output.resume(note),
            Target::Standard(_) => Ok(()),
        }
    }

    fn write(&mut self, records: &[Message]) -> Result<(), StageError> {
        // All lines or none: a batch that is repeated without its bad record repeats no line.
        self.lines.clear();
        let now = Timestamp::now();
        let mut reader = Reader::default();
        for record in records {
            write_line(record, &reader.context(record), now, self.ids, &mut self.lines).map_err(|error| {
                let place = format!("{}[{}] offset {}", record.topic, record.partition, record.offset);
                StageError::record(format!("{place}: found a value that is no JSON, allowed is JSON")).caused_by(error)
            })?;
        }
        match &mut self.target {
            Target::File(output) => output.write(&self.lines),
            Target::Standard(out) => out.write_all(&self.lines).map_err(standard_failed),
        }
    }

    fn flush(&mut self) -> Result<Option<String>, StageError> {
        match &mut self.target {
            Target::File(output) => output.flush(),
            Target::Standard(out) => out.flush().map(|()| Some(STREAM.to_owned())).map_err(standard_failed),
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
    use std::{fs, path::Path};

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

    fn open(path: &Path) -> JsonLinesSink {
        JsonLinesSink::open(JsonLinesConfig { path: path.to_str().unwrap().to_owned(), record_ids: false }).unwrap()
    }

    /// A run that writes some records and commits them.
    fn run(mut sink: impl Sink, note: Option<&str>, records: std::ops::Range<u64>) -> Option<String> {
        sink.resume(note).unwrap();
        let batch: Vec<_> = records.map(|n| message(n, &format!("{{\"n\":{n}}}"))).collect();
        sink.write(&batch).unwrap();
        sink.flush().unwrap()
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
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
                    // What was not committed is in the file, which is worse than losing it.
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
    fn a_file_begins_anew_until_something_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(&path, "{\"n\":9}\n").unwrap();
        assert_eq!(run(open(&path), None, 0..0), None);
        let note = run(open(&path), None, 0..2);
        assert_eq!(run(open(&path), note.as_deref(), 2..2), note);
        run(open(&path), note.as_deref(), 2..3);
        assert_eq!(numbers(&path), [0, 1, 2]);
    }

    #[test]
    fn after_standard_output_a_file_goes_on_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let note = run(open(&path), None, 0..2);
        let note = run(StdoutSink::open(StdoutConfig { record_ids: false }).unwrap(), note.as_deref(), 2..2);
        assert_eq!(note.as_deref(), Some("-"));
        let note = run(open(&path), note.as_deref(), 3..4);
        run(open(&path), note.as_deref(), 4..5);
        assert_eq!(numbers(&path), [0, 1, 3, 4]);

        fs::write(&path, "{\"half a line").unwrap();
        run(open(&path), Some("-"), 5..6);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\"half a line\n{\"n\":5,"), "{text}");
        open(&path);
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("speech.toml");
        let config = JsonLinesConfig { path: path.to_str().unwrap().to_owned(), record_ids: false };
        for text in ["[pipeline]\nname = \"speech\"\n", "{\n  \"a\": 1\n}\n", "[1]\n{}\n", "\n", "RIFF"] {
            fs::write(&path, text).unwrap();
            let error = JsonLinesSink::open(config.clone()).err().unwrap();
            let found = "found a first line that is no JSON object";
            let expected = format!("path: {path:?}: {found}, allowed is a file that is new, empty or JSON Lines");
            assert_eq!((error.to_string(), error.class()), (expected, driftline_types::ErrorClass::Fatal));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        for text in ["", "{}\n", " {\"a\":1}\r\n[1]\n", "{\"cut o"] {
            fs::write(&path, text).unwrap();
            open(&path);
        }
    }

    #[test]
    fn a_file_that_is_not_the_one_committed_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let note = run(open(&path), None, 0..3);
        let length = fs::metadata(&path).unwrap().len();
        let text = fs::read_to_string(&path).unwrap();
        let other = folder.path().join("other.jsonl");
        let refused = |text: &str, note: Option<&str>| {
            fs::write(&other, text).unwrap();
            let error = open(&other).resume(note).unwrap_err().to_string();
            assert_eq!(fs::read_to_string(&other).unwrap(), text);
            error.strip_prefix(&format!("{}: found ", other.display())).unwrap().to_owned()
        };
        let way_on = "to begin a new file, move this one away";
        let found = refused(&text.replace("\"n\"", "\"m\"").repeat(2), note.as_deref());
        let allowed = "allowed are those that were committed";
        assert_eq!(found, format!("other bytes before byte {length}, {allowed}; {way_on}"));
        let found = refused("{}\n", note.as_deref());
        let allowed = format!("allowed are at least the {length} that were committed");
        assert_eq!(found, format!("3 bytes, {allowed}; {way_on}"));
        let found = refused(&text, Some("10"));
        assert_eq!(found, "the note \"10\", allowed is the length of a file and a hash of its end");
    }

    #[test]
    fn where_a_file_was_moved_away_a_new_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("out.jsonl"), folder.path().join("out.jsonl.1"));
        let note = run(open(&path), None, 0..2);
        fs::rename(&path, &moved).unwrap();
        // What was committed before is still noted while nothing is in the new one.
        assert_eq!(run(open(&path), note.as_deref(), 2..2), note);
        let note = run(open(&path), note.as_deref(), 2..3);
        run(open(&path), note.as_deref(), 3..4);
        assert_eq!((numbers(&moved), numbers(&path)), (vec![0, 1], vec![2, 3]));
    }

    #[test]
    fn a_file_has_one_sink_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let first = open(&path);
        let config = JsonLinesConfig { path: path.to_str().unwrap().to_owned(), record_ids: false };
        let error = JsonLinesSink::open(config).err().unwrap();
        let expected = format!("path: {path:?}: another sink writes this file, allowed is a file for each sink");
        assert_eq!((error.to_string(), error.class()), (expected, driftline_types::ErrorClass::Fatal));
        let note = run(first, None, 0..2);
        // Its end leaves the file to the next.
        run(open(&path), note.as_deref(), 2..3);
        assert_eq!(numbers(&path), [0, 1, 2]);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_never_cut_off() {
        let null = || open(Path::new("/dev/null"));
        let note = run(null(), None, 0..2);
        assert_eq!(note.as_deref(), Some("-"));
        assert_eq!(run(null(), note.as_deref(), 2..3), note);
        assert_eq!(run(null(), Some("4711 0"), 3..4), note);
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
